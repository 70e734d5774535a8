"""Digests of answers: blind to rounding noise, not to anything else; and who is recognised by them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.checks.fingerprint import MAX_ANSWERS, MAX_LEAVES, digest, recognise, same, same_transcript
from course_lib.checks.outcomes import ERROR, NOT_ATTEMPTED, PASSED, WRONG, Result

seeds = st.integers(0, 2**32 - 1)
DTYPES = [torch.float64, torch.float32, torch.complex64]


def tensor(seed, size, scale=1.0, shift=0.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return ((torch.randn(size, generator=generator, dtype=wide) + shift) * scale).to(dtype)


def noisy(value, seed, relative=1e-6):
    """The same values, each up to `relative` larger or smaller."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(value, torch.Tensor):
        if not (value.is_floating_point() or value.is_complex()):
            return value
        return value * (1 + relative * (2 * torch.rand(value.shape, generator=generator, dtype=torch.float64) - 1)).to(value.real.dtype)
    if isinstance(value, float):
        return value * (1 + relative * (2 * torch.rand((), generator=generator).item() - 1))
    return type(value)(noisy(item, seed + i) for i, item in enumerate(value))


# --- noise ------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(seeds, st.integers(1, 300), st.floats(-30, 30), st.sampled_from([0.0, 1.0, -5.0]), st.sampled_from(DTYPES))
def test_rounding_noise_never_separates_equal_tensors(seed, size, exponent, shift, dtype):
    value = tensor(seed, size, 2.0**exponent, shift, dtype)
    assert same(digest(value), digest(noisy(value, seed + 1)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nor_does_it_in_a_thousand_fixed_cases(dtype):
    """More than hypothesis draws: cancellation in the projection is rare, one in some thousand tensors."""
    for seed in range(1000):
        value = tensor(seed, 3 + seed % 5, dtype=dtype)
        assert same(digest(value), digest(noisy(value, seed))), seed


def test_values_that_cancel_in_the_projection_are_no_exception():
    """Tensors built so that the projection is (nearly) zero: the noise is then all that is left of it."""
    for seed in range(200):
        value = tensor(seed, 50)
        direction = torch.randn(50, generator=torch.Generator().manual_seed(50), dtype=torch.float64)
        value -= direction * (value @ direction) / (direction @ direction) * (1 - 1e-5 * (seed % 3))
        assert same(digest(value), digest(noisy(value, seed)))


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-200, 1e200) | st.floats(-1e200, -1e-200), seeds)
def test_nor_equal_numbers(value, seed):
    assert same(digest(value), digest(noisy(value, seed)))


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.floats(0.1, 100), lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=2).map(tuple), max_leaves=8), seeds)
def test_nor_containers(value, seed):
    assert same(digest(value), digest(noisy(value, seed)))


# --- differences ------------------------------------------------------------------------------------------------------------------

T = torch.tensor
DIFFERENT = [
    (1.0, 1.01),
    (1.0, -1.0),
    (1, 1.0),
    (1, True),
    (0.0, 1e-9),
    (math.nan, math.inf),
    (math.inf, -math.inf),
    (None, 0),
    ("a", "b"),
    ([1.0], (1.0,)),
    ([1.0, 2.0], [1.0]),
    ([1.0, 2.0], [2.0, 1.0]),
    ([[1.0], 2.0], [[1.0, 2.0]]),
    ({"a": 1}, {"b": 1}),
    ({"a": 1}, {"a": 2}),
    ({1}, {2}),
    (T([1.0]), 1.0),
    (T([1.0]), T([1.0]).double()),
    (T([1.0]), np.array([1.0], np.float32)),
    (np.array([1.0]), np.array(1.0)),
    (T([1.0, 2.0]), T([[1.0, 2.0]])),
    (T([1.0, 2.0]), T([2.0, 1.0])),
    (T([1.0, 2.0]), T([1.0, -2.0])),
    (T([1.0, 2.0]), T([-1.0, -2.0])),
    (T([1.0, math.nan]), T([1.0, 0.0])),
    (T([[1.0, 2.0], [3.0, 4.0]]), T([[1.0, 3.0], [2.0, 4.0]])),
    (T([0, 1, 2]), T([0, 1, 3])),
    (T([True, False]), T([False, True])),
    (T([1 + 2j]), T([1 - 2j])),
    (T([]), T([0.0])),
    (2**2000, 1e308),
    (2**2000, -(2**2000)),
    (1 + 2j, 1 - 2j),
    (frozenset({1}), frozenset({2})),
]


