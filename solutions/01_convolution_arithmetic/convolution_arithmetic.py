# %% [markdown]
# # Lab 01: convolution arithmetic
#
# The lecture slid a kernel along one axis. Here you build the real thing: sizes, loops over two axes, the copied windows that turn a
# convolution into one matrix product, the matrix itself, what a deep unit sees, what a layer costs, and a third axis. At the end you
# compare the time of your own versions with the library's.
#
# **You need** the [lecture](../../lectures/01_convolution_arithmetic.ipynb). **Time:** about 120 minutes. **Points:** 26, of them 2 for
# a written answer that is graded by hand.
#
# **How feedback works.** Write your code in the cell that says `YOUR CODE HERE`, run it, then run the check cell below it. The check shows
# what it tried, what it expected and what came back, and it knows the common mistakes by name. Hints are folded under each statement:
# open one when you are stuck, not before. Grading runs the same checks on other random inputs of the same kind.

# %% tags=["setup"]
import math
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib import datasets, measurements, plots
from course_lib.checks import Lab, expect_close, expect_equal, expect_raises, expect_true, gradients, normal

lab = Lab("01_convolution_arithmetic")


def pair(value) -> tuple[int, int]:
    """An int, or a pair of them (rows, columns), as a pair."""
    return (value, value) if isinstance(value, int) else tuple(value)


def library_output_size(n, kernel_size, stride=1, padding=0, dilation=1):
    """What a check puts in the place of your `output_size` where it judges a later exercise."""
    try:
        return F.conv1d(torch.zeros(1, 1, n), torch.zeros(1, 1, kernel_size), None, stride, padding, dilation).shape[-1]
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def library_im2col(x, kernel_size, stride=1, padding=0, dilation=1):
    """What a check puts in the place of your `im2col` where it judges a later exercise."""
    numbers = x if x.is_floating_point() else x.double()  # the library's has no integers
    return F.unfold(numbers, pair(kernel_size), dilation=pair(dilation), padding=pair(padding), stride=pair(stride)).to(x.dtype)


# %% [markdown]
# Where an argument may be **an int or a pair**, a pair means (rows, columns), and an int means the same for both. The given function
# `pair` turns either into a pair; use it wherever you like. All tensors follow the names and shapes of the course: images are
# `(N, C, H, W)`.

# %% [markdown]
# ## Exercise 1: count the places of a window (2 points, 8 minutes)
#
# Complete `output_size`: how many outputs does a convolution along one axis have?
#
# A window of `kernel_size` cells with `dilation` $d$ reads cells that are $d$ apart, so it covers $d \cdot (\text{kernel\_size} - 1) + 1$
# cells. The input of `n` cells is padded with `padding` cells on **both** sides. The window starts at the first padded cell and moves by
# `stride` cells as long as it still fits; a rest at the end that is too short for another step is ignored.
#
# Return an `int`. Raise `ValueError` when `n`, `kernel_size`, `stride` or `dilation` is under 1, when `padding` is negative, and when the
# window does not fit even once.
#
# <details><summary>Hint 1</summary>
#
# Draw 7 cells and a window of 3 on paper. How far can the first cell of the window move to the right?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The last possible start is (padded length) − (covered cells). With stride $s$ you visit 0, s, 2s, … up to there. How many numbers is that?
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# `last_start // stride + 1`. Check first that `last_start` is not negative.
#
# </details>

