# %% [markdown]
# # Lab 02: transposed convolution
#
# The lecture enlarged signals along one axis. Here you enlarge images: you find the size, un-pool in two ways, write the transposed
# convolution **three times** (as stamps, as a convolution of an image full of zeros, as a matrix product), give it bilinear weights, count
# where its stamps overlap, and build a layer that cannot leave a checkerboard. At the end you know what each of the three costs.
#
# **You need** the [lecture](../../lectures/02_transposed_convolution.ipynb). **Time:** about 120 minutes for the exercises, and some for the pictures. **Points:** 25, of them 2 for
# a written answer that is graded by hand.
#
# **How feedback works.** Write your code in the cell that says `YOUR CODE HERE`, run it, then run the check cell below it. The check shows
# what it tried, what it expected and what came back, and it knows the common mistakes by name. Hints are folded under each statement:
# open one when you are stuck, not before. Grading runs the same checks on other random inputs of the same kind.

# %% tags=["setup"]
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import datasets, measurements, plots
from course_lib.checks import Lab, expect_close, expect_equal, expect_raises, expect_true, gradients, normal

lab = Lab("02_transposed_convolution")


def pair(value) -> tuple[int, int]:
    """An int, or a pair of them (rows, columns), as a pair."""
    return (value, value) if isinstance(value, int) else tuple(value)


def library_transposed_output_size(n, kernel_size, stride=1, padding=0, output_padding=0, dilation=1):
    """What a check puts in the place of your `transposed_output_size` where it judges a later exercise."""
    try:
        signal, kernel = torch.zeros(1, 1, n), torch.zeros(1, 1, kernel_size)
        return F.conv_transpose1d(signal, kernel, None, stride, padding, output_padding, 1, dilation).shape[-1]
    except RuntimeError as error:
        raise ValueError(f"the library refuses these arguments: {error}") from None


def library_bed_of_nails(x, factor):
    """What a check puts in the place of your `bed_of_nails` where it judges a later exercise."""
    nail = F.pad(x.new_ones(1, 1, 1, 1), (0, pair(factor)[1] - 1, 0, pair(factor)[0] - 1))
    return F.conv_transpose2d(x, nail.repeat(x.shape[1], 1, 1, 1), stride=pair(factor), groups=x.shape[1])


def library_conv_transpose2d(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    """What a check puts in the place of your `conv_transpose2d_scatter` where it judges a later exercise."""
    try:
        return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding)
    except RuntimeError as error:
        raise ValueError(f"the library refuses these arguments: {error}") from None


def gradients_of_parameters(module, x, weights):
    """The gradient of `(module(x) * weights).sum()` with respect to every parameter of a module, by name."""
    names, parameters = zip(*module.named_parameters())
    found = torch.autograd.grad((module(x) * weights).sum(), parameters, allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for name, p, g in zip(names, parameters, found)}


# %% [markdown]
# Where an argument may be **an int or a pair**, a pair means (rows, columns), and an int means the same for both. The given function
# `pair` turns either into a pair. Images are `(N, C, H, W)`. The weight of a transposed convolution has the shape that PyTorch gives it,
# `(C_in, C_out, kh, kw)`: the channels of the input come **first**.

# %% [markdown]
# ## Exercise 1: count the cells that the stamps cover (2 points, 10 minutes)
#
# Complete `transposed_output_size`: how long is the result of a transposed convolution along one axis?
#
# - Each of the `n` inputs leaves a stamp of `kernel_size` cells. With `dilation` $d$ these cells are $d$ apart.
# - The stamps of neighbours start `stride` cells apart. The canvas reaches from the first cell of the first stamp to the last cell of the
#   last one.
# - `padding` cells are then cut off at **both** ends of the canvas.
# - `output_padding` cells are added at the **far end** only.
#
# Return an `int`. Raise `ValueError`
#
# - when `n`, `kernel_size`, `stride` or `dilation` is under 1,
# - when `padding` or `output_padding` is negative,
# - when `output_padding` is not smaller than the larger one of `stride` and `dilation` (PyTorch's rule),
# - when no cell is left.
#
# <details><summary>Hint 1</summary>
#
# Draw 3 inputs, a stamp of 4 cells and stride 2 on paper. Where does the first stamp start? Where does the last one start and end?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Between the first and the last start lie `n - 1` steps. A dilated stamp reaches over `dilation * (kernel_size - 1) + 1` cells.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# Canvas: `n - 1` strides and one stamp. Then cut twice, and add once. Check the arguments before, and that at least one cell is left after.
#
# </details>

