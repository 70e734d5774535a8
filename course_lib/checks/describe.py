"""Values in a few words, for messages: what a student compares by eye."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

FEW = 12  # numbers that are printed rather than counted
WIDTH = 160  # characters of one description


def number(value: Any) -> str:
    """A number with enough digits to see a difference and no more."""
    if isinstance(value, bool) or not isinstance(value, (float, np.floating)):
        return repr(value.item() if isinstance(value, np.generic) else value)
    return f"{float(value):.6g}" if float(value) != int_or_none(value) else f"{float(value):.1f}"


def int_or_none(value: float) -> int | None:
    return int(value) if np.isfinite(value) and abs(value) < 1e6 and value == int(value) else None


def shape(value: Any) -> str:
    sizes = tuple(value.shape)
    return "()" if not sizes else "(" + ", ".join(map(str, sizes)) + ("," if len(sizes) == 1 else "") + ")"


def dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def describe(value: Any, width: int = WIDTH) -> str:
    """What a value is: type, shape, and the numbers themselves where there are few."""
    if isinstance(value, (Tensor, np.ndarray)):
        kind = "tensor" if isinstance(value, Tensor) else "numpy array"
        head = f"{kind} {shape(value)} {dtype(value)}"
        count = int(np.prod(value.shape)) if len(value.shape) else 1
        if 0 < count <= FEW:
            return _cut(f"{head} {_numbers(value.tolist())}", width)
        return head
    if isinstance(value, float):
        return number(value)
    if type(value) in (list, tuple):
        inner = ", ".join(describe(item, width) for item in value[:FEW]) + (", …" if len(value) > FEW else "")
        text = f"[{inner}]" if type(value) is list else f"({inner}{',' if len(value) == 1 else ''})"
        return _cut(text, width)
    if type(value) is dict:
        return _cut("{" + ", ".join(f"{describe(k, width)}: {describe(v, width)}" for k, v in list(value.items())[:FEW]) + "}", width)
    if hasattr(type(value), "_words"):  # a proxy
        return value._words
    if isinstance(value, torch.Generator):
        return "a torch.Generator"
    return _cut(repr(value), width)


def describe_call(words: str, args: tuple, kwargs: dict) -> str:
    """A call as a student would write it, tensors by their shapes."""
    parts = [_argument(a) for a in args] + [f"{key}={_argument(a)}" for key, a in kwargs.items()]
    return _cut(f"{words}({', '.join(parts)})", 2 * WIDTH)


def _argument(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 1 and 0 < value.shape[0] <= FEW:
        return _numbers(value.tolist())
    return describe(value, 60)


def _numbers(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_numbers(item) for item in value) + "]"
    return number(value)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