@pytest.mark.parametrize(("a", "b"), DIFFERENT, ids=lambda v: str(v)[:20])
def test_different_answers_differ(a, b):
    assert not same(digest(a), digest(b)) and not same(digest(b), digest(a))
    assert same(digest(a), digest(a)) and same(digest(b), digest(b))


@settings(max_examples=100, deadline=None)
@given(seeds, st.integers(2, 60), st.floats(0.02, 3), st.integers(0, 1000))
def test_a_change_of_a_few_percent_of_all_values_is_seen(seed, size, change, other):
    value = tensor(seed, size)
    assert not same(digest(value), digest(value * (1 + change)))
    direction = tensor(other + 2**33, size)
    direction *= value.norm() / direction.norm()
    assert not same(digest(value), digest(value + (1 + change) * direction))


def test_a_digest_is_short_and_shows_no_number():
    text = digest([T([3.0, 4.0]), 5.0])
    assert len(text) == 6 + 8 * 4 and int(text, 16) >= 0
    assert len(digest([float(i + 1) for i in range(1000)])) == 6 + 8 * MAX_LEAVES


@pytest.mark.parametrize("value", [T([1e200, -1e200], dtype=torch.float64), T([1e-320, 5e-324], dtype=torch.float64), T([math.nan] * 3), 10**400, -0.0, 5e-324])
def test_extreme_values_have_a_digest_that_repeats(value):
    assert digest(value) == digest(value)


# --- transcripts and recognition ----------------------------------------------------------------------------------------------


def test_transcripts_are_compared_in_order_and_up_to_a_length():
    a, b = digest(1.0), digest(2.0)
    assert same_transcript([a, b], [a, b]) and not same_transcript([a, b], [b, a])
    assert not same_transcript([a], [a, a]) and same_transcript([], [])
    assert same_transcript([a] * MAX_ANSWERS + [a], [a] * MAX_ANSWERS + [b])


def result(name, answer, outcome=WRONG):
    return Result(name, "f", 1.0, 0.0, outcome, transcript=[digest(answer)])


def mistake(number, hint="hint", **checks):
    return {"id": f"f/{number}", "exercise": "f", "hint": hint, "checks": {name: [digest(answer)] for name, answer in checks.items()}}


@pytest.mark.parametrize(
    ("results", "mistakes", "found"),
    [
        ([result("a", 1.0)], [mistake(1, a=1.0)], "f/1"),
        ([result("a", 1.0 + 1e-9)], [mistake(1, a=1.0)], "f/1"),
        ([result("a", 2.0)], [mistake(1, a=1.0)], None),
        ([result("a", 1.0)], [], None),
        ([result("a", 1.0)], [mistake(1)], None),
        ([result("a", 1.0, PASSED)], [mistake(1, a=1.0)], None),
        ([result("a", 1.0, NOT_ATTEMPTED)], [mistake(1, a=1.0)], None),
        ([result("a", 1.0, ERROR)], [mistake(1, a=1.0)], "f/1"),
        # every check that the mistake fails must be failed with its answers
        ([result("a", 1.0), result("b", 2.0, PASSED)], [mistake(1, a=1.0, b=2.0)], None),
        ([result("a", 1.0), result("b", 3.0)], [mistake(1, a=1.0, b=2.0)], None),
        ([result("a", 1.0), result("b", 2.0)], [mistake(1, a=1.0, b=2.0)], "f/1"),
        # the student may fail more: another mistake on top
        ([result("a", 1.0), result("b", 3.0)], [mistake(1, a=1.0)], "f/1"),
        # most checks wins
        ([result("a", 1.0), result("b", 2.0)], [mistake(1, a=1.0), mistake(2, a=1.0, b=2.0)], "f/2"),
        # a tie names nobody, unless both say the same
        ([result("a", 1.0)], [mistake(1, "one", a=1.0), mistake(2, "two", a=1.0)], None),
        ([result("a", 1.0)], [mistake(1, "one", a=1.0), mistake(2, "one", a=1.0)], "f/1"),
        ([result("a", 1.0), result("b", 2.0)], [mistake(1, "one", a=1.0), mistake(2, "two", b=2.0)], None),
        ([result("a", 1.0), result("b", 2.0)], [mistake(1, "1", a=1.0), mistake(2, "2", b=2.0), mistake(3, "3", a=1.0, b=2.0)], "f/3"),
    ],
)
def test_recognise(results, mistakes, found):
    recognised = recognise(results, mistakes)
    assert (recognised and recognised["id"]) == found
