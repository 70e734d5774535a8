"""What `forbid` sees of an operator that has two names to a person and one to PyTorch, and what `largest` sees of a tensor's size."""

import pytest
import torch
from checks_helpers import run, student

from course_lib.checks import expect_close
from course_lib.checks.outcomes import OUT_OF_LIMITS, PASSED

STUDENT = """
import torch.nn.functional as F

def f(x, weight, transposed):
    return F.conv_transpose2d(x, weight) if transposed else F.conv2d(x, weight)
"""


@pytest.mark.parametrize(
    "forbid, transposed, allowed",
    [
        (("convolution_transposed",), True, False),
        (("convolution_transposed",), False, True),
        (("convolution",), True, False),
        (("convolution",), False, False),
        ((), True, True),
    ],
)
@pytest.mark.parametrize("gradient", [False, True])
def test_a_transposed_convolution_can_be_forbidden_alone(forbid, transposed, allowed, gradient):
    def check(f):
        f(torch.ones(1, 2, 4, 5, requires_grad=gradient), torch.ones(2, 2, 3, 3), transposed)

    result = run(check, STUDENT, forbid=forbid)
    assert (result.outcome == "passed") == allowed
    if not allowed:
        assert f"`convolution{'_transposed' if transposed else ''}`" in result.message


PRODUCTS = """
import torch

def whole(x):
    return (x @ x.T).sum(1)

def hidden(x):
    try:
        return (x @ x.T).sum(1)
    except Exception:
        return x.sum(1)

def blocks(x):
    return torch.cat([(rows @ x.T).sum(1) for rows in x.split(10)])

def view(x):
    return x.sum(1)[None].expand(len(x), -1)[0] * 0 + x @ x.sum(0)

def parts(x):
    return (x @ x.T).unbind(1)[0] * 0 + x @ x.sum(0)

def in_place(x):
    total = x.new_zeros(len(x))
    for row in x:
        total += x @ row
    return total
"""


def sums(f):
    x = torch.linspace(0, 1, 300).reshape(100, 3)
    expect_close(f(x), x @ x.sum(0), "100 rows")


def result_of(name, largest, **options):
    namespace = student(PRODUCTS)
    namespace["f"] = namespace[name]
    return run(sums, namespace, {"f_of_ours": namespace["whole"]}, largest=largest, **options)


@pytest.mark.parametrize("name, held", [("whole", 10_000), ("hidden", 10_000), ("parts", 10_000), ("blocks", 1_000), ("view", 300), ("in_place", 300)])
def test_a_tensor_may_hold_as_many_numbers_as_the_check_says(name, held):
    assert result_of(name, held).outcome == PASSED
    assert result_of(name, None).outcome == PASSED
    if held > 300:  # the input itself holds so many
        result = result_of(name, held - 1)
        assert result.outcome == OUT_OF_LIMITS and result.earned == 0
        assert f"a tensor of {held:,} numbers (by `mm`); here {held - 1:,} are allowed" in result.message
        assert result.transcript == ["too large"]


def test_size_is_watched_together_with_forbidden_operators():
    assert "`mm`" in result_of("blocks", 5_000, forbid=("mm",)).message
    assert result_of("whole", 5_000, forbid=("conv",)).outcome == OUT_OF_LIMITS


def test_a_substitute_may_hold_more():
    result = result_of("whole", 5_000, substitute={"f": "f_of_ours"})
    assert result.outcome == PASSED and result.with_substitute


def test_size_is_watched_where_gradients_are_asked_for():
    def check(f):
        f(torch.ones(100, 3, requires_grad=True))

    namespace = student(PRODUCTS + "\nf = whole")
    assert run(check, namespace, largest=9_999).outcome == OUT_OF_LIMITS
    assert run(check, namespace, largest=10_000).outcome == PASSED


@pytest.mark.slow  # torchvision takes seconds to import
@pytest.mark.parametrize("name", ["roi_align", "roi_pool"])
@pytest.mark.parametrize("gradient", [False, True])
def test_an_operator_of_another_library_can_be_forbidden(name, gradient):
    source = f"from torchvision import ops\n\ndef f(x, rois):\n    return ops.{name}(x, rois, (2, 2), 1.0)"

    def check(f):
        f(torch.ones(1, 2, 4, 5, requires_grad=gradient), torch.tensor([[0.0, 0, 0, 3, 3]]))

    assert run(check, source).outcome == "passed"
    result = run(check, source, forbid=(name,))
    assert result.outcome == "wrong" and f"`{name}`" in result.message