# %% exercise="transposed_output_size"
def transposed_output_size(
    n: int, kernel_size: int, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> int:
    """Number of outputs of a transposed convolution along one axis.

    Args:
        n: cells of the input, at least 1.
        kernel_size: cells that one input writes, at least 1.
        stride: cells between the stamps of two neighbours, at least 1.
        padding: cells cut off at each end, at least 0.
        output_padding: cells added at the far end, at least 0, smaller than stride or smaller than dilation.
        dilation: distance of two cells of a stamp, at least 1.

    Returns:
        The length of the output, at least 1.

    Raises:
        ValueError: an argument is out of its range, or nothing is left.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, relationship 14 (section 4.6).
    Reference: the shape of torch.nn.functional.conv_transpose1d.
    """
    ### BEGIN SOLUTION
    for name, value, least in [
        ("n", n, 1), ("kernel_size", kernel_size, 1), ("stride", stride, 1), ("dilation", dilation, 1),
        ("padding", padding, 0), ("output_padding", output_padding, 0),
    ]:
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if output_padding >= max(stride, dilation):
        raise ValueError(f"output_padding must be smaller than stride {stride} or dilation {dilation}, got {output_padding}")
    canvas = (n - 1) * stride + dilation * (kernel_size - 1) + 1
    size = canvas - 2 * padding + output_padding
    if size < 1:
        raise ValueError(f"padding: cutting {padding} cells off both ends of {canvas} cells leaves nothing")
    return size
    ### END SOLUTION

# %% check="transposed_output_size" points=2
def painted_cells(n, kernel_size, stride, dilation):
    """The canvas, stamp by stamp: the distance from the first cell that is written to the last one, both counted."""
    written = {i * stride + j * dilation for i in range(n) for j in range(kernel_size)}
    return max(written) - min(written) + 1


@lab.check("transposed_output_size", points=1)
def counted_by_hand(transposed_output_size):
    """Sizes one can count on paper: plain, with gaps, cut, added to, dilated, and a single cell."""
    expect_equal(transposed_output_size(3, 4, stride=2), 8, "3 inputs, stamps of 4, stride 2")
    expect_equal(transposed_output_size(5, 3), 7, "5 inputs, stamps of 3, stride 1")
    expect_equal(transposed_output_size(3, 1, stride=3), 7, "3 inputs, stamps of 1, stride 3: gaps between them, none behind them")
    expect_equal(transposed_output_size(4, 4, stride=2, padding=1), 8, "4 inputs, stamps of 4, stride 2, padding 1: exactly doubled")
    expect_equal(transposed_output_size(4, 3, stride=2, padding=1, output_padding=1), 8, "4 inputs, stamps of 3, both paddings 1")
    expect_equal(transposed_output_size(2, 3, dilation=3), 8, "2 inputs, stamps of 3 cells that are 3 apart")
    expect_equal(transposed_output_size(1, 1, stride=7), 1, "one input, a stamp of one cell")


@lab.check("transposed_output_size", points=0.5)
def counted_stamp_by_stamp(transposed_output_size, rng):
    """The length of a canvas on which the cells of every stamp are marked one by one, cut and added to, for any arguments."""
    cases = [(5, 4, 3, 1, 2, 1), (6, 3, 2, 2, 2, 4), (4, 5, 4, 3, 1, 2)]
    for _ in range(20):
        n, kernel_size, stride, dilation = (int(v) for v in rng.integers([2, 1, 1, 1], [9, 6, 5, 4]))
        padding = int(rng.integers(0, (painted_cells(n, kernel_size, stride, dilation) - 1) // 2 + 1))
        cases.append((n, kernel_size, stride, padding, int(rng.integers(0, max(stride, dilation))), dilation))
    for case in cases:
        n, kernel_size, stride, padding, output_padding, dilation = case
        expected = painted_cells(n, kernel_size, stride, dilation) - 2 * padding + output_padding
        words = "n={}, kernel_size={}, stride={}, padding={}, output_padding={}, dilation={}".format(*case)
        expect_equal(transposed_output_size(*case), expected, words)


@lab.check("transposed_output_size", points=0.5)
def refuses_nonsense(transposed_output_size):
    """Illegal values raise ValueError; their legal neighbours do not."""
    expect_raises(ValueError, lambda: transposed_output_size(0, 5), "no input")
    expect_equal(transposed_output_size(1, 5), 5, "one input")
    expect_raises(ValueError, lambda: transposed_output_size(5, 0), "stamps of 0 cells")
    expect_raises(ValueError, lambda: transposed_output_size(5, 3, stride=0), "stride 0")
    expect_raises(ValueError, lambda: transposed_output_size(5, 3, dilation=0), "dilation 0")
    expect_raises(ValueError, lambda: transposed_output_size(5, 3, padding=-1), "padding -1")
    expect_raises(ValueError, lambda: transposed_output_size(5, 3, stride=2, output_padding=-1), "output_padding -1")
    expect_raises(ValueError, lambda: transposed_output_size(5, 3, stride=2, output_padding=2), "output_padding 2, stride 2")
    expect_equal(transposed_output_size(5, 3, stride=3, output_padding=2), 17, "output_padding 2, stride 3")
    expect_equal(transposed_output_size(5, 3, stride=2, output_padding=2, dilation=3), 17, "output_padding 2, stride 2, dilation 3")
    expect_raises(ValueError, lambda: transposed_output_size(2, 3, padding=2), "4 cells, 2 cut off at both ends")
    expect_equal(transposed_output_size(3, 3, padding=2), 1, "5 cells, 2 cut off at both ends")

# %% mistake="transposed_output_size" hint="You counted one stride for each input. Between n stamps there are n - 1 steps; the last stamp brings its own width."
def transposed_output_size(n, kernel_size, stride=1, padding=0, output_padding=0, dilation=1):
    if min(n, kernel_size, stride, dilation) < 1 or min(padding, output_padding) < 0 or output_padding >= max(stride, dilation):
        raise ValueError("illegal")
    size = n * stride + dilation * (kernel_size - 1) + 1 - 2 * padding + output_padding
    if size < 1:
        raise ValueError("nothing is left")
    return size

# %% mistake="transposed_output_size" hint="You left out the last stamp: after n - 1 steps a whole stamp still lies on the canvas, not a single cell."
def transposed_output_size(n, kernel_size, stride=1, padding=0, output_padding=0, dilation=1):
    if min(n, kernel_size, stride, dilation) < 1 or min(padding, output_padding) < 0 or output_padding >= max(stride, dilation):
        raise ValueError("illegal")
    size = (n - 1) * stride + 1 - 2 * padding + output_padding
    if size < 1:
        raise ValueError("nothing is left")
    return size

# %% mistake="transposed_output_size" hint="You cut padding off once. It is cut off at both ends of the canvas."
def transposed_output_size(n, kernel_size, stride=1, padding=0, output_padding=0, dilation=1):
    if min(n, kernel_size, stride, dilation) < 1 or min(padding, output_padding) < 0 or output_padding >= max(stride, dilation):
        raise ValueError("illegal")
    size = (n - 1) * stride + dilation * (kernel_size - 1) + 1 - padding + output_padding
    if size < 1:
        raise ValueError("nothing is left")
    return size

# %% mistake="transposed_output_size" hint="Your padding makes the output longer, as in a convolution. Here it does the opposite: it cuts cells off."
def transposed_output_size(n, kernel_size, stride=1, padding=0, output_padding=0, dilation=1):
    if min(n, kernel_size, stride, dilation) < 1 or min(padding, output_padding) < 0 or output_padding >= max(stride, dilation):
        raise ValueError("illegal")
    size = (n - 1) * stride + dilation * (kernel_size - 1) + 1 + 2 * padding + output_padding
    if size < 1:
        raise ValueError("nothing is left")
    return size

# %% mistake="transposed_output_size" hint="You added output_padding at both ends. It is added at the far end only."
def transposed_output_size(n, kernel_size, stride=1, padding=0, output_padding=0, dilation=1):
    if min(n, kernel_size, stride, dilation) < 1 or min(padding, output_padding) < 0 or output_padding >= max(stride, dilation):
        raise ValueError("illegal")
    size = (n - 1) * stride + dilation * (kernel_size - 1) + 1 - 2 * padding + 2 * output_padding
    if size < 1:
        raise ValueError("nothing is left")
    return size

# %% mistake="transposed_output_size" hint="output_padding has no effect in your formula. It is added once, at the far end."
def transposed_output_size(n, kernel_size, stride=1, padding=0, output_padding=0, dilation=1):
    if min(n, kernel_size, stride, dilation) < 1 or min(padding, output_padding) < 0 or output_padding >= max(stride, dilation):
        raise ValueError("illegal")
    size = (n - 1) * stride + dilation * (kernel_size - 1) + 1 - 2 * padding
    if size < 1:
        raise ValueError("nothing is left")
    return size

# %% mistake="transposed_output_size" hint="A dilated stamp reaches over dilation * (kernel_size - 1) + 1 cells: there are kernel_size - 1 gaps, not kernel_size."
def transposed_output_size(n, kernel_size, stride=1, padding=0, output_padding=0, dilation=1):
    if min(n, kernel_size, stride, dilation) < 1 or min(padding, output_padding) < 0 or output_padding >= max(stride, dilation):
        raise ValueError("illegal")
    size = (n - 1) * stride + dilation * kernel_size - 2 * padding + output_padding
    if size < 1:
        raise ValueError("nothing is left")
    return size

# %% mistake="transposed_output_size" hint="The dilation has no effect in your formula. Which cells does a dilated stamp reach?"
def transposed_output_size(n, kernel_size, stride=1, padding=0, output_padding=0, dilation=1):
    if min(n, kernel_size, stride, dilation) < 1 or min(padding, output_padding) < 0 or output_padding >= max(stride, dilation):
        raise ValueError("illegal")
    size = (n - 1) * stride + kernel_size - 2 * padding + output_padding
    if size < 1:
        raise ValueError("nothing is left")
    return size

# %% mistake="transposed_output_size" hint="That is the size of an ordinary convolution, which slides a window and shrinks. Here every input writes a stamp and the output grows."
def transposed_output_size(n, kernel_size, stride=1, padding=0, output_padding=0, dilation=1):
    if min(n, kernel_size, stride, dilation) < 1 or min(padding, output_padding) < 0 or output_padding >= max(stride, dilation):
        raise ValueError("illegal")
    size = max(1, (n + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1)
    if size < 1:
        raise ValueError("nothing is left")
    return size

# %% mistake="transposed_output_size" hint="Your sizes are right, but illegal arguments pass. Check each argument before you compute."
def transposed_output_size(n, kernel_size, stride=1, padding=0, output_padding=0, dilation=1):
    return (n - 1) * stride + dilation * (kernel_size - 1) + 1 - 2 * padding + output_padding

# %% mistake="transposed_output_size" hint="An output_padding as large as stride and dilation passes. It chooses among the sizes that the convolution maps to the same n, so it stays below the larger one of the two."
def transposed_output_size(n, kernel_size, stride=1, padding=0, output_padding=0, dilation=1):
    if min(n, kernel_size, stride, dilation) < 1 or min(padding, output_padding) < 0:
        raise ValueError("illegal")
    size = (n - 1) * stride + dilation * (kernel_size - 1) + 1 - 2 * padding + output_padding
    if size < 1:
        raise ValueError("nothing is left")
    return size

# %% mistake="transposed_output_size" hint="You compare output_padding with the stride alone. It is legal when it is smaller than the stride or smaller than the dilation."
def transposed_output_size(n, kernel_size, stride=1, padding=0, output_padding=0, dilation=1):
    if min(n, kernel_size, stride, dilation) < 1 or min(padding, output_padding) < 0 or output_padding >= stride:
        raise ValueError("illegal")
    size = (n - 1) * stride + dilation * (kernel_size - 1) + 1 - 2 * padding + output_padding
    if size < 1:
        raise ValueError("nothing is left")
    return size

# %% mistake="transposed_output_size" hint="You return 0 or a negative size where padding cuts everything off. That is a ValueError."
def transposed_output_size(n, kernel_size, stride=1, padding=0, output_padding=0, dilation=1):
    if min(n, kernel_size, stride, dilation) < 1 or min(padding, output_padding) < 0 or output_padding >= max(stride, dilation):
        raise ValueError("illegal")
    return (n - 1) * stride + dilation * (kernel_size - 1) + 1 - 2 * padding + output_padding

# %% alternative="transposed_output_size"
def transposed_output_size(n, kernel_size, stride=1, padding=0, output_padding=0, dilation=1):
    if min(n, kernel_size, stride, dilation) < 1 or padding < 0 or not 0 <= output_padding < max(stride, dilation):
        raise ValueError(f"illegal argument: {n=}, {kernel_size=}, {stride=}, {padding=}, {output_padding=}, {dilation=}")
    last = (n - 1) * stride + (kernel_size - 1) * dilation  # the last cell that a stamp writes, the first one being 0
    kept = range(padding, last - padding + 1 + output_padding)
    if len(kept) == 0:
        raise ValueError(f"{padding=} leaves nothing of {last + 1} cells")
    return len(kept)

# %% [markdown]
# Why is there an `output_padding`? A convolution with stride 2 sends inputs of 7 and of 8 cells to the same number of outputs. On the way
# back one has to say which of the two is meant.

# %%
if lab.ready("transposed_output_size"):
    for n in (7, 8):
        down = F.conv1d(torch.zeros(1, 1, n), torch.zeros(1, 1, 3), stride=2, padding=1).shape[-1]
        sizes = [transposed_output_size(down, 3, stride=2, padding=1, output_padding=extra) for extra in (0, 1)]
        print(f"{n} cells -> {down} outputs -> back to {sizes[0]} (output_padding 0) or {sizes[1]} (output_padding 1)")

# %% [markdown]
# ## Exercise 2: put pixels on a bed of nails (1 point, 5 minutes)
#
# Complete `bed_of_nails`: each pixel becomes a block of `factor` $= (f_h, f_w)$ pixels, an int or a pair. The pixel itself stands in the
# **upper left** corner of its block, the rest of the block is 0. An image of $H \times W$ pixels becomes $f_h H \times f_w W$.
#
# The result has the type of `x`, and gradients flow through it. Raise `ValueError` when a factor is under 1. The library's convolutions and
# un-pooling are off limits.
#
# <details><summary>Hint 1</summary>
#
# Start with an image of zeros of the final size. In which rows and columns of it do the pixels of `x` stand?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# A slice with a step, `zeros[:, :, ::2]`, is every second row, and one can assign to it. `x.new_zeros(…)` makes zeros of the type of `x`.
#
# </details>

# %% exercise="bed_of_nails"
def bed_of_nails(x: Tensor, factor: int | tuple[int, int]) -> Tensor:
    """Enlarge images with zeros: each pixel stands in the upper left corner of a block of zeros.

    Args:
        x: (N, C, H, W), images.
        factor: int or pair (rows, columns), pixels of a block, at least 1.

    Returns:
        (N, C, factor * H, factor * W), the type of x.

    Raises:
        ValueError: a factor is under 1.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, section 4.4 (zeros between the inputs).
    Reference: torch.kron(x, block), with a block of zeros whose upper left cell is 1.
    """
    ### BEGIN SOLUTION
    fh, fw = pair(factor)
    if fh < 1 or fw < 1:
        raise ValueError(f"factor must be at least 1, got {factor}")
    nails = x.new_zeros(*x.shape[:2], fh * x.shape[2], fw * x.shape[3])
    nails[:, :, ::fh, ::fw] = x
    return nails
    ### END SOLUTION

# %% check="bed_of_nails" points=1
def nail(factor, dtype):
    """One block: 1 in its upper left corner, 0 elsewhere."""
    block = torch.zeros(pair(factor), dtype=dtype)
    block[0, 0] = 1
    return block


@lab.check("bed_of_nails", points=0.5, forbid=("convolution", "unpool"))
def by_hand(bed_of_nails):
    """A row of two pixels and a factor of 2, blocks that are not square, a factor of 1, and factors that do not exist."""
    x = torch.tensor([[[[1.0, 2]]]])
    expect_close(bed_of_nails(x, 2), torch.tensor([[[[1.0, 0, 2, 0], [0, 0, 0, 0]]]]), "one row: 1 2, factor 2")
    expect_close(bed_of_nails(x, (1, 3)), torch.tensor([[[[1.0, 0, 0, 2, 0, 0]]]]), "one row: 1 2, factor (1, 3)")
    expect_close(bed_of_nails(x, (2, 1)), torch.tensor([[[[1.0, 2], [0, 0]]]]), "one row: 1 2, factor (2, 1)")
    expect_close(bed_of_nails(x, 1), x, "factor 1 changes nothing")
    expect_raises(ValueError, lambda: bed_of_nails(x, 0), "factor 0")
    expect_raises(ValueError, lambda: bed_of_nails(x, (2, -1)), "factor (2, -1)")
    expect_raises(ValueError, lambda: bed_of_nails(x, (-1, 2)), "factor (-1, 2)")


@lab.check("bed_of_nails", points=0.5, forbid=("convolution", "unpool"))
def agrees_with_kron(bed_of_nails, rng):
    """Equal to `torch.kron` with a block that holds a single 1: values in the type of `x`, and gradients."""
    f = int(rng.integers(2, 5))
    cases = [((2, 3, 4, 5), 2, torch.float32), ((3, 2, 5, 3), (2, 3), torch.float64), ((2, 2, 3, 4), (f, 1), torch.float32)]
    for shape, factor, dtype in cases:
        x = normal(rng, *shape, dtype=dtype)
        case = f"x {shape} of type {str(dtype)[6:]}, factor {factor}"
        block = nail(factor, dtype)
        expect_close(bed_of_nails(x, factor), torch.kron(x, block), case)
        ours = gradients(lambda x: bed_of_nails(x, factor), x)
        expect_close(ours, gradients(lambda x: torch.kron(x, block), x), f"{case}: gradient")
    swapped = normal(rng, 2, 3, 5, 4).transpose(2, 3)
    expected = torch.kron(swapped.contiguous(), nail((3, 2), torch.float32))
    expect_close(bed_of_nails(swapped, (3, 2)), expected, "rows and columns of x swapped by a transpose, factor (3, 2)")

# %% mistake="bed_of_nails" hint="You filled whole blocks: that is nearest neighbour. On a bed of nails only the upper left pixel of a block is not 0."
def bed_of_nails(x, factor):
    fh, fw = pair(factor)
    if min(fh, fw) < 1:
        raise ValueError("factor")
    return x.repeat_interleave(fh, 2).repeat_interleave(fw, 3)

# %% mistake="bed_of_nails" hint="Your pixels stand in the middle of their blocks. They stand in the upper left corner."
def bed_of_nails(x, factor):
    fh, fw = pair(factor)
    if min(fh, fw) < 1:
        raise ValueError("factor")
    nails = x.new_zeros(*x.shape[:2], fh * x.shape[2], fw * x.shape[3])
    nails[:, :, fh // 2 :: fh, fw // 2 :: fw] = x
    return nails

# %% mistake="bed_of_nails" hint="Your result ends with the last pixel. Its block, zeros included, is part of it: the size is factor times the old one."
def bed_of_nails(x, factor):
    fh, fw = pair(factor)
    if min(fh, fw) < 1:
        raise ValueError("factor")
    nails = x.new_zeros(*x.shape[:2], fh * (x.shape[2] - 1) + 1, fw * (x.shape[3] - 1) + 1)
    nails[:, :, ::fh, ::fw] = x
    return nails

# %% mistake="bed_of_nails" hint="You put `factor` zeros between two pixels. A block holds `factor` pixels, so there are factor - 1 zeros."
def bed_of_nails(x, factor):
    fh, fw = pair(factor)
    if min(fh, fw) < 1:
        raise ValueError("factor")
    nails = x.new_zeros(*x.shape[:2], (fh + 1) * x.shape[2], (fw + 1) * x.shape[3])
    nails[:, :, :: fh + 1, :: fw + 1] = x
    return nails

# %% mistake="bed_of_nails" hint="Rows grow by factor[0] and columns by factor[1]; yours are swapped."
def bed_of_nails(x, factor):
    fw, fh = pair(factor)
    if min(fh, fw) < 1:
        raise ValueError("factor")
    nails = x.new_zeros(*x.shape[:2], fh * x.shape[2], fw * x.shape[3])
    nails[:, :, ::fh, ::fw] = x
    return nails

# %% mistake="bed_of_nails" hint="Your result is always float32. It should have the type of x: `x.new_zeros`, or `dtype=x.dtype`."
def bed_of_nails(x, factor):
    fh, fw = pair(factor)
    if min(fh, fw) < 1:
        raise ValueError("factor")
    nails = torch.zeros(*x.shape[:2], fh * x.shape[2], fw * x.shape[3])
    nails[:, :, ::fh, ::fw] = x
    return nails

# %% mistake="bed_of_nails" hint="Your values are right, but no gradient reaches x: `.data`, `.detach()`, `torch.no_grad()` or numpy cut it off."
def bed_of_nails(x, factor):
    fh, fw = pair(factor)
    if min(fh, fw) < 1:
        raise ValueError("factor")
    nails = x.new_zeros(*x.shape[:2], fh * x.shape[2], fw * x.shape[3])
    nails[:, :, ::fh, ::fw] = x.detach()
    return nails

# %% mistake="bed_of_nails" hint="A factor under 1 must raise ValueError, in rows and in columns. Check it before you compute."
def bed_of_nails(x, factor):
    fh, fw = pair(factor)
    nails = x.new_zeros(*x.shape[:2], fh * x.shape[2], fw * x.shape[3])
    nails[:, :, :: max(fh, 1), :: max(fw, 1)] = x[:, :, : nails.shape[2], : nails.shape[3]]
    return nails

# %% alternative="bed_of_nails"
def bed_of_nails(x, factor):
    fh, fw = pair(factor)
    if fh < 1 or fw < 1:
        raise ValueError(f"a factor under 1: {factor}")
    N, C, H, W = x.shape
    blocks = F.pad(x.reshape(N, C, H, 1, W, 1), (0, fw - 1, 0, 0, 0, fh - 1))  # (N, C, H, fh, W, fw)
    return blocks.reshape(N, C, H * fh, W * fw)

# %% alternative="bed_of_nails"
def bed_of_nails(x, factor):
    fh, fw = pair(factor)
    if not (fh > 0 < fw):
        raise ValueError(f"{factor=}")
    rows = torch.arange(fh * x.shape[2]) % fh == 0
    columns = torch.arange(fw * x.shape[3]) % fw == 0
    return x.repeat_interleave(fh, 2).repeat_interleave(fw, 3) * (rows[:, None] & columns)

# %% [markdown]
# Nails alone are a poor picture. An ordinary convolution behind them fills the gaps, and its kernel decides how: with ones we get nearest
# neighbour, with a tent a smooth picture. Look at the third image: how can a sum over 16 pixels give
# the same picture as copying?

# %%
if lab.ready("bed_of_nails"):
    digits, labels = datasets.digits()
    nails = bed_of_nails(digits[:1], 4)  # (1, 1, 32, 32)
    ones = torch.ones(1, 1, 4, 4)
    tent = torch.tensor([1.0, 2, 3, 4, 3, 2, 1]) / 4
    copied = F.conv2d(F.pad(nails, (3, 0, 3, 0)), ones)
    smooth = F.conv2d(F.pad(nails, (3, 3, 3, 3)), torch.outer(tent, tent)[None, None])
    titles = [f"a {labels[0]}", "bed of nails", "... with 4 x 4 ones", "... with a 7 x 7 tent"]
    fig = plots.image_row([digits[0], nails[0], copied[0], smooth[0]], titles, height=2)
    plots.show(fig, alt="A digit of 8 x 8 pixels, its pixels as single dots among zeros, as 4 x 4 blocks, and smoothly joined.")

# %% [markdown]
# ## Exercise 3: send maxima back to where they came from (2 points, 10 minutes)
#
# Complete `max_unpool2d`. Max pooling with `return_indices=True` also says **where** each maximum stood: `indices` has the shape of `x`,
# and holds for each number the position $i = \text{row} \cdot W + \text{column}$ in the plane of its own image and channel, before pooling.
# `output_size` is that plane's size, a pair $(H, W)$. Return images of that size that hold each number of `x` at its position, and 0
# everywhere else.
#
# - Windows may overlap, and then neighbours can share their maximum: the same position comes twice, with the same value. Write it once, do
#   not add it up.
# - The result has the type of `x`, and gradients reach `x`.
# - Raise `ValueError` when `x` and `indices` differ in shape, and when an index is negative or not under $H \cdot W$.
#
# The library's un-pooling is off limits.
#
# <details><summary>Hint 1</summary>
#
# The positions count within one plane. What shape must `x`, `indices` and the result have, so that a plane is **one** axis?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Flatten the last two axes of `x` and `indices`, and write into zeros of shape `(N, C, H * W)`. Look at `Tensor.scatter`: it writes
# values to positions along one axis.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# `zeros.scatter(dim, positions, values)` with `dim=2`. It returns a new tensor and passes gradients on to `values`.
#
# </details>

# %% exercise="max_unpool2d"
def max_unpool2d(x: Tensor, indices: Tensor, output_size: tuple[int, int]) -> Tensor:
    """Write each number to the position that max pooling took it from, zeros elsewhere.

    Args:
        x: (N, C, h, w), pooled images.
        indices: (N, C, h, w) int64, row * W + column of each number in its own plane.
        output_size: (H, W), size of the planes before pooling.

    Returns:
        (N, C, H, W), the type of x.

    Raises:
        ValueError: x and indices differ in shape, or an index lies outside the plane.

    Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 2.1 (switches).
    Reference: torch.nn.functional.max_unpool2d.
    """
    ### BEGIN SOLUTION
    if x.shape != indices.shape:
        raise ValueError(f"indices must have the shape of x, {tuple(x.shape)}, got {tuple(indices.shape)}")
    H, W = output_size
    if indices.min() < 0 or indices.max() >= H * W:
        raise ValueError(f"indices must lie in 0 ... {H * W - 1}, got {indices.min()} ... {indices.max()}")
    planes = x.new_zeros(*x.shape[:2], H * W)
    planes = planes.scatter(2, indices.flatten(2), x.flatten(2))  # (N, C, H * W)
    return planes.reshape(*x.shape[:2], H, W)
    ### END SOLUTION

# %% check="max_unpool2d" points=2
def library_max_unpool2d(x, indices, output_size):
    return torch.ops.aten.max_unpool2d(x, indices, list(output_size))  # F.max_unpool2d asks for the window only to guess the size


@lab.check("max_unpool2d", points=1, forbid=("unpool",))
def by_hand(max_unpool2d):
    """Four maxima in a plane of 3 x 5, planes of their own, a maximum that two windows share, and positions that do not exist."""
    x = torch.tensor([[[[7.0, 8], [-6, 9]]]])
    indices = torch.tensor([[[[6, 3], [10, 14]]]])
    plane = torch.tensor([[0.0, 0, 0, 8, 0], [0, 7, 0, 0, 0], [-6, 0, 0, 0, 9]])
    expect_close(max_unpool2d(x, indices, (3, 5)), plane[None, None], "7 8 -6 9 at positions 6 3 10 14 of a plane of 3 x 5")
    planes = torch.zeros(2, 2, 3, 5)
    planes[0, 0, 0, 0], planes[0, 1, 1, 0], planes[1, 0, 2, 4], planes[1, 1, 0, 1] = 1, 2, 3, 4
    values, positions = torch.tensor([1.0, 2, 3, 4]).reshape(2, 2, 1, 1), torch.tensor([0, 5, 14, 1]).reshape(2, 2, 1, 1)
    expect_close(max_unpool2d(values, positions, (3, 5)), planes, "two images of two channels, one number each, at 0, 5, 14 and 1")
    shared = torch.tensor([[[[0.0, 4, 0]]]])
    expect_close(max_unpool2d(torch.tensor([[[[4.0, 4]]]]), torch.tensor([[[[1, 1]]]]), (1, 3)), shared, "two windows share a maximum of 4")
    expect_raises(ValueError, lambda: max_unpool2d(x, indices, (2, 7)), "position 14 in a plane of 2 x 7")
    expect_raises(ValueError, lambda: max_unpool2d(x, indices - 4, (3, 5)), "position -1")
    expect_raises(ValueError, lambda: max_unpool2d(x, indices[:, :, :1], (3, 5)), "4 numbers, 2 positions")


@lab.check("max_unpool2d", points=1, forbid=("unpool",))
def agrees_with_library(max_unpool2d, rng):
    """Equal to the library behind real max poolings, separate and overlapping: values in the type of `x`, and gradients."""
    cases = [((2, 3, 7, 9), (2, 3), (2, 3), torch.float32), ((3, 2, 9, 6), 3, 2, torch.float64)]
    cases.append(((2, 2, int(rng.integers(6, 10)), int(rng.integers(10, 14))), 2, (1, 2), torch.float32))
    for shape, kernel_size, stride, dtype in cases:
        images = normal(rng, *shape, dtype=dtype)
        pooled, indices = F.max_pool2d(images, kernel_size, stride, return_indices=True)
        case = f"images {shape} of type {str(dtype)[6:]}, pooled by windows of {kernel_size} with stride {stride}"
        expected = library_max_unpool2d(pooled, indices, shape[2:])
        expect_close(max_unpool2d(pooled, indices, shape[2:]), expected, case)
        ours = gradients(lambda x: max_unpool2d(x, indices, shape[2:]), pooled)
        expect_close(ours, gradients(lambda x: library_max_unpool2d(x, indices, shape[2:]), pooled), f"{case}: gradient")
    images = normal(rng, 2, 8, 6, 3).permute(0, 3, 1, 2)
    pooled, indices = F.max_pool2d(images, 2, return_indices=True)
    expected = library_max_unpool2d(pooled, indices, (8, 6))
    expect_close(max_unpool2d(pooled, indices, (8, 6)), expected, "images whose channels stand last in memory")

# %% mistake="max_unpool2d" hint="You add up what lands on the same position. Windows that share a maximum send the same value twice: write it, do not add it."
def max_unpool2d(x, indices, output_size):
    if x.shape != indices.shape:
        raise ValueError("shapes")
    H, W = output_size
    if indices.min() < 0 or indices.max() >= H * W:
        raise ValueError("range")
    planes = x.new_zeros(*x.shape[:2], H * W).scatter_add(2, indices.flatten(2), x.flatten(2))
    return planes.reshape(*x.shape[:2], H, W)

# %% mistake="max_unpool2d" hint="All your images and channels write into the first plane. An index counts within the plane of its own image and channel."
def max_unpool2d(x, indices, output_size):
    if x.shape != indices.shape:
        raise ValueError("shapes")
    H, W = output_size
    if indices.min() < 0 or indices.max() >= H * W:
        raise ValueError("range")
    out = x.new_zeros(x.shape[0] * x.shape[1] * H * W).scatter(0, indices.flatten(), x.flatten())
    return out.reshape(*x.shape[:2], H, W)

# %% mistake="max_unpool2d" hint="You read an index as column * H + row. It counts row by row: row * W + column."
def max_unpool2d(x, indices, output_size):
    if x.shape != indices.shape:
        raise ValueError("shapes")
    H, W = output_size
    if indices.min() < 0 or indices.max() >= H * W:
        raise ValueError("range")
    planes = x.new_zeros(*x.shape[:2], H * W).scatter(2, indices.flatten(2), x.flatten(2))
    return planes.reshape(*x.shape[:2], W, H).transpose(2, 3)

# %% mistake="max_unpool2d" hint="Height and width of your result are swapped: output_size is (rows, columns)."
def max_unpool2d(x, indices, output_size):
    if x.shape != indices.shape:
        raise ValueError("shapes")
    W, H = output_size
    if indices.min() < 0 or indices.max() >= H * W:
        raise ValueError("range")
    planes = x.new_zeros(*x.shape[:2], H * W).scatter(2, indices.flatten(2), x.flatten(2))
    return planes.reshape(*x.shape[:2], H, W)

# %% mistake="max_unpool2d" hint="You took row and column of an index with the width of the pooled image. The index counts in the plane before pooling, which is W wide."
def max_unpool2d(x, indices, output_size):
    if x.shape != indices.shape:
        raise ValueError("shapes")
    H, W = output_size
    if indices.min() < 0 or indices.max() >= H * W:
        raise ValueError("range")
    w = x.shape[3]
    places = (indices // w).clamp(max=H - 1) * W + indices % w
    planes = x.new_zeros(*x.shape[:2], H * W).scatter(2, places.flatten(2), x.flatten(2))
    return planes.reshape(*x.shape[:2], H, W)

# %% mistake="max_unpool2d" hint="You made an image of twice the pooled size and enlarged that with nearest neighbours or zeros: the positions in `indices` have no effect."
def max_unpool2d(x, indices, output_size):
    if x.shape != indices.shape:
        raise ValueError("shapes")
    H, W = output_size
    if indices.min() < 0 or indices.max() >= H * W:
        raise ValueError("range")
    out = x.new_zeros(*x.shape[:2], H, W)
    part = x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :H, :W]
    out[:, :, : part.shape[2], : part.shape[3]] = part
    return out

# %% mistake="max_unpool2d" hint="Everything without a maximum should be 0; yours keeps another number there."
def max_unpool2d(x, indices, output_size):
    if x.shape != indices.shape:
        raise ValueError("shapes")
    H, W = output_size
    if indices.min() < 0 or indices.max() >= H * W:
        raise ValueError("range")
    planes = x.new_full((*x.shape[:2], H * W), float(x.detach().min())).scatter(2, indices.flatten(2), x.flatten(2))
    return planes.reshape(*x.shape[:2], H, W)

# %% mistake="max_unpool2d" hint="Your values are right, but no gradient reaches x: `.data`, `.detach()`, `.item()` or numpy cut it off."
def max_unpool2d(x, indices, output_size):
    if x.shape != indices.shape:
        raise ValueError("shapes")
    H, W = output_size
    if indices.min() < 0 or indices.max() >= H * W:
        raise ValueError("range")
    planes = x.new_zeros(*x.shape[:2], H * W).scatter(2, indices.flatten(2), x.detach().flatten(2))
    return planes.reshape(*x.shape[:2], H, W)

# %% mistake="max_unpool2d" hint="An index outside the plane must raise ValueError. What the library raises on the way is another type of error, or nothing at all."
def max_unpool2d(x, indices, output_size):
    if x.shape != indices.shape:
        raise ValueError("shapes")
    H, W = output_size
    planes = x.new_zeros(*x.shape[:2], H * W).scatter(2, indices.flatten(2), x.flatten(2))
    return planes.reshape(*x.shape[:2], H, W)

# %% mistake="max_unpool2d" hint="A negative index passes. Python's indexing counts it from the end; here it is a ValueError, as one beyond the end is."
def max_unpool2d(x, indices, output_size):
    if x.shape != indices.shape:
        raise ValueError("shapes")
    H, W = output_size
    if indices.max() >= H * W:
        raise ValueError("range")
    planes = x.new_zeros(*x.shape[:2], H * W).scatter(2, indices.flatten(2) % (H * W), x.flatten(2))
    return planes.reshape(*x.shape[:2], H, W)

# %% mistake="max_unpool2d" hint="x and indices of different shapes must raise ValueError: compare the shapes first."
def max_unpool2d(x, indices, output_size):
    H, W = output_size
    if indices.min() < 0 or indices.max() >= H * W:
        raise ValueError("range")
    n = indices[0, 0].numel()
    planes = x.new_zeros(*x.shape[:2], H * W).scatter(2, indices.flatten(2), x.flatten(2)[:, :, :n])
    return planes.reshape(*x.shape[:2], H, W)

# %% alternative="max_unpool2d"
def max_unpool2d(x, indices, output_size):
    (N, C, h, w), (H, W) = x.shape, output_size
    if indices.shape != x.shape or bool(((indices < 0) | (indices >= H * W)).any()):
        raise ValueError(f"indices {tuple(indices.shape)} do not fit x {tuple(x.shape)} in planes of {H} x {W}")
    out = x.new_zeros(N, C, H, W)
    images, channels = torch.arange(N)[:, None, None, None], torch.arange(C)[:, None, None]
    out[images, channels, indices // W, indices % W] = x
    return out

# %% alternative="max_unpool2d"
def max_unpool2d(x, indices, output_size):
    H, W = output_size
    if x.shape != indices.shape or not 0 <= int(indices.min()) <= int(indices.max()) < H * W:
        raise ValueError("indices do not fit")
    out = x.new_zeros(len(x) * x.shape[1] * H * W)
    starts = torch.arange(len(x) * x.shape[1]).reshape(len(x), -1, 1, 1) * H * W  # where each plane begins
    out[(starts + indices).flatten()] = x.flatten()
    return out.reshape(len(x), -1, H, W)

# %% [markdown]
# What is a place worth? Pool a photograph by windows of 4 x 4, and send the maxima back: once to the corners of their windows, once to
# where they stood. One number in 16 is left in both pictures, the same numbers. A blur fills the gaps. **Predict first.** Which of the two
# is nearer to the photograph, and where in the picture does one see it?

# %%
if lab.ready("bed_of_nails") and lab.ready("max_unpool2d"):
    camera = datasets.photograph("camera")[None, :, 40:200, 150:350]  # (1, 1, 160, 200)
    pooled, indices = F.max_pool2d(camera, 4, return_indices=True)  # (1, 1, 40, 50)
    bell = torch.exp(-(torch.arange(-6.0, 7) ** 2) / (2 * 1.5**2))
    blur = torch.outer(bell, bell)[None, None]  # (1, 1, 13, 13)
    filled = []
    for nails in (bed_of_nails(pooled, 4), max_unpool2d(pooled, indices, (160, 200))):
        share = F.conv2d((nails > 0).float(), blur, padding=6)  # how much of the bell lies on nails
        filled.append(F.conv2d(nails, blur, padding=6) / share)
    distances = [(picture - camera).abs().mean() for picture in filled]
    titles = ["photograph"] + [f"{name}: off by {d:.3f}" for name, d in zip(["corners", "places"], distances)]
    fig = plots.image_row([camera[0], filled[0][0], filled[1][0]], titles, height=2.3)
    plots.show(fig, alt="A photographer; maxima in the corners of windows, filled in: blurred steps; in their places: sharper outlines.")

# %% [markdown]
# Next comes the transposed convolution itself. The next cell opens the explorer of the lecture: print one stamp after the other, and watch
# where they start, where they are added, and what padding cuts off. Come back to it whenever an index confuses you.

# %%
from course_lib import explore

explore.transposed.show()

# %% [markdown]
# ## Exercise 4: stamp a kernel for every pixel (4 points, 20 minutes)
#
# Complete `conv_transpose2d_scatter`, the transposed convolution as it is defined: each input pixel multiplies the kernel, and the product
# is **added** to the canvas, starting at the pixel's place. In the canvas before any cutting,
#
# $$\text{canvas}[n, o,\; i \cdot s_h + a,\; j \cdot s_w + b] \mathrel{+}= \sum_{c} x[n, c, i, j] \; \text{weight}[c, o, a, b]
# \quad \text{for all } i, j, a, b .$$
#
# The sum over $c$ says that the stamps of all input channels are added up: a pixel leaves one stamp of $C_\text{out}$ planes.
#
# - `weight` is $(C_\text{in}, C_\text{out}, k_h, k_w)$: the input's channels first.
# - `stride` $(s_h, s_w)$, `padding` and `output_padding` are ints or pairs (rows, columns).
# - `padding` cuts that many rows and columns off **every** side of the canvas.
# - `output_padding` makes the result that much longer at the **bottom and right**. First these cells show what `padding` would have
#   cut off there; only where the canvas ends, they are empty.
# - `bias` $(C_\text{out},)$ is added **once** to every pixel of the result, empty ones too; it may be `None`.
# - The result has the type of `x`; gradients reach `x`, `weight` and `bias`; no argument is changed.
# - Raise `ValueError` when `x` and `weight` differ in their number of input channels, and for sizes that your `transposed_output_size`
#   refuses.
#
# Write loops, over the input's pixels or over the kernel's cells. The library's convolutions and `fold` are off limits. Your
# `transposed_output_size` is welcome; if it has a fault, the check runs again with one that works.
#
# <details><summary>Hint 1</summary>
#
# Without padding, how large is the canvas? Make one of zeros. Where on it does the stamp of pixel `(i, j)` start, and how large is it?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The stamp of pixel `(i, j)` for all images at once: `torch.einsum("nc,coab->noab", x[:, :, i, j], weight)`. Adding into a slice,
# `canvas[…] += stamp`, passes gradients on.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# Let the canvas have `out_h + 2 * ph` rows, where `out_h` is the final size with `output_padding` in it. Then the result is the slice of
# `out_h` rows that begins at row `ph`.
#
# </details>

# %% exercise="conv_transpose2d_scatter"
def conv_transpose2d_scatter(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
) -> Tensor:
    """Two-dimensional transposed convolution: every pixel adds a weighted copy of the kernel to the output.

    Args:
        x: (N, C_in, H, W) float.
        weight: (C_in, C_out, kh, kw), the type of x.
        bias: (C_out,), added once to every output pixel, or None.
        stride: int or pair (rows, columns), distance of two neighbours' stamps in output pixels.
        padding: int or pair, output pixels cut off at every side.
        output_padding: int or pair, output pixels added at the bottom and right.

    Returns:
        (N, C_out, out_h, out_w), the type of x.

    Raises:
        ValueError: x and weight differ in the number of input channels, or the sizes are illegal.

    Source: Zeiler et al., "Deconvolutional Networks", CVPR 2010; Dumoulin and Visin, "A guide to convolution arithmetic for deep
        learning", 2016, section 4.1.
    Reference: torch.nn.functional.conv_transpose2d.
    """
    ### BEGIN SOLUTION
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError(f"weight must have a kernel for each of the {C_in} channels of x, got {channels}")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,coab->noab", x[:, :, i, j], weight)  # (N, C_out, kh, kw)
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamp
    output = canvas[:, :, ph : ph + out_h, pw : pw + out_w]
    return output if bias is None else output + bias[:, None, None]
    ### END SOLUTION

# %% check="conv_transpose2d_scatter" points=4
BY_HAND = {"forbid": ("convolution", "col2im"), "substitute": {"transposed_output_size": "library_transposed_output_size"}}
SCATTER_CASES = [  # (x, weight, stride, padding, output_padding): height is never width, rows never columns
    ((2, 3, 4, 5), (3, 2, 3, 2), 1, 0, 0),
    ((2, 2, 3, 4), (2, 3, 3, 4), (2, 3), 0, 0),
    ((3, 2, 4, 5), (2, 1, 4, 3), 2, (3, 4), 0),
    ((2, 3, 3, 5), (3, 4, 3, 2), (3, 2), (1, 0), (2, 1)),
    ((2, 1, 5, 4), (1, 3, 2, 3), (3, 2), (2, 1), (0, 1)),
]


@lab.check("conv_transpose2d_scatter", points=1, **BY_HAND)
def by_hand(conv_transpose2d_scatter):
    """Three pixels and a stamp of three cells: added up, cut, lengthened, with a bias; a column; then two channels on each side."""
    x, kernel = torch.tensor([[[[1.0, 2, 3]]]]), torch.tensor([[[[1.0, 10, 100]]]])

    def row(*numbers):
        return torch.tensor([[[numbers]]], dtype=torch.float32)

    def expect(options, numbers):
        case = "one row: 1 2 3, stamp 1 10 100" + "".join(f", {name} {value}" for name, value in options.items())
        expect_close(conv_transpose2d_scatter(x, kernel, **options), row(*numbers), case)

    expect({"stride": (1, 2)}, [1, 10, 102, 20, 203, 30, 300])
    expect({"stride": (1, 3)}, [1, 10, 100, 2, 20, 200, 3, 30, 300])
    expect({}, [1, 12, 123, 230, 300])
    expect({"stride": (1, 2), "padding": (0, 1)}, [10, 102, 20, 203, 30])
    expect({"stride": (1, 2), "padding": (0, 1), "output_padding": (0, 1)}, [10, 102, 20, 203, 30, 300])
    expect({"stride": (1, 2), "output_padding": (0, 1)}, [1, 10, 102, 20, 203, 30, 300, 0])
    got = conv_transpose2d_scatter(x, kernel, torch.tensor([0.5]), (1, 2))
    expect_close(got, row(1.5, 10.5, 102.5, 20.5, 203.5, 30.5, 300.5), "stride (1, 2), bias 0.5: added once, also where stamps overlap")
    column = conv_transpose2d_scatter(x.mT, kernel.mT, stride=(2, 1))
    expect_close(column, row(1, 10, 102, 20, 203, 30, 300).mT, "one column: 1 2 3, stamp 1 10 100, stride (2, 1)")
    mixing = torch.tensor([[1.0, 10], [100, 1000]])[:, :, None, None]  # input 0 goes to both outputs by 1 and 10, input 1 by 100 and 1000
    got = conv_transpose2d_scatter(torch.cat([x, x], 1), mixing)
    expect_close(got, torch.cat([101 * x, 1010 * x], 1), "two channels in, two out, stamps of one cell: 1 + 100 and 10 + 1000")


@lab.check("conv_transpose2d_scatter", points=1.5, **BY_HAND)
def agrees_with_library(conv_transpose2d_scatter, rng):
    """Equal to `F.conv_transpose2d` for ints and pairs, with and without bias, in the type of `x`; misfits are refused."""
    for number, (shape, kernel, stride, padding, output_padding) in enumerate(SCATTER_CASES):
        dtype = torch.float64 if number % 2 else torch.float32
        x, weight = normal(rng, *shape, dtype=dtype), normal(rng, *kernel, dtype=dtype)
        bias = normal(rng, kernel[1], dtype=dtype) if number != 1 else None
        arguments = (x, weight, bias, stride, padding, output_padding)
        case = f"x {shape}, weight {kernel}, stride {stride}, padding {padding}, output_padding {output_padding}, bias {bias is not None}"
        expect_close(conv_transpose2d_scatter(*arguments), F.conv_transpose2d(*arguments), case)
    h, w = (int(v) for v in rng.integers(3, 6, size=2))
    x, weight = normal(rng, 2, 3, w, h).transpose(2, 3), normal(rng, 2, 3, 2, 3).permute(1, 0, 3, 2)  # (3, 2, 3, 2)
    case = "rows and columns of x and weight swapped by a transpose, stride 2"
    expect_close(conv_transpose2d_scatter(x, weight, stride=2), F.conv_transpose2d(x, weight, stride=2), case)
    expect_raises(ValueError, lambda: conv_transpose2d_scatter(x, weight[:2]), "3 channels in x, a weight for 2")
    expect_raises(ValueError, lambda: conv_transpose2d_scatter(x[:, :1], weight), "1 channel in x, a weight for 3")
    refused = {"stride": (3, 2), "output_padding": 2}
    expect_raises(ValueError, lambda: conv_transpose2d_scatter(x, weight, **refused), "output_padding 2, stride (3, 2)")


@lab.check("conv_transpose2d_scatter", points=0.5, **BY_HAND)
def is_the_adjoint(conv_transpose2d_scatter, rng):
    """The transpose of a convolution: <conv(y), x> = <y, transposed(x)> for any x and y, with the same weight, stride and padding."""
    cases = [((2, 3, 4, 3), (3, 2, 3, 4), (9, 6), (2, 1), (0, 0)), ((2, 2, 3, 4), (2, 4, 4, 3), (6, 10), (2, 3), (1, 1))]
    for shape, kernel, size, stride, padding in cases:
        x, weight = normal(rng, *shape, dtype=torch.float64), normal(rng, *kernel, dtype=torch.float64)
        y = normal(rng, shape[0], kernel[1], *size, dtype=torch.float64)
        down = F.conv2d(y, weight, None, stride, padding)  # the convolution reads the same weight as (out, in, kh, kw)
        up = conv_transpose2d_scatter(x, weight, None, stride, padding)
        case = f"x {shape}, weight {kernel}, stride {stride}, padding {padding}"
        expect_equal(tuple(up.shape), tuple(y.shape), f"{case}: back to the size of y")
        expect_close((y * up).sum(), (down * x).sum(), f"{case}: the scalar product <y, transposed(x)>")


@lab.check("conv_transpose2d_scatter", points=1, **BY_HAND)
def passes_gradients(conv_transpose2d_scatter, rng):
    """Gradients of `x`, `weight` and `bias` equal those of `F.conv_transpose2d`."""
    x, weight, bias = normal(rng, 2, 3, 4, 3), normal(rng, 3, 4, 2, 3), normal(rng, 4)
    options = {"stride": (3, 2), "padding": (0, 1), "output_padding": (2, 1)}
    ours = gradients(lambda *tensors: conv_transpose2d_scatter(*tensors, **options), x, weight, bias)
    theirs = gradients(lambda *tensors: F.conv_transpose2d(*tensors, **options), x, weight, bias)
    expect_close(ours, theirs, "gradients of x, weight and bias")

# %% mistake="conv_transpose2d_scatter" hint="Where stamps overlap, the last one wins in yours. Stamps are added: `+=`, not `=`."
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,coab->noab", x[:, :, i, j], weight)
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] = stamp
    output = canvas[:, :, ph : ph + out_h, pw : pw + out_w]
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_scatter" hint="You turned the kernel around. The first weight lands on the first cell of the stamp; only the zero-insertion view has to flip it."
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,coab->noab", x[:, :, i, j], weight.flip(2, 3))
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamp
    output = canvas[:, :, ph : ph + out_h, pw : pw + out_w]
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_scatter" hint="Your cut uses negative ends, `ph:-ph`. Where the padding is 0 that slice is empty: cut from ph to ph + out_h."
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,coab->noab", x[:, :, i, j], weight)
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamp
    output = canvas[:, :, ph:-ph, pw:-pw]
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_scatter" hint="Rows are sh apart and columns sw; yours are swapped. A pair means (rows, columns)."
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sw, sh), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,coab->noab", x[:, :, i, j], weight)
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamp
    output = canvas[:, :, ph : ph + out_h, pw : pw + out_w]
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_scatter" hint="You read the weight as (C_out, C_in, kh, kw), as for a convolution. Here the input's channels come first."
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (C_out, channels, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,ocab->noab", x[:, :, i, j], weight)
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamp
    output = canvas[:, :, ph : ph + out_h, pw : pw + out_w]
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_scatter" hint="Your canvas is not cut: `padding` takes rows and columns off every side of it."
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,coab->noab", x[:, :, i, j], weight)
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamp
    output = canvas[:, :, : canvas.shape[2], : canvas.shape[3]]
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_scatter" hint="You cut `padding` off the top and left only. It is cut off at all four sides."
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,coab->noab", x[:, :, i, j], weight)
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamp
    output = canvas[:, :, ph:, pw:]
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_scatter" hint="Padding of rows and columns is swapped. A pair means (rows, columns)."
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (pw, ph), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,coab->noab", x[:, :, i, j], weight)
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamp
    output = canvas[:, :, ph : ph + out_h, pw : pw + out_w]
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_scatter" hint="The cells of output_padding are zeros in your result. They show what `padding` would have cut off there: cut less, do not append."
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,coab->noab", x[:, :, i, j], weight)
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamp
    output = canvas[:, :, ph : ph + out_h - oh, pw : pw + out_w - ow]
    output = F.pad(output, (0, ow, 0, oh))
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_scatter" hint="You added the output_padding at the top and left. It belongs at the bottom and right."
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,coab->noab", x[:, :, i, j], weight)
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamp
    canvas = F.pad(canvas, (ow, 0, oh, 0))
    output = canvas[:, :, ph : ph + out_h, pw : pw + out_w]
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_scatter" hint="output_padding has no effect in your result, which is too short at the bottom and right."
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,coab->noab", x[:, :, i, j], weight)
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamp
    output = canvas[:, :, ph : ph + out_h - oh, pw : pw + out_w - ow]
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_scatter" hint="You added the bias with every stamp. It is added once to every pixel of the result."
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,coab->noab", x[:, :, i, j], weight) + (0 if bias is None else bias[:, None, None])
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamp
    output = canvas[:, :, ph : ph + out_h, pw : pw + out_w]
    return output

# %% mistake="conv_transpose2d_scatter" hint="The bias is missing. Each output channel has one number that is added at every pixel."
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,coab->noab", x[:, :, i, j], weight)
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamp
    output = canvas[:, :, ph : ph + out_h, pw : pw + out_w]
    return output

# %% mistake="conv_transpose2d_scatter" hint="Your result is always float32. It should have the type of x: `x.new_zeros`, or `dtype=x.dtype`."
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = torch.zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,coab->noab", x[:, :, i, j], weight)
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamp
    output = canvas[:, :, ph : ph + out_h, pw : pw + out_w]
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_scatter" hint="Your values are right, but a gradient is lost on the way: `.data`, `.detach()`, `torch.no_grad()` or `.item()`."
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,coab->noab", x[:, :, i, j], weight).detach()
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamp
    output = canvas[:, :, ph : ph + out_h, pw : pw + out_w]
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_scatter" hint="A weight for another number of channels passes: slicing or broadcasting hid it. Compare x.shape[1] with weight.shape[0] first."
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    c = min(C_in, channels)
    x, weight = x[:, :c], weight[:c]
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, C_out, out_h + 2 * ph, out_w + 2 * pw)
    for i in range(H):
        for j in range(W):
            stamp = torch.einsum("nc,coab->noab", x[:, :, i, j], weight)
            canvas[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw] += stamp
    output = canvas[:, :, ph : ph + out_h, pw : pw + out_w]
    return output if bias is None else output + bias[:, None, None]

# %% alternative="conv_transpose2d_scatter"
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    if x.shape[1] != weight.shape[0]:
        raise ValueError(f"{x.shape[1]} channels in x, {weight.shape[0]} in weight")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    (N, _, H, W), (_, O, kh, kw) = x.shape, weight.shape
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    canvas = x.new_zeros(N, O, out_h + 2 * ph, out_w + 2 * pw)
    for a in range(kh):  # over the kernel instead of the image: all pixels write their cell (a, b) at once
        for b in range(kw):
            cells = torch.einsum("nchw,co->nohw", x, weight[:, :, a, b])
            canvas[:, :, a : a + (H - 1) * sh + 1 : sh, b : b + (W - 1) * sw + 1 : sw] += cells
    out = canvas[:, :, ph : ph + out_h, pw : pw + out_w]
    return out if bias is None else out + bias.reshape(1, O, 1, 1)

# %% alternative="conv_transpose2d_scatter"
def conv_transpose2d_scatter(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    if x.shape[1] != len(weight):
        raise ValueError(f"{x.shape[1]} channels in x, {len(weight)} in weight")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    (_, _, H, W), (_, _, kh, kw) = x.shape, weight.shape
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    # One axis after the other: which output row does (input row, kernel row) write to? A matrix of zeros and ones says it.
    to_row = (torch.arange(H)[:, None, None] * sh + torch.arange(kh)[:, None] - ph == torch.arange(out_h)).to(x.dtype)  # (H, kh, out_h)
    to_column = (torch.arange(W)[:, None, None] * sw + torch.arange(kw)[:, None] - pw == torch.arange(out_w)).to(x.dtype)
    output = torch.einsum("ncij,coab,iay,jbz->noyz", x, weight, to_row, to_column)
    return output if bias is None else output + bias[:, None, None]

# %% [markdown]
# Paint with it: every pixel of a digit presses a ring onto the canvas, as strongly as the pixel is dark. **Predict first.** The ring is 9
# pixels wide. With stride 9 the rings just touch. What happens to the picture when you bring them closer, to stride 4?

# %%
if lab.ready("conv_transpose2d_scatter"):
    digits, labels = datasets.digits()
    radius = torch.hypot(torch.arange(-4.0, 5)[:, None], torch.arange(-4.0, 5))  # (9, 9), distance from the middle
    ring = torch.exp(-((radius - 3) ** 2))[None, None]
    painted = [conv_transpose2d_scatter(digits[3:4], ring, stride=stride)[0] for stride in (9, 4)]
    titles = [f"a {labels[3]}"] + [f"stride {stride}: {tuple(p.shape[1:])}" for stride, p in zip((9, 4), painted)]
    fig = plots.image_row([digits[3], painted[0], painted[1] / painted[1].max()], titles, height=2.6)
    plots.show(fig, alt="A digit; the same digit drawn with separate rings; with rings that overlap and add up to bright crossings.")

# %% [markdown]
# ## Exercise 5: convolve an image full of zeros (4 points, 20 minutes)
#
# Complete `conv_transpose2d_zero_insertion`: the same function as `conv_transpose2d_scatter`, argument for argument, but written as an
# **ordinary convolution with stride 1** over an image that was blown up with zeros.
#
# Think of one output pixel. Which inputs reach it, and by which cells of their stamps? An input one step further **up** reaches it by a
# cell one stride further **down** in its stamp. So a window over the blown-up image reads the right inputs, if the kernel is turned upside
# down and left to right, and if the border is wide enough for a window that touches the first input with its last cell only.
#
# - Between two neighbours stand `stride - 1` zeros. Your `bed_of_nails` also writes zeros **behind** the last row and column; mind them
#   when you count the border.
# - `padding` makes the border **narrower**, so far that it may have to be cut instead (`padding` may exceed `kernel_size - 1`).
# - Shapes, types, `bias`, `output_padding`, gradients and the two cases of `ValueError` are those of exercise 4.
#
# Here `F.conv2d` is allowed, since it is what the view is about. The library's transposed convolution and `fold` are off limits. If your
# `bed_of_nails` or `transposed_output_size` has a fault, the check runs again with ones that work.
#
# <details><summary>Hint 1</summary>
#
# One axis, inputs `1 2`, stamp `(a, b, c)`, stride 2: the output is `a, b, c + 2a, 2b, 2c`. Blown up, the inputs are `1 0 2`. Which window
# of three cells, times which kernel, gives the third output? Which gives the first?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `F.conv2d` wants its weight as (out, in, rows, columns): `weight.transpose(0, 1).flip(2, 3)`.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# Above the first input there are `kh - 1 - ph` rows. The convolution shortens the image by `kh - 1` rows, so before it there must be
# `out_h + kh - 1` rows in all. What is missing goes to the bottom.
#
# </details>
#
# <details><summary>Hint 4</summary>
#
# `F.pad(nails, (left, right, top, bottom))` takes the last axis first, and negative numbers cut.
#
# </details>

# %% exercise="conv_transpose2d_zero_insertion"
def conv_transpose2d_zero_insertion(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
) -> Tensor:
    """Two-dimensional transposed convolution as a convolution of stride 1 over an image with zeros between its pixels.

    Args:
        x: (N, C_in, H, W) float.
        weight: (C_in, C_out, kh, kw), the type of x.
        bias: (C_out,), added once to every output pixel, or None.
        stride: int or pair (rows, columns), distance of two neighbours' stamps in output pixels.
        padding: int or pair, output pixels cut off at every side.
        output_padding: int or pair, output pixels added at the bottom and right.

    Returns:
        (N, C_out, out_h, out_w), the type of x.

    Raises:
        ValueError: x and weight differ in the number of input channels, or the sizes are illegal.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, section 4.6, relationship 14.
    Reference: torch.nn.functional.conv_transpose2d.
    """
    ### BEGIN SOLUTION
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError(f"weight must have a kernel for each of the {C_in} channels of x, got {channels}")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))  # (N, C_in, sh * H, sw * W)
    top, left = kh - 1 - ph, kw - 1 - pw
    bottom, right = out_h + kh - 1 - top - sh * H, out_w + kw - 1 - left - sw * W
    padded = F.pad(nails, (left, right, top, bottom))  # (N, C_in, out_h + kh - 1, out_w + kw - 1); negative numbers cut
    return F.conv2d(padded, weight.transpose(0, 1).flip(2, 3), bias)
    ### END SOLUTION

# %% check="conv_transpose2d_zero_insertion" points=4
NOT_TRANSPOSED = {
    "forbid": ("convolution_transposed", "conv_transpose", "convolution_backward", "col2im"),
    "substitute": {"transposed_output_size": "library_transposed_output_size", "bed_of_nails": "library_bed_of_nails"},
}
ZERO_INSERTION_CASES = [  # (x, weight, stride, padding, output_padding): height is never width, rows never columns
    ((2, 2, 4, 3), (2, 3, 2, 3), 1, 0, 0),
    ((2, 3, 3, 5), (3, 2, 4, 3), (3, 2), 0, 0),
    ((3, 1, 5, 4), (1, 2, 3, 4), 2, (1, 2), 0),
    ((2, 3, 4, 3), (3, 4, 2, 3), (2, 3), (0, 1), (1, 2)),
    ((2, 2, 4, 5), (2, 3, 3, 2), (2, 3), (1, 2), (0, 1)),
]


@lab.check("conv_transpose2d_zero_insertion", points=1, **NOT_TRANSPOSED)
def by_hand(conv_transpose2d_zero_insertion):
    """Two pixels and a stamp of three cells: with a gap, cut, lengthened, with a bias; a column; then two channels on each side."""
    x, kernel = torch.tensor([[[[1.0, 2]]]]), torch.tensor([[[[1.0, 10, 100]]]])

    def row(*numbers):
        return torch.tensor([[[numbers]]], dtype=torch.float32)

    def expect(options, numbers):
        case = "one row: 1 2, stamp 1 10 100" + "".join(f", {name} {value}" for name, value in options.items())
        expect_close(conv_transpose2d_zero_insertion(x, kernel, **options), row(*numbers), case)

    expect({}, [1, 12, 120, 200])
    expect({"stride": (1, 2)}, [1, 10, 102, 20, 200])
    expect({"stride": (1, 4)}, [1, 10, 100, 0, 2, 20, 200])
    expect({"stride": (1, 2), "padding": (0, 1)}, [10, 102, 20])
    expect({"stride": (1, 2), "padding": (0, 1), "output_padding": (0, 1)}, [10, 102, 20, 200])
    expect({"stride": (1, 2), "output_padding": (0, 1)}, [1, 10, 102, 20, 200, 0])
    got = conv_transpose2d_zero_insertion(x, kernel[..., :1], stride=(1, 4), padding=(0, 1))
    expect_close(got, row(0, 0, 0), "one row: 1 2, stamp of one cell, stride (1, 4), padding (0, 1): only the zeros between them are left")
    got = conv_transpose2d_zero_insertion(x, kernel, torch.tensor([0.5]), (1, 2))
    expect_close(got, row(1.5, 10.5, 102.5, 20.5, 200.5), "one row: 1 2, stamp 1 10 100, stride (1, 2), bias 0.5")
    column = conv_transpose2d_zero_insertion(x.mT, kernel.mT, stride=(2, 1))
    expect_close(column, row(1, 10, 102, 20, 200).mT, "one column: 1 2, stamp 1 10 100, stride (2, 1)")
    mixing = torch.tensor([[1.0, 10], [100, 1000]])[:, :, None, None]  # input 0 goes to both outputs by 1 and 10, input 1 by 100 and 1000
    got = conv_transpose2d_zero_insertion(torch.cat([x, x], 1), mixing)
    expect_close(got, torch.cat([101 * x, 1010 * x], 1), "two channels in, two out, stamps of one cell: 1 + 100 and 10 + 1000")


@lab.check("conv_transpose2d_zero_insertion", points=2, **NOT_TRANSPOSED)
def agrees_with_library(conv_transpose2d_zero_insertion, rng):
    """Equal to `F.conv_transpose2d` for ints and pairs, with and without bias, in the type of `x`; misfits are refused."""
    for number, (shape, kernel, stride, padding, output_padding) in enumerate(ZERO_INSERTION_CASES):
        dtype = torch.float64 if number % 2 else torch.float32
        x, weight = normal(rng, *shape, dtype=dtype), normal(rng, *kernel, dtype=dtype)
        bias = normal(rng, kernel[1], dtype=dtype) if number != 1 else None
        arguments = (x, weight, bias, stride, padding, output_padding)
        case = f"x {shape}, weight {kernel}, stride {stride}, padding {padding}, output_padding {output_padding}, bias {bias is not None}"
        expect_close(conv_transpose2d_zero_insertion(*arguments), F.conv_transpose2d(*arguments), case)
    h, w = (int(v) for v in rng.integers(3, 6, size=2))
    x, weight = normal(rng, 2, 3, w, h).transpose(2, 3), normal(rng, 2, 3, 2, 3).permute(1, 0, 3, 2)  # (3, 2, 3, 2)
    case = "rows and columns of x and weight swapped by a transpose, stride 2"
    expect_close(conv_transpose2d_zero_insertion(x, weight, stride=2), F.conv_transpose2d(x, weight, stride=2), case)
    expect_raises(ValueError, lambda: conv_transpose2d_zero_insertion(x, weight[:2]), "3 channels in x, a weight for 2")
    expect_raises(ValueError, lambda: conv_transpose2d_zero_insertion(x[:, :1], weight), "1 channel in x, a weight for 3")
    refused = {"stride": (3, 2), "output_padding": 2}
    expect_raises(ValueError, lambda: conv_transpose2d_zero_insertion(x, weight, **refused), "output_padding 2, stride (3, 2)")


@lab.check("conv_transpose2d_zero_insertion", points=1, **NOT_TRANSPOSED)
def passes_gradients(conv_transpose2d_zero_insertion, rng):
    """Gradients of `x`, `weight` and `bias` equal those of `F.conv_transpose2d`."""
    x, weight, bias = normal(rng, 2, 2, 3, 5), normal(rng, 2, 3, 3, 4), normal(rng, 3)
    options = {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2)}
    ours = gradients(lambda *tensors: conv_transpose2d_zero_insertion(*tensors, **options), x, weight, bias)
    theirs = gradients(lambda *tensors: F.conv_transpose2d(*tensors, **options), x, weight, bias)
    expect_close(ours, theirs, "gradients of x, weight and bias")

# %% mistake="conv_transpose2d_zero_insertion" hint="Your kernel is not flipped. An input further up reaches an output by a cell further down in its stamp."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = kh - 1 - ph, kw - 1 - pw
    padded = F.pad(nails, (left, left + ow, top, top + oh))
    return F.conv2d(padded, weight.transpose(0, 1), bias)

# %% mistake="conv_transpose2d_zero_insertion" hint="You reshaped the kernel into (out, in, rows, columns), which keeps the order of the numbers and deals them to the wrong channels. Swap the axes: transpose(0, 1)."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))
    top, left = kh - 1 - ph, kw - 1 - pw
    bottom, right = out_h + kh - 1 - top - sh * H, out_w + kw - 1 - left - sw * W
    padded = F.pad(nails, (left, right, top, bottom))
    return F.conv2d(padded, weight.flip(2, 3).reshape(C_out, C_in, kh, kw), bias)

# %% mistake="conv_transpose2d_zero_insertion" hint="You flipped one axis of the kernel only. Rows and columns are both turned around."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = kh - 1 - ph, kw - 1 - pw
    padded = F.pad(nails, (left, left + ow, top, top + oh))
    return F.conv2d(padded, weight.transpose(0, 1).flip(3), bias)

# %% mistake="conv_transpose2d_zero_insertion" hint="F.conv2d wants (out, in, rows, columns), your weight is (in, out, rows, columns): swap the first two axes."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = kh - 1 - ph, kw - 1 - pw
    padded = F.pad(nails, (left, left + ow, top, top + oh))
    return F.conv2d(padded, weight.flip(2, 3), bias)

# %% mistake="conv_transpose2d_zero_insertion" hint="You padded with `padding`. The border is kernel_size - 1 - padding wide: more padding means less border."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = ph, pw
    padded = F.pad(nails, (left, left + ow, top, top + oh))
    return F.conv2d(padded, weight.transpose(0, 1).flip(2, 3), bias)

# %% mistake="conv_transpose2d_zero_insertion" hint="Your border is always kernel_size - 1 wide. `padding` makes it narrower."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = kh - 1, kw - 1
    padded = F.pad(nails, (left, left + ow, top, top + oh))
    return F.conv2d(padded, weight.transpose(0, 1).flip(2, 3), bias)

# %% mistake="conv_transpose2d_zero_insertion" hint="You put `stride` zeros between two inputs. Inputs are `stride` cells apart, so there are stride - 1 zeros between them."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh + 1, sw + 1))[:, :, : (H - 1) * (sh + 1) + 1, : (W - 1) * (sw + 1) + 1]
    top, left = kh - 1 - ph, kw - 1 - pw
    padded = F.pad(nails, (left, left + ow, top, top + oh))
    return F.conv2d(padded, weight.transpose(0, 1).flip(2, 3), bias)

# %% mistake="conv_transpose2d_zero_insertion" hint="Your result is too long at the bottom and right: the zeros that bed_of_nails writes behind the last row and column are in it."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))
    top, left = kh - 1 - ph, kw - 1 - pw
    padded = F.pad(nails, (left, left + ow, top, top + oh))
    return F.conv2d(padded, weight.transpose(0, 1).flip(2, 3), bias)

# %% mistake="conv_transpose2d_zero_insertion" hint="Your convolution moves by `stride`. It has stride 1: the stride of a transposed convolution is in the zeros."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = kh - 1 - ph, kw - 1 - pw
    padded = F.pad(nails, (left, left + ow, top, top + oh))
    return F.conv2d(padded, weight.transpose(0, 1).flip(2, 3), bias, stride=(sh, sw))

# %% mistake="conv_transpose2d_zero_insertion" hint="You added the output_padding at the top and left. It belongs at the bottom and right."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = kh - 1 - ph, kw - 1 - pw
    padded = F.pad(nails, (left + ow, left, top + oh, top))
    return F.conv2d(padded, weight.transpose(0, 1).flip(2, 3), bias)

# %% mistake="conv_transpose2d_zero_insertion" hint="You added the output_padding at both sides. It belongs at the bottom and right only."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = kh - 1 - ph, kw - 1 - pw
    padded = F.pad(nails, (left + ow, left + ow, top + oh, top + oh))
    return F.conv2d(padded, weight.transpose(0, 1).flip(2, 3), bias)

# %% mistake="conv_transpose2d_zero_insertion" hint="output_padding has no effect in your result, which is too short at the bottom and right."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = kh - 1 - ph, kw - 1 - pw
    padded = F.pad(nails, (left, left, top, top))
    return F.conv2d(padded, weight.transpose(0, 1).flip(2, 3), bias)

# %% mistake="conv_transpose2d_zero_insertion" hint="You appended zeros to the finished result. The cells of output_padding are outputs like all others: widen the border before the convolution."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = kh - 1 - ph, kw - 1 - pw
    padded = F.pad(nails, (left, left, top, top))
    output = F.pad(F.conv2d(padded, weight.transpose(0, 1).flip(2, 3)), (0, ow, 0, oh))
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_zero_insertion" hint="Rows are sh apart and columns sw; yours are swapped. A pair means (rows, columns)."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sw, sh), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = kh - 1 - ph, kw - 1 - pw
    padded = F.pad(nails, (left, left + ow, top, top + oh))
    return F.conv2d(padded, weight.transpose(0, 1).flip(2, 3), bias)

# %% mistake="conv_transpose2d_zero_insertion" hint="Your borders are swapped: `F.pad` wants (left, right, top, bottom), the last axis first."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = kh - 1 - ph, kw - 1 - pw
    padded = F.pad(nails, (top, top + oh, left, left + ow))
    return F.conv2d(padded, weight.transpose(0, 1).flip(2, 3), bias)

# %% mistake="conv_transpose2d_zero_insertion" hint="Where padding exceeds kernel_size - 1 the border is negative, and the blown-up image has to be cut. You stopped at 0."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = max(kh - 1 - ph, 0), max(kw - 1 - pw, 0)
    padded = F.pad(nails, (left, left + ow, top, top + oh))
    return F.conv2d(padded, weight.transpose(0, 1).flip(2, 3), bias)

# %% mistake="conv_transpose2d_zero_insertion" hint="The bias is missing. Each output channel has one number that is added at every pixel."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = kh - 1 - ph, kw - 1 - pw
    padded = F.pad(nails, (left, left + ow, top, top + oh))
    return F.conv2d(padded, weight.transpose(0, 1).flip(2, 3))

# %% mistake="conv_transpose2d_zero_insertion" hint="Your values are right, but no gradient reaches the weight: `.data`, `.detach()`, `torch.tensor(…)` or `torch.no_grad()` cut it off."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = kh - 1 - ph, kw - 1 - pw
    padded = F.pad(nails, (left, left + ow, top, top + oh))
    return F.conv2d(padded, weight.detach().transpose(0, 1).flip(2, 3), bias)

# %% mistake="conv_transpose2d_zero_insertion" hint="Channels that do not fit must raise ValueError. What F.conv2d raises is a RuntimeError: compare the shapes first."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = kh - 1 - ph, kw - 1 - pw
    padded = F.pad(nails, (left, left + ow, top, top + oh))
    return F.conv2d(padded, weight.transpose(0, 1).flip(2, 3), bias)

# %% mistake="conv_transpose2d_zero_insertion" hint="An output_padding that is too large passes. Let your transposed_output_size look at the sizes: it raises ValueError."
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (_, C_in, H, W), (channels, _, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    nails = bed_of_nails(x, (sh, sw))[:, :, : (H - 1) * sh + 1, : (W - 1) * sw + 1]
    top, left = kh - 1 - ph, kw - 1 - pw
    padded = F.pad(nails, (left, left + ow, top, top + oh))
    return F.conv2d(padded, weight.transpose(0, 1).flip(2, 3), bias)

# %% alternative="conv_transpose2d_zero_insertion"
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    if x.shape[1] != weight.shape[0]:
        raise ValueError(f"{x.shape[1]} channels in x, {weight.shape[0]} in weight")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    (N, C, H, W), (kh, kw) = x.shape, weight.shape[2:]
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    blown_up = x.new_zeros(N, C, out_h + 2 * ph + kh - 1, out_w + 2 * pw + kw - 1)  # as if nothing were cut off
    blown_up[:, :, kh - 1 : kh + (H - 1) * sh : sh, kw - 1 : kw + (W - 1) * sw : sw] = x
    output = F.conv2d(blown_up, weight.flip(2, 3).transpose(0, 1), bias)
    return output[:, :, ph : ph + out_h, pw : pw + out_w]

# %% alternative="conv_transpose2d_zero_insertion"
def conv_transpose2d_zero_insertion(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    if x.shape[1] != len(weight):
        raise ValueError(f"{x.shape[1]} channels in x, {len(weight)} in weight")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    (_, O, kh, kw), (H, W) = weight.shape, x.shape[2:]
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    # A kernel turned around, over a bed of nails, is a sum of windows: the product of `im2col`, without F.conv2d.
    spread = F.pad(bed_of_nails(x, (sh, sw)), (kw - 1, kw - 1 + ow, kh - 1, kh - 1 + oh))
    windows = spread.unfold(2, kh, 1).unfold(3, kw, 1)[:, :, ph : ph + out_h, pw : pw + out_w]  # (N, C_in, out_h, out_w, kh, kw)
    output = torch.einsum("ncyxab,coab->noyx", windows, weight.flip(2, 3))
    return output if bias is None else output + bias[:, None, None]

# %% [markdown]
# A convolution multiplies whatever stands in the window. How much of that work is worth anything?

# %%
if lab.ready("bed_of_nails"):
    for stride in (2, 4, 8):
        nails = bed_of_nails(torch.ones(1, 1, 10, 10), stride)
        print(f"stride {stride}: {100 * (nails == 0).float().mean():.1f} % of the pixels that the convolution reads are inserted zeros")

# %% [markdown]
# Keep these numbers in mind until we measure.

# %% [markdown]
# ## Exercise 6: multiply, then fold (3 points, 15 minutes)
#
# Complete `conv_transpose2d_fold`: the same function a third time, and now fast. **One** matrix product makes the stamps of all pixels, and
# a **fold** (also called col2im) adds them up where they belong.
#
# - The stamps stand in columns: a tensor of shape $(N,\ C_\text{out} \cdot k_h \cdot k_w,\ H \cdot W)$, one column a pixel, pixels row by
#   row. Within a column the output channel comes first, then the kernel's row, then its column.
# - `F.fold` takes the columns apart again and adds every number to its output pixel. It is allowed here. It also knows `stride` and
#   `padding`.
# - Shapes, types, `bias`, `output_padding`, gradients and the two cases of `ValueError` are those of exercise 4.
#
# The library's convolutions are off limits, and there is no loop over pixels. If your `transposed_output_size` has a fault, the check runs
# again with one that works.
#
# <details><summary>Hint 1</summary>
#
# Take one image and one pixel of it: a vector of `C_in` numbers. Its stamp has `C_out * kh * kw` numbers. Which matrix turns the first into
# the second?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Flattened behind its first axis, `weight` is `(C_in, C_out * kh * kw)`, already in the right order. The product sums over `C_in`, so this
# axis has to stand second: transpose the matrix, do not reshape it.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# `F.fold(columns, output_size, kernel_size, stride=…, padding=…)`, where `output_size` is the final size, `output_padding`
# included. That is all it needs to know about `output_padding`.
#
# </details>

# %% exercise="conv_transpose2d_fold"
def conv_transpose2d_fold(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
) -> Tensor:
    """Two-dimensional transposed convolution as one matrix product and a fold (col2im).

    Args:
        x: (N, C_in, H, W) float.
        weight: (C_in, C_out, kh, kw), the type of x.
        bias: (C_out,), added once to every output pixel, or None.
        stride: int or pair (rows, columns), distance of two neighbours' stamps in output pixels.
        padding: int or pair, output pixels cut off at every side.
        output_padding: int or pair, output pixels added at the bottom and right.

    Returns:
        (N, C_out, out_h, out_w), the type of x.

    Raises:
        ValueError: x and weight differ in the number of input channels, or the sizes are illegal.

    Source: Chellapilla, Puri and Simard, "High performance convolutional neural networks for document processing", IWFHR 2006, whose
        unrolled convolution this runs backwards.
    Reference: torch.nn.functional.conv_transpose2d.
    """
    ### BEGIN SOLUTION
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError(f"weight must have a kernel for each of the {C_in} channels of x, got {channels}")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = weight.reshape(C_in, C_out * kh * kw).T @ x.reshape(N, C_in, H * W)  # (N, C_out * kh * kw, H * W)
    output = F.fold(stamps, (out_h, out_w), (kh, kw), stride=(sh, sw), padding=(ph, pw))  # (N, C_out, out_h, out_w)
    return output if bias is None else output + bias[:, None, None]
    ### END SOLUTION

# %% check="conv_transpose2d_fold" points=3
NO_CONVOLUTION = {"forbid": ("convolution",), "substitute": {"transposed_output_size": "library_transposed_output_size"}}
FOLD_CASES = [  # (x, weight, stride, padding, output_padding): height is never width, rows never columns
    ((2, 3, 3, 4), (3, 2, 2, 3), 1, 0, 0),
    ((3, 2, 4, 3), (2, 3, 4, 3), (3, 2), 0, 0),
    ((2, 2, 3, 5), (2, 1, 3, 5), 2, (1, 2), 0),
    ((2, 4, 3, 2), (4, 3, 3, 4), (2, 3), (0, 1), (1, 2)),
    ((2, 1, 4, 5), (1, 2, 2, 3), (3, 2), (2, 1), (1, 0)),
]


@lab.check("conv_transpose2d_fold", points=1, **NO_CONVOLUTION)
def by_hand(conv_transpose2d_fold):
    """Two rows of one pixel each, then two by two pixels that share a cell, then two channels on each side, cut, and with a bias."""
    column, kernel = torch.tensor([1.0, 2]).reshape(1, 1, 2, 1), torch.tensor([1.0, 10, 100]).reshape(1, 1, 3, 1)
    for stride, numbers in [(1, [1.0, 12, 120, 200]), ((2, 1), [1.0, 10, 102, 20, 200]), ((3, 1), [1.0, 10, 100, 2, 20, 200])]:
        case = f"one column: 1 2, stamp 1 10 100, stride {stride}"
        expect_close(conv_transpose2d_fold(column, kernel, stride=stride), torch.tensor(numbers).reshape(1, 1, -1, 1), case)
    got = conv_transpose2d_fold(column, kernel, stride=(2, 1), padding=(1, 0), output_padding=(1, 0))
    cut = torch.tensor([10.0, 102, 20, 200]).reshape(1, 1, 4, 1)
    expect_close(got, cut, "one column: 1 2, stamp 1 10 100, stride (2, 1), padding (1, 0), output_padding (1, 0)")
    x, square = torch.tensor([[[[1.0, 2], [3, 4]]]]), torch.tensor([[[[1.0, 10], [100, 1000]]]])
    expected = torch.tensor([[[[1.0, 12, 20], [103, 1234, 2040], [300, 3400, 4000]]]])
    expect_close(conv_transpose2d_fold(x, square), expected, "rows 1 2 and 3 4, stamp with the rows 1 10 and 100 1000, stride 1")
    got = conv_transpose2d_fold(x, square, torch.tensor([0.5]))
    expect_close(got, expected + 0.5, "the same with bias 0.5")
    mixing = torch.tensor([[1.0, 10], [100, 1000]])[:, :, None, None]  # input 0 goes to both outputs by 1 and 10, input 1 by 100 and 1000
    got = conv_transpose2d_fold(torch.cat([x, x], 1), mixing)
    expect_close(got, torch.cat([101 * x, 1010 * x], 1), "two channels in, two out, stamps of one cell: 1 + 100 and 10 + 1000")


@lab.check("conv_transpose2d_fold", points=1.25, **NO_CONVOLUTION)
def agrees_with_library(conv_transpose2d_fold, rng):
    """Equal to `F.conv_transpose2d` for ints and pairs, with and without bias, in the type of `x`; misfits are refused."""
    for number, (shape, kernel, stride, padding, output_padding) in enumerate(FOLD_CASES):
        dtype = torch.float64 if number % 2 else torch.float32
        x, weight = normal(rng, *shape, dtype=dtype), normal(rng, *kernel, dtype=dtype)
        bias = normal(rng, kernel[1], dtype=dtype) if number != 1 else None
        arguments = (x, weight, bias, stride, padding, output_padding)
        case = f"x {shape}, weight {kernel}, stride {stride}, padding {padding}, output_padding {output_padding}, bias {bias is not None}"
        expect_close(conv_transpose2d_fold(*arguments), F.conv_transpose2d(*arguments), case)
    h, w = (int(v) for v in rng.integers(3, 6, size=2))
    x, weight = normal(rng, 2, 3, w, h).transpose(2, 3), normal(rng, 2, 3, 2, 3).permute(1, 0, 3, 2)  # (3, 2, 3, 2)
    case = "rows and columns of x and weight swapped by a transpose, stride 2"
    expect_close(conv_transpose2d_fold(x, weight, stride=2), F.conv_transpose2d(x, weight, stride=2), case)
    expect_raises(ValueError, lambda: conv_transpose2d_fold(x, weight[:2]), "3 channels in x, a weight for 2")
    expect_raises(ValueError, lambda: conv_transpose2d_fold(x[:, :1], weight), "1 channel in x, a weight for 3")
    expect_raises(ValueError, lambda: conv_transpose2d_fold(x, weight, stride=(2, 3), output_padding=2), "output_padding 2, stride (2, 3)")


@lab.check("conv_transpose2d_fold", points=0.75, **NO_CONVOLUTION)
def passes_gradients(conv_transpose2d_fold, rng):
    """Gradients of `x`, `weight` and `bias` equal those of `F.conv_transpose2d`."""
    x, weight, bias = normal(rng, 2, 3, 3, 4), normal(rng, 3, 2, 4, 3), normal(rng, 2)
    options = {"stride": (3, 2), "padding": (1, 0), "output_padding": (2, 1)}
    ours = gradients(lambda *tensors: conv_transpose2d_fold(*tensors, **options), x, weight, bias)
    theirs = gradients(lambda *tensors: F.conv_transpose2d(*tensors, **options), x, weight, bias)
    expect_close(ours, theirs, "gradients of x, weight and bias")

# %% mistake="conv_transpose2d_fold" hint="You reshaped the weight where it has to be transposed: a reshape to (C_out * kh * kw, C_in) keeps the order of the numbers and mixes channels with cells."
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = weight.reshape(-1, C_in) @ x.flatten(2)
    output = F.fold(stamps, (out_h, out_w), (kh, kw), stride=(sh, sw), padding=(ph, pw))
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_fold" hint="Your stamps are ordered cells first, channel last. In a column of fold the output channel comes first, then row and column of the kernel."
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = weight.permute(0, 2, 3, 1).flatten(1).T @ x.flatten(2)
    output = F.fold(stamps, (out_h, out_w), (kh, kw), stride=(sh, sw), padding=(ph, pw))
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_fold" hint="Within your stamps the kernel goes column by column. fold reads it row by row."
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = weight.transpose(2, 3).flatten(1).T @ x.flatten(2)
    output = F.fold(stamps, (out_h, out_w), (kh, kw), stride=(sh, sw), padding=(ph, pw))
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_fold" hint="Your pixels go column by column. fold reads the places row by row, left to right."
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = weight.flatten(1).T @ x.transpose(2, 3).flatten(2)
    output = F.fold(stamps, (out_h, out_w), (kh, kw), stride=(sh, sw), padding=(ph, pw))
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_fold" hint="You turned the kernel around. In a stamp the first weight comes first; only the zero-insertion view has to flip it."
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = weight.flip(2, 3).flatten(1).T @ x.flatten(2)
    output = F.fold(stamps, (out_h, out_w), (kh, kw), stride=(sh, sw), padding=(ph, pw))
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_fold" hint="You read the weight as (C_out, C_in, kh, kw), as for a convolution. Here the input's channels come first."
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (C_out, channels, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = weight.transpose(0, 1).flatten(1).T @ x.flatten(2)
    output = F.fold(stamps, (out_h, out_w), (kh, kw), stride=(sh, sw), padding=(ph, pw))
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_fold" hint="You divided by the number of stamps that meet in a pixel. That is right for averaging patches; here stamps are added."
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = weight.flatten(1).T @ x.flatten(2)
    output = F.fold(stamps, (out_h, out_w), (kh, kw), stride=(sh, sw), padding=(ph, pw))
    output = output / F.fold(torch.ones_like(stamps), (out_h, out_w), (kh, kw), stride=(sh, sw), padding=(ph, pw)).clamp(min=1)
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_fold" hint="Your fold does not know the stride: it counts more places than there are columns. Pass stride=."
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = weight.flatten(1).T @ x.flatten(2)
    output = F.fold(stamps, (out_h, out_w), (kh, kw), padding=(ph, pw))
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_fold" hint="Your fold does not know the padding: it counts other places than there are columns. Pass padding=."
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = weight.flatten(1).T @ x.flatten(2)
    output = F.fold(stamps, (out_h, out_w), (kh, kw), stride=(sh, sw))
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_fold" hint="Rows are sh apart and columns sw; yours are swapped. A pair means (rows, columns)."
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sw, sh), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = weight.flatten(1).T @ x.flatten(2)
    output = F.fold(stamps, (out_h, out_w), (kh, kw), stride=(sh, sw), padding=(ph, pw))
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_fold" hint="output_padding has no effect in your result, which is too short at the bottom and right."
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph), transposed_output_size(W, kw, sw, pw)
    transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = weight.flatten(1).T @ x.flatten(2)
    output = F.fold(stamps, (out_h, out_w), (kh, kw), stride=(sh, sw), padding=(ph, pw))
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_fold" hint="The cells of output_padding are zeros in your result. Tell fold the whole size; then it fills them with what padding would have cut off."
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = weight.flatten(1).T @ x.flatten(2)
    output = F.fold(stamps, (out_h - oh, out_w - ow), (kh, kw), stride=(sh, sw), padding=(ph, pw))
    output = F.pad(output, (0, ow, 0, oh))
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_fold" hint="The bias is missing. Each output channel has one number that is added at every pixel."
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = weight.flatten(1).T @ x.flatten(2)
    output = F.fold(stamps, (out_h, out_w), (kh, kw), stride=(sh, sw), padding=(ph, pw))
    return output

# %% mistake="conv_transpose2d_fold" hint="Your result is right for one image but mixes several: after a product over the pixels of the whole batch the axes are (…, N, …), and reshape alone does not exchange them."
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = (weight.flatten(1).T @ x.transpose(0, 1).flatten(1)).reshape(N, -1, H * W)
    output = F.fold(stamps, (out_h, out_w), (kh, kw), stride=(sh, sw), padding=(ph, pw))
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_fold" hint="Your values are right, but no gradient reaches the weight: `.data`, `.detach()`, `torch.tensor(…)` or `torch.no_grad()` cut it off."
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError("channels")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = weight.detach().flatten(1).T @ x.flatten(2)
    output = F.fold(stamps, (out_h, out_w), (kh, kw), stride=(sh, sw), padding=(ph, pw))
    return output if bias is None else output + bias[:, None, None]

# %% mistake="conv_transpose2d_fold" hint="Channels that do not fit must raise ValueError. A product that fails raises RuntimeError: compare the shapes first."
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, C_out, kh, kw) = x.shape, weight.shape
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = weight.flatten(1).T @ x.flatten(2)
    output = F.fold(stamps, (out_h, out_w), (kh, kw), stride=(sh, sw), padding=(ph, pw))
    return output if bias is None else output + bias[:, None, None]

# %% alternative="conv_transpose2d_fold"
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    if x.shape[1] != weight.shape[0]:
        raise ValueError(f"{x.shape[1]} channels in x, {weight.shape[0]} in weight")
    sizes = []
    for axis in (0, 1):
        settings = (pair(stride)[axis], pair(padding)[axis], pair(output_padding)[axis])
        sizes.append(transposed_output_size(x.shape[2 + axis], weight.shape[2 + axis], *settings))
    stamps = torch.einsum("ncl,ck->nkl", x.flatten(2), weight.flatten(1))
    folding = torch.nn.Fold(tuple(sizes), tuple(weight.shape[2:]), stride=pair(stride), padding=pair(padding))
    return folding(stamps) + (0 if bias is None else bias.reshape(1, -1, 1, 1))

# %% alternative="conv_transpose2d_fold"
def conv_transpose2d_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (N, C_in, H, W), (channels, O, kh, kw) = x.shape, weight.shape
    if C_in != channels:
        raise ValueError(f"{C_in} channels in x, {channels} in weight")
    (sh, sw), (ph, pw), (oh, ow) = pair(stride), pair(padding), pair(output_padding)
    out_h, out_w = transposed_output_size(H, kh, sh, ph, oh), transposed_output_size(W, kw, sw, pw, ow)
    stamps = torch.einsum("nchw,coab->nohawb", x, weight)
    # A fold of our own: where every number goes, and one index_add for all of them.
    rows = torch.arange(H)[:, None] * sh + torch.arange(kh)  # (H, kh)
    columns = torch.arange(W)[:, None] * sw + torch.arange(kw)  # (W, kw)
    width = out_w + 2 * pw
    places = (rows[:, :, None, None] * width + columns).flatten()  # (H * kh * W * kw,)
    canvas = x.new_zeros(N, O, (out_h + 2 * ph) * width).index_add(2, places, stamps.flatten(2))
    output = canvas.reshape(N, O, -1, width)[:, :, ph : ph + out_h, pw : pw + out_w]
    return output if bias is None else output + bias[:, None, None]

# %% [markdown]
# Now you have it three times. How much do the views cost? Think in multiplications: of those that zero insertion does, only one in
# $\text{stride}^2$ meets a number that is not an inserted zero. The fold has none to spare, but it writes all stamps into memory before it
# adds them up.
#
# **Predict first.** How many times slower than the library are the two, with kernel 4 and stride 2, and with kernel 16 and stride 8?
#
# We measure process time on one thread, and take the least of several runs, which is the one that was disturbed least. Five such
# measurements are stored.

# %% measure="time_ratios" seeds=5
def time_ratios(seed):
    """Time of fold and of zero insertion, each divided by the library's, from 64 channels to 64 channels of 96 x 96 pixels."""
    generator = torch.Generator().manual_seed(seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ways = {"library": F.conv_transpose2d, "fold": conv_transpose2d_fold, "zero insertion": conv_transpose2d_zero_insertion}
    found = {}
    for kernel_size, stride in [(4, 2), (16, 8)]:
        x = torch.randn(1, 64, 96 // stride, 96 // stride, generator=generator)
        weight = torch.randn(64, 64, kernel_size, kernel_size, generator=generator)
        times = {name: [] for name in ways}
        for _ in range(7):
            for name, transposed in ways.items():  # in turn, so that a busy moment hits all three
                start = time.process_time()
                transposed(x, weight, None, stride, (kernel_size - stride) // 2)
                times[name].append(time.process_time() - start)
        for name in ("fold", "zero insertion"):
            found[f"{name}, kernel {kernel_size}, stride {stride}"] = min(times[name]) / min(times["library"])
    torch.set_num_threads(threads)
    return found

# %%
runs = measurements.load("02_transposed_convolution", "time_ratios")
sizes = ["kernel 4, stride 2", "kernel 16, stride 8"]
fig, ax = plt.subplots(figsize=(6, 3.6))
for number, (name, marker) in enumerate([("fold", "o"), ("zero insertion", "s")]):
    ratios = np.array([[run[f"{name}, {size}"] for size in sizes] for run in runs])  # (seeds, 2)
    places = np.arange(2) + 0.2 * number - 0.1 + 0.02 * np.arange(-2, 3)[:, None]
    ax.plot(places, ratios, marker, color=f"C{2 * number}", alpha=0.6, label=[name, None])
    print(f"{name:14s}", ", ".join(f"{size}: {np.median(r):.1f} times the library" for size, r in zip(sizes, ratios.T)))
ax.axhline(1, color="C1", label="library")
ax.set(yscale="log", xlim=(-0.5, 1.5), ylim=(0.8, 50), ylabel="time / library's time")
ax.set_xticks([0, 1], sizes)
ax.set_yticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
ax.minorticks_off()
ax.set_title("Zeros in between cost more the larger the stride")
ax.legend()
plots.show(fig, alt="Time ratios, logarithmic: the fold stays near the library in both cases, zero insertion is far slower with stride 8.")

# %% [markdown]
# The fold stays within a small factor of the library; its matrix product does the same multiplications. Zero insertion costs the more the larger the
# stride, though less than $\text{stride}^2$ suggests, since a plain convolution is the better optimised routine. Your own versions, here
# and now:

# %% tags=["volatile"]
if lab.ready("conv_transpose2d_zero_insertion") and lab.ready("conv_transpose2d_fold"):
    once = time_ratios(seed=0)
    for name, ratio in once.items():
        print(f"{name:36s} {ratio:5.1f} times the library")
    assert once["zero insertion, kernel 16, stride 8"] > 2 * once["fold, kernel 16, stride 8"], "a fold should be much faster than zeros"

# %% [markdown]
# ## Exercise 7: give the stamp the shape of a tent (2 points, 10 minutes)
#
# Complete `bilinear_kernel`: the weight with which a transposed convolution enlarges `channels` images by `factor` $f$, each channel on its
# own, exactly as bilinear interpolation does away from the border. The layer it is for is
# `F.conv_transpose2d(x, kernel, stride=factor, padding=factor // 2, groups=channels)`.
#
# - The kernel has shape `(channels, 1, size, size)` with $\text{size} = 2f - (f \bmod 2)$, and is of type float32. All channels get the
#   same numbers.
# - Along one axis the weights are a **tent**: highest in the **middle** of the kernel, falling by $1/f$ with every cell of distance. The
#   middle of an even kernel lies between two cells, so there no weight reaches 1.
# - Along two axes a weight is the **product** of the tents of its row and of its column.
# - Raise `ValueError` when `channels` or `factor` is under 1.
#
# <details><summary>Hint 1</summary>
#
# Write down the tent for factor 3: five cells, the third one in the middle. Then for factor 2: four cells, and their middle is at 1.5.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The cells are 0, 1, …, `size - 1`, so the middle is `(size - 1) / 2` for even and odd sizes. The tent is one minus (distance over $f$).
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# `torch.outer` multiplies every row's number with every column's. `repeat(channels, 1, 1, 1)` puts copies in front.
#
# </details>

# %% exercise="bilinear_kernel"
def bilinear_kernel(channels: int, factor: int) -> Tensor:
    """Weights of a depthwise transposed convolution that interpolates bilinearly.

    Args:
        channels: of the images to be enlarged, at least 1.
        factor: output pixels an input pixel along an axis, at least 1; the stride of the layer.

    Returns:
        (channels, 1, size, size) float32, where size is 2 * factor - factor % 2.

    Raises:
        ValueError: channels or factor is under 1.

    Source: Long, Shelhamer and Darrell, "Fully convolutional networks for semantic segmentation", CVPR 2015, section 3.3.
    Reference: torch.nn.functional.interpolate(x, scale_factor=factor, mode="bilinear"), away from the border.
    """
    ### BEGIN SOLUTION
    if channels < 1 or factor < 1:
        raise ValueError(f"channels and factor must be at least 1, got {channels} and {factor}")
    size = 2 * factor - factor % 2
    tent = 1 - (torch.arange(size) - (size - 1) / 2).abs() / factor  # (size,), highest in the middle
    return torch.outer(tent, tent).repeat(channels, 1, 1, 1)
    ### END SOLUTION

# %% check="bilinear_kernel" points=2
@lab.check("bilinear_kernel", points=1)
def by_hand(bilinear_kernel):
    """The tents of factors 1, 2 and 3, the same for every channel, and numbers that make no kernel."""
    expect_close(bilinear_kernel(1, 1), torch.ones(1, 1, 1, 1), "1 channel, factor 1: nothing changes")
    two = torch.tensor([1.0, 3, 3, 1]) / 4
    expect_close(bilinear_kernel(1, 2), torch.outer(two, two)[None, None], "1 channel, factor 2: the tent 1/4 3/4 3/4 1/4")
    three = torch.tensor([1.0, 2, 3, 2, 1]) / 3
    expect_close(bilinear_kernel(1, 3), torch.outer(three, three)[None, None], "1 channel, factor 3: the tent 1/3 2/3 1 2/3 1/3")
    expect_close(bilinear_kernel(2, 2), torch.outer(two, two).expand(2, 1, 4, 4), "2 channels, factor 2")
    expect_raises(ValueError, lambda: bilinear_kernel(0, 2), "0 channels")
    expect_raises(ValueError, lambda: bilinear_kernel(2, 0), "factor 0")


@lab.check("bilinear_kernel", points=1)
def interpolates(bilinear_kernel, rng):
    """As weights of the library's layer: equal to `F.interpolate` away from the border, for even and odd factors."""
    for channels, factor in [(3, 2), (2, 3), (4, 5), (3, 4), (int(rng.integers(1, 5)), int(rng.integers(2, 8)))]:
        kernel = bilinear_kernel(channels, factor)
        side = 2 * factor - factor % 2
        case = f"{channels} channels, factor {factor}"
        expect_true(isinstance(kernel, Tensor), case, "The kernel should be a tensor.")
        expect_equal(tuple(kernel.shape), (channels, 1, side, side), f"the shape for {case}")
        x = normal(rng, 2, channels, 4, 5)
        enlarged = F.conv_transpose2d(x, kernel, stride=factor, padding=factor // 2, groups=channels)
        inner = (..., slice(factor, -factor), slice(factor, -factor))  # the border has neighbours that do not exist
        expect_close(enlarged[inner], F.interpolate(x, scale_factor=factor, mode="bilinear")[inner], f"images enlarged with it, {case}")

# %% mistake="bilinear_kernel" hint="Your kernel always has 2 * factor cells. An odd factor has a cell in the middle, and one cell less."
def bilinear_kernel(channels, factor):
    if channels < 1 or factor < 1:
        raise ValueError("illegal")
    size = 2 * factor
    tent = 1 - (torch.arange(size) - (size - 1) / 2).abs() / factor
    return torch.outer(tent, tent).repeat(channels, 1, 1, 1)

# %% mistake="bilinear_kernel" hint="Your kernel always has 2 * factor - 1 cells. An even factor has its middle between two cells, and one cell more."
def bilinear_kernel(channels, factor):
    if channels < 1 or factor < 1:
        raise ValueError("illegal")
    size = 2 * factor - 1
    tent = 1 - (torch.arange(size) - (size - 1) / 2).abs() / factor
    return torch.outer(tent, tent).repeat(channels, 1, 1, 1)

# %% mistake="bilinear_kernel" hint="The middle of your tent is at size / 2. Cells are counted from 0, so it is at (size - 1) / 2."
def bilinear_kernel(channels, factor):
    if channels < 1 or factor < 1:
        raise ValueError("illegal")
    size = 2 * factor - factor % 2
    tent = 1 - (torch.arange(size) - size / 2).abs() / factor
    return torch.outer(tent, tent).repeat(channels, 1, 1, 1)

# %% mistake="bilinear_kernel" hint="You rounded the middle of the tent to a cell. With an even size it lies between two cells."
def bilinear_kernel(channels, factor):
    if channels < 1 or factor < 1:
        raise ValueError("illegal")
    size = 2 * factor - factor % 2
    tent = 1 - (torch.arange(size) - (size - 1) // 2).abs() / factor
    return torch.outer(tent, tent).repeat(channels, 1, 1, 1)

# %% mistake="bilinear_kernel" hint="Your tent falls too fast or too slowly: by 1 / factor a cell, not by one over the kernel's size or half of it."
def bilinear_kernel(channels, factor):
    if channels < 1 or factor < 1:
        raise ValueError("illegal")
    size = 2 * factor - factor % 2
    tent = 1 - (torch.arange(size) - (size - 1) / 2).abs() / size
    return torch.outer(tent, tent).repeat(channels, 1, 1, 1)

# %% mistake="bilinear_kernel" hint="Your tent falls to 0 at the outermost cells. It falls by 1 / factor a cell, so the outermost weights are still above 0."
def bilinear_kernel(channels, factor):
    if channels < 1 or factor < 1:
        raise ValueError("illegal")
    size = 2 * factor - factor % 2
    tent = 1 - (torch.arange(size) - (size - 1) / 2).abs() / max((size - 1) / 2, 1)
    return torch.outer(tent, tent).repeat(channels, 1, 1, 1)

# %% mistake="bilinear_kernel" hint="All your weights are equal: that is a box. With a stamp wider than the stride it does not even copy; bilinear interpolation needs a tent."
def bilinear_kernel(channels, factor):
    if channels < 1 or factor < 1:
        raise ValueError("illegal")
    size = 2 * factor - factor % 2
    tent = 1 - 0 * torch.arange(size).float()
    return torch.outer(tent, tent).repeat(channels, 1, 1, 1)

# %% mistake="bilinear_kernel" hint="You divided by the sum. The weights of this kernel add up to factor squared, so that those which meet in one output pixel add up to 1."
def bilinear_kernel(channels, factor):
    if channels < 1 or factor < 1:
        raise ValueError("illegal")
    size = 2 * factor - factor % 2
    tent = 1 - (torch.arange(size) - (size - 1) / 2).abs() / factor
    return torch.outer(tent / tent.sum(), tent / tent.sum()).repeat(channels, 1, 1, 1)

# %% mistake="bilinear_kernel" hint="You built a round cone: one minus a distance in two dimensions. Bilinear weights are the product of a row's and a column's tent."
def bilinear_kernel(channels, factor):
    if channels < 1 or factor < 1:
        raise ValueError("illegal")
    size = 2 * factor - factor % 2
    tent = 1 - (torch.arange(size) - (size - 1) / 2).abs() / factor
    cone = 1 - torch.hypot(1 - tent, (1 - tent)[:, None])
    return cone.clamp(min=0).repeat(channels, 1, 1, 1)

# %% mistake="bilinear_kernel" hint="You added the tents of row and column. Bilinear weights are their product."
def bilinear_kernel(channels, factor):
    if channels < 1 or factor < 1:
        raise ValueError("illegal")
    size = 2 * factor - factor % 2
    tent = 1 - (torch.arange(size) - (size - 1) / 2).abs() / factor
    return (tent + tent[:, None] - 1).repeat(channels, 1, 1, 1)

# %% mistake="bilinear_kernel" hint="Your kernel is (channels, channels, …): a full layer. With groups=channels every channel has one kernel of its own, and the second axis is 1."
def bilinear_kernel(channels, factor):
    if channels < 1 or factor < 1:
        raise ValueError("illegal")
    size = 2 * factor - factor % 2
    tent = 1 - (torch.arange(size) - (size - 1) / 2).abs() / factor
    return torch.eye(channels)[:, :, None, None] * torch.outer(tent, tent)

# %% mistake="bilinear_kernel" hint="Your kernel is (1, channels, …). The first axis of the weight belongs to the input's channels."
def bilinear_kernel(channels, factor):
    if channels < 1 or factor < 1:
        raise ValueError("illegal")
    size = 2 * factor - factor % 2
    tent = 1 - (torch.arange(size) - (size - 1) / 2).abs() / factor
    return torch.outer(tent, tent).repeat(1, channels, 1, 1)

# %% mistake="bilinear_kernel" hint="Your kernel is float64. Weights of a layer are float32 by default."
def bilinear_kernel(channels, factor):
    if channels < 1 or factor < 1:
        raise ValueError("illegal")
    size = 2 * factor - factor % 2
    tent = 1 - (torch.arange(size, dtype=torch.float64) - (size - 1) / 2).abs() / factor
    return torch.outer(tent, tent).repeat(channels, 1, 1, 1)

# %% mistake="bilinear_kernel" hint="Your kernel is right, but 0 channels or a factor of 0 pass. They must raise ValueError."
def bilinear_kernel(channels, factor):
    size = 2 * factor - factor % 2
    tent = 1 - (torch.arange(max(size, 0)) - (size - 1) / 2).abs() / max(factor, 1)
    return torch.outer(tent, tent).repeat(channels, 1, 1, 1)

# %% alternative="bilinear_kernel"
def bilinear_kernel(channels, factor):
    if min(channels, factor) < 1:
        raise ValueError(f"{channels=} and {factor=} must be positive")
    size = 2 * factor - factor % 2
    rows = []
    for a in range(size):
        rows.append([(1 - abs(2 * a - size + 1) / (2 * factor)) * (1 - abs(2 * b - size + 1) / (2 * factor)) for b in range(size)])
    return torch.tensor(rows).expand(channels, 1, size, size).clone()

# %% alternative="bilinear_kernel"
def bilinear_kernel(channels, factor):
    if channels < 1 or factor < 1:
        raise ValueError(f"{channels=} and {factor=} must be positive")
    # The stamp of one pixel is what interpolation makes of a single 1.
    impulse = F.pad(torch.ones(1, 1, 1, 1), (1, 1, 1, 1))
    picture = F.interpolate(impulse, scale_factor=factor, mode="bilinear")  # (1, 1, 3 * factor, 3 * factor)
    stamp = (slice(factor - factor // 2, 2 * factor + factor // 2),) * 2
    return picture[0, 0][stamp].repeat(channels, 1, 1, 1)

# %% [markdown]
# A network that enlarges its map eight times can begin like this, or with random weights. Here is what either makes of the cat's eye before
# any training. Your `conv_transpose2d_fold` treats the three colours as three images of one channel.

# %%
if lab.ready("conv_transpose2d_fold") and lab.ready("bilinear_kernel"):
    eye = datasets.photograph("cat")[:, 82:110, 160:196, None].permute(0, 3, 1, 2)  # (3, 1, 28, 36): colours as a batch
    random_kernel = 0.2 * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    smooth = conv_transpose2d_fold(eye, bilinear_kernel(1, 8), stride=8, padding=4)
    rough = conv_transpose2d_fold(eye, random_kernel, stride=8, padding=4) + 0.5  # half grey, to show both signs
    library = F.interpolate(eye, scale_factor=8, mode="bilinear")
    off = (smooth - library).abs()  # (3, 1, 224, 288)
    print(f"largest difference to F.interpolate: {off[..., 8:-8, 8:-8].max():.6f} inside, {off.max():.2f} at the border")
    fig = plots.image_row([eye[:, 0], rough[:, 0], smooth[:, 0]], ["eye, 28 x 36", "random weights", "bilinear weights"], height=1.7)
    plots.show(fig, alt="A cat's eye in coarse pixels; by random weights: a repeating pattern; by bilinear weights: smooth, a dark rim.")


# %% [markdown]
# ## Exercise 8: count the stamps that meet in a pixel (2 points, 10 minutes)
#
# Complete `overlap_map`: for a transposed convolution without padding, how many input pixels contribute to each output pixel? Return the
# counts as an int64 tensor of the size of the output, `(out_h, out_w)`. A pixel that no stamp reaches, because the stride is wider than the
# stamp, has 0.
#
# `input_size`, `kernel_size` and `stride` are ints or pairs (rows, columns). Raise `ValueError` for sizes that your
# `transposed_output_size` refuses. The library's convolutions and `fold` are off limits; your own `conv_transpose2d_scatter` is not, and
# if it has a fault, the check runs again with one that works.
#
# <details><summary>Hint 1</summary>
#
# Start with one axis. Stamp $i$ covers the cells $i \cdot \text{stride}, \ldots, i \cdot \text{stride} + \text{kernel\_size} - 1$. How many
# stamps cover cell $m$?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# A stamp on the image covers a pixel when it covers its row **and** its column. So the count of a pixel is a product of two counts.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# Or think of what a transposed convolution does to an image of ones with a kernel of ones.
#
# </details>

# %% exercise="overlap_map"
def overlap_map(
    input_size: int | tuple[int, int], kernel_size: int | tuple[int, int], stride: int | tuple[int, int]
) -> Tensor:
    """Number of input pixels that contribute to each output pixel of a transposed convolution without padding.

    Args:
        input_size: int or pair (rows, columns), pixels of the input.
        kernel_size: int or pair, pixels that one input pixel writes.
        stride: int or pair, distance of two neighbours' stamps in output pixels.

    Returns:
        (out_h, out_w) int64.

    Raises:
        ValueError: a size is under 1.

    Source: Odena, Dumoulin and Olah, "Deconvolution and checkerboard artifacts", Distill 2016, "Deconvolution & Overlap".
    """
    ### BEGIN SOLUTION
    counts = []
    for n, k, s in zip(pair(input_size), pair(kernel_size), pair(stride)):
        cells = torch.arange(transposed_output_size(n, k, s))  # (size,)
        starts = s * torch.arange(n)[:, None]  # (n, 1)
        covered = (cells >= starts) & (cells < starts + k)  # (n, size)
        counts.append(covered.sum(0))
    return torch.outer(*counts)  # a stamp covers a pixel when it covers its row and its column
    ### END SOLUTION

# %% check="overlap_map" points=2
COUNTED = {
    "forbid": ("convolution", "col2im"),
    "substitute": {"transposed_output_size": "library_transposed_output_size", "conv_transpose2d_scatter": "library_conv_transpose2d"},
}


@lab.check("overlap_map", points=1, **COUNTED)
def by_hand(overlap_map):
    """Rows and columns one can draw: overlap in every second cell, overlap everywhere, gaps; and sizes that do not exist."""
    expect_equal(overlap_map((2, 1), (2, 1), (3, 1)), torch.tensor([[1], [1], [0], [1], [1]]), "2 pixels, stamps of 2, stride 3")
    expect_equal(overlap_map((1, 3), (1, 3), (1, 2)), torch.tensor([[1, 1, 2, 1, 2, 1, 1]]), "a row of 3 pixels, stamps of 3, stride 2")
    expect_equal(overlap_map((1, 3), (1, 4), (1, 2)), torch.tensor([[1, 1, 2, 2, 2, 2, 1, 1]]), "a row of 3 pixels, stamps of 4, stride 2")
    square = torch.tensor([[1, 1, 2, 1, 1], [1, 1, 2, 1, 1], [2, 2, 4, 2, 2], [1, 1, 2, 1, 1], [1, 1, 2, 1, 1]])
    expect_equal(overlap_map(2, 3, 2), square, "2 x 2 pixels, stamps of 3 x 3, stride 2: four meet in the middle")
    expect_raises(ValueError, lambda: overlap_map((2, 0), 3, 2), "no column")
    expect_raises(ValueError, lambda: overlap_map(2, 3, (0, 1)), "stride (0, 1)")


@lab.check("overlap_map", points=1, **COUNTED)
def counted_stamp_by_stamp(overlap_map, rng):
    """Equal to a count on a canvas where every stamp adds 1 to each of its pixels, for ints and pairs."""
    cases = [((3, 4), (5, 3), (2, 1)), ((4, 3), 4, (3, 2)), (5, (2, 4), 3)]
    for _ in range(4):
        cases.append(tuple(tuple(int(v) for v in rng.integers(low, high, size=2)) for low, high in [(2, 7), (1, 7), (1, 5)]))
    for input_size, kernel_size, stride in cases:
        (H, W), (kh, kw), (sh, sw) = pair(input_size), pair(kernel_size), pair(stride)
        canvas = torch.zeros((H - 1) * sh + kh, (W - 1) * sw + kw, dtype=torch.int64)
        for top in range(0, H * sh, sh):
            for left in range(0, W * sw, sw):
                canvas[top : top + kh, left : left + kw] += 1
        expect_equal(overlap_map(input_size, kernel_size, stride), canvas, f"input {input_size}, kernel {kernel_size}, stride {stride}")

# %% mistake="overlap_map" hint="You added the counts of row and column. A stamp covers a pixel when it covers its row and its column: multiply."
def overlap_map(input_size, kernel_size, stride):
    counts = []
    for n, k, s in zip(pair(input_size), pair(kernel_size), pair(stride)):
        count = torch.zeros(transposed_output_size(n, k, s), dtype=torch.int64)
        for i in range(n):
            count[i * s : i * s + k] += 1
        counts.append(count)
    return counts[0][:, None] + counts[1]

# %% mistake="overlap_map" hint="You counted along the rows only. Stamps overlap from left and right too."
def overlap_map(input_size, kernel_size, stride):
    counts = []
    for n, k, s in zip(pair(input_size), pair(kernel_size), pair(stride)):
        count = torch.zeros(transposed_output_size(n, k, s), dtype=torch.int64)
        for i in range(n):
            count[i * s : i * s + k] += 1
        counts.append(count)
    return counts[0][:, None].expand(-1, len(counts[1])).clone()

# %% mistake="overlap_map" hint="You counted along the columns only. Stamps overlap from above and below too."
def overlap_map(input_size, kernel_size, stride):
    counts = []
    for n, k, s in zip(pair(input_size), pair(kernel_size), pair(stride)):
        count = torch.zeros(transposed_output_size(n, k, s), dtype=torch.int64)
        for i in range(n):
            count[i * s : i * s + k] += 1
        counts.append(count)
    return counts[1].expand(len(counts[0]), -1).clone()

# %% mistake="overlap_map" hint="Your map says whether a pixel is covered, not how often. Add the stamps up."
def overlap_map(input_size, kernel_size, stride):
    counts = []
    for n, k, s in zip(pair(input_size), pair(kernel_size), pair(stride)):
        count = torch.zeros(transposed_output_size(n, k, s), dtype=torch.int64)
        for i in range(n):
            count[i * s : i * s + k] = 1
        counts.append(count)
    return torch.outer(*counts)

# %% mistake="overlap_map" hint="Your stamps are one cell too short: stamp i covers kernel_size cells, from i * stride to i * stride + kernel_size - 1."
def overlap_map(input_size, kernel_size, stride):
    counts = []
    for n, k, s in zip(pair(input_size), pair(kernel_size), pair(stride)):
        count = torch.zeros(transposed_output_size(n, k, s), dtype=torch.int64)
        for i in range(n):
            count[i * s : i * s + k - 1] += 1
        counts.append(count)
    return torch.outer(*counts)

# %% mistake="overlap_map" hint="Your counts do not fall off at the border. Where the first and last stamps lie alone, fewer meet."
def overlap_map(input_size, kernel_size, stride):
    counts = []
    for n, k, s in zip(pair(input_size), pair(kernel_size), pair(stride)):
        count = torch.zeros(transposed_output_size(n, k, s), dtype=torch.int64)
        for i in range(n):
            count[i * s : i * s + k] += 1
        counts.append(count)
    for axis, (k, s) in enumerate(zip(pair(kernel_size), pair(stride))):
        period = torch.tensor([len(range(phase, k, s)) for phase in range(s)])
        counts[axis] = period[torch.arange(len(counts[axis])) % s]
    return torch.outer(*counts)

# %% mistake="overlap_map" hint="All your stamps lie side by side: they start `stride` cells apart, not kernel_size."
def overlap_map(input_size, kernel_size, stride):
    counts = []
    for n, k, s in zip(pair(input_size), pair(kernel_size), pair(stride)):
        count = torch.zeros(transposed_output_size(n, k, s), dtype=torch.int64)
        for i in range(n):
            count[i * k : i * k + k] += 1
        counts.append(count)
    return torch.outer(*counts)

# %% mistake="overlap_map" hint="Your stamps start one cell apart, whatever the stride."
def overlap_map(input_size, kernel_size, stride):
    counts = []
    for n, k, s in zip(pair(input_size), pair(kernel_size), pair(stride)):
        count = torch.zeros(transposed_output_size(n, k, s), dtype=torch.int64)
        for i in range(n):
            count[i : i + k] += 1
        counts.append(count)
    return torch.outer(*counts)

# %% mistake="overlap_map" hint="Your map is of floating-point type. Counts are whole numbers, int64."
def overlap_map(input_size, kernel_size, stride):
    counts = []
    for n, k, s in zip(pair(input_size), pair(kernel_size), pair(stride)):
        count = torch.zeros(transposed_output_size(n, k, s), dtype=torch.int64)
        for i in range(n):
            count[i * s : i * s + k] += 1
        counts.append(count)
    return torch.outer(*counts).float()

# %% mistake="overlap_map" hint="Rows and columns of your map are swapped. A pair means (rows, columns)."
def overlap_map(input_size, kernel_size, stride):
    counts = []
    for n, k, s in zip(pair(input_size), pair(kernel_size), pair(stride)):
        count = torch.zeros(transposed_output_size(n, k, s), dtype=torch.int64)
        for i in range(n):
            count[i * s : i * s + k] += 1
        counts.append(count)
    return torch.outer(*counts[::-1])

# %% mistake="overlap_map" hint="Your map has the size of the input. It belongs to the output: the question is how many stamps meet in each output pixel."
def overlap_map(input_size, kernel_size, stride):
    counts = []
    for n, k, s in zip(pair(input_size), pair(kernel_size), pair(stride)):
        count = torch.zeros(transposed_output_size(n, k, s), dtype=torch.int64)
        for i in range(n):
            count[i * s : i * s + k] += 1
        counts.append(count)
    return torch.outer(*[count[: : s][: n] for count, s, n in zip(counts, pair(stride), pair(input_size))])

# %% mistake="overlap_map" hint="Your counts are right, but sizes under 1 pass. Let your transposed_output_size look at them: it raises ValueError."
def overlap_map(input_size, kernel_size, stride):
    counts = []
    for n, k, s in zip(pair(input_size), pair(kernel_size), pair(stride)):
        count = torch.zeros(max(0, (n - 1) * s + k), dtype=torch.int64)
        for i in range(n):
            count[i * s : i * s + k] += 1
        counts.append(count)
    return torch.outer(*counts)

# %% alternative="overlap_map"
def overlap_map(input_size, kernel_size, stride):
    ones, stamp = torch.ones(1, 1, *pair(input_size)), torch.ones(1, 1, *pair(kernel_size))
    return conv_transpose2d_scatter(ones, stamp, stride=stride)[0, 0].long()

# %% alternative="overlap_map"
def overlap_map(input_size, kernel_size, stride):
    def along(n, k, s):
        size = transposed_output_size(n, k, s)
        # stamps that have started by cell m, less those that have ended before it
        started = [min(m // s + 1, n) for m in range(size)]
        ended = [min(max(m - k, -1) // s + 1, n) for m in range(size)]
        return torch.tensor([a - b for a, b in zip(started, ended)])

    rows, columns = (along(*settings) for settings in zip(pair(input_size), pair(kernel_size), pair(stride)))
    return rows[:, None] * columns

# %% [markdown]
# **Predict first.** The three kernels below have stride 2, 2 and 3. Which of the maps are flat away from their border, and where does the
# largest number stand?

# %%
if lab.ready("overlap_map"):
    fig, axes = plt.subplots(1, 3, figsize=(9, 3.6))
    for ax, (kernel_size, stride) in zip(axes, [(3, 2), (4, 2), (5, 3)]):
        counts = overlap_map(4 if stride == 2 else 3, kernel_size, stride)
        plots.heat_map(ax, counts, limits=(0, 4))
        ax.set(title=f"kernel {kernel_size}, stride {stride}", xlabel="output column", ylabel="output row")
    plots.show(fig, alt="Counts: kernel 3 at stride 2 alternates 1, 2 and 4; kernel 4 is 4 all over the middle; 5 at stride 3 alternates.")

# %% [markdown]
# Only a kernel that the stride divides gives a flat map. The others *force* a checkerboard as long as their weights are alike. A flat map
# does not forbid one: with free weights, the pixels of a flat map still see different parts of the kernel.


# %% [markdown]
# ## Exercise 9: resize, then convolve (3 points, 10 minutes)
#
# Complete the module `ResizeConv`, a layer that enlarges its input `factor` times and cannot leave a checkerboard: it enlarges by **nearest
# neighbour**, and an **ordinary** 3 x 3 convolution with stride 1 and a bias follows. Nothing comes after it.
#
# - Input `(N, in_channels, H, W)`, output `(N, out_channels, factor * H, factor * W)`.
# - The convolution reads one pixel over the border. Let it find a **copy of the nearest pixel** there (padding mode `"replicate"`), not
#   zeros. Then a plain wall comes out plain up to its edge, whatever the weights are.
# - The module's parameters are those of the convolution, kept in the attribute `conv`. So its `state_dict` has two entries: `conv.weight`
#   $(\text{out\_channels}, \text{in\_channels}, 3, 3)$ and `conv.bias` $(\text{out\_channels},)$, both learnable. They start as PyTorch
#   starts them.
# - Gradients reach the input and both parameters. Raise `ValueError` when `factor` is under 1.
#
# All of the library is allowed, except for its transposed convolutions.
#
# <details><summary>Hint 1</summary>
#
# `nn.Conv2d` pads on its own and has a `padding_mode`. `F.interpolate` and `nn.Upsample` enlarge.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `__init__` begins with `super().__init__()`. It stores the factor, and a convolution as `self.conv`. `forward` enlarges `x`, then
# calls it.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# `F.interpolate(x, scale_factor=…, mode="nearest")` has no parameters, so it adds nothing to the `state_dict`.
#
# </details>

# %% exercise="ResizeConv"
class ResizeConv(nn.Module):
    """Enlarge by nearest neighbour, then convolve: upsampling without checkerboards.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        factor: output pixels an input pixel along an axis, at least 1.

    Shapes: (N, in_channels, H, W) -> (N, out_channels, factor * H, factor * W).
    Parameters: conv.weight (out_channels, in_channels, 3, 3), conv.bias (out_channels,).

    Raises:
        ValueError: factor is under 1.

    Source: Odena, Dumoulin and Olah, "Deconvolution and checkerboard artifacts", Distill 2016, "Better Upsampling".
    """

    def __init__(self, in_channels: int, out_channels: int, factor: int) -> None:
        ### BEGIN SOLUTION
        super().__init__()
        if factor < 1:
            raise ValueError(f"factor must be at least 1, got {factor}")
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="replicate")
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        enlarged = F.interpolate(x, scale_factor=self.factor, mode="nearest")  # (N, in_channels, factor * H, factor * W)
        return self.conv(enlarged)
        ### END SOLUTION

# %% check="ResizeConv" points=3
def resize_then_convolve(x, weight, bias, factor):
    """What the layer should answer, with the weights given."""
    enlarged = x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return F.conv2d(F.pad(enlarged, (1, 1, 1, 1), mode="replicate"), weight, bias)


def with_known_weights(ResizeConv, rng, in_channels, out_channels, factor):
    """A layer of the student's, and the weights it was given."""
    layer = ResizeConv(in_channels, out_channels, factor)
    weight, bias = normal(rng, out_channels, in_channels, 3, 3), normal(rng, out_channels)
    layer.load_state_dict({"conv.weight": weight, "conv.bias": bias})
    return layer, weight, bias


@lab.check("ResizeConv", points=1)
def shapes_and_parameters(ResizeConv, rng):
    """The size of the output, the names and shapes of what is stored, the number of parameters, different starts, and a factor of 0."""
    for in_channels, out_channels, factor in [(3, 5, 2), (4, 2, 3), (2, 3, 1)]:
        layer = ResizeConv(in_channels, out_channels, factor)
        case = f"ResizeConv({in_channels}, {out_channels}, {factor})"
        answer = layer(normal(rng, 2, in_channels, 4, 5))
        expect_true(isinstance(answer, Tensor), case, "The answer should be a tensor.")
        expect_equal(tuple(answer.shape), (2, out_channels, 4 * factor, 5 * factor), f"{case}: shape of its answer to images of 4 x 5")
        stored = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
        expect_equal(stored, {"conv.weight": (out_channels, in_channels, 3, 3), "conv.bias": (out_channels,)}, f"{case}: its state_dict")
        count = sum(parameter.numel() for parameter in layer.parameters())
        expect_equal(count, out_channels * (9 * in_channels + 1), f"{case}: number of parameters")
    one, other = (ResizeConv(3, 5, 2).state_dict()["conv.weight"] for _ in range(2))
    expect_true((one != other).any() and 0.05 < one.std() < 0.2, "two new layers", "Their weights should start as PyTorch starts them.")
    expect_raises(ValueError, lambda: ResizeConv(3, 5, 0), "factor 0")


@lab.check("ResizeConv", points=1)
def agrees_with_reference(ResizeConv, rng):
    """With weights that we load, equal to nearest neighbour and a convolution; the type follows the layer's."""
    cases = [((2, 3, 4, 5), 2, 2), ((2, 2, 5, 3), 4, 3), ((2, 2, 3, 4), 3, 1), ((3, 1, 3, 4), 3, int(rng.integers(2, 5)))]
    for shape, out_channels, factor in cases:
        layer, weight, bias = with_known_weights(ResizeConv, rng, shape[1], out_channels, factor)
        x = normal(rng, *shape)
        expect_close(layer(x), resize_then_convolve(x, weight, bias, factor), f"x {shape}, {out_channels} output channels, factor {factor}")
    layer, weight, bias = with_known_weights(ResizeConv, rng, 3, 2, 2)
    x = normal(rng, 2, 3, 6, 4).transpose(2, 3)
    expect_close(layer(x), resize_then_convolve(x, weight, bias, 2), "rows and columns of x swapped by a transpose, factor 2")
    x = x.double()
    expect_close(layer.double()(x), resize_then_convolve(x, weight.double(), bias.double(), 2), "layer and x in float64")


@lab.check("ResizeConv", points=0.5)
def leaves_no_checkerboard(ResizeConv, rng):
    """A plain wall stays plain up to its edge, with any weights: one number an output channel."""
    for in_channels, out_channels, factor in [(3, 4, 2), (2, 3, 3)]:
        layer, weight, bias = with_known_weights(ResizeConv, rng, in_channels, out_channels, factor)
        colours = normal(rng, 2, in_channels)
        answer = layer(colours[:, :, None, None].expand(-1, -1, 4, 5).clone())
        level = colours @ weight.sum((2, 3)).T + bias  # (N, out_channels)
        expected = level[:, :, None, None].expand(-1, -1, 4 * factor, 5 * factor)
        expect_close(answer, expected, f"plain walls of {in_channels} channels, factor {factor}")


@lab.check("ResizeConv", points=0.5)
def learns(ResizeConv, gradients_of_parameters, rng):
    """Gradients of the input, `conv.weight` and `conv.bias` are those of the reference."""
    layer, weight, bias = with_known_weights(ResizeConv, rng, 3, 2, 2)
    x = normal(rng, 2, 3, 3, 4)
    expect_close(gradients(layer, x), gradients(lambda x: resize_then_convolve(x, weight, bias, 2), x), "gradient of x, factor 2")
    cotangent = normal(rng, 2, 2, 6, 8)
    leaves = [weight.requires_grad_(), bias.requires_grad_()]
    expected = torch.autograd.grad((resize_then_convolve(x, *leaves, 2) * cotangent).sum(), leaves)
    found = gradients_of_parameters(layer, x, cotangent)
    expect_close(found, dict(zip(["conv.weight", "conv.bias"], expected)), "gradients of the parameters, factor 2")

# %% mistake="ResizeConv" hint="You convolve first and enlarge the result: every input pixel comes out as a block of equal pixels. Enlarge first, then the convolution can smooth the steps."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="replicate")

    def forward(self, x):
        return F.interpolate(self.conv(x), scale_factor=self.factor)

# %% mistake="ResizeConv" hint="You enlarge bilinearly. It would avoid the checkerboard too, but the layer asked for copies the nearest pixel."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="replicate")

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=self.factor, mode="bilinear"))

# %% mistake="ResizeConv" hint="Your convolution pads with zeros: a plain wall gets a frame. Give it padding_mode=`replicate`."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=self.factor))

# %% mistake="ResizeConv" hint="Your border is mirrored without the edge pixel. From factor 2 on that is the same number, but not for factor 1. Repeat the nearest pixel: padding_mode=`replicate`."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="reflect")

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=self.factor))

# %% mistake="ResizeConv" hint="Your output is two pixels short in height and width: the 3 x 3 convolution needs padding 1."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 3)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=self.factor))

# %% mistake="ResizeConv" hint="You padded the small image instead of the enlarged one: the copied border is `factor` pixels wide then, and the output too large."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 3)

    def forward(self, x):
        return self.conv(F.interpolate(F.pad(x, (1, 1, 1, 1), mode="replicate"), scale_factor=self.factor))

# %% mistake="ResizeConv" hint="That is a transposed convolution, the layer that leaves the checkerboard; its weight is (in, out, rows, columns), and not even 3 x 3."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 2 * factor - factor % 2, stride=factor, padding=factor // 2)

    def forward(self, x):
        return self.conv(x)

# %% mistake="ResizeConv" hint="Your convolution has no bias: the state_dict lacks conv.bias."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="replicate", bias=False)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=self.factor))

# %% mistake="ResizeConv" hint="Your convolution is 1 x 1: it mixes channels but not neighbours, so the copied blocks stay visible. Use 3 x 3."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=self.factor))

# %% mistake="ResizeConv" hint="The convolution has another name. Keep it in `self.conv`, so that the state_dict holds conv.weight and conv.bias."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.layer = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="replicate")

    def forward(self, x):
        return self.layer(F.interpolate(x, scale_factor=self.factor))

# %% mistake="ResizeConv" hint="Something follows the convolution: negative answers are cut off. The layer ends with the convolution; an activation is the next layer's business."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="replicate")

    def forward(self, x):
        return F.relu(self.conv(F.interpolate(x, scale_factor=self.factor)))

# %% mistake="ResizeConv" hint="Your layer enlarges the height only. The factor is for rows and columns."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="replicate")

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=(self.factor, 1)))

# %% mistake="ResizeConv" hint="Your layer always enlarges twice. Use the factor it was made with."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="replicate")

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2))

# %% mistake="ResizeConv" hint="Your convolution steps by `factor` and undoes the enlarging. Its stride is 1."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=factor, padding=1, padding_mode="replicate")

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=self.factor))

# %% mistake="ResizeConv" hint="super().__init__() is missing: a module must be initialised before it can hold another one."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="replicate")

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=self.factor))

