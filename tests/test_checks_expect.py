"""What `expect_*` and `gradients` accept, refuse, and say."""

import collections
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from checks_helpers import run
from course_lib.checks import expect_close, expect_equal, expect_raises, expect_true, gradients, normal
from course_lib.checks.outcomes import NotAttempted, Wrong

T = torch.tensor


def refusal(expect, got, expected, **options) -> Wrong:
    with pytest.raises(Wrong) as caught:
        expect(got, expected, "the case", **options)
    assert caught.value.case == "the case"
    return caught.value


# --- close ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64], ids=str)
def test_rounding_of_the_type_is_accepted_and_ten_times_the_tolerance_is_not(dtype):
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(50, generator=generator, dtype=torch.complex128 if dtype.is_complex else torch.float64) + 3
    expected = exact.to(dtype)
    unit = torch.finfo(dtype).eps
    expect_close((exact * (1 + unit)).to(dtype), expected, "one unit in the last place")
    rtol = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2, torch.complex64: 1e-4}[dtype]
    assert "50 of 50 values differ" in refusal(expect_close, (exact * (1 + 10 * rtol)).to(dtype), expected).problem


def test_small_values_are_judged_at_the_scale_of_the_largest():
    expect_close(T([1e-6, 100.0]), T([0.0, 100.0]), "cancellation leaves about 1e-6")
    refusal(expect_close, T([1e-2, 100.0]), T([0.0, 100.0]))
    expect_close(T([1e-6, 0.0]), T([0.0, 0.0]), "zeros have a scale of one")
    refusal(expect_close, T([1e-4, 0.0]), T([0.0, 0.0]))


@given(st.floats(-1e3, 1e3), st.floats(0, 1e-2), st.floats(0, 1e-2), st.floats(-2, 2))
@settings(max_examples=100, deadline=None)
def test_given_tolerances_mean_what_they_say(expected, rtol, atol, share):
    bound = atol + rtol * abs(expected)
    got = expected + share * bound
    if abs(abs(share) - 1) < 1e-6 or bound < 1e-9:
        return
    if abs(share) < 1:
        expect_close(got, expected, "", rtol=rtol, atol=atol)
        expect_close(T([got], dtype=torch.float64), T([expected], dtype=torch.float64), "", rtol=rtol, atol=atol)
    else:
        refusal(expect_close, got, expected, rtol=rtol, atol=atol)
        refusal(expect_close, T([got], dtype=torch.float64), T([expected], dtype=torch.float64), rtol=rtol, atol=atol)


INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (INF, INF),
        (NAN, NAN),
        (3, 3.0),
        (3.0, 3),
        (T(3.0), 3.0),
        (T(3), 3),
        (2.0, np.float32(2)),
        (True, np.bool_(True)),
        (1 + 2j, 1 + 2j),
        (1 + 2j + 1e-12, np.complex128(1 + 2j)),
        ("a", np.str_("a")),
        ([1.0, 2.0], (1.0, 2.0)),
        ((1, 2), torch.Size([1, 2])),
        ((1, 2), collections.namedtuple("Pair", "a b")(1, 2)),
        ({"a": T([1.0])}, {"a": T([1.0])}),
        (T([NAN, INF, -INF, 1.0]), T([NAN, INF, -INF, 1.0])),
        (torch.zeros(0, 3), torch.zeros(0, 3)),
        (T([1.0]), nn.Parameter(T([1.0]))),
        (np.array(2.0), np.array(2.0)),
        (np.arange(4.0)[::-1], np.arange(4.0)[::-1]),
        (np.ones(2), np.broadcast_to(1.0, 2)),
        (T([1 + 1j]), T([1 + 1j])),
        (None, None),
        ({1, 2}, {1, 2}),
        (slice(1), slice(1)),
    ],
)
def test_accepted(got, expected):
    expect_close(got, expected, "the case")