# %% exercise="output_size"
def output_size(n: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Number of outputs of a convolution along one axis.

    Args:
        n: cells of the input, at least 1.
        kernel_size: cells the window reads, at least 1.
        stride: cells between two places of the window, at least 1.
        padding: cells added at each end, at least 0.
        dilation: distance of two cells that the window reads, at least 1.

    Returns:
        The number of places the window has.

    Raises:
        ValueError: an argument is out of its range, or the window is longer than the padded input.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, relationship 15 (section 5.1).
    """
    ### BEGIN SOLUTION
    for name, value, least in [("n", n, 1), ("kernel_size", kernel_size, 1), ("stride", stride, 1), ("dilation", dilation, 1)]:
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if padding < 0:
        raise ValueError(f"padding must be at least 0, got {padding}")
    covered = dilation * (kernel_size - 1) + 1  # cells from the first to the last that the window reads
    last_start = n + 2 * padding - covered
    if last_start < 0:
        raise ValueError(f"kernel_size: a window over {covered} cells does not fit into {n + 2 * padding} padded cells")
    return last_start // stride + 1
    ### END SOLUTION

# %% check="output_size" points=2
def count_places(n, kernel_size, stride, padding, dilation):
    """Every start, tried one by one: the definition, not the formula."""
    starts = range(0, n + 2 * padding, stride)
    return sum(start + dilation * (kernel_size - 1) < n + 2 * padding for start in starts)


@lab.check("output_size", points=1)
def counted_by_hand(output_size):
    """Sizes one can count on paper: plain, with a rest, padded, dilated, and a window that just fits."""
    expect_equal(output_size(7, 3), 5, "7 cells, window of 3")
    expect_equal(output_size(8, 3, stride=2), 3, "8 cells, window of 3, stride 2: one cell is left over")
    expect_equal(output_size(5, 3, padding=1), 5, "5 cells, window of 3, padding 1")
    expect_equal(output_size(9, 3, dilation=3), 3, "9 cells, window of 3, dilation 3")
    expect_equal(output_size(4, 4), 1, "4 cells, window of 4")
    expect_equal(output_size(1, 1, stride=5), 1, "one cell, window of 1, stride 5")


@lab.check("output_size", points=0.5)
def counted_one_by_one(output_size, rng):
    """The number of starts at which the window fits, tried one by one, for any arguments."""
    cases = [(11, 4, 3, 2, 2), (10, 2, 2, 0, 3), (6, 5, 4, 3, 1)]
    for _ in range(20):
        kernel_size, stride, padding, dilation = (int(v) for v in rng.integers([1, 1, 0, 1], [6, 5, 4, 4]))
        n = dilation * (kernel_size - 1) + 1 + int(rng.integers(0, 12))
        cases.append((n, kernel_size, stride, padding, dilation))
    for case in cases:
        words = "n={}, kernel_size={}, stride={}, padding={}, dilation={}".format(*case)
        expect_equal(output_size(*case), count_places(*case), words)


@lab.check("output_size", points=0.5)
def refuses_nonsense(output_size):
    """Illegal values raise ValueError; their legal neighbours do not."""
    expect_raises(ValueError, lambda: output_size(0, 1, padding=2), "no input cell")
    expect_equal(output_size(1, 1, padding=2), 5, "one input cell")
    expect_raises(ValueError, lambda: output_size(5, 0), "a window of 0 cells")
    expect_raises(ValueError, lambda: output_size(5, 3, stride=0), "stride 0")
    expect_raises(ValueError, lambda: output_size(5, 3, stride=-1), "stride -1")
    expect_raises(ValueError, lambda: output_size(5, 3, dilation=0), "dilation 0")
    expect_raises(ValueError, lambda: output_size(5, 2, padding=-1), "padding -1")
    expect_equal(output_size(5, 2, padding=0), 4, "padding 0")
    expect_raises(ValueError, lambda: output_size(4, 3, dilation=2), "a window over 5 cells, an input of 4")
    expect_equal(output_size(5, 3, dilation=2), 1, "a window over 5 cells, an input of 5")

# %% mistake="output_size" hint="You counted padding once. It is added at both ends of the axis."
def output_size(n, kernel_size, stride=1, padding=0, dilation=1):
    covered = dilation * (kernel_size - 1) + 1
    if min(n, kernel_size, stride, dilation) < 1 or padding < 0 or n + padding < covered:
        raise ValueError("illegal")
    return (n + padding - covered) // stride + 1

# %% mistake="output_size" hint="You forgot the window at the very start: moving k times means k + 1 places."
def output_size(n, kernel_size, stride=1, padding=0, dilation=1):
    covered = dilation * (kernel_size - 1) + 1
    if min(n, kernel_size, stride, dilation) < 1 or padding < 0 or n + 2 * padding < covered:
        raise ValueError("illegal")
    return (n + 2 * padding - covered) // stride

# %% mistake="output_size" hint="You rounded up: a rest that is too short for another step of the window is ignored, not counted."
def output_size(n, kernel_size, stride=1, padding=0, dilation=1):
    covered = dilation * (kernel_size - 1) + 1
    if min(n, kernel_size, stride, dilation) < 1 or padding < 0 or n + 2 * padding < covered:
        raise ValueError("illegal")
    return -(-(n + 2 * padding - covered) // stride) + 1

# %% mistake="output_size" hint="A dilated window covers dilation * (kernel_size - 1) + 1 cells: there are kernel_size - 1 gaps, not kernel_size."
def output_size(n, kernel_size, stride=1, padding=0, dilation=1):
    covered = dilation * kernel_size
    if min(n, kernel_size, stride, dilation) < 1 or padding < 0 or n + 2 * padding < covered:
        raise ValueError("illegal")
    return (n + 2 * padding - covered) // stride + 1

# %% mistake="output_size" hint="The dilation has no effect in your formula. Which cells does a dilated window cover?"
def output_size(n, kernel_size, stride=1, padding=0, dilation=1):
    if min(n, kernel_size, stride, dilation) < 1 or padding < 0 or n + 2 * padding < kernel_size:
        raise ValueError("illegal")
    return (n + 2 * padding - kernel_size) // stride + 1

# %% mistake="output_size" hint="The number is right, but its type is not: `/` gives a float. Sizes are ints, use `//`."
def output_size(n, kernel_size, stride=1, padding=0, dilation=1):
    covered = dilation * (kernel_size - 1) + 1
    if min(n, kernel_size, stride, dilation) < 1 or padding < 0 or n + 2 * padding < covered:
        raise ValueError("illegal")
    return float((n + 2 * padding - covered) // stride + 1)

# %% mistake="output_size" hint="You return 0 or a negative size where the window does not fit. That is a ValueError."
def output_size(n, kernel_size, stride=1, padding=0, dilation=1):
    if min(n, kernel_size, stride, dilation) < 1 or padding < 0:
        raise ValueError("illegal")
    return max(0, (n + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1)

# %% mistake="output_size" hint="Your sizes are right, but illegal arguments pass. Check each argument before you compute."
def output_size(n, kernel_size, stride=1, padding=0, dilation=1):
    return (n + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1

# %% alternative="output_size"
def output_size(n, kernel_size, stride=1, padding=0, dilation=1):
    if any(value < 1 for value in (n, kernel_size, stride, dilation)) or padding < 0:
        raise ValueError(f"illegal argument: {n=}, {kernel_size=}, {stride=}, {padding=}, {dilation=}")
    places = len(range(dilation * (kernel_size - 1), n + 2 * padding, stride))  # where the last cell of the window can be
    if places == 0:
        raise ValueError(f"{kernel_size=} with {dilation=} does not fit into {n=} with {padding=}")
    return places

# %% [markdown]
# With this you can plan a network before you build it. The stem of a ResNet takes 224 pixels through a 7-window with stride 2 and padding 3,
# then a 3-window with stride 2 and padding 1.

# %%
if lab.ready("output_size"):
    after_conv = output_size(224, 7, stride=2, padding=3)
    after_pool = output_size(after_conv, 3, stride=2, padding=1)
    print(f"224 pixels -> {after_conv} -> {after_pool}")

# %% [markdown]
# ## Exercise 2: average a sliding window (1 point, 5 minutes)
#
# Complete `box_filter`: the mean of every run of `width` neighbours of a signal, first run first. No padding, stride 1. The signal has shape
# `(L,)` and a floating-point type; the result has shape `(L - width + 1,)` and the same type, and gradients flow through it. Raise
# `ValueError` when `width` is under 1 or over `L`.
#
# How you do it is up to you: a loop, `unfold`, running sums. The library's convolutions and poolings are off limits.
#
# <details><summary>Hint 1</summary>
#
# Output $i$ is the mean of `signal[i]`, …, `signal[i + width - 1]`. Where does the last run start?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `signal.unfold(0, width, 1)` has one row a run.
#
# </details>

# %% exercise="box_filter"
def box_filter(signal: Tensor, width: int) -> Tensor:
    """Mean of every run of `width` neighbours.

    Args:
        signal: (L,) float.
        width: cells of a run, 1 to L.

    Returns:
        (L - width + 1,), the type of the signal.

    Raises:
        ValueError: width is under 1 or over L.

    Reference: torch.nn.functional.avg_pool1d(signal[None], width, stride=1)[0].
    """
    ### BEGIN SOLUTION
    if not 1 <= width <= len(signal):
        raise ValueError(f"width must be between 1 and the length {len(signal)}, got {width}")
    return signal.unfold(0, width, 1).mean(1)  # (L - width + 1, width) -> (L - width + 1,)
    ### END SOLUTION

# %% check="box_filter" points=1
@lab.check("box_filter", points=0.5, forbid=("convolution", "pool"))
def by_hand(box_filter):
    """The ten readings of the lecture, a width of one, a run over the whole signal, and widths that do not exist."""
    signal = torch.tensor([4.0, 3, 2, -5, 3, 5, 2, 5, 5, 6])
    expect_close(box_filter(signal, 3), torch.tensor([3, 0, 0, 1, 10 / 3, 4, 4, 16 / 3]), "the lecture's readings, width 3")
    expect_close(box_filter(signal, 2)[:3], torch.tensor([3.5, 2.5, -1.5]), "width 2: the first three runs")
    expect_close(box_filter(signal, 1), signal, "width 1 changes nothing")
    expect_close(box_filter(signal, 10), torch.tensor([3.0]), "width 10: one run")
    expect_raises(ValueError, lambda: box_filter(signal, 0), "width 0")
    expect_raises(ValueError, lambda: box_filter(signal, 11), "width 11 of 10 readings")


@lab.check("box_filter", points=0.5, forbid=("convolution", "pool"))
def agrees_with_pooling(box_filter, rng):
    """Equal to average pooling with stride 1, values and gradients, in the signal's own type."""
    for length, width, dtype in [(9, 4, torch.float64), (17, 5, torch.float32), (int(rng.integers(8, 30)), int(rng.integers(2, 8)), torch.float64)]:
        signal = normal(rng, length, dtype=dtype)
        case = f"{length} readings of type {str(dtype)[6:]}, width {width}"
        expect_close(box_filter(signal, width), F.avg_pool1d(signal[None], width, stride=1)[0], case)
        ours = gradients(lambda s: box_filter(s, width), signal)
        expect_close(ours, gradients(lambda s: F.avg_pool1d(s[None], width, stride=1)[0], signal), f"{case}: gradient")

# %% mistake="box_filter" hint="Your result is one run too short: the last run starts at L - width, and that start counts too."
def box_filter(signal, width):
    if not 1 <= width <= len(signal):
        raise ValueError("width")
    return torch.stack([signal[i : i + width].mean() for i in range(len(signal) - width)] or [signal.mean()])

# %% mistake="box_filter" hint="You added up the runs but did not divide by the width: a mean, not a sum."
def box_filter(signal, width):
    if not 1 <= width <= len(signal):
        raise ValueError("width")
    return signal.unfold(0, width, 1).sum(1)

# %% mistake="box_filter" hint="Your result is as long as the signal: you padded it. Only runs that lie inside the signal count."
def box_filter(signal, width):
    if not 1 <= width <= len(signal):
        raise ValueError("width")
    padded = torch.cat([signal.new_zeros(width // 2), signal, signal.new_zeros(width - 1 - width // 2)])
    return padded.unfold(0, width, 1).mean(1)

# %% mistake="box_filter" hint="Your runs do not overlap. The window moves by one cell at a time, not by its own width."
def box_filter(signal, width):
    if not 1 <= width <= len(signal):
        raise ValueError("width")
    return signal.unfold(0, width, width).mean(1)

# %% mistake="box_filter" hint="Your numbers are right, but the gradient is lost: you rebuilt a tensor from plain numbers (`.item()`, `tolist()`, `torch.tensor`)."
def box_filter(signal, width):
    if not 1 <= width <= len(signal):
        raise ValueError("width")
    means = [signal[i : i + width].mean().item() for i in range(len(signal) - width + 1)]
    return torch.tensor(means, dtype=signal.dtype)

# %% mistake="box_filter" hint="Your result is always float32. It should have the type of the signal: `signal.new_zeros`, or `dtype=signal.dtype`."
def box_filter(signal, width):
    if not 1 <= width <= len(signal):
        raise ValueError("width")
    return signal.float().unfold(0, width, 1).mean(1)

# %% mistake="box_filter" hint="A width of 0 or one longer than the signal has no run to average: raise ValueError."
def box_filter(signal, width):
    return torch.stack([signal[i : i + width].mean() for i in range(max(1, len(signal) - width + 1))])

# %% mistake="box_filter" hint="You took the median of each run. A box filter takes the mean, the fault in the readings included."
def box_filter(signal, width):
    if not 1 <= width <= len(signal):
        raise ValueError("width")
    return signal.unfold(0, width, 1).median(1).values

# %% alternative="box_filter"
def box_filter(signal, width):
    if not 1 <= width <= len(signal):
        raise ValueError(f"width must be between 1 and {len(signal)}, got {width}")
    sums = torch.cat([signal.new_zeros(1), signal.double().cumsum(0)])  # sum of all readings before each cell
    return ((sums[width:] - sums[:-width]) / width).to(signal.dtype)

# %% alternative="box_filter"
def box_filter(signal, width):
    if width < 1 or width > len(signal):
        raise ValueError(f"width {width} does not fit a signal of {len(signal)}")
    total = 0
    for j in range(width):
        total = total + signal[j : len(signal) - width + 1 + j]
    return total / width

# %% [markdown]
# The same filter smooths the rows of a photograph. Compare the blades of grass before and after.

# %%
if lab.ready("box_filter"):
    grass = datasets.photograph("grass")[0, :128, :128]  # (128, 128)
    smooth = torch.stack([box_filter(row, 9) for row in grass])  # (128, 120): rows lose 8 cells
    fig = plots.image_row([grass[:, 4:-4], smooth], ["grass", "means of 9 in a row"])
    plots.show(fig, alt="A photograph of grass, and the same photograph smeared sideways: upright edges are gone, sideways ones stay.")

# %% [markdown]
# Next comes the convolution itself. The next cell opens the explorer of the lecture: move the kernel, change stride, padding and dilation,
# and watch which cells one output reads. Come back to it whenever an index confuses you.

# %%
from course_lib import explore

explore.convolution.show()

# %% [markdown]
# ## Exercise 3: write a convolution as loops (4 points, 20 minutes)
#
# Complete `conv2d_loops`. Slide every kernel over every image and write down one weighted sum a place, exactly as `F.conv2d` does (which
# does not flip the kernel):
#
# $$\text{out}[n, o, i, j] = \text{bias}[o] + \sum_{c, a, b} \text{weight}[o, c, a, b] \;
# \text{padded}[n, c,\; i \cdot s_h + a \cdot d_h,\; j \cdot s_w + b \cdot d_w] .$$
#
# - `stride` $(s_h, s_w)$, `padding` and `dilation` $(d_h, d_w)$ are ints or pairs (rows, columns); padding adds zeros on both sides of an axis.
# - `bias` may be `None`.
# - The result has the type of `x`; gradients reach `x`, `weight` and `bias`; no argument is changed.
# - Raise `ValueError` when `x` and `weight` differ in their number of channels.
#
# Write the loops over output rows and columns yourself. Within a place you may use whole-tensor arithmetic, and your `output_size` tells
# how many places there are. The library's convolutions and its `unfold` of images (`F.unfold`, `nn.Unfold`) are off limits; the tensor method
# `Tensor.unfold`, which cuts one axis, is fine.
#
# <details><summary>Hint 1</summary>
#
# Get one output right first: the window at `i = 0, j = 0` is `padded[:, :, 0 : kh, 0 : kw]` when the dilation is 1. It has shape
# `(N, C, kh, kw)`. What sum over which axes turns it and `weight` into `(N, O)`?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# A slice can have a step: `padded[:, :, top : top + dh * (kh - 1) + 1 : dh, …]` picks `kh` rows that are `dh` apart. `F.pad` takes its
# padding last axis first: `(left, right, top, bottom)`.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# `torch.einsum("ncab,ocab->no", window, weight)` is the sum of one place for all images and kernels. Collect the places in a list, then
# `torch.stack(places, dim=-1)` and reshape to `(N, O, out_h, out_w)`.
#
# </details>

# %% exercise="conv2d_loops"
def conv2d_loops(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0, dilation=1) -> Tensor:
    """Two-dimensional convolution (cross-correlation), one output place after the other.

    Args:
        x: (N, C, H, W) float, images.
        weight: (O, C, kh, kw) float, one kernel an output channel.
        bias: (O,) float, added to every place of an output channel, or None.
        stride, padding, dilation: int or pair (rows, columns), in pixels.

    Returns:
        (N, O, out_h, out_w), the type of x.

    Raises:
        ValueError: x and weight differ in their number of channels.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, section 1.1.
    Reference: torch.nn.functional.conv2d.
    """
    ### BEGIN SOLUTION
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"x and weight must have as many channels, got {x.shape[1]} and {weight.shape[1]}")
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    kh, kw = weight.shape[2:]
    out_h = output_size(x.shape[2], kh, sh, ph, dh)
    out_w = output_size(x.shape[3], kw, sw, pw, dw)
    padded = F.pad(x, (pw, pw, ph, ph))  # last axis first
    places = []
    for i in range(out_h):
        for j in range(out_w):
            rows = slice(i * sh, i * sh + dh * (kh - 1) + 1, dh)
            columns = slice(j * sw, j * sw + dw * (kw - 1) + 1, dw)
            window = padded[:, :, rows, columns]  # (N, C, kh, kw)
            places.append(torch.einsum("ncab,ocab->no", window, weight))
    out = torch.stack(places, dim=-1).reshape(len(x), len(weight), out_h, out_w)
    return out if bias is None else out + bias[:, None, None]
    ### END SOLUTION

# %% check="conv2d_loops" points=4
CASES = [  # (x, weight, stride, padding, dilation): height is never width, rows never columns
    ((2, 3, 7, 9), (4, 3, 3, 2), 1, 0, 1),
    ((2, 2, 9, 8), (3, 2, 2, 3), (2, 3), 0, 1),
    ((3, 2, 5, 7), (2, 2, 3, 4), 1, (2, 1), 1),
    ((2, 3, 11, 10), (2, 3, 3, 2), 1, 0, (2, 3)),
    ((2, 1, 8, 9), (3, 1, 3, 2), (3, 2), (1, 2), (2, 1)),
]


@lab.check("conv2d_loops", points=1, forbid=("convolution", "im2col"), substitute={"output_size": "library_output_size"})
def by_hand(conv2d_loops):
    """One image, one kernel, numbers to follow; then two channels and a bias."""
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    weight = torch.tensor([[[[1.0, 2.0], [0.0, -1.0]]]])
    expect_close(conv2d_loops(x, weight), torch.tensor([[[[-3.0, -1, 1], [5, 7, 9]]]]), "0 to 11 in 3 rows, kernel [[1, 2], [0, -1]]")
    two = torch.cat([x, 10 * x], dim=1)
    both = torch.tensor([[[[1.0]], [[1.0]]], [[[2.0]], [[0.0]]]])  # the sum of both channels, and twice the first
    expect_close(conv2d_loops(two, both, torch.tensor([0.5, -1.0])), torch.cat([11 * x + 0.5, 2 * x - 1], 1), "two kernels of one cell, with bias")


@lab.check("conv2d_loops", points=2, forbid=("convolution", "im2col"), substitute={"output_size": "library_output_size"})
def agrees_with_library(conv2d_loops, rng):
    """Equal to `F.conv2d` with stride, padding and dilation as ints and as pairs, with and without bias, in the type of `x`."""
    for number, (shape, kernel, stride, padding, dilation) in enumerate(CASES):
        dtype = torch.float64 if number % 2 else torch.float32
        x, weight = normal(rng, *shape, dtype=dtype), normal(rng, *kernel, dtype=dtype)
        bias = normal(rng, kernel[0], dtype=dtype) if number != 1 else None
        case = f"x {shape}, weight {kernel}, stride {stride}, padding {padding}, dilation {dilation}, bias {bias is not None}"
        expect_close(conv2d_loops(x, weight, bias, stride, padding, dilation), F.conv2d(x, weight, bias, stride, padding, dilation), case)
    h, w = (int(v) for v in rng.integers(6, 10, size=2))
    x, weight = normal(rng, 2, 3, w, h).transpose(2, 3), normal(rng, 2, 3, 2, 3)
    expect_close(conv2d_loops(x, weight, stride=2), F.conv2d(x, weight, stride=2), "rows and columns of x swapped by a transpose")


@lab.check("conv2d_loops", points=1, forbid=("convolution", "im2col"), substitute={"output_size": "library_output_size"})
def passes_gradients(conv2d_loops, rng):
    """Gradients of `x`, `weight` and `bias` equal those of `F.conv2d`; channels that do not fit are refused."""
    x, weight, bias = normal(rng, 2, 3, 6, 5), normal(rng, 4, 3, 2, 3), normal(rng, 4)
    options = dict(stride=(2, 1), padding=(1, 0), dilation=(1, 2))
    ours = gradients(lambda *tensors: conv2d_loops(*tensors, **options), x, weight, bias)
    expect_close(ours, gradients(lambda *tensors: F.conv2d(*tensors, **options), x, weight, bias), "gradients of x, weight and bias")
    expect_raises(ValueError, lambda: conv2d_loops(x, weight[:, :2], bias), "3 channels in x, 2 in weight")
    expect_raises(ValueError, lambda: conv2d_loops(x[:, :1], weight, bias), "1 channel in x, 3 in weight")

# %% mistake="conv2d_loops" hint="You flipped the kernel. That is the convolution of signal processing; `F.conv2d` and the formula above do not flip."
def conv2d_loops(x, weight, bias=None, stride=1, padding=0, dilation=1):
    if x.shape[1] != weight.shape[1]:
        raise ValueError("channels")
    return conv2d_im2col(x, weight.flip(2, 3), bias, stride, padding, dilation)

# %% mistake="conv2d_loops" hint="You moved rows by the column stride and columns by the row stride. A pair means (rows, columns)."
def conv2d_loops(x, weight, bias=None, stride=1, padding=0, dilation=1):
    if x.shape[1] != weight.shape[1]:
        raise ValueError("channels")
    return conv2d_im2col(x, weight, bias, pair(stride)[::-1], padding, dilation)

# %% mistake="conv2d_loops" hint="Your padding pairs are swapped: `F.pad` wants (left, right, top, bottom), the last axis first."
def conv2d_loops(x, weight, bias=None, stride=1, padding=0, dilation=1):
    if x.shape[1] != weight.shape[1]:
        raise ValueError("channels")
    return conv2d_im2col(x, weight, bias, stride, pair(padding)[::-1], dilation)

# %% mistake="conv2d_loops" hint="The dilation of rows and columns is swapped. A pair means (rows, columns)."
def conv2d_loops(x, weight, bias=None, stride=1, padding=0, dilation=1):
    if x.shape[1] != weight.shape[1]:
        raise ValueError("channels")
    return conv2d_im2col(x, weight, bias, stride, padding, pair(dilation)[::-1])

# %% mistake="conv2d_loops" hint="The bias is missing. Each output channel has one number that is added at every place."
def conv2d_loops(x, weight, bias=None, stride=1, padding=0, dilation=1):
    if x.shape[1] != weight.shape[1]:
        raise ValueError("channels")
    return conv2d_im2col(x, weight, None, stride, padding, dilation)

# %% mistake="conv2d_loops" hint="The dilation has no effect. The cells that a window reads are `dilation` apart."
def conv2d_loops(x, weight, bias=None, stride=1, padding=0, dilation=1):
    if x.shape[1] != weight.shape[1]:
        raise ValueError("channels")
    (dh, dw), (kh, kw) = pair(dilation), weight.shape[2:]
    out = conv2d_im2col(x, weight, bias, stride, padding, 1)
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    rows = (x.shape[2] + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    return out[:, :, :rows, : (x.shape[3] + 2 * pw - dw * (kw - 1) - 1) // sw + 1]

# %% mistake="conv2d_loops" hint="You averaged over the channels. A convolution adds them up."
def conv2d_loops(x, weight, bias=None, stride=1, padding=0, dilation=1):
    if x.shape[1] != weight.shape[1]:
        raise ValueError("channels")
    return conv2d_im2col(x, weight / x.shape[1], bias, stride, padding, dilation)

# %% mistake="conv2d_loops" hint="Your values are right, but you work on a detached or copied result, so no gradient reaches x, weight or bias (writing into it under no_grad, `.data`, `.detach()` or `.item()`)."
def conv2d_loops(x, weight, bias=None, stride=1, padding=0, dilation=1):
    if x.shape[1] != weight.shape[1]:
        raise ValueError("channels")
    return conv2d_im2col(x, weight, bias, stride, padding, dilation).detach()

# %% mistake="conv2d_loops" hint="The values are right, but no gradient reaches x and weight, only the bias: `.item()`, `float()`, `.data` or `torch.tensor(...)` cut it."
def conv2d_loops(x, weight, bias=None, stride=1, padding=0, dilation=1):
    if x.shape[1] != weight.shape[1]:
        raise ValueError("channels")
    return conv2d_im2col(x.detach(), weight.detach(), bias, stride, padding, dilation)

# %% mistake="conv2d_loops" hint="A wrong number of channels passes: broadcasting or slicing hid it. Compare x.shape[1] with weight.shape[1] first."
def conv2d_loops(x, weight, bias=None, stride=1, padding=0, dilation=1):
    channels = min(x.shape[1], weight.shape[1])
    return conv2d_im2col(x[:, :channels], weight[:, :channels], bias, stride, padding, dilation)

# %% alternative="conv2d_loops"
def conv2d_loops(x, weight, bias=None, stride=1, padding=0, dilation=1):
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"{x.shape[1]} channels in x, {weight.shape[1]} in weight")
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    (N, C, H, W), (O, _, kh, kw) = x.shape, weight.shape
    padded = x.new_zeros(N, C, H + 2 * ph, W + 2 * pw)
    padded[:, :, ph : ph + H, pw : pw + W] = x
    out_h, out_w = (H + 2 * ph - dh * (kh - 1) - 1) // sh + 1, (W + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    out = x.new_zeros(N, O, out_h, out_w)
    for a in range(kh):  # over the kernel instead of the output: one shifted copy of the image a kernel cell
        for b in range(kw):
            shifted = padded[:, :, a * dh :: sh, b * dw :: sw][:, :, :out_h, :out_w]  # (N, C, out_h, out_w)
            out = out + torch.einsum("nchw,oc->nohw", shifted, weight[:, :, a, b])
    return out if bias is None else out + bias.reshape(1, O, 1, 1)

# %% [markdown]
# A kernel that takes the difference of neighbours finds edges. This one reads a column on the right minus a column on the left.

# %%
if lab.ready("conv2d_loops"):
    coins = datasets.photograph("coins")[None, :, 20:116, 20:148]  # (1, 1, 96, 128)
    upright = torch.tensor([[[[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]]])
    edges = conv2d_loops(coins, upright)[0, 0]
    fig = plots.image_row([coins[0], edges.abs() / edges.abs().max()], ["coins", "right minus left: upright edges"])
    plots.show(fig, alt="A photograph of coins, and the size of its sideways differences: bright on the left and right rim of each coin.")

# %% [markdown]
# ## Exercise 4: copy the windows into columns (3 points, 15 minutes)
#
# Complete `im2col`: each place of the window becomes one column that holds all numbers the window reads there. The result has shape
# `(N, C * kh * kw, L)`, where `L = out_h * out_w` counts the places row by row, left to right. Within a column the order is channel first,
# then kernel row, then kernel column: number $c \cdot k_h k_w + a \cdot k_w + b$ is channel $c$, row $a$, column $b$ of the window.
#
# `kernel_size`, `stride`, `padding` and `dilation` are ints or pairs; padding adds zeros. The result has the type of `x`, gradients reach
# `x`, and `x` is not changed. You may use your `output_size`. The library's `unfold` of images (`F.unfold`, `nn.Unfold`) is off limits; slicing, indexing and the tensor
# method `Tensor.unfold`, which cuts one axis, are fine.
#
# <details><summary>Hint 1</summary>
#
# Take `C = 1` and a 2 x 2 window without padding. The first **row** of the result holds the upper left number of every window. Where do
# all of these lie in `x`?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# For kernel cell `(a, b)` the numbers of all places are one strided slice of the padded images, of shape `(N, C, out_h, out_w)`. There are
# `kh * kw` such slices.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# `torch.stack(slices, dim=2)` has shape `(N, C, kh * kw, out_h, out_w)`. One `reshape` makes it `(N, C * kh * kw, L)`.
#
# </details>

# %% exercise="im2col"
def im2col(x: Tensor, kernel_size, stride=1, padding=0, dilation=1) -> Tensor:
    """Copy every window of a batch of images into a column.

    Args:
        x: (N, C, H, W), images.
        kernel_size, stride, padding, dilation: int or pair (rows, columns), in pixels.

    Returns:
        (N, C * kh * kw, L), the type of x; L places row by row, each column ordered by channel, kernel row, kernel column.

    Source: Chellapilla, Puri and Simard, "High performance convolutional neural networks for document processing", IWFHR 2006, section 2.
    Reference: torch.nn.functional.unfold.
    """
    ### BEGIN SOLUTION
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = pair(kernel_size), pair(stride), pair(padding), pair(dilation)
    out_h = output_size(x.shape[2], kh, sh, ph, dh)
    out_w = output_size(x.shape[3], kw, sw, pw, dw)
    padded = F.pad(x, (pw, pw, ph, ph))
    slices = [
        padded[:, :, a * dh : a * dh + (out_h - 1) * sh + 1 : sh, b * dw : b * dw + (out_w - 1) * sw + 1 : sw]  # (N, C, out_h, out_w)
        for a in range(kh)
        for b in range(kw)
    ]
    return torch.stack(slices, dim=2).reshape(len(x), -1, out_h * out_w)  # (N, C, kh * kw, out_h, out_w) -> (N, C * kh * kw, L)
    ### END SOLUTION

# %% check="im2col" points=3
@lab.check("im2col", points=1, forbid=("im2col", "convolution"), substitute={"output_size": "library_output_size"})
def by_hand(im2col):
    """A 2 x 3 image and a 2 x 2 window, then two channels: every number and its place."""
    x = torch.tensor([[[[1.0, 2, 3], [4, 5, 6]]]])
    expect_close(im2col(x, 2), torch.tensor([[[1.0, 2], [2, 3], [4, 5], [5, 6]]]), "1 to 6 in two rows, window 2 x 2")
    two = torch.cat([x, 10 * x], 1)
    expect_close(
        im2col(two, (1, 2)),
        torch.tensor([[[1.0, 2, 4, 5], [2, 3, 5, 6], [10, 20, 40, 50], [20, 30, 50, 60]]]),
        "two channels, window 1 x 2: the first channel fills the upper half",
    )


@lab.check("im2col", points=1.5, forbid=("im2col", "convolution"), substitute={"output_size": "library_output_size"})
def agrees_with_library(im2col, rng):
    """Equal to `F.unfold` for windows, strides, paddings and dilations as ints and as pairs, in the type of `x`."""
    cases = [
        ((2, 3, 5, 7), (3, 2), 1, 0, 1),
        ((2, 2, 7, 8), (2, 3), (2, 3), 0, 1),
        ((2, 2, 5, 6), (3, 2), 1, (2, 1), 1),
        ((3, 2, 9, 10), (2, 3), 1, 0, (3, 2)),
        ((2, 2, 9, 7), 3, 2, 1, 2),
    ]
    for number, (shape, kernel_size, stride, padding, dilation) in enumerate(cases):
        x = normal(rng, *shape, dtype=torch.float64 if number % 2 else torch.float32)
        expected = F.unfold(x, kernel_size, dilation, padding, stride)
        case = f"x {shape}, kernel_size {kernel_size}, stride {stride}, padding {padding}, dilation {dilation}"
        expect_close(im2col(x, kernel_size, stride, padding, dilation), expected, case)
    h, w = (int(v) for v in rng.integers(5, 9, size=2))
    x = normal(rng, 2, 3, w, h).transpose(2, 3)
    expect_close(im2col(x, (2, 3)), F.unfold(x, (2, 3)), "rows and columns of x swapped by a transpose")


@lab.check("im2col", points=0.5, forbid=("im2col", "convolution"), substitute={"output_size": "library_output_size"})
def passes_gradients(im2col, rng):
    """The gradient of `x` counts each pixel as often as windows read it."""
    x = normal(rng, 2, 2, 7, 6)
    ours = gradients(lambda images: im2col(images, (3, 2), (1, 2), (0, 1)), x)
    expect_close(ours, gradients(lambda images: F.unfold(images, (3, 2), padding=(0, 1), stride=(1, 2)), x), "gradient of x")

# %% mistake="im2col" hint="Your columns hold the right numbers in another order: kernel position first, channel last. The channel comes first."
def im2col(x, kernel_size, stride=1, padding=0, dilation=1):
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = pair(kernel_size), pair(stride), pair(padding), pair(dilation)
    windows = F.pad(x, (pw, pw, ph, ph)).unfold(2, dh * (kh - 1) + 1, sh).unfold(3, dw * (kw - 1) + 1, sw)[..., ::dh, ::dw]
    return windows.permute(0, 4, 5, 1, 2, 3).flatten(4, 5).flatten(1, 3)

# %% mistake="im2col" hint="Within a column you went down the kernel's columns first. The order is kernel row, then kernel column."
def im2col(x, kernel_size, stride=1, padding=0, dilation=1):
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = pair(kernel_size), pair(stride), pair(padding), pair(dilation)
    windows = F.pad(x, (pw, pw, ph, ph)).unfold(2, dh * (kh - 1) + 1, sh).unfold(3, dw * (kw - 1) + 1, sw)[..., ::dh, ::dw]
    return windows.permute(0, 1, 5, 4, 2, 3).flatten(4, 5).flatten(1, 3)

# %% mistake="im2col" hint="You counted the places column by column. L goes row by row, left to right."
def im2col(x, kernel_size, stride=1, padding=0, dilation=1):
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = pair(kernel_size), pair(stride), pair(padding), pair(dilation)
    windows = F.pad(x, (pw, pw, ph, ph)).unfold(2, dh * (kh - 1) + 1, sh).unfold(3, dw * (kw - 1) + 1, sw)[..., ::dh, ::dw]
    return windows.permute(0, 1, 4, 5, 3, 2).flatten(4, 5).flatten(1, 3)

# %% mistake="im2col" hint="Rows and columns of your result are swapped: it should be (N, C * kh * kw, L), one column a place."
def im2col(x, kernel_size, stride=1, padding=0, dilation=1):
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = pair(kernel_size), pair(stride), pair(padding), pair(dilation)
    windows = F.pad(x, (pw, pw, ph, ph)).unfold(2, dh * (kh - 1) + 1, sh).unfold(3, dw * (kw - 1) + 1, sw)[..., ::dh, ::dw]
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(3, 5).flatten(1, 2)

# %% mistake="im2col" hint="Rows move by stride[0] and columns by stride[1]; yours are swapped."
def im2col(x, kernel_size, stride=1, padding=0, dilation=1):
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = pair(kernel_size), pair(stride), pair(padding), pair(dilation)
    windows = F.pad(x, (pw, pw, ph, ph)).unfold(2, dh * (kh - 1) + 1, sw).unfold(3, dw * (kw - 1) + 1, sh)[..., ::dh, ::dw]
    return windows.permute(0, 1, 4, 5, 2, 3).flatten(4, 5).flatten(1, 3)

# %% mistake="im2col" hint="The stride has no effect: you kept every place of the window."
def im2col(x, kernel_size, stride=1, padding=0, dilation=1):
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = pair(kernel_size), pair(stride), pair(padding), pair(dilation)
    windows = F.pad(x, (pw, pw, ph, ph)).unfold(2, dh * (kh - 1) + 1, 1).unfold(3, dw * (kw - 1) + 1, 1)[..., ::dh, ::dw]
    return windows.permute(0, 1, 4, 5, 2, 3).flatten(4, 5).flatten(1, 3)

# %% mistake="im2col" hint="Your paddings are swapped: `F.pad` wants (left, right, top, bottom), the last axis first."
def im2col(x, kernel_size, stride=1, padding=0, dilation=1):
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = pair(kernel_size), pair(stride), pair(padding), pair(dilation)
    windows = F.pad(x, (ph, ph, pw, pw)).unfold(2, dh * (kh - 1) + 1, sh).unfold(3, dw * (kw - 1) + 1, sw)[..., ::dh, ::dw]
    return windows.permute(0, 1, 4, 5, 2, 3).flatten(4, 5).flatten(1, 3)

# %% mistake="im2col" hint="The dilations of rows and columns are swapped. A pair means (rows, columns)."
def im2col(x, kernel_size, stride=1, padding=0, dilation=1):
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = pair(kernel_size), pair(stride), pair(padding), pair(dilation)[::-1]
    windows = F.pad(x, (pw, pw, ph, ph)).unfold(2, dh * (kh - 1) + 1, sh).unfold(3, dw * (kw - 1) + 1, sw)[..., ::dh, ::dw]
    return windows.permute(0, 1, 4, 5, 2, 3).flatten(4, 5).flatten(1, 3)

# %% mistake="im2col" hint="You filled the border with copies of the nearest pixel. Padding here adds zeros."
def im2col(x, kernel_size, stride=1, padding=0, dilation=1):
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = pair(kernel_size), pair(stride), pair(padding), pair(dilation)
    windows = F.pad(x, (pw, pw, ph, ph), mode="replicate").unfold(2, dh * (kh - 1) + 1, sh).unfold(3, dw * (kw - 1) + 1, sw)[..., ::dh, ::dw]
    return windows.permute(0, 1, 4, 5, 2, 3).flatten(4, 5).flatten(1, 3)

# %% mistake="im2col" hint="Your values are right, but the gradient is lost on the way: index or stack tensors, do not copy numbers into a new one."
def im2col(x, kernel_size, stride=1, padding=0, dilation=1):
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = pair(kernel_size), pair(stride), pair(padding), pair(dilation)
    windows = F.pad(x, (pw, pw, ph, ph)).unfold(2, dh * (kh - 1) + 1, sh).unfold(3, dw * (kw - 1) + 1, sw)[..., ::dh, ::dw]
    return windows.permute(0, 1, 4, 5, 2, 3).flatten(4, 5).flatten(1, 3).detach()

# %% alternative="im2col"
def im2col(x, kernel_size, stride=1, padding=0, dilation=1):
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = pair(kernel_size), pair(stride), pair(padding), pair(dilation)
    windows = F.pad(x, (pw, pw, ph, ph)).unfold(2, dh * (kh - 1) + 1, sh).unfold(3, dw * (kw - 1) + 1, sw)
    windows = windows[..., ::dh, ::dw]  # (N, C, out_h, out_w, kh, kw)
    return windows.permute(0, 1, 4, 5, 2, 3).flatten(4, 5).flatten(1, 3)

# %% alternative="im2col"
def im2col(x, kernel_size, stride=1, padding=0, dilation=1):
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = pair(kernel_size), pair(stride), pair(padding), pair(dilation)
    padded = F.pad(x, (pw, pw, ph, ph))
    tops = torch.arange(0, padded.shape[2] - dh * (kh - 1), sh)
    lefts = torch.arange(0, padded.shape[3] - dw * (kw - 1), sw)
    rows = (torch.arange(kh) * dh)[:, None, None, None] + tops[:, None]  # (kh, 1, out_h, 1)
    columns = (torch.arange(kw) * dw)[None, :, None, None] + lefts  # (1, kw, 1, out_w)
    return padded[:, :, rows, columns].reshape(len(x), -1, len(tops) * len(lefts))

# %% [markdown]
# Each column is a small picture again. Here are some windows of a handwritten digit, taken out of the columns of your `im2col`.

# %%
if lab.ready("im2col"):
    images, labels = datasets.digits()
    columns = im2col(images[:1], kernel_size=4, stride=2)[0]  # (16, 9): nine windows of 4 x 4
    tiles = [column.reshape(4, 4) for column in columns.T]
    fig = plots.image_row([images[0], *tiles], [f"a {labels[0]}"] + [str(i) for i in range(9)], height=1.1)
    plots.show(fig, alt="An 8 x 8 digit and its nine overlapping 4 x 4 windows, numbered row by row.")


# %% [markdown]
# ## Exercise 5: multiply instead of looping (3 points, 12 minutes)
#
# Complete `conv2d_im2col`: the whole two-dimensional convolution (no kernel flip) as **one matrix product** over the windows that your
# `im2col` copied, groups included. It returns `(N, O, out_h, out_w)` in the type of the input, and gradients flow to `x`, `weight` and
# `bias`. There is no loop over positions.
#
# - `stride`, `padding` and `dilation` are an int or a pair each; `bias` is `(O,)` or `None`.
# - With `groups` above 1 the channels form teams of **neighbours**: the first `C / groups` input channels feed the first `O / groups`
#   output channels, the next feed the next. `weight` is `(O, C / groups, kh, kw)`.
# - Raise `ValueError` when `groups` is under 1, when `C` is not `groups * weight.shape[1]`, and when `groups` does not divide `O`.
#
# Use your `im2col` and `output_size`, and any product (`@`, `matmul`, `einsum`). The library's convolutions are off limits. If one of the
# two has a fault, the check runs again with functions that work.
#
# <details><summary>Hint 1</summary>
#
# Begin without groups, for one image. `im2col` has one column a place. What stands in a row of a matrix that turns such a column into the
# `O` outputs of that place? In which order does a column hold channels, kernel rows and kernel columns?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `weight.reshape(O, -1) @ windows` is `(N, O, L)`: the product runs over the batch by itself, and `L` runs over the output's rows first.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# In a column, the channels of one team stand together. So `windows.reshape(N, groups, -1, L)` and `weight.reshape(groups, O // groups, -1)`
# are the same problem, `groups` times.
#
# </details>
#
# <details><summary>Hint 4</summary>
#
# `(groups, O / groups, K) @ (N, groups, K, L)` gives `(N, groups, O / groups, L)`. Reshape it to four axes, then add `bias[:, None, None]`.
#
# </details>

# %% exercise="conv2d_im2col"
def conv2d_im2col(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """Two-dimensional convolution (cross-correlation) as one matrix product over copied windows.

    Args:
        x: (N, C, H, W) float.
        weight: (O, C / groups, kh, kw), the type of x.
        bias: (O,) or None.
        stride, padding, dilation: int, or pair (rows, columns).
        groups: number of teams of neighbouring channels.

    Returns:
        (N, O, out_h, out_w), the type of x.

    Raises:
        ValueError: the channels of x or weight do not fit groups.

    Source: Chellapilla, Puri and Simard, "High performance convolutional neural networks for document processing", IWFHR 2006.
    Reference: torch.nn.functional.conv2d.
    """
    ### BEGIN SOLUTION
    N, C, H, W = x.shape
    O, team, kh, kw = weight.shape  # team: input channels that one output channel listens to
    if C != groups * team or O % groups:
        raise ValueError(f"groups must split {C} input channels into teams of {team} and divide {O} output channels, got {groups}")
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    out_h, out_w = output_size(H, kh, sh, ph, dh), output_size(W, kw, sw, pw, dw)
    windows = im2col(x, (kh, kw), stride, padding, dilation)  # (N, C * kh * kw, L)
    windows = windows.reshape(N, groups, team * kh * kw, out_h * out_w)  # channels vary slowest: teams stay together
    kernels = weight.reshape(groups, O // groups, team * kh * kw)
    output = (kernels @ windows).reshape(N, O, out_h, out_w)  # (N, groups, O / groups, L) before
    return output if bias is None else output + bias[:, None, None]
    ### END SOLUTION

# %% check="conv2d_im2col" points=3
HELPERS = {"im2col": "library_im2col", "output_size": "library_output_size"}


@lab.check("conv2d_im2col", points=1, forbid=("convolution",), substitute=HELPERS)
def by_hand(conv2d_im2col):
    """Sums one can add up on paper: one kernel, a bias, two channels, two kernels, two teams."""
    x = torch.arange(6.0).reshape(1, 1, 2, 3)  # rows 0 1 2 and 3 4 5
    kernel = torch.tensor([[[[1.0, 10], [100, 1000]]]])
    once = torch.tensor([[[[4310.0, 5421]]]])
    expect_close(conv2d_im2col(x, kernel), once, "rows 0 1 2 and 3 4 5 under the kernel 1 10, 100 1000")
    expect_close(conv2d_im2col(x, kernel, torch.tensor([0.5])), once + 0.5, "the same with bias 0.5")
    rows = torch.cat([x, x + 1], 1)  # (1, 2, 2, 3)
    both = torch.tensor([1.0, 2, 10, 20]).reshape(2, 2, 1, 1)  # output 0: a + 2 b, output 1: 10 a + 20 b
    mixed = torch.tensor([[2.0, 5, 8], [11, 14, 17]])
    expect_close(conv2d_im2col(rows, both), torch.stack([mixed, 10 * mixed])[None], "two channels a and b = a + 1: a + 2 b and 10 a + 20 b")
    own = torch.tensor([1.0, 10]).reshape(2, 1, 1, 1)
    expect_close(conv2d_im2col(rows, own, groups=2), torch.cat([x, 10 * x + 10], 1), "two teams of one channel: a and 10 b")


@lab.check("conv2d_im2col", points=0.75, forbid=("convolution",), substitute=HELPERS)
def agrees_with_library(conv2d_im2col, rng):
    """Equal to the library for strides, paddings, dilations as ints and pairs, with a bias, for both types."""
    cases = [
        ((2, 3, 7, 9), (4, 3, 3, 2), {}, torch.float32),
        ((3, 2, 8, 11), (5, 2, 2, 3), {"stride": (2, 3), "padding": (1, 2)}, torch.float64),
        ((2, 3, 9, 12), (2, 3, 3, 2), {"stride": 2, "padding": 1, "dilation": (1, 3)}, torch.float32),
        ((2, 1, 10, 7), (3, 1, 3, 3), {"padding": (0, 3), "dilation": 2}, torch.float64),
    ]
    for x_shape, weight_shape, settings, dtype in cases:
        x, weight = normal(rng, *x_shape, dtype=dtype), normal(rng, *weight_shape, dtype=dtype)
        bias = normal(rng, weight_shape[0], dtype=dtype)
        case = f"images {x_shape}, weight {weight_shape}, " + (", ".join(f"{k} {v}" for k, v in settings.items()) or "stride 1")
        expect_close(conv2d_im2col(x, weight, bias, **settings), F.conv2d(x, weight, bias, **settings), case)
    permuted, weight = normal(rng, 2, 6, 7, 3).permute(0, 3, 1, 2), normal(rng, 3, 2, 4, 3).permute(2, 3, 0, 1)  # (4, 3, 3, 2)
    expect_close(conv2d_im2col(permuted, weight), F.conv2d(permuted, weight), "images and weight whose channels stand last in memory")


@lab.check("conv2d_im2col", points=0.75, forbid=("convolution",), substitute=HELPERS)
def groups_of_channels(conv2d_im2col, rng):
    """Teams of neighbouring channels, one channel a team, and channels that do not fit."""
    for channels, out_channels, groups in [(4, 6, 2), (6, 9, 3), (3, 6, 3)]:
        x, weight = normal(rng, 2, channels, 5, 6), normal(rng, out_channels, channels // groups, 3, 2)
        bias = normal(rng, out_channels)
        case = f"{channels} channels to {out_channels} in {groups} groups"
        got = conv2d_im2col(x, weight, bias, padding=(1, 0), groups=groups)
        expect_close(got, F.conv2d(x, weight, bias, padding=(1, 0), groups=groups), case)
    x = normal(rng, 2, 4, 5, 6)
    expect_raises(ValueError, lambda: conv2d_im2col(x, normal(rng, 6, 3, 3, 2)), "4 channels, a weight for 3")
    expect_raises(ValueError, lambda: conv2d_im2col(x, normal(rng, 6, 4, 3, 2), groups=2), "4 channels in 2 groups, a weight for 4 a group")
    expect_raises(ValueError, lambda: conv2d_im2col(x, normal(rng, 5, 2, 3, 2), groups=2), "5 output channels in 2 groups")
    expect_raises(ValueError, lambda: conv2d_im2col(x, normal(rng, 6, 2, 3, 2), groups=0), "groups 0")


@lab.check("conv2d_im2col", points=0.5, forbid=("convolution",), substitute=HELPERS)
def gradients_agree(conv2d_im2col, rng):
    """The gradients of images, weight and bias are the library's."""
    x, weight, bias = normal(rng, 2, 4, 6, 5), normal(rng, 6, 2, 3, 2), normal(rng, 6)
    settings = {"stride": (2, 1), "padding": 1, "groups": 2}
    ours = gradients(lambda x, weight, bias: conv2d_im2col(x, weight, bias, **settings), x, weight, bias)
    theirs = gradients(lambda x, weight, bias: F.conv2d(x, weight, bias, **settings), x, weight, bias)
    expect_close(ours, theirs, "gradients of x, weight and bias")

# %% mistake="conv2d_im2col" hint="Your flattened kernels and the columns of im2col are in different orders: a column holds all positions of channel 0, then of channel 1. Compare with `weight` as it lies in memory."
def conv2d_im2col(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if x.shape[1] != groups * weight.shape[1] or weight.shape[0] % groups:
        raise ValueError("groups")
    (N, C, H, W), (O, team, kh, kw) = x.shape, weight.shape
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    out_h, out_w = output_size(H, kh, sh, ph, dh), output_size(W, kw, sw, pw, dw)
    windows = im2col(x, (kh, kw), stride, padding, dilation).reshape(N, groups, -1, out_h * out_w)
    kernels = weight.permute(0, 2, 3, 1).reshape(groups, O // groups, -1)  # offsets first, channels last
    output = (kernels @ windows).reshape(N, O, out_h, out_w)
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv2d_im2col" hint="Height and width of your result are exchanged, and so are the places: the last axis of im2col runs along a row of the output first. Try an image that is not square."
def conv2d_im2col(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if x.shape[1] != groups * weight.shape[1] or weight.shape[0] % groups:
        raise ValueError("groups")
    (N, C, H, W), (O, team, kh, kw) = x.shape, weight.shape
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    out_h, out_w = output_size(H, kh, sh, ph, dh), output_size(W, kw, sw, pw, dw)
    windows = im2col(x, (kh, kw), stride, padding, dilation).reshape(N, groups, -1, out_h * out_w)
    kernels = weight.reshape(groups, O // groups, -1)
    output = (kernels @ windows).reshape(N, O, out_w, out_h)
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv2d_im2col" hint="You turned the kernel around. Deep learning does not: the first weight meets the first pixel of the window."
def conv2d_im2col(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if x.shape[1] != groups * weight.shape[1] or weight.shape[0] % groups:
        raise ValueError("groups")
    (N, C, H, W), (O, team, kh, kw) = x.shape, weight.shape
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    out_h, out_w = output_size(H, kh, sh, ph, dh), output_size(W, kw, sw, pw, dw)
    windows = im2col(x, (kh, kw), stride, padding, dilation).reshape(N, groups, -1, out_h * out_w)
    kernels = weight.flip(2, 3).reshape(groups, O // groups, -1)
    output = (kernels @ windows).reshape(N, O, out_h, out_w)
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv2d_im2col" hint="The bias has no effect in your result. Add one number to each output channel, unless it is None."
def conv2d_im2col(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if x.shape[1] != groups * weight.shape[1] or weight.shape[0] % groups:
        raise ValueError("groups")
    (N, C, H, W), (O, team, kh, kw) = x.shape, weight.shape
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    out_h, out_w = output_size(H, kh, sh, ph, dh), output_size(W, kw, sw, pw, dw)
    windows = im2col(x, (kh, kw), stride, padding, dilation).reshape(N, groups, -1, out_h * out_w)
    kernels = weight.reshape(groups, O // groups, -1)
    output = (kernels @ windows).reshape(N, O, out_h, out_w)
    return output

# %% mistake="conv2d_im2col" hint="Your result is right for one image but mixes several: after a product over all windows of the batch the axes are (O, N, ...), and reshape alone does not exchange them."
def conv2d_im2col(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if x.shape[1] != groups * weight.shape[1] or weight.shape[0] % groups:
        raise ValueError("groups")
    (N, C, H, W), (O, team, kh, kw) = x.shape, weight.shape
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    out_h, out_w = output_size(H, kh, sh, ph, dh), output_size(W, kw, sw, pw, dw)
    windows = im2col(x, (kh, kw), stride, padding, dilation).reshape(N, groups, -1, out_h * out_w)
    windows = windows.permute(1, 2, 0, 3).reshape(groups, -1, N * out_h * out_w)  # all windows of the batch side by side
    kernels = weight.reshape(groups, O // groups, -1)
    output = (kernels @ windows).reshape(N, O, out_h, out_w)
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv2d_im2col" hint="All your groups read the channels of the first one. Output channels of the second group listen to the second team."
def conv2d_im2col(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if x.shape[1] != groups * weight.shape[1] or weight.shape[0] % groups:
        raise ValueError("groups")
    (N, C, H, W), (O, team, kh, kw) = x.shape, weight.shape
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    out_h, out_w = output_size(H, kh, sh, ph, dh), output_size(W, kw, sw, pw, dw)
    windows = im2col(x, (kh, kw), stride, padding, dilation).reshape(N, groups, -1, out_h * out_w)
    kernels = weight.reshape(groups, O // groups, -1)
    output = (kernels @ windows[:, :1]).reshape(N, O, out_h, out_w)
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv2d_im2col" hint="Your teams take every second (third, ...) channel. A group is a run of neighbouring channels: with 4 channels in 2 groups, 0 and 1, then 2 and 3."
def conv2d_im2col(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if x.shape[1] != groups * weight.shape[1] or weight.shape[0] % groups:
        raise ValueError("groups")
    (N, C, H, W), (O, team, kh, kw) = x.shape, weight.shape
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    out_h, out_w = output_size(H, kh, sh, ph, dh), output_size(W, kw, sw, pw, dw)
    windows = im2col(x, (kh, kw), stride, padding, dilation).reshape(N, team, groups, kh * kw, out_h * out_w)
    windows = windows.transpose(1, 2).reshape(N, groups, team * kh * kw, out_h * out_w)
    kernels = weight.reshape(groups, O // groups, -1)
    output = (kernels @ windows).reshape(N, O, out_h, out_w)
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv2d_im2col" hint="Your output channels are dealt to the groups in turn. The first O / groups of them belong to group 0, the next to group 1."
def conv2d_im2col(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if x.shape[1] != groups * weight.shape[1] or weight.shape[0] % groups:
        raise ValueError("groups")
    (N, C, H, W), (O, team, kh, kw) = x.shape, weight.shape
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    out_h, out_w = output_size(H, kh, sh, ph, dh), output_size(W, kw, sw, pw, dw)
    windows = im2col(x, (kh, kw), stride, padding, dilation).reshape(N, groups, -1, out_h * out_w)
    kernels = weight.reshape(O // groups, groups, -1).transpose(0, 1)
    output = (kernels @ windows).reshape(N, O, out_h, out_w)
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv2d_im2col" hint="The dilation does not reach your windows. Which arguments does im2col need besides stride and padding?"
def conv2d_im2col(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if x.shape[1] != groups * weight.shape[1] or weight.shape[0] % groups:
        raise ValueError("groups")
    (N, C, H, W), (O, team, kh, kw) = x.shape, weight.shape
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    out_h, out_w = output_size(H, kh, sh, ph), output_size(W, kw, sw, pw)
    windows = im2col(x, (kh, kw), stride, padding).reshape(N, groups, -1, out_h * out_w)
    kernels = weight.reshape(groups, O // groups, -1)
    output = (kernels @ windows).reshape(N, O, out_h, out_w)
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv2d_im2col" hint="Your values are right, but no gradient reaches the weight: `.data`, `.detach()` or numpy cut it off."
def conv2d_im2col(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if x.shape[1] != groups * weight.shape[1] or weight.shape[0] % groups:
        raise ValueError("groups")
    (N, C, H, W), (O, team, kh, kw) = x.shape, weight.shape
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    out_h, out_w = output_size(H, kh, sh, ph, dh), output_size(W, kw, sw, pw, dw)
    windows = im2col(x, (kh, kw), stride, padding, dilation).reshape(N, groups, -1, out_h * out_w)
    kernels = weight.detach().reshape(groups, O // groups, -1)
    output = (kernels @ windows).reshape(N, O, out_h, out_w)
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv2d_im2col" hint="Channels and groups that do not fit must raise ValueError. A reshape that fails raises RuntimeError, and some misfits pass silently: compare the shapes first."
def conv2d_im2col(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    (N, C, H, W), (O, team, kh, kw) = x.shape, weight.shape
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    out_h, out_w = output_size(H, kh, sh, ph, dh), output_size(W, kw, sw, pw, dw)
    windows = im2col(x, (kh, kw), stride, padding, dilation).reshape(N, groups, -1, out_h * out_w)
    kernels = weight.reshape(groups, O // groups, -1)
    output = (kernels @ windows).reshape(N, O, out_h, out_w)
    return output if bias is None else output + bias[:, None, None]

# %% alternative="conv2d_im2col"
def conv2d_im2col(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if x.shape[1] != groups * weight.shape[1] or len(weight) % groups:
        raise ValueError(f"{x.shape[1]} channels and weight {tuple(weight.shape)} do not fit {groups} groups")
    out_h = output_size(x.shape[2], weight.shape[2], pair(stride)[0], pair(padding)[0], pair(dilation)[0])
    teams = []
    for channels, kernels in zip(x.chunk(groups, 1), weight.chunk(groups)):
        windows = im2col(channels, tuple(weight.shape[2:]), stride, padding, dilation)  # (N, team * kh * kw, L)
        teams.append(torch.einsum("ok,nkl->nol", kernels.flatten(1), windows).unflatten(2, (out_h, -1)))
    output = torch.cat(teams, 1)
    return output if bias is None else output + bias.reshape(1, -1, 1, 1)

# %% alternative="conv2d_im2col"
def conv2d_im2col(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    O, team, kh, kw = weight.shape
    if x.shape[1] != groups * team or O % groups:
        raise ValueError(f"groups {groups} does not fit {x.shape[1]} and {O} channels")
    # A dense matrix with a block for each group: the zeros cost time, not correctness.
    dense = torch.block_diag(*weight.reshape(groups, O // groups, -1))  # (O, C * kh * kw)
    windows = im2col(x, (kh, kw), stride, padding, dilation).transpose(1, 2)  # (N, L, C * kh * kw)
    output = windows @ dense.T + (0 if bias is None else bias)
    out_w = output_size(x.shape[3], kw, pair(stride)[1], pair(padding)[1], pair(dilation)[1])
    return output.transpose(1, 2).reshape(len(x), O, -1, out_w)

# %% [markdown]
# One product can hold several filters. Three of them look at a photograph of a wall.
#
# **Predict first.** Which one finds the long joints between the bricks, which the short ones, and what does the third see?

# %%
if lab.ready("conv2d_im2col"):
    wall = datasets.photograph("brick")[None, :, 60:260, 60:260]  # (1, 1, 200, 200)
    down = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]]) / 4  # brightness above minus brightness below
    slant = torch.tensor([[2.0, 1, 0], [1, 0, -1], [0, -1, -2]]) / 4
    filters = torch.stack([down, down.T, slant])[:, None]  # (3, 1, 3, 3)
    edges = conv2d_im2col(wall, filters, padding=1)[0]  # (3, 200, 200)
    titles = ["wall", "above - below", "left - right", "both"]
    fig = plots.image_row([wall[0], *edges.abs() * 3], titles, height=2)
    plots.show(fig, alt="A wall of upright bricks, and three edge images: its short level joints, its long upright joints, and all.")

# %% [markdown]
# ## Exercise 6: write a convolution as a matrix (3 points, 15 minutes)
#
# Complete `conv_matrix`: the matrix that maps the pixels of one image, flattened row by row, to the outputs of a convolution (no kernel
# flip), flattened row by row. Entry (output, pixel) is the weight with which the output reads that pixel, and 0 where it does not. The
# shape is `(out_h * out_w, H * W)`: padded cells have **no column**, since nobody can change them. The matrix has the type of the kernel,
# and gradients flow to the kernel.
#
# - `input_size`, `stride` and `padding` are an int or a pair each.
# - Raise `ValueError` when the kernel does not fit into the padded image (`output_size` does).
#
# Any way to fill the matrix is fine, your `im2col` included. The library's convolutions are off limits.
#
# <details><summary>Hint 1</summary>
#
# A row of the matrix is an image: the picture of what one output reads. For the output at row `y`, column `x` it is black but for the
# kernel. Where does the kernel stand?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Fill four axes first, `matrix[y, x, row, column]`, and flatten at the end: `reshape(out_h * out_w, H * W)`.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# Cutting at the border is hard, cutting at the end is easy: let `row` and `column` run over the padded image, write the kernel with its top
# left at `(y * sh, x * sw)`, and at the end keep rows `ph : ph + H` and columns `pw : pw + W`.
#
# </details>

# %% exercise="conv_matrix"
def conv_matrix(
    kernel: Tensor,
    input_size: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
) -> Tensor:
    """The matrix of a convolution (cross-correlation) of one image with one kernel.

    Args:
        kernel: (kh, kw) float.
        input_size: (H, W) of the image without padding, or an int for both.
        stride, padding: int, or pair (rows, columns).

    Returns:
        (out_h * out_w, H * W), the type of the kernel; outputs and pixels are counted row by row.

    Raises:
        ValueError: the kernel does not fit into the padded image.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, section 4.1.
    Reference: torch.nn.functional.conv2d of an impulse in each pixel.
    """
    ### BEGIN SOLUTION
    (H, W), (kh, kw) = pair(input_size), kernel.shape
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    out_h, out_w = output_size(H, kh, sh, ph), output_size(W, kw, sw, pw)
    matrix = kernel.new_zeros(out_h, out_w, H + 2 * ph, W + 2 * pw)  # one padded picture for each output
    for y in range(out_h):
        for x in range(out_w):
            matrix[y, x, y * sh : y * sh + kh, x * sw : x * sw + kw] = kernel
    seen = matrix[:, :, ph : ph + H, pw : pw + W]  # without the padded cells
    return seen.reshape(out_h * out_w, H * W)
    ### END SOLUTION

# %% check="conv_matrix" points=3
HELPERS = {"im2col": "library_im2col", "output_size": "library_output_size"}


@lab.check("conv_matrix", points=1, forbid=("convolution",), substitute=HELPERS)
def by_hand(conv_matrix):
    """Matrices one can write down: one row of pixels, two rows, stride 2, padding."""
    one_two = torch.tensor([[1.0, 2]])
    expect_close(conv_matrix(one_two, (1, 3)), torch.tensor([[1.0, 2, 0], [0, 1, 2]]), "kernel 1 2 on one row of 3 pixels")
    expect_close(conv_matrix(one_two, (1, 4), stride=2), torch.tensor([[1.0, 2, 0, 0], [0, 0, 1, 2]]), "the same on 4 pixels, stride 2")
    padded = torch.tensor([[2.0, 0], [1, 2], [0, 1]])
    expect_close(conv_matrix(one_two, (1, 2), padding=(0, 1)), padded, "the same on 2 pixels, padding 1 at both ends")
    square = torch.tensor([[1.0, 2], [3, 4]])
    on_two_rows = torch.tensor([[1.0, 2, 0, 3, 4, 0], [0, 1, 2, 0, 3, 4]])
    expect_close(conv_matrix(square, (2, 3)), on_two_rows, "kernel 1 2, 3 4 on 2 rows of 3 pixels")


@lab.check("conv_matrix", points=1, forbid=("convolution",), substitute=HELPERS)
def agrees_with_impulses(conv_matrix, rng):
    """Every column is the library's answer to an impulse in that pixel, and the matrix times an image is its convolution."""
    cases = [
        ((2, 3), (4, 5), {}, torch.float32),
        ((3, 2), (5, 4), {"stride": (2, 1), "padding": (0, 1)}, torch.float64),
        ((2, 3), (6, 9), {"stride": (2, 3), "padding": (1, 2)}, torch.float32),
        ((3, 3), (4, 7), {"padding": 1}, torch.float64),
        ((3, 2), (4, 3), {"padding": (4, 3)}, torch.float32),
        ((2, 3), 6, {"stride": 2}, torch.float32),
    ]
    for size, input_size, settings, dtype in cases:
        kernel = normal(rng, *size[::-1], dtype=dtype).T  # not contiguous
        H, W = pair(input_size)
        case = f"kernel {size}, image {input_size}, " + (", ".join(f"{k} {v}" for k, v in settings.items()) or "stride 1")
        impulses = torch.eye(H * W, dtype=dtype).reshape(H * W, 1, H, W)
        answers = F.conv2d(impulses, kernel[None, None], **settings)  # (H * W, 1, out_h, out_w)
        matrix = conv_matrix(kernel, input_size, **settings)
        expect_close(matrix, answers.flatten(1).T, case)
        images = normal(rng, 2, 1, H, W, dtype=dtype)
        convolved = F.conv2d(images, kernel[None, None], **settings).flatten(1)
        expect_close(images.flatten(1) @ matrix.T, convolved, f"{case}: matrix times images")


@lab.check("conv_matrix", points=0.5, forbid=("convolution",), substitute=HELPERS)
def gradient_reaches_kernel(conv_matrix, rng):
    """The gradient of the kernel adds up the gradients of all places where a weight stands."""
    kernel, image = normal(rng, 2, 3), normal(rng, 5, 4)
    ours = gradients(lambda k: conv_matrix(k, (5, 4), (2, 1), (1, 0)) @ image.flatten(), kernel)
    theirs = gradients(lambda k: F.conv2d(image[None, None], k[None, None], stride=(2, 1), padding=(1, 0)).flatten(), kernel)
    expect_close(ours, theirs, "gradient of the kernel through matrix times image")


@lab.check("conv_matrix", points=0.5, forbid=("convolution",), substitute=HELPERS)
def refuses_large_kernels(conv_matrix):
    """A kernel that does not fit raises ValueError; one that just fits makes a matrix of one row."""
    kernel = torch.arange(1.0, 7).reshape(3, 2)
    expect_close(conv_matrix(kernel, (3, 2)), torch.tensor([[1.0, 2, 3, 4, 5, 6]]), "kernel (3, 2), image (3, 2)")
    expect_raises(ValueError, lambda: conv_matrix(kernel, (2, 5)), "kernel (3, 2), image (2, 5)")
    expect_raises(ValueError, lambda: conv_matrix(kernel, (5, 1)), "kernel (3, 2), image (5, 1)")
    one_row = torch.tensor([[3.0, 4]])  # the image is the middle row of the padded three
    expect_close(conv_matrix(kernel, (1, 2), padding=(1, 0)), one_row, "kernel (3, 2), image (1, 2), one padded row above and below")

# %% mistake="conv_matrix" hint="Your kernel is turned around. The top left weight belongs to the top left pixel of the window."
def conv_matrix(kernel, input_size, stride=1, padding=0):
    (H, W), (kh, kw) = pair(input_size), kernel.shape
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    out_h, out_w = output_size(H, kh, sh, ph), output_size(W, kw, sw, pw)
    matrix = kernel.new_zeros(out_h, out_w, H + 2 * ph, W + 2 * pw)
    for y in range(out_h):
        for x in range(out_w):
            matrix[y, x, y * sh : y * sh + kh, x * sw : x * sw + kw] = kernel.flip(0, 1)
    seen = matrix[:, :, ph : ph + H, pw : pw + W]
    return seen.reshape(out_h * out_w, H * W)

# %% mistake="conv_matrix" hint="Your columns count the pixels column by column. `image.flatten()` goes along a row first: pixel (row, column) is number row * W + column."
def conv_matrix(kernel, input_size, stride=1, padding=0):
    (H, W), (kh, kw) = pair(input_size), kernel.shape
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    out_h, out_w = output_size(H, kh, sh, ph), output_size(W, kw, sw, pw)
    matrix = kernel.new_zeros(out_h, out_w, H + 2 * ph, W + 2 * pw)
    for y in range(out_h):
        for x in range(out_w):
            matrix[y, x, y * sh : y * sh + kh, x * sw : x * sw + kw] = kernel
    seen = matrix[:, :, ph : ph + H, pw : pw + W]
    return seen.transpose(2, 3).reshape(out_h * out_w, H * W)

# %% mistake="conv_matrix" hint="Your rows count the outputs column by column. The matrix times an image should be the flattened output: row by row."
def conv_matrix(kernel, input_size, stride=1, padding=0):
    (H, W), (kh, kw) = pair(input_size), kernel.shape
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    out_h, out_w = output_size(H, kh, sh, ph), output_size(W, kw, sw, pw)
    matrix = kernel.new_zeros(out_h, out_w, H + 2 * ph, W + 2 * pw)
    for y in range(out_h):
        for x in range(out_w):
            matrix[y, x, y * sh : y * sh + kh, x * sw : x * sw + kw] = kernel
    seen = matrix[:, :, ph : ph + H, pw : pw + W]
    return seen.transpose(0, 1).reshape(out_h * out_w, H * W)

# %% mistake="conv_matrix" hint="You built the transposed matrix. An output is a row, a pixel is a column, so that matrix @ image.flatten() works."
def conv_matrix(kernel, input_size, stride=1, padding=0):
    (H, W), (kh, kw) = pair(input_size), kernel.shape
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    out_h, out_w = output_size(H, kh, sh, ph), output_size(W, kw, sw, pw)
    matrix = kernel.new_zeros(out_h, out_w, H + 2 * ph, W + 2 * pw)
    for y in range(out_h):
        for x in range(out_w):
            matrix[y, x, y * sh : y * sh + kh, x * sw : x * sw + kw] = kernel
    seen = matrix[:, :, ph : ph + H, pw : pw + W]
    return seen.reshape(out_h * out_w, H * W).T

# %% mistake="conv_matrix" hint="Your matrix has a column for each padded cell. The padding is no input: keep the columns of the image's own pixels only."
def conv_matrix(kernel, input_size, stride=1, padding=0):
    (H, W), (kh, kw) = pair(input_size), kernel.shape
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    out_h, out_w = output_size(H, kh, sh, ph), output_size(W, kw, sw, pw)
    matrix = kernel.new_zeros(out_h, out_w, H + 2 * ph, W + 2 * pw)
    for y in range(out_h):
        for x in range(out_w):
            matrix[y, x, y * sh : y * sh + kh, x * sw : x * sw + kw] = kernel
    return matrix.reshape(out_h * out_w, -1)

# %% mistake="conv_matrix" hint="Your strides are exchanged: the first of a pair moves the window down, the second moves it to the right."
def conv_matrix(kernel, input_size, stride=1, padding=0):
    (H, W), (kh, kw) = pair(input_size), kernel.shape
    (sw, sh), (ph, pw) = pair(stride), pair(padding)
    out_h, out_w = output_size(H, kh, sh, ph), output_size(W, kw, sw, pw)
    matrix = kernel.new_zeros(out_h, out_w, H + 2 * ph, W + 2 * pw)
    for y in range(out_h):
        for x in range(out_w):
            matrix[y, x, y * sh : y * sh + kh, x * sw : x * sw + kw] = kernel
    seen = matrix[:, :, ph : ph + H, pw : pw + W]
    return seen.reshape(out_h * out_w, H * W)

# %% mistake="conv_matrix" hint="At the border you move the window back inside the image. It stays where it is, and only the weights over real pixels are written."
def conv_matrix(kernel, input_size, stride=1, padding=0):
    (H, W), (kh, kw) = pair(input_size), kernel.shape
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    out_h, out_w = output_size(H, kh, sh, ph), output_size(W, kw, sw, pw)
    matrix = kernel.new_zeros(out_h, out_w, H, W)
    for y in range(out_h):
        for x in range(out_w):
            top, left = min(max(y * sh - ph, 0), max(H - kh, 0)), min(max(x * sw - pw, 0), max(W - kw, 0))
            matrix[y, x, top : top + kh, left : left + kw] = kernel[:H, :W]
    return matrix.reshape(out_h * out_w, H * W)

# %% mistake="conv_matrix" hint="A window that sticks out to the left or right reads the neighbouring row in your matrix: row * W + column is a wrong pixel when column is -1 or W. Test the column before you write."
def conv_matrix(kernel, input_size, stride=1, padding=0):
    (H, W), (kh, kw) = pair(input_size), kernel.shape
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    out_h, out_w = output_size(H, kh, sh, ph), output_size(W, kw, sw, pw)
    matrix = kernel.new_zeros(out_h * out_w, H * W)
    for y in range(out_h):
        for x in range(out_w):
            for i in range(kh):
                for j in range(kw):
                    pixel = (y * sh - ph + i) * W + x * sw - pw + j
                    if 0 <= pixel < H * W:
                        matrix[y * out_w + x, pixel] = kernel[i, j]
    return matrix

# %% mistake="conv_matrix" hint="The padding has no effect on where your windows stand: output (0, 0) begins at pixel (-padding, -padding), not at (0, 0)."
def conv_matrix(kernel, input_size, stride=1, padding=0):
    (H, W), (kh, kw) = pair(input_size), kernel.shape
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    out_h, out_w = output_size(H, kh, sh, ph), output_size(W, kw, sw, pw)
    matrix = kernel.new_zeros(out_h, out_w, H + 2 * ph, W + 2 * pw)
    for y in range(out_h):
        for x in range(out_w):
            matrix[y, x, y * sh : y * sh + kh, x * sw : x * sw + kw] = kernel
    seen = matrix[:, :, :H, :W]
    return seen.reshape(out_h * out_w, H * W)

# %% mistake="conv_matrix" hint="Your matrix is right, but no gradient reaches the kernel: you copied plain numbers (`.item()`, `.tolist()`, `.detach()`). Write slices of the kernel itself."
def conv_matrix(kernel, input_size, stride=1, padding=0):
    (H, W), (kh, kw) = pair(input_size), kernel.shape
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    out_h, out_w = output_size(H, kh, sh, ph), output_size(W, kw, sw, pw)
    matrix = kernel.new_zeros(out_h, out_w, H + 2 * ph, W + 2 * pw)
    for y in range(out_h):
        for x in range(out_w):
            matrix[y, x, y * sh : y * sh + kh, x * sw : x * sw + kw] = kernel.detach()
    seen = matrix[:, :, ph : ph + H, pw : pw + W]
    return seen.reshape(out_h * out_w, H * W)

# %% mistake="conv_matrix" hint="Your matrix is always float32. Make it like the kernel: `kernel.new_zeros`."
def conv_matrix(kernel, input_size, stride=1, padding=0):
    (H, W), (kh, kw) = pair(input_size), kernel.shape
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    out_h, out_w = output_size(H, kh, sh, ph), output_size(W, kw, sw, pw)
    matrix = torch.zeros(out_h, out_w, H + 2 * ph, W + 2 * pw)
    for y in range(out_h):
        for x in range(out_w):
            matrix[y, x, y * sh : y * sh + kh, x * sw : x * sw + kw] = kernel
    seen = matrix[:, :, ph : ph + H, pw : pw + W]
    return seen.reshape(out_h * out_w, H * W)

# %% mistake="conv_matrix" hint="A kernel that does not fit gives an empty matrix in your code. It should raise ValueError; `output_size` does that for you."
def conv_matrix(kernel, input_size, stride=1, padding=0):
    (H, W), (kh, kw) = pair(input_size), kernel.shape
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    out_h, out_w = max(0, (H + 2 * ph - kh) // sh + 1), max(0, (W + 2 * pw - kw) // sw + 1)
    matrix = kernel.new_zeros(out_h, out_w, H + 2 * ph, W + 2 * pw)
    for y in range(out_h):
        for x in range(out_w):
            matrix[y, x, y * sh : y * sh + kh, x * sw : x * sw + kw] = kernel
    seen = matrix[:, :, ph : ph + H, pw : pw + W]
    return seen.reshape(out_h * out_w, H * W)

# %% alternative="conv_matrix"
def conv_matrix(kernel, input_size, stride=1, padding=0):
    (H, W), (kh, kw) = pair(input_size), kernel.shape
    for size, window, added in [(H, kh, pair(padding)[0]), (W, kw, pair(padding)[1])]:
        output_size(size, window, padding=added)  # raises ValueError if the kernel does not fit
    impulses = torch.eye(H * W, dtype=kernel.dtype).reshape(H * W, 1, H, W)
    windows = im2col(impulses, (kh, kw), stride, padding)  # (H * W, kh * kw, L): which cell of which window holds the impulse
    return torch.einsum("pkl,k->lp", windows, kernel.flatten())

# %% alternative="conv_matrix"
def conv_matrix(kernel, input_size, stride=1, padding=0):
    def places(n, kernel_size, stride, padding):  # (out, kernel_size, n): 1 where a window's cell lies on a pixel
        starts = torch.arange(output_size(n, kernel_size, stride, padding)) * stride - padding
        cells = starts[:, None] + torch.arange(kernel_size)  # (out, kernel_size)
        return (cells[:, :, None] == torch.arange(n)).to(kernel.dtype)

    arguments = zip(pair(input_size), kernel.shape, pair(stride), pair(padding))
    down, across = (places(*axis) for axis in arguments)
    matrix = torch.einsum("ij,yir,xjc->yxrc", kernel, down, across)
    return matrix.flatten(2).flatten(0, 1)

# %% [markdown]
# Here are three matrices of one 3 × 3 kernel, its weights numbered 1 to 9, on a 5 × 6 image; grey lines separate the rows of the image.
#
# **Predict first.** How many staircases does the first matrix have? Which of its rows lose weights when padding comes, and how many pixels
# does a staircase advance with each output when the stride is 3?

# %%
if lab.ready("conv_matrix"):
    numbered = torch.arange(1.0, 10).reshape(3, 3)
    fig, axes = plt.subplots(3, 1, figsize=(6, 9.6), height_ratios=[12, 30, 6])
    for ax, settings in zip(axes, [{}, {"padding": 1}, {"stride": (1, 3), "padding": (0, 1)}]):
        matrix = conv_matrix(numbered, (5, 6), **settings)
        ax.imshow(matrix, cmap="Blues", vmin=0, vmax=9)
        ax.vlines([5.5, 11.5, 17.5, 23.5], -0.5, len(matrix) - 0.5, color="grey", linewidth=0.8)
        words = ", ".join(f"{name} {value}" for name, value in settings.items()) or "no padding"
        ax.set(title=f"{words}: {len(matrix)} outputs", xlabel="pixel, row by row", ylabel="output")
        ax.set_xticks(range(0, 30, 6))
        ax.grid(False)
    fig.suptitle("Blocks on diagonals; padding cuts weights off, stride skips rows")
    alt = "Three matrices with 30 columns in five blocks: 12 rows of full staircases, 30 rows of cut ones, 6 rows with steps of 3."
    plots.show(fig, alt=alt)

# %% [markdown]
# ## Exercise 7: find what a deep unit sees (3 points, 13 minutes)
#
# Complete `receptive_field` for one axis of a stack of layers, the layer on the pixels first. It returns a tuple of three numbers:
#
# - `size`, an int: how many pixels lie from the first to the last pixel that one output of the top layer depends on. Pixels that a
#   dilation skips in between count, padded cells count as pixels.
# - `jump`, an int: how many pixels the field moves from one output to the next.
# - `start`, a float or int: the **centre** of the field of output 0, in pixels, where the centre of pixel 0 is at 0. With an even `size` it
#   lies halfway between two pixels, and with much padding it is negative.
#
# A pooling is a layer like any other. No layers at all: every output is a pixel, `(1, 1, 0)`. Raise `ValueError` when a kernel size, stride
# or dilation is under 1 or a padding is negative. Plain Python, no tensors.
#
# <details><summary>Hint 1</summary>
#
# The lecture gives the rules for `size` and `jump`. `jump` is the distance, in pixels, of two neighbouring cells that the layer **reads**:
# use it before you update it.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Let the first cell that a layer reads be centred at `start`. Without padding, its first window begins there and reaches
# `dilation * (kernel_size - 1)` cells further. Where is the middle of that window? How far does the padding push it back?
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# `start` moves by `(dilation * (kernel_size - 1) / 2 - padding)` cells of the layer below, which are `jump` pixels apart.
#
# </details>

# %% exercise="receptive_field"
def receptive_field(layers: list[tuple[int, int, int, int]]) -> tuple[int, int, float]:
    """Receptive field of a stack of convolutions or poolings along one axis.

    Args:
        layers: (kernel_size, stride, padding, dilation) of each layer, the layer on the pixels first; may be empty.

    Returns:
        size: extent of one output's field, pixels.
        jump: distance of the fields of two neighbouring outputs, pixels.
        start: centre of the field of output 0, pixels; pixel 0 is centred at 0.

    Raises:
        ValueError: a kernel size, stride or dilation is under 1, or a padding is negative.

    Source: Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", Distill 2019, "Single-path networks".
    """
    ### BEGIN SOLUTION
    size, jump, start = 1, 1, 0.0
    for kernel_size, stride, padding, dilation in layers:
        if min(kernel_size, stride, dilation) < 1 or padding < 0:
            raise ValueError(f"layers: illegal values {kernel_size=}, {stride=}, {padding=}, {dilation=}")
        reach = dilation * (kernel_size - 1)  # cells from the first to the last that a window reads, jump pixels apart
        size += reach * jump
        start += (reach / 2 - padding) * jump
        jump *= stride
    return size, jump, start
    ### END SOLUTION

# %% check="receptive_field" points=3
def seen_pixels(layers, output_index, n):
    """First and last pixel that one output of a real stack depends on, from gradients; all weights are 1."""
    pixels = torch.zeros(1, 1, n, dtype=torch.float64, requires_grad=True)
    x = pixels
    for width, *options in layers:
        x = F.conv1d(x, x.new_ones(1, 1, width), None, *options)
    (gradient,) = torch.autograd.grad(x[0, 0, output_index], pixels)
    seen = gradient[0, 0].nonzero()
    return int(seen.min()), int(seen.max())


def field_by_gradients(layers, output_index=12, n=1201):
    """The answer from two neighbouring outputs whose fields lie inside the signal; output 0 is extrapolated."""
    first, last = seen_pixels(layers, output_index, n)
    assert 0 < first and last < n - 1, "the field of the middle output must lie inside the signal"
    jump = seen_pixels(layers, output_index + 1, n)[0] - first
    return last - first + 1, jump, (first + last) / 2 - output_index * jump


def expect_field(answer, expected, layers):
    case = f"layers {layers}"
    three = type(answer) in (tuple, list) and len(answer) == 3
    expect_true(three, case, "The answer should be three numbers: (size, jump, start).")
    expect_equal(answer[0], expected[0], f"{case}: size")
    expect_equal(answer[1], expected[1], f"{case}: jump")
    expect_close(answer[2], expected[2], f"{case}: start")


@lab.check("receptive_field", points=1)
def one_layer(receptive_field):
    """No layer, and single layers whose first window one can draw."""
    expect_field(receptive_field([]), (1, 1, 0.0), [])
    for layer, expected in [
        ((3, 1, 0, 1), (3, 1, 1.0)),  # pixels 0 1 2
        ((3, 1, 1, 1), (3, 1, 0.0)),  # pixels -1 0 1
        ((2, 2, 0, 1), (2, 2, 0.5)),  # pixels 0 1, a pooling
        ((4, 3, 3, 1), (4, 3, -1.5)),  # pixels -3 -2 -1 0
        ((3, 2, 1, 4), (9, 2, 3.0)),  # pixels -1 3 7
        ((1, 5, 2, 1), (1, 5, -2.0)),  # pixel -2
    ]:
        expect_field(receptive_field([layer]), expected, [layer])


@lab.check("receptive_field", points=1.5)
def agrees_with_gradients(receptive_field, rng):
    """The pixels whose gradient is not zero, in real stacks of two to five layers."""
    stacks = [
        [(3, 2, 1, 1), (3, 1, 0, 1)],
        [(3, 1, 0, 1), (3, 2, 1, 1)],
        [(7, 2, 3, 1), (3, 2, 1, 1), (3, 1, 1, 1), (3, 1, 2, 2)],
        [(5, 1, 2, 1), (2, 2, 0, 1), (5, 1, 2, 1), (2, 2, 0, 1), (4, 3, 1, 2)],
    ]
    for _ in range(4):
        depth = int(rng.integers(2, 4))
        stacks.append([tuple(int(v) for v in rng.integers([2, 1, 0, 1], [6, 4, 4, 4])) for _ in range(depth)])
    for layers in stacks:
        expect_field(receptive_field(layers), field_by_gradients(layers), layers)


@lab.check("receptive_field", points=0.5)
def refuses_nonsense(receptive_field):
    """Illegal values raise ValueError, in any layer; their legal neighbours do not."""
    below = (3, 1, 1, 1)
    for layer in [(0, 1, 0, 1), (3, 0, 0, 1), (3, 1, 0, 0), (3, 1, -1, 1)]:
        expect_raises(ValueError, lambda: receptive_field([below, layer]), f"second layer {layer}")
    for layers in [[below, (1, 1, 0, 1)], [below, (3, 1, 0, 1)]]:
        expect_field(receptive_field(layers), field_by_gradients(layers), layers)

# %% mistake="receptive_field" hint="You multiplied the jump by the stride before you used it. A layer's own stride moves its outputs; the cells it reads are still the old jump apart."
def receptive_field(layers):
    size, jump, start = 1, 1, 0.0
    for kernel_size, stride, padding, dilation in layers:
        if min(kernel_size, stride, dilation) < 1 or padding < 0:
            raise ValueError("illegal layer")
        reach = dilation * (kernel_size - 1)
        jump *= stride
        size += reach * jump
        start += (reach / 2 - padding) * jump
    return size, jump, start

# %% mistake="receptive_field" hint="The strides below have no effect on your size: a step of one cell in a deep layer is a step of several pixels."
def receptive_field(layers):
    size, jump, start = 1, 1, 0.0
    for kernel_size, stride, padding, dilation in layers:
        if min(kernel_size, stride, dilation) < 1 or padding < 0:
            raise ValueError("illegal layer")
        reach = dilation * (kernel_size - 1)
        size += reach
        start += (reach / 2 - padding) * jump
        jump *= stride
    return size, jump, start

# %% mistake="receptive_field" hint="The dilation has no effect in your rule. How far apart are the first and the last cell that a dilated window reads?"
def receptive_field(layers):
    size, jump, start = 1, 1, 0.0
    for kernel_size, stride, padding, dilation in layers:
        if min(kernel_size, stride, dilation) < 1 or padding < 0:
            raise ValueError("illegal layer")
        reach = kernel_size - 1
        size += reach * jump
        start += (reach / 2 - padding) * jump
        jump *= stride
    return size, jump, start

# %% mistake="receptive_field" hint="Your field grows by kernel_size cells a layer. One of them was there before: a kernel of size 1 adds nothing."
def receptive_field(layers):
    size, jump, start = 1, 1, 0.0
    for kernel_size, stride, padding, dilation in layers:
        if min(kernel_size, stride, dilation) < 1 or padding < 0:
            raise ValueError("illegal layer")
        reach = dilation * (kernel_size - 1)
        size += dilation * kernel_size * jump
        start += (reach / 2 - padding) * jump
        jump *= stride
    return size, jump, start

# %% mistake="receptive_field" hint="You walked the layers from the top down with the rule that goes up. The first of the list lies on the pixels."
def receptive_field(layers):
    size, jump, start = 1, 1, 0.0
    for kernel_size, stride, padding, dilation in reversed(layers):
        if min(kernel_size, stride, dilation) < 1 or padding < 0:
            raise ValueError("illegal layer")
        reach = dilation * (kernel_size - 1)
        size += reach * jump
        start += (reach / 2 - padding) * jump
        jump *= stride
    return size, jump, start

# %% mistake="receptive_field" hint="Size and jump are right, but the dilation has no effect on your start: a dilated window reaches further, so its centre moves too."
def receptive_field(layers):
    size, jump, start = 1, 1, 0.0
    for kernel_size, stride, padding, dilation in layers:
        if min(kernel_size, stride, dilation) < 1 or padding < 0:
            raise ValueError("illegal layer")
        size += dilation * (kernel_size - 1) * jump
        start += ((kernel_size - 1) / 2 - padding) * jump
        jump *= stride
    return size, jump, start

# %% mistake="receptive_field" hint="Your start ignores the padding, which lets the first window begin before pixel 0."
def receptive_field(layers):
    size, jump, start = 1, 1, 0.0
    for kernel_size, stride, padding, dilation in layers:
        if min(kernel_size, stride, dilation) < 1 or padding < 0:
            raise ValueError("illegal layer")
        reach = dilation * (kernel_size - 1)
        size += reach * jump
        start += (reach / 2) * jump
        jump *= stride
    return size, jump, start

# %% mistake="receptive_field" hint="The padding of a deep layer is counted in pixels in your start. It is counted in cells of the layer below, which are jump pixels apart."
def receptive_field(layers):
    size, jump, start = 1, 1, 0.0
    for kernel_size, stride, padding, dilation in layers:
        if min(kernel_size, stride, dilation) < 1 or padding < 0:
            raise ValueError("illegal layer")
        reach = dilation * (kernel_size - 1)
        size += reach * jump
        start += reach / 2 * jump - padding
        jump *= stride
    return size, jump, start

# %% mistake="receptive_field" hint="Your start rounds down where a kernel has an even size. The middle of two pixels lies between them: use /, not //."
def receptive_field(layers):
    size, jump, start = 1, 1, 0.0
    for kernel_size, stride, padding, dilation in layers:
        if min(kernel_size, stride, dilation) < 1 or padding < 0:
            raise ValueError("illegal layer")
        reach = dilation * (kernel_size - 1)
        size += reach * jump
        start += (reach // 2 - padding) * jump
        jump *= stride
    return size, jump, start

# %% mistake="receptive_field" hint="Your start is the first pixel of the field. Asked for is its centre."
def receptive_field(layers):
    size, jump, start = 1, 1, 0.0
    for kernel_size, stride, padding, dilation in layers:
        if min(kernel_size, stride, dilation) < 1 or padding < 0:
            raise ValueError("illegal layer")
        reach = dilation * (kernel_size - 1)
        size += reach * jump
        start += -padding * jump
        jump *= stride
    return size, jump, start

# %% mistake="receptive_field" hint="Your start is half a pixel off: you count from the left edge of pixel 0. Here the centre of pixel 0 is at 0."
def receptive_field(layers):
    size, jump, start = 1, 1, 0.5
    for kernel_size, stride, padding, dilation in layers:
        if min(kernel_size, stride, dilation) < 1 or padding < 0:
            raise ValueError("illegal layer")
        reach = dilation * (kernel_size - 1)
        size += reach * jump
        start += (reach / 2 - padding) * jump
        jump *= stride
    return size, jump, start

# %% mistake="receptive_field" hint="You subtracted the padding from the field. Padded cells count as pixels, so only the start depends on the padding."
def receptive_field(layers):
    size, jump, start = 1, 1, 0.0
    for kernel_size, stride, padding, dilation in layers:
        if min(kernel_size, stride, dilation) < 1 or padding < 0:
            raise ValueError("illegal layer")
        reach = dilation * (kernel_size - 1)
        size += (reach - 2 * padding) * jump
        start += (reach / 2 - padding) * jump
        jump *= stride
    return size, jump, start

# %% mistake="receptive_field" hint="Your jump is the stride of the last layer. Strides multiply: two layers of stride 2 move four pixels."
def receptive_field(layers):
    size, jump, start = 1, 1, 0.0
    for kernel_size, stride, padding, dilation in layers:
        if min(kernel_size, stride, dilation) < 1 or padding < 0:
            raise ValueError("illegal layer")
        reach = dilation * (kernel_size - 1)
        size += reach * jump
        start += (reach / 2 - padding) * jump
        jump = stride
    return size, jump, start

# %% mistake="receptive_field" hint="Your numbers are right, but illegal layers pass. Test each layer before you use it."
def receptive_field(layers):
    size, jump, start = 1, 1, 0.0
    for kernel_size, stride, padding, dilation in layers:
        reach = dilation * (kernel_size - 1)
        size += reach * jump
        start += (reach / 2 - padding) * jump
        jump *= stride
    return size, jump, start

# %% alternative="receptive_field"
def receptive_field(layers):
    for layer in layers:
        if any(value < least for value, least in zip(layer, (1, 1, 0, 1))):
            raise ValueError(f"layers holds an illegal layer {layer}")

    def pixels(output):  # from the top down: the first and last cell that is needed of each layer's input
        first = last = output
        for kernel_size, stride, padding, dilation in reversed(layers):
            first = first * stride - padding
            last = last * stride - padding + dilation * (kernel_size - 1)
        return first, last

    (first, last), (following, _) = pixels(0), pixels(1)
    return last - first + 1, following - first, (first + last) / 2

# %% alternative="receptive_field"
def receptive_field(layers):
    if any(min(k, s, d) < 1 or p < 0 for k, s, p, d in layers):
        raise ValueError("layers: kernel sizes, strides and dilations are at least 1, paddings at least 0")
    jumps = [math.prod(layer[1] for layer in layers[:i]) for i in range(len(layers) + 1)]  # below layer i
    size = 1 + sum(d * (k - 1) * jump for (k, s, p, d), jump in zip(layers, jumps))
    return size, jumps[-1], (size - 1) / 2 - sum(p * jump for (k, s, p, d), jump in zip(layers, jumps))

# %% [markdown]
# VGG-16 is thirteen 3 × 3 convolutions with padding 1 in five blocks, with a 2 × 2 pooling of stride 2 after each block. How much of an
# image of 224 pixels does one output of each block see?
#
# **Predict first.** Guess the field of the last block, before its pooling.

# %%
if lab.ready("receptive_field"):
    rocket = datasets.photograph("rocket")[:, 100:324, 210:434]  # (3, 224, 224)
    fig, ax = plt.subplots(figsize=(6, 5))
    ax.imshow(rocket.permute(1, 2, 0))
    layers = []
    for block, num_convolutions in enumerate([2, 2, 3, 3, 3], 1):
        layers += [(3, 1, 1, 1)] * num_convolutions
        size, jump, start = receptive_field(layers)
        middle = start + jump * (224 // jump // 2)  # the centre of a field near the middle of the image
        corner = middle - size / 2
        label = f"block {block}: {size} pixels"
        ax.add_patch(plt.Rectangle((corner, corner), size, size, fill=False, edgecolor=f"C{block}", linewidth=2, label=label))
        print(f"block {block}: size {size:3d}, jump {jump:2d}, start {start:4.1f}")
        layers += [(2, 2, 0, 1)]
    ax.set(title="An output of VGG-16's last block sees most of the image", xlabel="x (pixels)", ylabel="y (pixels)")
    ax.grid(False)
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    plots.show(fig, alt="A rocket and five nested squares about the middle, 5 pixels wide for block 1, 196 of 224 for block 5.")

# %% [markdown]
# ## Exercise 8: count weights and work (2 points, 8 minutes)
#
# Complete `conv_cost`: what one two-dimensional convolution layer costs. It returns two ints, `(parameters, macs)`:
#
# - `parameters`: all numbers that the layer learns, with one bias an output channel if `bias` is true.
# - `macs`: multiply-adds for **one image**. Each product of a weight and an input counts once; adding the bias is not counted.
#
# `kernel_size` and `output_size` (the size of the layer's output map, not of its input) are an int or a pair each. Raise `ValueError` when
# `groups` is under 1 or does not divide both numbers of channels. Plain Python, no tensors; the results are exact ints, however large.
#
# <details><summary>Hint 1</summary>
#
# Begin with one output channel: how many weights does it have, when it listens to `in_channels / groups` channels through a window?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# All output channels together have `out_channels` times as many. Each weight is used once at every position of the output.
#
# </details>

# %% exercise="conv_cost"
def conv_cost(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int],
    output_size: int | tuple[int, int],
    groups: int = 1,
    bias: bool = True,
) -> tuple[int, int]:
    """Parameters and multiply-adds of a two-dimensional convolution layer.

    Args:
        in_channels, out_channels: channels of the input and of the output.
        kernel_size: int, or pair (rows, columns).
        output_size: int, or pair (rows, columns) of the output map, pixels.
        groups: number of teams of channels, at least 1, divides both numbers of channels.
        bias: whether each output channel has a bias.

    Returns:
        parameters: weights and biases.
        macs: multiply-adds for one image, the bias not counted.

    Raises:
        ValueError: groups is under 1 or does not divide both numbers of channels.

    Source: Howard et al., "MobileNets", 2017, section 3.1.
    """
    ### BEGIN SOLUTION
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(f"groups must be positive and divide {in_channels} and {out_channels} channels, got {groups}")
    (kh, kw), (out_h, out_w) = pair(kernel_size), pair(output_size)
    weights = out_channels * (in_channels // groups) * kh * kw
    return weights + bias * out_channels, weights * out_h * out_w
    ### END SOLUTION

# %% check="conv_cost" points=2
def counted(in_channels, out_channels, kernel_size, output_size, groups, bias):
    """A real layer's parameters, and its sum when every weight and input is 1: each product adds 1."""
    layer = torch.nn.Conv2d(in_channels, out_channels, kernel_size, groups=groups, bias=bias)
    height, width = (size + kernel - 1 for size, kernel in zip(pair(output_size), pair(kernel_size)))
    ones = torch.ones(1, in_channels, height, width, dtype=torch.float64)
    products = F.conv2d(ones, torch.ones_like(layer.weight, dtype=torch.float64), groups=groups)
    return sum(p.numel() for p in layer.parameters()), int(products.sum())


@lab.check("conv_cost", points=0.5)
def by_hand(conv_cost):
    """A 1 x 1 layer, the stem of LeNet, a depthwise layer, and a layer too large to build."""
    expect_equal(conv_cost(3, 1, 1, 10), (4, 300), "3 channels to 1, kernel 1, output 10 x 10")
    expect_equal(conv_cost(1, 6, 5, 28), (156, 117_600), "1 channel to 6, kernel 5, output 28 x 28")
    expect_equal(conv_cost(8, 8, 3, (2, 5), groups=8, bias=False), (72, 720), "8 depthwise channels, kernel 3, output 2 x 5, no bias")
    expect_equal(conv_cost(10**9, 10**9 + 7, 1, 1, bias=False), (10**9 * (10**9 + 7),) * 2, "10**9 channels to 10**9 + 7: exact ints")


@lab.check("conv_cost", points=1)
def agrees_with_real_layers(conv_cost, rng):
    """The parameters of a real layer, and its products counted one by one."""
    cases = [(4, 6, (3, 2), (5, 7), 1, True), (6, 4, (1, 5), (3, 8), 2, True), (6, 9, 3, (4, 5), 3, False), (5, 10, (2, 4), 6, 5, True)]
    for _ in range(3):
        groups = int(rng.integers(1, 4))
        teams = rng.integers(1, 5, size=2) * groups
        sizes = rng.integers(1, 8, size=4)
        a, b, kh, kw, out_h, out_w = (int(v) for v in (*teams, *sizes))
        cases.append((a, b, (kh, kw), (out_h, out_w), groups, bool(rng.integers(2))))
    for a, b, kernel_size, size, groups, bias in cases:
        case = f"{a} to {b} channels, kernel {kernel_size}, output {size}, groups {groups}, bias {bias}"
        expect_equal(conv_cost(a, b, kernel_size, size, groups, bias), counted(a, b, kernel_size, size, groups, bias), case)


@lab.check("conv_cost", points=0.5)
def refuses_wrong_groups(conv_cost):
    """Groups must divide both numbers of channels and be positive."""
    expect_raises(ValueError, lambda: conv_cost(5, 6, 3, 4, groups=2), "5 to 6 channels in 2 groups")
    expect_raises(ValueError, lambda: conv_cost(6, 5, 3, 4, groups=2), "6 to 5 channels in 2 groups")
    expect_raises(ValueError, lambda: conv_cost(6, 4, 3, 4, groups=0), "groups 0")
    expect_raises(ValueError, lambda: conv_cost(6, 4, 3, 4, groups=-2), "groups -2")
    expect_equal(conv_cost(6, 4, 3, 4, groups=2), counted(6, 4, 3, 4, 2, True), "6 to 4 channels in 2 groups")

# %% mistake="conv_cost" hint="You counted the bias among the multiply-adds. It is added, but nothing is multiplied."
def conv_cost(in_channels, out_channels, kernel_size, output_size, groups=1, bias=True):
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError("groups")
    (kh, kw), (out_h, out_w) = pair(kernel_size), pair(output_size)
    weights = out_channels * (in_channels // groups) * kh * kw
    parameters = weights + bias * out_channels
    return parameters, parameters * out_h * out_w

# %% mistake="conv_cost" hint="Groups have no effect in your count. An output channel listens to its own team of input channels only."
def conv_cost(in_channels, out_channels, kernel_size, output_size, groups=1, bias=True):
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError("groups")
    (kh, kw), (out_h, out_w) = pair(kernel_size), pair(output_size)
    weights = out_channels * in_channels * kh * kw
    return weights + bias * out_channels, weights * out_h * out_w

# %% mistake="conv_cost" hint="You divided by the groups twice: each output channel hears fewer channels, but there are still out_channels of them."
def conv_cost(in_channels, out_channels, kernel_size, output_size, groups=1, bias=True):
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError("groups")
    (kh, kw), (out_h, out_w) = pair(kernel_size), pair(output_size)
    weights = out_channels // groups * (in_channels // groups) * kh * kw
    return weights + bias * out_channels, weights * out_h * out_w

# %% mistake="conv_cost" hint="You squared one side of the kernel. A kernel has kh rows and kw columns."
def conv_cost(in_channels, out_channels, kernel_size, output_size, groups=1, bias=True):
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError("groups")
    (kh, kw), (out_h, out_w) = pair(kernel_size), pair(output_size)
    weights = out_channels * (in_channels // groups) * kh * kh
    return weights + bias * out_channels, weights * out_h * out_w

# %% mistake="conv_cost" hint="You squared one side of the output. It has out_h rows and out_w columns."
def conv_cost(in_channels, out_channels, kernel_size, output_size, groups=1, bias=True):
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError("groups")
    (kh, kw), (out_h, out_w) = pair(kernel_size), pair(output_size)
    weights = out_channels * (in_channels // groups) * kh * kw
    return weights + bias * out_channels, weights * out_h * out_h

# %% mistake="conv_cost" hint="You counted a bias for every input channel. There is one for each output channel, added after the sum."
def conv_cost(in_channels, out_channels, kernel_size, output_size, groups=1, bias=True):
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError("groups")
    (kh, kw), (out_h, out_w) = pair(kernel_size), pair(output_size)
    weights = out_channels * (in_channels // groups) * kh * kw
    return weights + bias * in_channels, weights * out_h * out_w

# %% mistake="conv_cost" hint="You count a bias even where the layer has none."
def conv_cost(in_channels, out_channels, kernel_size, output_size, groups=1, bias=True):
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError("groups")
    (kh, kw), (out_h, out_w) = pair(kernel_size), pair(output_size)
    weights = out_channels * (in_channels // groups) * kh * kw
    return weights + out_channels, weights * out_h * out_w

# %% mistake="conv_cost" hint="You counted multiplications and additions apart. A multiply-add is one operation here; papers that count FLOPs often double it."
def conv_cost(in_channels, out_channels, kernel_size, output_size, groups=1, bias=True):
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError("groups")
    (kh, kw), (out_h, out_w) = pair(kernel_size), pair(output_size)
    weights = out_channels * (in_channels // groups) * kh * kw
    return weights + bias * out_channels, 2 * weights * out_h * out_w

# %% mistake="conv_cost" hint="Your numbers are floats: / divides to a float, which is not exact when it is large. Use //."
def conv_cost(in_channels, out_channels, kernel_size, output_size, groups=1, bias=True):
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError("groups")
    (kh, kw), (out_h, out_w) = pair(kernel_size), pair(output_size)
    weights = 1.0 * out_channels * (in_channels // groups) * kh * kw
    return weights + bias * out_channels, weights * out_h * out_w

# %% mistake="conv_cost" hint="Your multiply-adds are those of one output pixel. The layer computes out_h * out_w of them."
def conv_cost(in_channels, out_channels, kernel_size, output_size, groups=1, bias=True):
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError("groups")
    (kh, kw), (out_h, out_w) = pair(kernel_size), pair(output_size)
    weights = out_channels * (in_channels // groups) * kh * kw
    return weights + bias * out_channels, weights

# %% mistake="conv_cost" hint="Groups that do not fit pass. They must be positive, and divide the input channels and the output channels."
def conv_cost(in_channels, out_channels, kernel_size, output_size, groups=1, bias=True):
    (kh, kw), (out_h, out_w) = pair(kernel_size), pair(output_size)
    weights = out_channels * (in_channels // groups) * kh * kw
    return weights + bias * out_channels, weights * out_h * out_w

# %% mistake="conv_cost" hint="You test the input channels only. With 5 output channels in 2 groups one would be left over."
def conv_cost(in_channels, out_channels, kernel_size, output_size, groups=1, bias=True):
    if groups < 1 or in_channels % groups:
        raise ValueError("groups")
    (kh, kw), (out_h, out_w) = pair(kernel_size), pair(output_size)
    weights = out_channels * (in_channels // groups) * kh * kw
    return weights + bias * out_channels, weights * out_h * out_w

# %% alternative="conv_cost"
def conv_cost(in_channels, out_channels, kernel_size, output_size, groups=1, bias=True):
    if groups <= 0 or math.gcd(in_channels, out_channels) % groups:
        raise ValueError(f"{groups} groups do not fit {in_channels} and {out_channels} channels")
    of_one_group = (in_channels // groups) * (out_channels // groups)
    weights = groups * of_one_group * math.prod(pair(kernel_size))
    return weights + (out_channels if bias else 0), weights * math.prod(pair(output_size))

# %% alternative="conv_cost"
def conv_cost(in_channels, out_channels, kernel_size, output_size, groups=1, bias=True):
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(f"groups {groups} must divide {in_channels} and {out_channels}")
    layer = torch.nn.Conv2d(in_channels, out_channels, kernel_size, groups=groups, bias=bias, device="meta")  # no memory
    rows, columns = pair(output_size)
    return sum(math.prod(p.shape) for p in layer.parameters()), math.prod(layer.weight.shape) * rows * columns

# %% [markdown]
# Where do the weights of a network lie, and where is its work? VGG-16 again, its convolutions only: channels grow from 64 to 512 as the map
# shrinks from 224 to 14 pixels.
#
# **Predict first.** Which block holds the most weights, and which needs the fewest multiply-adds?

# %%
if lab.ready("conv_cost"):
    weights, work, channels = [], [], 3
    for num_convolutions, width, size in [(2, 64, 224), (2, 128, 112), (3, 256, 56), (3, 512, 28), (3, 512, 14)]:
        costs = []
        for _ in range(num_convolutions):
            costs.append(conv_cost(channels, width, 3, size))
            channels = width
        weights.append(sum(parameters for parameters, _ in costs) / 1e6)
        work.append(sum(macs for _, macs in costs) / 1e9)
    fig, axes = plt.subplots(2, 1, figsize=(6, 4.6), sharex=True)
    axes[0].bar(range(1, 6), weights, color="C0")
    axes[0].set(title=f"Block 5 holds {weights[-1] / sum(weights):.0%} of the weights", ylabel="parameters (millions)")
    axes[1].bar(range(1, 6), work, color="C0")
    axes[1].set(title=f"and does {work[-1] / sum(work):.0%} of the work", ylabel="multiply-adds (billions)", xlabel="block of VGG-16")
    print(f"all convolutions: {sum(weights):.1f} million parameters, {sum(work):.1f} billion multiply-adds")
    plots.show(fig, alt="Bars over five blocks: parameters rise up to 7 million, work peaks in blocks 3 and 4 and is least in block 5.")

# %% [markdown]
# ## Exercise 9: convolve along a third axis (3 points, 12 minutes)
#
# Complete `conv3d_from_conv2d`: a three-dimensional convolution (no kernel flip) with stride 1, no padding and no bias, made of
# two-dimensional ones. A volume `(N, C, D, H, W)` and a weight `(O, C, kd, kh, kw)` give `(N, O, D - kd + 1, H - kh + 1, W - kw + 1)` in
# the type of the input, and gradients flow to both.
#
# Raise `ValueError` when `x` and `weight` have different numbers of channels, and when the kernel is longer than the volume along any of
# its three axes.
#
# `F.conv2d` is what you build with, any number of calls. `F.conv3d` would be right and teach nothing. The check cannot tell the two apart
# (inside the library they are one operator), so this rule is yours to keep.
#
# <details><summary>Hint 1</summary>
#
# Fix one output slice and write its sum over the depth of the kernel. Each term is a slice of the volume under a slice of the weight: two
# axes are left.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Output slice `d` is the sum over `k` of `F.conv2d(x[:, :, d + k], weight[:, :, k])`. A double loop, then `torch.stack` along axis 2.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# One call for each `k` is enough: the slices `k` to `k + D - kd` go in together as a batch. Bring the depth next to the batch axis with
# `transpose(1, 2)` **before** you merge the two, and undo both afterwards in the opposite order.
#
# </details>

# %% exercise="conv3d_from_conv2d"
def conv3d_from_conv2d(x: Tensor, weight: Tensor) -> Tensor:
    """Three-dimensional convolution (cross-correlation) as a sum of two-dimensional ones; stride 1, no padding.

    Args:
        x: (N, C, D, H, W) float.
        weight: (O, C, kd, kh, kw), the type of x.

    Returns:
        (N, O, D - kd + 1, H - kh + 1, W - kw + 1), the type of x.

    Raises:
        ValueError: the channels differ, or the kernel is longer than the volume along an axis.

    Source: Tran et al., "Learning spatiotemporal features with 3D convolutional networks", ICCV 2015, section 3.1.
    Reference: torch.nn.functional.conv3d.
    """
    ### BEGIN SOLUTION
    N, C, D, H, W = x.shape
    O, C_weight, kd, kh, kw = weight.shape
    if C_weight != C or kd > D or kh > H or kw > W:
        raise ValueError(f"weight {tuple(weight.shape)} does not fit x {tuple(x.shape)}: equal channels, and a kernel not longer than x")
    out_d = D - kd + 1
    output = 0
    for k in range(kd):
        slices = x[:, :, k : k + out_d].transpose(1, 2)  # (N, out_d, C, H, W): what meets kernel slice k
        output = output + F.conv2d(slices.flatten(0, 1), weight[:, :, k])  # (N * out_d, O, out_h, out_w)
    return output.unflatten(0, (N, out_d)).transpose(1, 2)  # (N, O, out_d, out_h, out_w)
    ### END SOLUTION

# %% check="conv3d_from_conv2d" points=3
@lab.check("conv3d_from_conv2d", points=1)
def by_hand(conv3d_from_conv2d):
    """Volumes of one pixel a slice, and of two rows: sums one can add up on paper."""
    film = torch.tensor([1.0, 2, 4, 8, 16]).reshape(1, 1, 5, 1, 1)
    kernel = torch.tensor([1.0, 10]).reshape(1, 1, 2, 1, 1)
    expected = torch.tensor([21.0, 42, 84, 168]).reshape(1, 1, 4, 1, 1)
    expect_close(conv3d_from_conv2d(film, kernel), expected, "five slices 1 2 4 8 16, kernel 1 10 along the depth")
    volume = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    digits = torch.tensor([1.0, 10, 100, 1000, 1e4, 1e5, 1e6, 1e7], dtype=torch.float64).reshape(1, 1, 2, 2, 2)
    whole = torch.full((1, 1, 1, 1, 1), 76543210.0, dtype=torch.float64)
    expect_close(conv3d_from_conv2d(volume.double(), digits), whole, "voxels 0 to 7 under the weights 1, 10, ..., 10**7")
    two_channels = torch.cat([film, 100 * film], 1)
    both = torch.cat([kernel, kernel], 1)
    expect_close(conv3d_from_conv2d(two_channels, both), 101 * expected, "a second channel 100 times as bright")


@lab.check("conv3d_from_conv2d", points=1)
def agrees_with_library(conv3d_from_conv2d, rng):
    """Equal to the library on volumes of any shape, for both types, in any order of memory."""
    for x_shape, weight_shape, dtype in [
        ((2, 3, 5, 6, 7), (4, 3, 3, 2, 4), torch.float32),
        ((3, 2, 4, 5, 3), (5, 2, 2, 3, 1), torch.float64),
        ((2, 1, 3, 4, 6), (2, 1, 3, 1, 2), torch.float32),
        ((2, 4, 6, 3, 5), (3, 4, 1, 3, 2), torch.float64),
    ]:
        x, weight = normal(rng, *x_shape, dtype=dtype), normal(rng, *weight_shape, dtype=dtype)
        expect_close(conv3d_from_conv2d(x, weight), F.conv3d(x, weight), f"volumes {x_shape}, weight {weight_shape}")
    film = normal(rng, 2, 6, 5, 7, 3).permute(0, 4, 1, 2, 3)  # (2, 3, 6, 5, 7), channels last in memory
    weight = normal(rng, 3, 2, 2, 4, 3).permute(3, 4, 0, 1, 2)  # (4, 3, 3, 2, 2)
    expect_close(conv3d_from_conv2d(film, weight), F.conv3d(film, weight), "a film whose channels stand last in memory")


@lab.check("conv3d_from_conv2d", points=0.5)
def gradients_agree(conv3d_from_conv2d, rng):
    """The gradients of volume and weight are the library's."""
    x, weight = normal(rng, 2, 3, 5, 4, 6), normal(rng, 4, 3, 3, 2, 3)
    expect_close(gradients(conv3d_from_conv2d, x, weight), gradients(F.conv3d, x, weight), "gradients of x and weight")


@lab.check("conv3d_from_conv2d", points=0.5)
def refuses_misfits(conv3d_from_conv2d, rng):
    """Other channels or a kernel that is too long raise ValueError; a kernel as large as the volume does not."""
    x = normal(rng, 2, 3, 4, 5, 6)
    weight = normal(rng, 2, 3, 4, 5, 6)
    expect_close(conv3d_from_conv2d(x, weight), F.conv3d(x, weight), "a kernel as large as the volume")
    expect_raises(ValueError, lambda: conv3d_from_conv2d(x, weight[:, :2]), "3 channels, a weight for 2")
    expect_raises(ValueError, lambda: conv3d_from_conv2d(x[:, :1], weight), "1 channel, a weight for 3")
    expect_raises(ValueError, lambda: conv3d_from_conv2d(x[:, :, 1:], weight), "a kernel of depth 4, a volume of depth 3")
    expect_raises(ValueError, lambda: conv3d_from_conv2d(x[:, :, :, 1:], weight), "a kernel of height 5, a volume of height 4")
    expect_raises(ValueError, lambda: conv3d_from_conv2d(x[..., 1:], weight), "a kernel of width 6, a volume of width 5")

# %% mistake="conv3d_from_conv2d" hint="Your slices hold numbers of several channels: before depth joins the batch it must stand next to it. Exchange the axes C and D, then merge."
def conv3d_from_conv2d(x, weight):
    (N, C, D, H, W), (O, C_weight, kd, kh, kw) = x.shape, weight.shape
    if C_weight != C or kd > D or kh > H or kw > W:
        raise ValueError("shapes")
    out_d = D - kd + 1
    output = 0
    for k in range(kd):
        slices = x[:, :, k : k + out_d].reshape(N * out_d, C, H, W)
        output = output + F.conv2d(slices, weight[:, :, k])
    return output.unflatten(0, (N, out_d)).transpose(1, 2)

# %% mistake="conv3d_from_conv2d" hint="You flattened batch with channels and split the result the same way: bring depth next to the batch before, and move it behind the output channels after."
def conv3d_from_conv2d(x, weight):
    (N, C, D, H, W), (O, C_weight, kd, kh, kw) = x.shape, weight.shape
    if C_weight != C or kd > D or kh > H or kw > W:
        raise ValueError("shapes do not fit")
    out_d = D - kd + 1
    output = 0
    for k in range(kd):
        slices = x[:, :, k : k + out_d].reshape(N * out_d, C, H, W)
        output = output + F.conv2d(slices, weight[:, :, k])
    return output.reshape(N, O, out_d, *output.shape[2:])

# %% mistake="conv3d_from_conv2d" hint="Your result has the depth before the output channels. Exchange the two axes at the end."
def conv3d_from_conv2d(x, weight):
    (N, C, D, H, W), (O, C_weight, kd, kh, kw) = x.shape, weight.shape
    if C_weight != C or kd > D or kh > H or kw > W:
        raise ValueError("shapes")
    out_d = D - kd + 1
    output = 0
    for k in range(kd):
        slices = x[:, :, k : k + out_d].transpose(1, 2).flatten(0, 1)
        output = output + F.conv2d(slices, weight[:, :, k])
    return output.unflatten(0, (N, out_d))

# %% mistake="conv3d_from_conv2d" hint="You reshaped the result into (N, O, depth, ...), which keeps the order of the numbers. Split the batch into (N, depth) first, then exchange the axes."
def conv3d_from_conv2d(x, weight):
    (N, C, D, H, W), (O, C_weight, kd, kh, kw) = x.shape, weight.shape
    if C_weight != C or kd > D or kh > H or kw > W:
        raise ValueError("shapes")
    out_d = D - kd + 1
    output = 0
    for k in range(kd):
        slices = x[:, :, k : k + out_d].transpose(1, 2).flatten(0, 1)
        output = output + F.conv2d(slices, weight[:, :, k])
    return output.reshape(N, O, out_d, H - kh + 1, W - kw + 1)

# %% mistake="conv3d_from_conv2d" hint="Your kernel is turned around along the depth: its first slice belongs to the first slice of the window."
def conv3d_from_conv2d(x, weight):
    (N, C, D, H, W), (O, C_weight, kd, kh, kw) = x.shape, weight.shape
    if C_weight != C or kd > D or kh > H or kw > W:
        raise ValueError("shapes")
    out_d = D - kd + 1
    output = 0
    for k in range(kd):
        slices = x[:, :, k : k + out_d].transpose(1, 2).flatten(0, 1)
        output = output + F.conv2d(slices, weight[:, :, kd - 1 - k])
    return output.unflatten(0, (N, out_d)).transpose(1, 2)

# %% mistake="conv3d_from_conv2d" hint="Every slice of the kernel meets the same slices of the volume in your code. Kernel slice k meets volume slice d + k."
def conv3d_from_conv2d(x, weight):
    (N, C, D, H, W), (O, C_weight, kd, kh, kw) = x.shape, weight.shape
    if C_weight != C or kd > D or kh > H or kw > W:
        raise ValueError("shapes")
    out_d = D - kd + 1
    output = 0
    for k in range(kd):
        slices = x[:, :, :out_d].transpose(1, 2).flatten(0, 1)
        output = output + F.conv2d(slices, weight[:, :, k])
    return output.unflatten(0, (N, out_d)).transpose(1, 2)

# %% mistake="conv3d_from_conv2d" hint="Your result is as deep as the volume: you padded the depth. Only windows that lie inside count."
def conv3d_from_conv2d(x, weight):
    (N, C, D, H, W), (O, C_weight, kd, kh, kw) = x.shape, weight.shape
    if C_weight != C or kd > D or kh > H or kw > W:
        raise ValueError("shapes")
    x = F.pad(x, (0, 0, 0, 0, (kd - 1) // 2, kd // 2))
    out_d = D
    output = 0
    for k in range(kd):
        slices = x[:, :, k : k + out_d].transpose(1, 2).flatten(0, 1)
        output = output + F.conv2d(slices, weight[:, :, k])
    return output.unflatten(0, (N, out_d)).transpose(1, 2)

# %% mistake="conv3d_from_conv2d" hint="Your windows do not overlap along the depth: they move by kd slices, not by one."
def conv3d_from_conv2d(x, weight):
    (N, C, D, H, W), (O, C_weight, kd, kh, kw) = x.shape, weight.shape
    if C_weight != C or kd > D or kh > H or kw > W:
        raise ValueError("shapes")
    out_d = D // kd
    output = 0
    for k in range(kd):
        slices = x[:, :, k : kd * out_d : kd].transpose(1, 2).flatten(0, 1)
        output = output + F.conv2d(slices, weight[:, :, k])
    return output.unflatten(0, (N, out_d)).transpose(1, 2)

# %% mistake="conv3d_from_conv2d" hint="You averaged over the depth of the kernel. A convolution adds up."
def conv3d_from_conv2d(x, weight):
    (N, C, D, H, W), (O, C_weight, kd, kh, kw) = x.shape, weight.shape
    if C_weight != C or kd > D or kh > H or kw > W:
        raise ValueError("shapes")
    out_d = D - kd + 1
    output = 0
    for k in range(kd):
        slices = x[:, :, k : k + out_d].transpose(1, 2).flatten(0, 1)
        output = output + F.conv2d(slices, weight[:, :, k]) / kd
    return output.unflatten(0, (N, out_d)).transpose(1, 2)

# %% mistake="conv3d_from_conv2d" hint="Only the last slice of your kernel has an effect: the loop overwrites the sum instead of adding to it."
def conv3d_from_conv2d(x, weight):
    (N, C, D, H, W), (O, C_weight, kd, kh, kw) = x.shape, weight.shape
    if C_weight != C or kd > D or kh > H or kw > W:
        raise ValueError("shapes")
    out_d = D - kd + 1
    output = 0
    for k in range(kd):
        slices = x[:, :, k : k + out_d].transpose(1, 2).flatten(0, 1)
        output = F.conv2d(slices, weight[:, :, k])
    return output.unflatten(0, (N, out_d)).transpose(1, 2)

# %% mistake="conv3d_from_conv2d" hint="Your result is always float32. Begin the sum with zeros of the input's type (`x.new_zeros`), or with plain 0."
def conv3d_from_conv2d(x, weight):
    (N, C, D, H, W), (O, C_weight, kd, kh, kw) = x.shape, weight.shape
    if C_weight != C or kd > D or kh > H or kw > W:
        raise ValueError("shapes")
    out_d = D - kd + 1
    output = 0
    for k in range(kd):
        slices = x[:, :, k : k + out_d].transpose(1, 2).flatten(0, 1)
        output = output + F.conv2d(slices, weight[:, :, k])
    return output.float().unflatten(0, (N, out_d)).transpose(1, 2)

# %% mistake="conv3d_from_conv2d" hint="Your values are right, but the gradient is lost: `.detach()`, `.data` or a tensor rebuilt from numbers cut it off."
def conv3d_from_conv2d(x, weight):
    (N, C, D, H, W), (O, C_weight, kd, kh, kw) = x.shape, weight.shape
    if C_weight != C or kd > D or kh > H or kw > W:
        raise ValueError("shapes")
    out_d = D - kd + 1
    output = 0
    for k in range(kd):
        slices = x[:, :, k : k + out_d].transpose(1, 2).flatten(0, 1)
        output = output + F.conv2d(slices.detach(), weight[:, :, k].detach())
    return output.unflatten(0, (N, out_d)).transpose(1, 2)

# %% mistake="conv3d_from_conv2d" hint="Your sums are right, but shapes that do not fit end in another error, or in none. Compare channels and all three axes first, and raise ValueError."
def conv3d_from_conv2d(x, weight):
    (N, C, D, H, W), (O, C_weight, kd, kh, kw) = x.shape, weight.shape
    out_d = D - kd + 1
    output = 0
    for k in range(kd):
        slices = x[:, :, k : k + out_d].transpose(1, 2).flatten(0, 1)
        output = output + F.conv2d(slices, weight[:, :, k])
    return output.unflatten(0, (N, out_d)).transpose(1, 2)

# %% alternative="conv3d_from_conv2d"
def conv3d_from_conv2d(x, weight):
    if x.shape[1] != weight.shape[1] or any(k > n for k, n in zip(weight.shape[2:], x.shape[2:])):
        raise ValueError(f"x {tuple(x.shape)} and weight {tuple(weight.shape)} do not fit")
    kd = weight.shape[2]
    slices = []
    for d in range(x.shape[2] - kd + 1):
        slices.append(sum(F.conv2d(x[:, :, d + k], weight[:, :, k]) for k in range(kd)))
    return torch.stack(slices, 2)

# %% alternative="conv3d_from_conv2d"
def conv3d_from_conv2d(x, weight):
    N, C, D, H, W = x.shape
    O, channels, kd, kh, kw = weight.shape
    if channels != C or kd > D or kh > H or kw > W:
        raise ValueError(f"weight {tuple(weight.shape)} does not fit {tuple(x.shape)}")
    # The depth of the window becomes more channels, so that one call does all.
    windows = x.unfold(2, kd, 1).permute(0, 2, 1, 5, 3, 4)  # (N, out_d, C, kd, H, W)
    output = F.conv2d(windows.reshape(-1, C * kd, H, W), weight.flatten(1, 2))  # (N * out_d, O, out_h, out_w)
    return output.unflatten(0, (N, -1)).movedim(1, 2)

# %% [markdown]
# A film is a volume. In this one a handwritten 3 moves two pixels to the right in each frame, behind noise. A kernel of depth 5 averages
# five frames: straight along time, or along the movement, with one weight a slice, two pixels further each time.
#
# **Predict first.** What does each of the two leave of the 3, and of the noise?

# %%
if lab.ready("conv3d_from_conv2d"):
    images, _ = datasets.digits()
    film = torch.zeros(1, 1, 9, 10, 30)  # (N, C, time, H, W)
    for t in range(9):
        film[0, 0, t, 1:9, 2 + 2 * t : 10 + 2 * t] = images[3, 0]
    noisy = film + 0.4 * torch.randn(film.shape, generator=torch.Generator().manual_seed(0))
    kernels = torch.zeros(2, 1, 5, 1, 9)  # (O, C, kd, kh, kw)
    for t in range(5):
        kernels[0, 0, t, 0, 4] = 1 / 5  # standing still
        kernels[1, 0, t, 0, 2 * t] = 1 / 5  # moving along
    straight, along = conv3d_from_conv2d(noisy, kernels)[0, :, 2]  # (10, 22) each: frames 2 to 6, columns 4 to 25 of the film
    pictures = [film[0, 0, 4, :, 4:26], noisy[0, 0, 4, :, 4:26], straight, along]
    fig = plots.image_row(pictures, ["frame 4", "with noise", "mean along time", "mean along the movement"], height=1)
    plots.show(fig, alt="A 3; the 3 lost in noise; a grey smear, averaged in place; the 3 again, averaged along its movement.")

# %% [markdown] written="two_small_kernels" points=2
# ## Exercise 10: choose between two small kernels and a large one (2 points, 10 minutes)
#
# A layer with a 5 × 5 kernel maps $C$ channels to $C$ channels on an $H \times W$ map. You may put two layers with 3 × 3 kernels in its
# place, $C$ channels in between, a ReLU after each, everything padded so that the map keeps its size. Compare the two choices, with
# numbers: receptive field, parameters and multiply-adds (without biases), what each can and cannot compute, and the memory that training
# needs (the backward pass of a layer needs its input, so training keeps every map in between). Then say when you would **not** replace the
# large kernel. About 150 words; use your `receptive_field` and `conv_cost`.
#
# **Model answer.**
#
# *Field.* The first 3 × 3 sees 3 pixels along an axis, the second adds 2 steps of jump 1: 5 pixels, with start 0 in both cases.
#
# *Cost.* $2 \cdot 9\,C^2 = 18\,C^2$ weights against $25\,C^2$, so 28 % fewer. Each weight is used at all $H W$ positions, so the
# multiply-adds are $18\,C^2 H W$ against $25\,C^2 H W$: the same 28 % less.
#
# *Functions.* Without the ReLU in between, two 3 × 3 layers are one linear 5 × 5 layer (away from the border), and one of a restricted
# kind: $18\,C^2$ numbers cannot reach all kernels of $25\,C^2$. The ReLU in between lets the pair compute functions of the same pixels
# that a single 5 × 5 layer with one ReLU cannot. Neither choice contains the other.
#
# *Memory.* Training keeps what the backward pass needs: the map in between comes on top, $C H W$ numbers an image (once more if the ReLU
# does not work in place). In the first layers of a network, where maps are large and weights few, this costs more than the saved weights
# give.
#
# *When not.* With few input channels the sum changes: from 3 channels to 64, one 5 × 5 has $25 \cdot 3 \cdot 64 = 4800$ weights, the pair
# $9 \cdot 3 \cdot 64 + 9 \cdot 64 \cdot 64 = 38592$. Other good reasons: depthwise layers, where moving maps through memory takes longer
# than the arithmetic, and a kernel that is known beforehand, such as a blur.
#
# **Rubric.**
#
# - 0.5: field 5 in both cases with a reason, and 18 $C^2$ against 25 $C^2$ for parameters and, times $H W$, for multiply-adds.
# - 0.5: the non-linearity in between is what makes the pair more than one linear layer; without it the pair is a (restricted) 5 × 5.
# - 0.5: one more map to keep for the backward pass, $C H W$ numbers an image, named as the price.
# - 0.5: one sound case against the replacement, with a number or a reason.

# %% [markdown]
# ## What the product buys
#
# Three functions now compute the same convolution: your loops, your product of copied windows, and the library. All three do the same
# multiplications. How far apart are they in time?
#
# We time them in one process on one thread: 2 images of 8 channels and 24 × 30 pixels, a weight of 16 × 8 × 3 × 3. A ratio of times
# from one run depends less on the machine than the times themselves. The numbers below were measured with the functions of the solution.
#
# **Predict first.** By which factor do the loops fall behind the product, and the product behind the library?

# %% measure="im2col_ratios" seeds=5
def process_time(function, repeats):
    """The shortest processor time of several calls, in seconds: whatever else the machine does can only add to it."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return min(times)


def im2col_ratios(seed):
    """Ratios of processor time on one thread, one run: the product against the library, the loops against the product."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 8, 24, 30, generator=generator)
    weight = torch.randn(16, 8, 3, 3, generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        library = process_time(lambda: F.conv2d(x, weight, padding=1), 50)
        product = process_time(lambda: conv2d_im2col(x, weight, padding=1), 50)
        loops = process_time(lambda: conv2d_loops(x, weight, padding=1), 2)
    finally:
        torch.set_num_threads(threads)
    return {"im2col / library": product / library, "loops / im2col": loops / product}


# %%
records = measurements.load("01_convolution_arithmetic", "im2col_ratios")  # one dictionary a seed
behind = np.array([record["im2col / library"] for record in records])
ahead = np.array([record["loops / im2col"] for record in records])
print(f"im2col / library: {behind.mean():5.1f} +- {behind.std(ddof=1):.1f} ({len(records)} runs)")
print(f"loops / im2col:   {ahead.mean():5.1f} +- {ahead.std(ddof=1):.1f} ({len(records)} runs)")
assert behind.max() < 10 and ahead.min() > 10
fig, ax = plt.subplots(figsize=(6, 3))
for row, (times, color) in enumerate([(np.ones(len(records)), "C1"), (behind, "C0"), (behind * ahead, "C0")]):
    ax.scatter(times, np.full(len(records), row), color=color)
ax.set(xscale="log", xlabel="processor time, library = 1", ylim=(2.5, -0.5), title="Copied windows come close to the library, loops do not")
ax.set_yticks(range(3), ["library", "im2col", "loops"])
plots.show(fig, alt="Time on a logarithmic axis, five runs: the library at 1, im2col a small factor behind, the loops far behind both.")

# %% tags=["volatile"]
if lab.ready("conv2d_im2col") and lab.ready("conv2d_loops"):
    live = im2col_ratios(seed=0)
    print(f"your functions, here and now: im2col / library {live['im2col / library']:.1f}, loops / im2col {live['loops / im2col']:.1f}")
    # Loops over the kernel's offsets instead of the positions can come close to the product, but not to the library.
    assert live["im2col / library"] * live["loops / im2col"] > 1

# %% [markdown]
# If the first number of your own run is far above that of the stored runs, your `im2col` walks over places; one slice a kernel cell
# (exercise 4, hint 2) does the same with a handful of copies. Nothing was saved in arithmetic, and the copies of the windows even cost memory. What the product buys is one call into code that reads
# its numbers in order. The library can go one step further and do without the copies.

# %%
lab.progress()