# %% mistake="ResizeConv" hint="Your layer computes the right thing but cannot learn: `torch.no_grad()` or `.detach()` cuts the gradients off."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="replicate")

    def forward(self, x):
        with torch.no_grad():
            return self.conv(F.interpolate(x, scale_factor=self.factor))

# %% mistake="ResizeConv" hint="The gradient of the input is lost: `.detach()` or `.data` before the convolution cuts it off, and no layer in front of yours can learn."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError("factor")
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="replicate")

    def forward(self, x):
        return self.conv(F.interpolate(x.detach(), scale_factor=self.factor))

# %% mistake="ResizeConv" hint="A factor of 0 passes. It must raise ValueError when the layer is made, not when it is used."
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="replicate")

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=self.factor))

# %% alternative="ResizeConv"
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        super().__init__()
        if factor < 1:
            raise ValueError(f"a factor under 1: {factor}")
        self.enlarge = nn.Sequential(nn.Upsample(scale_factor=factor), nn.ReplicationPad2d(1))
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3)

    def forward(self, x):
        return self.conv(self.enlarge(x))

# %% alternative="ResizeConv"
class ResizeConv(nn.Module):
    def __init__(self, in_channels, out_channels, factor):
        if factor < 1:
            raise ValueError(f"a factor under 1: {factor}")
        super().__init__()
        self.factor, self.conv = factor, nn.Conv2d(in_channels, out_channels, 3)

    def forward(self, x):
        rows = torch.arange(-1, self.factor * x.shape[2] + 1).clamp(0, self.factor * x.shape[2] - 1) // self.factor
        columns = torch.arange(-1, self.factor * x.shape[3] + 1).clamp(0, self.factor * x.shape[3] - 1) // self.factor
        return self.conv(x[:, :, rows][:, :, :, columns])