@pytest.mark.parametrize(
    ("got", "expected", "words"),
    [
        (10**400, 1.0, "values differ"),
        (-INF, INF, "values differ"),
        (INF, 1e300, "values differ"),
        (NAN, 1.0, "values differ"),
        (1.0, NAN, "values differ"),
        (2, 3, "values differ"),
        (1 + 2j, 1 - 2j, "values differ"),
        (1j, 1.0, "a number (float), but is a complex"),
        (True, 1.0, "a number (float), but is True or False"),
        (True, 1, "an integer (int), but is True or False"),
        (1, True, "True or False, but is an integer"),
        ("1", 1, "an integer (int), but is text (str)"),
        (None, 1.0, "a number (float), but is None"),
        (None, T([1.0]), "a tensor of shape (1,), but is None"),
        (1.0, None, "None, but is a number"),
        (T(True), 1.0, "but is True or False"),
        (T([1.0]), 1.0, "but is a tensor of shape (1,)"),
        (1.0, T(1.0), "leave out `.item()`"),
        (T(1.0).numpy(), T(1.0), "but is a numpy array of shape ()"),
        (T([1.0]), np.array([1.0]), "a numpy array, but is a tensor of shape (1,)"),
        (np.array([1.0]), np.array(1.0), "The shape is (1,), but should be ()"),
        (T([[1.0]]), T([1.0]), "The shape is (1, 1), but should be (1,)"),
        (torch.zeros(0, 2), torch.zeros(0, 3), "The shape is (0, 2), but should be (0, 3)"),
        (T([1.0]).double(), T([1.0]), "The dtype is float64, but should be float32. The result should have the type of the inputs"),
        (T([1]), T([1.0]), "The dtype is int64, but should be float32"),
        (T([True]), T([1]), "The dtype is bool, but should be int64"),
        (np.array([1], np.int32), np.array([1]), "The dtype is int32, but should be int64"),
        (T([1.0, 2.5, 3.0]), T([1.0, 2.0, 3.0]), "1 of 3 values differ, the first at index [1]: 2.5 should be 2.0"),
        (T([1.0, NAN]), T([1.0, 2.0]), "NaN means an undefined operation"),
        (T([1.0, INF]), T([1.0, -INF]), "inf should be -inf"),
        (T(2.0), T(3.0), "The value differs: 2.0 should be 3.0"),
        (T([[1, 2], [3, 4]]), T([[1, 2], [4, 4]]), "1 of 4 values differ, the first at index [1, 0]: 3 should be 4"),
        (T([1j]), T([-1j]), "The value differs"),
        ([1.0], [1.0, 2.0], "There should be 2 items, but there are 1"),
        ([1.0, [2.0, 5.0]], [1.0, [2.0, 3.0]], "In item 1[1]: The values differ"),
        ("ab", ["a", "b"], "a list, but is text"),
        (T([1.0, 2.0]), [1.0, 2.0], "a list, but is a tensor"),
        ({}, {"a": 1}, "The key 'a' is missing"),
        ({"a": 1, "b": 2}, {"a": 1}, "The key 'b' does not belong there"),
        ({"a": [T([1.0])]}, {"a": [T([2.0])]}, "In item 'a'[0]"),
        ([("a", 1)], {"a": 1}, "a dict, but is a list"),
        ("b", "a", "values differ"),
        ({1}, {2}, "values differ"),
        (torch.float32, torch.float64, "values differ"),
    ],
)
def test_refused_in_words(got, expected, words):
    wrong = refusal(expect_close, got, expected)
    assert words in wrong.problem and wrong.expected and wrong.got


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (True, 1),
        (1, True),
        (1, 1.0),
        (1.0, 1),
        ([1], (1,)),
        ((1,), [1]),
        (T(1), 1),
        (1 + 0j, 1.0),
        ({1: 0}, {1.0: 0}),
        ({True: 0}, {1: 0}),
        ({1}, frozenset({1})),
        (1.0000000001, 1.0),
        (T([1.0000001]), T([1.0])),
        (T([1.0]), T([1.0]).double()),
        ("1", 1),
        (None, False),
        ((), None),
    ],
)
def test_equal_is_exact_and_minds_types(got, expected):
    refusal(expect_equal, got, expected)


@pytest.mark.parametrize(
    "value", [1, 1.0, True, NAN, INF, -0.0, "a", None, [1, (2, {"a": 3})], {1: T([NAN, 1.0])}, T([True]), T([], dtype=torch.int64), 2**100]
)
def test_equal_accepts_what_is_the_same(value):
    expect_equal(value, value, "the case")


