"""What a check asks of an answer. Each `expect_*` returns None or raises `Wrong` with all a student needs to see."""

from __future__ import annotations

import math
from typing import Any, Callable

import numpy as np
import torch
from torch import Tensor

from course_lib.checks.describe import describe, dtype, number, shape
from course_lib.checks.outcomes import StudentError, Wrong
from course_lib.checks.runtime import current_seed
from course_lib.checks.session import Remote
from course_lib.checks.worker import vector_jacobian

# Relative tolerance, and absolute tolerance as a share of the largest expected value. A float32 sum of a few thousand
# products in another order differs by about 1e-6 of its largest terms; ten times that and more is a different answer.
TOLERANCES = {
    torch.float64: (1e-9, 1e-10),
    torch.float32: (1e-4, 1e-5),
    torch.float16: (1e-2, 2e-3),
    torch.bfloat16: (5e-2, 1e-2),
    torch.complex128: (1e-9, 1e-10),
    torch.complex64: (1e-4, 1e-5),
}
PICTURE_SIDE = 6  # both sides of a plane at least this long: then a picture of the difference says more than an index


def expect_close(
    got: Any, expected: Any, case: str, *, rtol: float | None = None, atol: float | None = None, any_dtype: bool = False
) -> None:
    """`got` equals `expected` up to rounding: same kind, shape, dtype, and values.

    Args:
        got: the student's answer: tensor, array, number, or a list, tuple or dict of them.
        expected: what is right.
        case: the case in words; it begins the message.
        rtol, atol: |got - expected| <= atol + rtol * |expected|. By default from the dtype, see `TOLERANCES`.
        any_dtype: accept another floating-point type (compared as float64).
    Raises: Wrong.
    """
    _compare(got, expected, _Comparison(case, rtol, atol, any_dtype), "")


def expect_equal(got: Any, expected: Any, case: str) -> None:
    """`got` is exactly `expected`: types too (True is not 1, a list is not a tuple). Raises: Wrong."""
    _compare(got, expected, _Comparison(case, 0.0, 0.0, False, exact=True), "")


def expect_true(condition: Any, case: str, why: str) -> None:
    """A condition the check computed from an answer holds; `why` tells what is wrong when it does not. Raises: Wrong."""
    if type(condition) is Remote:  # any object is true to Python: a generator, NotImplemented
        raise Wrong(case, why, "True or False", _kind(condition))
    if not bool(condition):
        raise Wrong(case, why)


def expect_raises(kind: type[Exception], call: Callable[[], Any], case: str, mentions: str | None = None) -> None:
    """`call()` raises `kind` in the student's code, and the message contains `mentions` (any case). Raises: Wrong."""
    try:
        answer = call()
    except StudentError as error:
        if kind.__name__ not in error.bases:
            raise Wrong(
                case, f"This should raise {kind.__name__}, but raised {error.type_name}.", kind.__name__, f"{error.type_name}: {error.message}"
            ) from None
        if mentions is not None and mentions.lower() not in error.message.lower():
            raise Wrong(
                case, f"The message of the {kind.__name__} should mention `{mentions}`.", f"a message with {mentions!r}", repr(error.message)
            ) from None
        return
    raise Wrong(case, f"This should raise {kind.__name__}, but an answer came back.", f"{kind.__name__}", describe(answer))


def gradients(function: Callable, *inputs: Any) -> list[Tensor]:
    """Vector-Jacobian products of `function` with one random cotangent, one for each floating-point input.

    The cotangent depends on the check's seed and the output's shape alone, so that a student's function and an oracle
    get the same. An input the output does not depend on has gradient zero.

    Args:
        function: a proxy, a lambda around proxies, or an oracle; returns a tensor or a container of tensors.
        inputs: its arguments; tensors of floating-point type are differentiated.
    Raises: Wrong if the result carries no gradient at all.
    """
    leaves = [x.detach().clone().requires_grad_() if _floating(x) else x for x in inputs]
    wanted = [x for x in leaves if _floating(x)]
    with torch.enable_grad():
        outputs = [t for t in _tensors(function(*leaves)) if _floating(t)]
    if not any(t.requires_grad for t in outputs):
        raise Wrong(
            "gradients",
            "The result carries no gradient: it was detached, rebuilt from numbers, or went through numpy. "
            "Compute it with torch operations from the inputs to the end.",
        )
    generator = torch.Generator().manual_seed(current_seed())
    cotangents = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in outputs]  # one for each, attached or not
    attached, cotangents = zip(*[(t, c) for t, c in zip(outputs, cotangents) if t.requires_grad])
    found = vector_jacobian(attached, wanted, cotangents)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(wanted, found)]