# %% [markdown]
# Three untrained layers look at a coin. Each doubles its size, with random weights: a transposed convolution with a kernel of 3, one with a
# kernel of 4, whose overlap map is flat, and yours. **Predict first.** Which of them leave a pattern on the plain ground?

# %%
if lab.ready("ResizeConv"):
    torch.manual_seed(4)
    coin = datasets.photograph("coins")[None, :, 20:80, 20:80]  # (1, 1, 60, 60)
    layers = {
        "transposed, kernel 3": nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1, output_padding=1),
        "transposed, kernel 4": nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1),
        "resize, convolve": ResizeConv(1, 1, 2),
    }
    with torch.no_grad():
        answers = [layer(coin)[0, :, 2:-2, 2:-2] for layer in layers.values()]  # (1, 116, 116): without the border
        for name, layer in layers.items():
            plain = layer(torch.ones(1, 1, 20, 20))[0, 0, 8:16, 8:16]
            print(f"{name:22s} a plain wall comes out with numbers from {plain.min():.3f} to {plain.max():.3f}")
    fig = plots.image_row([coin[0], *answers], ["coin", *layers], limits=None, height=2.4)
    plots.show(fig, alt="A coin, and three answers of twice the size: a fine pattern all over the first two, none over the third.")

# %% [markdown]
# The flat overlap map of kernel 4 did not help: its four phases carry different random weights. A layer that resizes first has the same
# nine weights behind every pixel, before training and after it.