def test_any_dtype_means_any_floating_point_type():
    expect_close(T([0.5]).double(), T([0.5]), "", any_dtype=True)
    expect_close(T([0.3]).half(), T([0.3]), "", any_dtype=True)
    refusal(expect_close, T([1]), T([1.0]), any_dtype=True)
    refusal(expect_close, T([0.6]).double(), T([0.5]), any_dtype=True)


def test_a_plane_that_can_be_looked_at_comes_with_both_pictures():
    expected = torch.zeros(2, 6, 7)
    got = expected.clone()
    got[1, 2, 3] = 1
    pictures = refusal(expect_close, got, expected).pictures
    assert [p.shape for p in pictures] == [(6, 7), (6, 7)] and pictures[0][2, 3] == 1 and pictures[1].abs().sum() == 0
    assert refusal(expect_close, torch.ones(5, 7), torch.zeros(5, 7)).pictures is None


def test_a_huge_answer_is_described_in_a_few_words():
    wrong = refusal(expect_close, [[float(i)] * 500 for i in range(100)], [1.0])
    assert len(wrong.got) < 200 and len(wrong.problem) < 200
    wrong = refusal(expect_close, "x" * 10**6, "y")
    assert len(wrong.got) < 200


# --- true, raises ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [True, np.bool_(True), T(True), T([True]), 1])
def test_true(condition):
    expect_true(condition, "the case", "why")


@pytest.mark.parametrize("condition", [False, np.bool_(False), T(False), 0, None, []])
def test_not_true(condition):
    with pytest.raises(Wrong, match="the case: why"):
        expect_true(condition, "the case", "why")


@pytest.mark.parametrize("body", ["yield 1", "return NotImplemented", "return lambda: 0", "return object()"])
def test_an_object_is_not_true_by_being_there(body):
    def check(f):
        expect_true(f(), "the case", "The flag should be set.")

    result = run(check, f"def f():\n    {body}")
    assert (result.outcome, result.message, result.expected) == ("wrong", "The flag should be set.", "True or False")


@pytest.mark.parametrize("comparison", [lambda a: a == 3, lambda a: a != 3, lambda a: a in [1, 2], lambda a: [a] == [1]])
def test_an_object_is_neither_equal_nor_unequal_to_a_value(comparison):
    def check(f):
        expect_true(comparison(f()), "the case", "why")

    result = run(check, "def f():\n    return object()")
    assert result.outcome == "wrong" and "could not use what your code returned, an object of type object" in result.message


RAISING = """
class Special(ValueError): pass
class Odd(NotImplementedError): pass
def f(n):
    if n == 0: raise ValueError("n must be positive, got 0")
    if n == 1: raise Special("n must be positive")
    if n == 2: raise TypeError("n must be positive")
    if n == 3: raise NotImplementedError
    if n == 4: raise NotImplementedError("positive")
    if n == 5: raise SystemExit("n must be positive")
    if n == 6: raise Odd("n must be positive")
    if n == 7: raise BaseException("n must be positive")
    if n == 8: raise ValueError
    return [n]
"""


@pytest.mark.parametrize(
    ("n", "outcome", "words"),
    [
        (0, "passed", ""),
        (1, "passed", ""),
        (2, "wrong", "This should raise ValueError, but raised TypeError."),
        (3, "not attempted", "`f` is still the empty stub."),
        (4, "not attempted", "`f` is still the empty stub."),
        (5, "wrong", "This should raise ValueError, but raised SystemExit."),
        (6, "wrong", "This should raise ValueError, but raised Odd."),
        (7, "wrong", "This should raise ValueError, but raised BaseException."),
        (8, "wrong", "The message of the ValueError should mention `POSITIVE`."),
        (9, "wrong", "This should raise ValueError, but an answer came back."),
    ],
)
def test_must_raise(n, outcome, words):
    def check(f):
        expect_raises(ValueError, lambda: f(n), "n out of range", mentions="POSITIVE")

    result = run(check, RAISING)
    assert (result.outcome, result.message) == (outcome, words)
    assert result.got == {2: "TypeError: n must be positive", 8: "''", 9: "[9]"}.get(n, result.got)


def test_raising_always_fails_the_legal_call():
    def check(f):
        expect_raises(ValueError, lambda: f(-1), "negative")
        expect_equal(f(4), 2, "a legal call")

    result = run(check, "def f(n):\n    raise ValueError('never')")
    assert result.outcome == "error" and result.message == "ValueError: never"


