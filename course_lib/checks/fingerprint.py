"""Short digests of answers, so that a wrong answer seen before can be recognised and named.

A digest keeps the structure of an answer (types, shapes) and, for each tensor, three numbers: its norm, its projection
on a fixed random direction as a share of that norm, and how many values are not finite. Each is rounded in two ways, half
a step apart, so that floating point noise never separates equal answers. Only answers of wrong solutions are stored, hashed: no answer can be read off.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

STEPS_PER_OCTAVE = 256  # one step is 0.27 %: far above rounding noise, far below any wrong answer worth a name
MAX_LEAVES = 24  # of one answer
MAX_ANSWERS = 64  # of one check


def digest(value: Any) -> str:
    """The digest of one answer: a structure hash and 8 hexadecimal digits a number, 4 for each way of rounding."""
    structure: list[str] = []
    numbers: list[float] = []
    _collect(value, structure, numbers)
    return _hash("/".join(structure), 6) + "".join(_rounded(x) for x in numbers[:MAX_LEAVES])


def same(a: str, b: str) -> bool:
    """Whether two digests stand for the same answer: each number agrees in one of the two roundings."""
    if a == b:
        return True
    if len(a) != len(b) or a[:6] != b[:6]:
        return False
    return all(a[i : i + 4] == b[i : i + 4] or a[i + 4 : i + 8] == b[i + 4 : i + 8] for i in range(6, len(a), 8))


def same_transcript(a: list[str], b: list[str]) -> bool:
    """Whether two checks saw the same answers in the same order."""
    a, b = a[:MAX_ANSWERS], b[:MAX_ANSWERS]
    return len(a) == len(b) and all(map(same, a, b))


def recognise(results: list[Any], mistakes: list[dict]) -> dict | None:
    """The known mistake that explains the results of one exercise's checks, or None.

    A mistake explains them if its answers are seen again in every check it fails. Among several the one that agrees
    with most checks wins; a tie names nobody, unless the tied ones say the same.

    Args:
        results: `Result`s of one exercise, public seed.
        mistakes: entries of the card, {"id", "hint", "checks": {check name: transcript}} (failed checks only).
    """
    failed = {r.name: r.transcript for r in results if r.outcome not in ("passed", "not attempted")}
    if not failed:
        return None
    scores = []
    for mistake in mistakes:
        checks = mistake["checks"]
        if checks and all(name in failed and same_transcript(failed[name], seen) for name, seen in checks.items()):
            scores.append((len(checks), mistake))
    if not scores:
        return None
    most = max(score for score, _ in scores)
    best = [mistake for score, mistake in scores if score == most]
    return best[0] if len({mistake["hint"] for mistake in best}) == 1 else None


def _collect(value: Any, structure: list[str], numbers: list[float]) -> None:
    if isinstance(value, np.ndarray):
        structure.append("array")
        value = torch.from_numpy(np.array(value, order="C"))
    if isinstance(value, Tensor):
        structure.append(f"{value.dtype}{tuple(value.shape)}")
        numbers.extend(_sketch(value.detach()))
    elif isinstance(value, bool) or value is None or isinstance(value, str):
        structure.append(repr(value))
    elif isinstance(value, (int, float)):
        structure.append(type(value).__name__)
        numbers.append(float(value) if isinstance(value, float) or abs(value) < 1e300 else math.copysign(math.inf, value > 0 or -1))
    elif isinstance(value, complex):
        structure.append("complex")
        numbers.extend([value.real, value.imag])
    elif isinstance(value, (list, tuple, set, frozenset)):
        structure.append(f"{type(value).__name__}{len(value)}")
        for item in sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value:
            _collect(item, structure, numbers)
    elif isinstance(value, dict):
        structure.append(f"dict{len(value)}")
        for key, item in value.items():
            _collect(key, structure, numbers)
            _collect(item, structure, numbers)
    else:
        structure.append(type(value).__name__ + getattr(value, "_words", ""))


def _sketch(value: Tensor) -> list[float]:
    flat = value.reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    flat = flat.double()
    special = (~torch.isfinite(flat)).sum().item()
    flat = torch.nan_to_num(flat, 0.0, 0.0, 0.0)
    norm = flat.norm().item()
    direction = torch.randn(flat.numel(), generator=torch.Generator().manual_seed(flat.numel()), dtype=torch.float64)
    projection = (flat @ direction).item()
    # The share lies within a few units of 0, where a logarithm would blow noise up: 8 units on, its steps are even enough.
    return [norm, 8.0 + projection / norm if 0 < norm < math.inf else 0.0, float(special)]


def _rounded(x: float) -> str:
    if x == 0 or not math.isfinite(x):
        text = repr(x) if x == x else "nan"
        return _hash("special" + ("0" if x == 0 else text), 4) * 2
    steps = STEPS_PER_OCTAVE * math.log2(abs(x))
    sign = "-" if x < 0 else "+"
    return _hash(f"{sign}a{math.floor(steps)}", 4) + _hash(f"{sign}b{math.floor(steps + 0.5)}", 4)


def _hash(text: str, digits: int) -> str:
    return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()[:digits]