# %% [markdown]
# The name "deconvolution" promises that it undoes a convolution. Put it to the test with two kernels: one blurs a photograph to half its
# size, the other takes the difference of neighbours. Both answers go back through the transposed convolution with the same weights.

# %%
if lab.ready("conv_transpose2d_fold"):
    camera = datasets.photograph("camera")[None, :, 60:220, 150:310]  # (1, 1, 160, 160)
    ramp, step = torch.tensor([1.0, 3, 3, 1]) / 4, torch.tensor([-1.0, -1, 1, 1]) / 2
    pictures, titles = [camera[0]], ["photograph"]
    for name, kernel in [("blur", torch.outer(ramp, ramp)), ("difference", torch.outer(ramp, step))]:
        kernel = kernel[None, None]  # (1, 1, 4, 4)
        half = F.conv2d(camera, kernel, stride=2, padding=1)
        back = conv_transpose2d_fold(half, kernel, stride=2, padding=1)
        print(f"{name:10s} shapes:", *(tuple(image.shape[2:]) for image in (camera, half, back)))
        pictures.append((back[0] - back.min()) / (back.max() - back.min()))
        titles.append(f"{name}, there and back")
    fig = plots.image_row(pictures, titles, height=2.4)
    plots.show(fig, alt="A photographer's head; there and back by the blur: blurred; by the difference: grey, only upright edges.")