def test_a_fault_of_the_check_is_not_what_must_be_raised():
    def check(f):
        expect_raises(ValueError, lambda: int("a"), "our own")

    assert "The check itself failed" in run(check, "def f(): pass").message


def test_a_stub_raises_nothing_that_was_asked_for():
    def stub():
        raise NotAttempted("empty")

    with pytest.raises(NotAttempted):
        expect_raises(Exception, stub, "the case")


# --- gradients ----------------------------------------------------------------------------------------------------------------

STUDENT = """
import torch
import torch.nn.functional as F
def conv(x, w): return F.conv2d(x, w, padding=1)
def both(x, y): return x * y, (x + y).exp()
def nested(x, y): return {"a": [x * 2, 3], "b": (y, torch.arange(3), "text")}
def first(x, y): return x.sin()
def whole(x): return x.long()
def detached(x): return torch.tensor(x.tolist())
def through_numpy(x): return torch.from_numpy(x.detach().numpy() ** 2)
def no_grad(x):
    with torch.no_grad(): return x * 2
def inference(x):
    with torch.inference_mode(): return x * 2
def partly(x, y): return x * y, (x + y).exp().detach()
def half(x): return x.half() * 2
def same(x): return x
def view(x): return x.transpose(0, 1)[..., ::2]
def stack(xs): return torch.stack(xs).prod(0)
def spectrum(x): return torch.fft.rfft(x)
def pair(x): return x * 2, torch.fft.rfft(x)
class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return 2 * x
    @staticmethod
    def backward(ctx, g): return 3 * g
def wrong_backward(x): return Twice.apply(x)
class Broken(Twice):
    @staticmethod
    def backward(ctx, g): raise KeyError("in backward")
def broken_backward(x): return Broken.apply(x)
def square(x): return x * x
def add(x, y): return x + y
"""
ORACLE: dict = {}
exec(STUDENT, ORACLE)


def inputs(*shapes, dtype=torch.float32):
    rng = np.random.default_rng(0)
    return [normal(rng, *shape, dtype=dtype) for shape in shapes]


CASES = {
    "conv": lambda: inputs((2, 3, 5, 4), (4, 3, 3, 2)),
    "both": lambda: inputs((3, 2), (3, 2)),
    "nested": lambda: inputs((3,), (2, 2)),
    "first": lambda: inputs((3,), (4,)),
    "half": lambda: inputs((3,)),
    "same": lambda: inputs((3,)),
    "view": lambda: inputs((3, 4, 5)),
    "wrong_backward": lambda: inputs((3,)),
    "add": lambda: [*inputs((3,)), 2],
    "pair": lambda: inputs((4,)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_gradients_across_the_boundary_are_those_of_the_same_function_here(name, permuted, dtype):
    arguments = [x.to(dtype) if isinstance(x, torch.Tensor) else x for x in CASES[name]()]
    if permuted:  # equal values, the axes in memory the other way round
        arguments = [
            x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim))) if isinstance(x, torch.Tensor) else x
            for x in arguments
        ]

    def check(f):
        got, expected = gradients(f, *arguments), gradients(ORACLE[name], *arguments)
        assert all(torch.equal(g, e) and g.dtype == dtype for g, e in zip(got, expected, strict=True))
        leaves = [x.detach().clone().requires_grad_() if isinstance(x, torch.Tensor) else x for x in arguments]
        result = ORACLE[name](*leaves)  # and those of autograd without anything of ours
        if isinstance(result, torch.Tensor):
            torch.manual_seed(0)
            cotangent = torch.randn(result.shape).to(result.dtype)
            remote = f(*leaves)
            wanted = [x for x in leaves if isinstance(x, torch.Tensor)]
            for a, b in zip(*(torch.autograd.grad((r * cotangent).sum(), wanted, allow_unused=True) for r in (remote, result))):
                assert (a is None or not a.any()) if b is None else torch.equal(a, b)

    assert run(check, STUDENT.replace(f"def {name}(", "def f(")).message == ""


def test_an_unused_input_has_gradient_zero_on_both_sides():
    def check(f):
        got, expected = gradients(f, *inputs((3,), (4,))), gradients(ORACLE["first"], *inputs((3,), (4,)))
        expect_close(got, expected, "both")
        expect_close(got[1], torch.zeros(4), "unused")

    assert run(check, STUDENT.replace("def first(", "def f(")).outcome == "passed"


