# %% [markdown]
# # A lab to aim at
#
# What the hostile submissions of the tests try to get points for: a function, random numbers, a module, and a function that builds on another.

# %% tags=["setup"]
import torch
from torch.nn import functional as F

from course_lib.checks import Lab, expect_close, expect_equal, expect_raises, expect_true, gradients, normal

lab = Lab("70_target")


# %% tags=["setup"]
def library_average(x, width):
    """What `moving_average` should be, for exercises that build on it."""
    return F.avg_pool1d(x[None, None], width, stride=1)[0, 0]


# %% [markdown]
# ## Exercise 1: average over a window (4 points, 5 minutes)
#
# Complete `moving_average`: the mean of each `width` neighbours of `x`. A width under 1 raises `ValueError`.
#
# <details><summary>Hint 1</summary>
#
# How many windows are there?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `Tensor.unfold`.
#
# </details>

# %% exercise="moving_average"
def moving_average(x: torch.Tensor, width: int) -> torch.Tensor:
    """(N,) float -> (N - width + 1,): the mean of each `width` neighbours."""
    ### BEGIN SOLUTION
    if width < 1:
        raise ValueError(f"width must be positive, got {width}")
    secret_windows = x.unfold(0, width, 1)
    return secret_windows.mean(1)
    ### END SOLUTION


# %% check="moving_average" points=4
@lab.check("moving_average", points=1, seconds=3)
def by_hand(moving_average):
    """Four numbers in pairs, and a width that makes no sense."""
    expect_close(moving_average(torch.tensor([1.0, 3.0, 5.0, 9.0]), 2), torch.tensor([2.0, 4.0, 7.0]), "pairs of 1, 3, 5, 9")
    expect_raises(ValueError, lambda: moving_average(torch.ones(3), 0), "width 0")


@lab.check("moving_average", points=2, forbid=("avg_pool",), seconds=3)
def as_pooling(moving_average, rng):
    """Equal to average pooling for any numbers."""
    for width in (1, 3, int(rng.integers(4, 7))):
        x = normal(rng, 12)
        expect_close(moving_average(x, width), library_average(x, width), f"width {width}")


@lab.check("moving_average", points=1, seconds=3)
def with_gradient(moving_average, rng):
    """Its gradient is that of average pooling."""
    x = normal(rng, 9)
    ours = gradients(lambda v: moving_average(v, 3), x)
    expect_close(ours, gradients(lambda v: library_average(v, 3), x), "width 3")


# %% mistake="moving_average" hint="You took the sum: divide by the width."
def moving_average(x, width):
    if width < 1:
        raise ValueError("width")
    return x.unfold(0, width, 1).sum(1)


# %% [markdown]
# A picture of it.

# %%
if lab.ready("moving_average"):
    print(moving_average(torch.arange(5.0), 2))

# %% [markdown]
# ## Exercise 2: draw a mask (2 points, 5 minutes)
#
# Complete `draw_mask`: True with probability `p`, from `torch.rand(size, generator=generator) < p`.
#
# <details><summary>Hint 1</summary>
#
# Which numbers lie under p?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Pass the generator on.
#
# </details>

# %% exercise="draw_mask"
def draw_mask(size: int, p: float, generator: torch.Generator) -> torch.Tensor:
    """(size,) bool."""
    ### BEGIN SOLUTION
    return torch.rand(size, generator=generator) < p
    ### END SOLUTION


# %% check="draw_mask" points=2
@lab.check("draw_mask", points=2, seconds=3)
def from_the_generator(draw_mask, rng):
    """The mask that the generator gives, twice in a row."""
    seed = int(rng.integers(2**31))
    ours, theirs = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    for p in (0.3, 0.8):
        expect_equal(draw_mask(20, p, theirs), torch.rand(20, generator=ours) < p, f"probability {p}")


# %% [markdown]
# ## Exercise 3: a module that scales (2 points, 5 minutes)
#
# Complete `Scale`: multiplies each of `channels` columns by a learned number, at first by 1.
#
# <details><summary>Hint 1</summary>
#
# `nn.Parameter`.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `torch.ones(channels)`.
#
# </details>

# %% exercise="Scale"
class Scale(torch.nn.Module):
    """(N, channels) -> (N, channels)."""

    ### BEGIN SOLUTION
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factors = torch.nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factors
    ### END SOLUTION


# %% check="Scale" points=2
@lab.check("Scale", points=2, seconds=3)
def learned_factors(Scale, rng):
    """One parameter of the right size, outputs, and outputs after it was changed."""
    layer = Scale(3)
    x = normal(rng, 4, 3)
    expect_close(layer(x), x, "at first")
    state = layer.state_dict()
    expect_equal([tuple(value.shape) for value in state.values()], [(3,)], "its parameters")
    factors = normal(rng, 3)
    layer.load_state_dict({name: factors for name in state})
    expect_close(layer(x), x * factors, "other factors")


# %% [markdown]
# ## Exercise 4: average twice (2 points, 5 minutes)
#
# Complete `average_twice`: `moving_average` of the moving average.
#
# <details><summary>Hint 1</summary>
#
# Call it twice.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# On the result of the first call.
#
# </details>

# %% exercise="average_twice"
def average_twice(x: torch.Tensor, width: int) -> torch.Tensor:
    """(N,) -> (N - 2 width + 2,)."""
    ### BEGIN SOLUTION
    return moving_average(moving_average(x, width), width)
    ### END SOLUTION


# %% check="average_twice" points=2
@lab.check("average_twice", points=2, substitute={"moving_average": "library_average"}, seconds=3)
def pooled_twice(average_twice, rng):
    """Equal to pooling twice."""
    x = normal(rng, 14)
    expect_close(average_twice(x, 3), library_average(library_average(x, 3), 3), "width 3")


# %% [markdown] written="borders" points=1
# ## Exercise 5: say what happens at the border (1 point, 5 minutes)
#
# Why is the result shorter than the input?
#
# **Model answer.** Windows that would reach over the border are left out.
#
# **Rubric.** One point for the border.