def normal(rng: np.random.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers of the given shape from a check's own generator."""
    return torch.from_numpy(np.asarray(rng.standard_normal(shape))).to(dtype)


# --- comparison ---------------------------------------------------------------------------------------------------------


class _Comparison:
    def __init__(self, case: str, rtol: float | None, atol: float | None, any_dtype: bool, exact: bool = False) -> None:
        self.case, self.rtol, self.atol, self.any_dtype, self.exact = case, rtol, atol, any_dtype, exact

    def wrong(self, where: str, problem: str, expected: Any, got: Any, pictures: Any = None) -> Wrong:
        place = f"In {where}: " if where else ""
        problem = place + problem if place else problem
        return Wrong(self.case, problem, expected, got, pictures)


def _compare(got: Any, expected: Any, how: _Comparison, where: str) -> None:
    got, expected = _plain(got), _plain(expected)
    if isinstance(expected, Tensor):
        return _compare_tensor(got, expected, how, where)
    if isinstance(expected, np.ndarray):
        return _compare_array(got, expected, how, where)
    if type(expected) in (list, tuple):
        return _compare_sequence(got, expected, how, where)
    if type(expected) is dict:
        return _compare_dict(got, expected, how, where)
    if isinstance(expected, (int, float, complex)) and not isinstance(expected, bool):
        return _compare_number(got, expected, how, where)
    if type(got) is not type(expected):
        raise how.wrong(where, f"This should be {_kind(expected)}, but is {_kind(got)}.", describe(expected), describe(got))
    if got != expected:
        raise how.wrong(where, "The values differ.", describe(expected), describe(got))


def _plain(value: Any) -> Any:
    """Scalars of numpy and tuples such as torch.Size as answers arrive: plain. A check may also compute with an answer before it compares."""
    if isinstance(value, np.generic):
        return value.item()
    return tuple(value) if isinstance(value, tuple) else value


def _compare_number(got: Any, expected: Any, how: _Comparison, where: str) -> None:
    if not how.exact and isinstance(got, Tensor) and got.ndim == 0:
        got = got.item()  # a 0-dimensional tensor is a number where the value matters
    accepted = (type(expected),) if how.exact else (int, float, complex) if type(expected) is complex else (int, float)
    if type(got) not in accepted:
        raise how.wrong(where, f"This should be {_kind(expected)}, but is {_kind(got)}.", describe(expected), describe(got))
    equal = got == expected or (got != got and expected != expected)
    if not equal and not how.exact and not type(got) is type(expected) is int:
        rtol, share = TOLERANCES[torch.float64]
        rtol = rtol if how.rtol is None else how.rtol
        atol = share * abs(expected) if how.atol is None else how.atol
        equal = _near(got, expected, atol + rtol * abs(expected))
    if not equal:
        raise how.wrong(where, "The values differ.", describe(expected), describe(got))


def _near(got: Any, expected: Any, tolerance: float) -> bool:
    try:
        difference = abs(got - expected)
    except OverflowError:  # an integer too large for a float
        return False
    return math.isfinite(difference) and difference <= tolerance


def _compare_sequence(got: Any, expected: list | tuple, how: _Comparison, where: str) -> None:
    if type(got) is not type(expected):
        if how.exact or type(got) not in (list, tuple):
            raise how.wrong(where, f"This should be {_kind(expected)}, but is {_kind(got)}.", describe(expected), describe(got))
    if len(got) != len(expected):
        raise how.wrong(where, f"There should be {len(expected)} items, but there are {len(got)}.", describe(expected), describe(got))
    for i, (g, e) in enumerate(zip(got, expected)):
        _compare(g, e, how, f"{where}[{i}]" if where else f"item {i}")


def _compare_dict(got: Any, expected: dict, how: _Comparison, where: str) -> None:
    if type(got) is not dict:
        raise how.wrong(where, f"This should be a dict, but is {_kind(got)}.", describe(expected), describe(got))
    if missing := [k for k in expected if k not in got]:
        raise how.wrong(where, f"The key {missing[0]!r} is missing.", describe(list(expected)), describe(list(got)))
    if extra := [k for k in got if k not in expected]:
        raise how.wrong(where, f"The key {extra[0]!r} does not belong there.", describe(list(expected)), describe(list(got)))
    if how.exact:
        types = {key: type(key) for key in got}
        if mixed := [k for k in expected if types[k] is not type(k)]:  # 1, 1.0 and True are one key to a dict
            raise how.wrong(where, f"The key {mixed[0]!r} should be {_kind(mixed[0])}.", describe(list(expected)), describe(list(got)))
    for key, value in expected.items():
        _compare(got[key], value, how, f"{where}[{key!r}]" if where else f"item {key!r}")


def _compare_array(got: Any, expected: np.ndarray, how: _Comparison, where: str) -> None:
    if type(got) is not np.ndarray:
        raise how.wrong(where, f"This should be a numpy array, but is {_kind(got)}.", describe(expected), describe(got))
    _compare_values(torch.from_numpy(np.array(got, order="C")), torch.from_numpy(np.array(expected, order="C")), how, where)


def _compare_tensor(got: Any, expected: Tensor, how: _Comparison, where: str) -> None:
    if not isinstance(got, Tensor):
        note = ""
        if type(got) is Remote and "on device" in repr(got):
            note = " Create new tensors on the device of the inputs, for example with `x.new_zeros`."
        elif isinstance(got, (int, float)) and expected.ndim == 0:
            note = " A tensor keeps its gradient, a plain number does not: leave out `.item()` or `float()`."
        raise how.wrong(where, f"This should be {_kind(expected)}, but is {_kind(got)}.{note}", describe(expected), describe(got))
    _compare_values(got.detach(), expected.detach(), how, where)


def _compare_values(got: Tensor, expected: Tensor, how: _Comparison, where: str) -> None:
    if got.shape != expected.shape:
        raise how.wrong(where, f"The shape is {shape(got)}, but should be {shape(expected)}.", describe(expected), describe(got))
    both_floating = _floating(got) and _floating(expected)
    if got.dtype != expected.dtype and not (how.any_dtype and both_floating):
        note = " The result should have the type of the inputs." if both_floating else ""
        raise how.wrong(where, f"The dtype is {dtype(got)}, but should be {dtype(expected)}.{note}", describe(expected), describe(got))
    if expected.numel() == 0:
        return
    good = _good(got, expected, how)
    if bool(good.all()):
        return
    bad = int((~good).sum())
    index = tuple((~good).nonzero()[0].tolist())
    place = f" at index {list(index)}" if index else ""
    e, g = expected[index].item(), got[index].item()
    share = f"{bad} of {expected.numel()} values differ, the first{place}" if expected.numel() > 1 else "The value differs"
    nan = " NaN means an undefined operation on the way: 0/0, log of a negative number, infinity minus infinity." if g != g else ""
    raise how.wrong(
        where,
        f"{share}: {number(g)} should be {number(e)}.{nan}",
        describe(expected),
        describe(got),
        _pictures(got, expected, index),
    )


def _good(got: Tensor, expected: Tensor, how: _Comparison) -> Tensor:
    """(…) bool: which values agree. NaN agrees with NaN, infinity with itself."""
    if how.exact or not (_floating(expected) or expected.is_complex()):
        return (got == expected) | ((got != got) & (expected != expected))
    coarse = max((got.dtype, expected.dtype), key=lambda d: TOLERANCES[d][0])
    wide = torch.complex128 if expected.is_complex() else torch.float64
    got, expected = got.to(wide), expected.to(wide)
    finite = expected[torch.isfinite(expected)]
    largest = finite.abs().max().item() if finite.numel() else 1.0
    rtol = TOLERANCES[coarse][0] if how.rtol is None else how.rtol
    # An answer that should be zero everywhere has no scale of its own: then a value of one is its scale.
    atol = TOLERANCES[coarse][1] * (largest or 1.0) if how.atol is None else how.atol
    return torch.isclose(got, expected, rtol=rtol, atol=atol, equal_nan=True)


def _pictures(got: Tensor, expected: Tensor, index: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
    """The plane of both that holds the first difference, where it is large enough to be looked at."""
    if expected.ndim < 2 or min(expected.shape[-2:]) < PICTURE_SIDE or expected.is_complex():
        return None
    return got[index[:-2]].double(), expected[index[:-2]].double()


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for item in value.values() for t in _tensors(item)]
    return [t for item in value for t in _tensors(item)] if isinstance(value, (list, tuple)) else []


def _kind(value: Any) -> str:
    if type(value) is Remote:
        return repr(value)[1:-1]
    names = {bool: "True or False", int: "an integer (int)", float: "a number (float)", str: "text (str)", type(None): "None"}
    if type(value) in names:
        return names[type(value)]
    if isinstance(value, Tensor):
        return f"a tensor of shape {shape(value)}"
    if isinstance(value, np.ndarray):
        return f"a numpy array of shape {shape(value)}"
    return f"a {type(value).__name__}"