def test_proxies_compose_in_a_lambda_and_with_our_own_operators():
    def check(square, add):
        x, y = inputs((3,), (3,))
        got = gradients(lambda a, b: add(square(a), square(add(a, b)).sin() * 2), x, y)
        expect_close(got, gradients(lambda a, b: a * a + ((a + b) ** 2).sin() * 2, x, y), "composed")

    assert run(check, STUDENT).message == ""


def test_lists_of_tensors_are_differentiated_through_a_lambda():
    def check(stack):
        x, y = inputs((3,), (3,))
        got = gradients(lambda a, b: stack([a, b, a]), x, y)
        expect_close(got, gradients(lambda a, b: a * b * a, x, y), "a * b * a")

    assert run(check, STUDENT).message == ""


def test_backward_twice_through_one_call():
    def check(square):
        x = inputs((3,))[0].requires_grad_()
        y = square(x)
        one, two = (torch.autograd.grad(y.sum() * k, x, retain_graph=True)[0] for k in (1, 2))
        expect_close(one, 2 * x, "once")
        expect_close(two, 4 * x, "twice")

    assert run(check, STUDENT).message == ""


def test_a_parameter_of_ours_can_be_trained_through_a_call():
    def check(square):
        x = nn.Parameter(torch.ones(2))
        for _ in range(3):
            (g,) = torch.autograd.grad(square(x).sum(), x)
            x.data -= 0.25 * g
        expect_close(x, torch.full((2,), 0.125), "three steps")

    assert run(check, STUDENT).message == ""


@pytest.mark.parametrize("name", ["whole", "detached", "through_numpy", "no_grad", "inference"])
def test_a_detached_result_is_wrong_and_says_so(name):
    def check(f):
        gradients(f, *inputs((3,)))

    result = run(check, STUDENT.replace(f"def {name}(", "def f("))
    assert result.outcome == "wrong" and "carries no gradient" in result.message and result.call == "f(" + result.call[2:]


def test_a_result_that_is_detached_in_part_is_wrong():
    def check(f):
        expect_close(gradients(f, *inputs((3,), (3,))), gradients(ORACLE["both"], *inputs((3,), (3,))), "gradients")

    result = run(check, STUDENT.replace("def partly(", "def f("))
    assert result.outcome == "wrong" and "values differ" in result.message


def test_an_output_without_gradient_in_the_oracle_does_not_shift_the_cotangents():
    def oracle(x):
        return (x > 0).float(), x * 3

    def check(f):
        expect_close(gradients(f, *inputs((5,))), gradients(oracle, *inputs((5,))), "gradients")

    assert run(check, "def f(x):\n    return x * 0 + (x > 0), x * 3").message == ""


def test_an_error_in_the_students_backward_is_theirs():
    def check(f):
        gradients(f, *inputs((3,)))

    result = run(check, STUDENT.replace("def broken_backward(", "def f("))
    assert result.outcome == "error" and result.message == "KeyError: 'in backward'"
    assert result.line["text"] == 'def backward(ctx, g): raise KeyError("in backward")'


def test_without_inputs_that_require_it_nothing_is_differentiated():
    def check(square):
        expect_true(not square(torch.ones(2)).requires_grad, "plain", "no gradient was asked for")
        with torch.no_grad():
            expect_true(not square(torch.ones(2, requires_grad=True)).requires_grad, "no_grad", "no gradient was asked for")

    assert run(check, STUDENT).message == ""


def test_the_cotangent_depends_on_the_seed_alone():
    seen = []

    def check(square):
        seen.append(gradients(square, torch.ones(4))[0])

    for seed in (20, 20, 21):
        run(check, STUDENT, seed=seed)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


def test_normal_draws_from_the_given_generator_alone():
    a, b = (normal(np.random.default_rng(3), 2, 3) for _ in range(2))
    assert torch.equal(a, b) and a.dtype == torch.float32 and a.shape == (2, 3)
    assert torch.equal(a.double(), normal(np.random.default_rng(3), 2, 3, dtype=torch.float64).float().double())
    assert F.mse_loss(normal(np.random.default_rng(0), 10_000), torch.zeros(10_000)).item() == pytest.approx(1, abs=0.05)
