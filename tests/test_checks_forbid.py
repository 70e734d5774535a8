"""What `forbid` sees of an operator that has two names to a person and one to PyTorch."""

import pytest
import torch
from checks_helpers import run

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