# %% [markdown] written="same_shape" points=2
# ## Exercise 10: say why it does not come back (2 points, 10 minutes)
#
# `deconv(conv(x))`, with the same weight, stride and padding, has the shape of `x` (when `output_padding` is right), but it is not `x`.
# Explain both halves, in four to eight sentences: why must the shapes agree, and why do the values not? Use the matrix $W$ of the
# convolution. Say also for which matrices $W$ the values **would** come back, and whether any weights of a convolution with stride 2 from
# one channel to one channel could do it.
#
# **Model answer.** Written as a matrix, the convolution multiplies the flattened image by $W$, with one row for each output and one column
# for each input pixel. The transposed convolution multiplies by $W^\top$, which takes vectors as long as the outputs and returns vectors as
# long as the inputs: the shapes have to agree, whatever the numbers are (and `output_padding` says which of several input sizes it was).
# The values go through $W^\top W$, which is the identity only if the columns of $W$ are orthonormal. In general each pixel comes back as a
# mixture of all pixels that share an output with it. The transpose is the gradient of the convolution, not its inverse: it says who took
# part in an output, and how strongly, not what the values were. With stride 2 and one channel, $W$ has about a quarter as many rows as
# columns, so its rank is too small and many images have the same output: no matrix at all could bring them back, $W^\top$ included. With
# four output channels it is possible: kernels of 2 x 2 that are orthonormal, such as those of the Haar wavelet, give $W^\top W = 1$.
#
# **Rubric.** 1 point for the shapes: transposing swaps input and output sizes. 1 point for the values: $W^\top W$ is not the identity
# (orthonormal columns needed), and with stride 2 information is lost for good (fewer outputs than inputs). Half a point off where only one
# of these two reasons is given, or where the transpose is called an approximate inverse without a condition.

# %% [markdown]
# ## How far you are

# %%
lab.progress()
