# %% [markdown]
# # Lab 12: RoI pooling
#
# A detector looks at hundreds of boxes in one image. In this lab you write the layers that let all of them share **one** feature map:
# the window and the bins of RoI pooling, the spatial pyramid it comes from, RoI Align without any rounding, the minibatches of
# Fast R-CNN, its head and its loss. At the end you train a small Fast R-CNN made of your own functions.
#
# **You need** the [lecture](../../lectures/12_roi_pooling.ipynb). **Time:** about 140 minutes for the exercises, and some for the pictures.
# **Points:** 27, of them 2 for a written answer that is graded by hand.
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
from torch import Tensor, nn

from course_lib import datasets, measurements, plots, repro, scenes
from course_lib.checks import Lab, expect_close, expect_equal, expect_raises, expect_true, gradients, normal

lab = Lab("12_roi_pooling")


def random_rois(rng, num_rois, features, spatial_scale):
    """(num_rois, 5) RoIs on the images of a feature map, many of them over a border: batch index, then x1, y1, x2, y2 in pixels."""
    N, _, H, W = features.shape
    corners = rng.uniform(-0.3, 1.3, (2, num_rois, 2)) * [W / spatial_scale, H / spatial_scale]
    images = rng.integers(0, N, (num_rois, 1))
    return torch.from_numpy(np.concatenate([images, corners.min(0), corners.max(0)], 1)).to(features.dtype)


def library_box_to_cells(boxes, spatial_scale):
    """What a check puts in the place of your `box_to_cells` where it judges a later exercise: it asks torchvision which cell it reads."""
    from torchvision import ops

    points = boxes.detach().reshape(-1, 1).abs().double()
    numbers = torch.arange(math.ceil(float(points.max()) * spatial_scale) + 2 if len(points) else 2.0, dtype=torch.float64)
    one_cell = torch.cat([points[:, :1] * 0, points, points * 0, points, points * 0], 1)  # the box from a point to itself
    cells = ops.roi_pool(numbers[None, None, None], one_cell, 1, spatial_scale).long().reshape(-1, 4) * boxes.sign().long()
    return torch.cat([cells[:, :2], torch.maximum(cells[:, :2], cells[:, 2:]) + 1], 1)


def library_bin_edges(length, num_bins):
    """What a check puts in the place of your `bin_edges` where it judges a later exercise: the windows of adaptive pooling."""
    if min(length, num_bins) < 1:
        raise ValueError(f"there is nothing to split: {length=}, {num_bins=}")
    ramp = torch.arange(float(length))[None]
    first, last = -F.adaptive_max_pool1d(-ramp, num_bins)[0], F.adaptive_max_pool1d(ramp, num_bins)[0]
    return [(int(a), int(b) + 1) for a, b in zip(first, last)]


def library_bilinear_sample(features, y, x):
    """What a check puts in the place of your `bilinear_sample` where it judges a later exercise: `F.grid_sample`, and its own border rule."""
    H, W = features.shape[1:]
    grid = torch.stack([x / max(W - 1, 1), y / max(H - 1, 1)], 1) * 2 - 1  # -1 and 1 are the centres of the outermost cells
    values = F.grid_sample(features[None], grid[None, None], padding_mode="border", align_corners=True)[0, :, 0]  # (C, P)
    return values * ((y >= -1) & (y <= H) & (x >= -1) & (x <= W))


def many_draws(sample_rois, draws, *arguments):
    """What `draws` calls with the same arguments return, one after the other."""
    return [sample_rois(*arguments) for _ in range(draws)]


def gradients_of_parameters(module, x, weights):
    """The gradient of the weighted sum of a module's outputs with respect to each of its parameters, by name."""
    names, parameters = zip(*module.named_parameters())
    total = sum((output * weight).sum() for output, weight in zip(module(x), weights))
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for name, p, g in zip(names, parameters, found)}


# %% [markdown]
# **Coordinates.** A box is $(x_1, y_1, x_2, y_2)$ in pixels of the image. A feature map of total stride 16 has `spatial_scale` $= 1/16$:
# pixels times `spatial_scale` are cells of the map. Feature maps are `(N, C, H, W)`. A **RoI**, region of interest, is a box in one image of the
# batch: a row of `rois` (K, 5) starts with the number of its image, the box follows. All five numbers have the type of the map, so write
# `int(rois[k, 0])` where you need the number as an index. A window or a bin is a half-open range: it holds the cells from start up to, but without, stop.
# `output_size` is a pair, (rows, columns).
#
# The functions whose names begin with `library_` are for the checks. The sizes below are those of the network that you train at the end.

# %%
full = repro.profile() == "full"
device = repro.pick_device() if full else torch.device("cpu")  # your functions need not know about GPUs
IMAGE_SIZE = 128 if full else 64  # pixels a side
NUM_TRAIN, NUM_TEST = (4000, 800) if full else (480, 160)  # scenes
WIDTH = 64 if full else 16  # channels of the first convolution
NUM_STEPS = 2000 if full else 300
IMAGES_PER_BATCH, ROIS_PER_BATCH = 16, 256

# %% [markdown]
# ## Exercise 1: find the window of a box (2 points, 10 minutes)
#
# Complete `box_to_cells`: which cells of a feature map belong to a box? Follow the rules of the original RoI pooling, which torchvision
# still follows:
#
# - Scale the four coordinates by `spatial_scale` and round each of them to the nearest integer. **Halves are rounded away from zero**:
#   2.5 becomes 3, and −2.5 becomes −3.
# - The cell of the rounded far corner is the **last** cell of the window. So the window starts at the rounded $x_1$ and stops one after the
#   rounded $x_2$, and rows do the same with $y_1$ and $y_2$.
# - Where the rounded $x_2$ is smaller than the rounded $x_1$, the box is malformed along this axis. Its window is then the one cell of the
#   rounded $x_1$. The same holds for $y$.
# - A box may reach over the border of the image, so cells can be negative or lie past the map. Leave them as they are.
#
# Return $(x_\text{start}, y_\text{start}, x_\text{stop}, y_\text{stop})$ for each box, as `int64`. There may be no box at all.
#
# <details><summary>Hint 1</summary>
#
# Put 0.5, 1.5, 2.5 and −2.5 into `torch.round`, and into `torch.floor(x + 0.5)`. Which of the four go wrong?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Round the **absolute value**, where away from zero simply means up. Then put the sign back.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# With `start` and `last` of shape (K, 2), a malformed box is one whose `last` is smaller than `start`. `torch.maximum` repairs it.
#
# </details>

# %% exercise="box_to_cells"
def box_to_cells(boxes: Tensor, spatial_scale: float) -> Tensor:
    """The window of cells that RoI pooling gives to each box.

    Args:
        boxes: (K, 4), xyxy in pixels of the image.
        spatial_scale: cells a pixel, such as 1 / 16.

    Returns:
        (K, 4) int64, x_start, y_start, x_stop, y_stop in cells; at least one cell an axis, not cut off at the map's border.

    Source: Girshick, "Fast R-CNN", ICCV 2015, section 2.1, and the code published with it (roi_pooling_layer).
    Reference: the windows of torchvision.ops.roi_pool.
    """
    ### BEGIN SOLUTION
    scaled = boxes * spatial_scale
    cells = (scaled.sign() * torch.floor(scaled.abs() + 0.5)).long()  # torch.round would send 2.5 to 2
    start, last = cells[:, :2], cells[:, 2:]  # (K, 2) x, y
    return torch.cat([start, torch.maximum(start, last) + 1], dim=1)
    ### END SOLUTION

# %% check="box_to_cells" points=2
def expect_windows(box_to_cells, boxes, spatial_scale, windows, case):
    expect_equal(box_to_cells(boxes, spatial_scale), torch.tensor(windows, dtype=torch.int64).reshape(-1, 4), case)


@lab.check("box_to_cells", points=1)
def by_hand(box_to_cells):
    """Single boxes on a map of stride 16: inside, with halves, over the border, malformed, and no box at all."""
    cases = [
        ("the box (20, 30, 103, 77)", [20.0, 30, 103, 77], [1, 2, 7, 6]),
        ("(40, 24, 75, 88), corners at 2.5, 1.5, 4.6875 and 5.5 cells", [40.0, 24, 75, 88], [3, 2, 6, 7]),
        ("(-40, -24, -9, 23), corners at -2.5, -1.5, -0.5625 and 1.4375 cells", [-40.0, -24, -9, 23], [-3, -2, 0, 2]),
        ("(32, 48, 33, 49), smaller than a cell", [32.0, 48, 33, 49], [2, 3, 3, 4]),
        ("(80, 16, 30, 50), x2 left of x1", [80.0, 16, 30, 50], [5, 1, 6, 4]),
        ("(16, 90, 60, 32), y2 above y1", [16.0, 90, 60, 32], [1, 6, 5, 7]),
        ("(20, 20, 18, 20), x2 left of x1 within one cell", [20.0, 20, 18, 20], [1, 1, 2, 2]),
    ]
    for case, box, window in cases:
        expect_windows(box_to_cells, torch.tensor([box]), 1 / 16, [window], case)
    boxes = torch.tensor([box for _, box, _ in cases])
    expect_windows(box_to_cells, boxes, 1 / 16, [window for *_, window in cases], "all of these boxes at once")
    expect_windows(box_to_cells, boxes[:0], 1 / 16, [], "no box")


@lab.check("box_to_cells", points=1)
def nearest_cell(box_to_cells, rng):
    """Corners chosen so that the nearest cell is known: at any place around a cell, and exactly between two, at several strides."""
    for stride, dtype, num_boxes in [(16, torch.float32, 30), (10, torch.float64, 20), (4, torch.float32, int(rng.integers(5, 40)))]:
        nearest = rng.integers(-12, 13, (num_boxes, 4))
        near = nearest + rng.integers(-7, 8, nearest.shape) / 16  # less than half a cell away
        between = nearest - 0.5 * np.sign(nearest)  # both neighbours as far away: this one lies further from zero
        boxes = torch.tensor(stride * np.where(rng.random(nearest.shape) < 0.5, near, between), dtype=dtype)
        stop = np.maximum(nearest[:, :2], nearest[:, 2:]) + 1
        expected = np.concatenate([nearest[:, :2], stop], 1).tolist()
        expect_windows(box_to_cells, boxes, 1 / stride, expected, f"{num_boxes} boxes of type {str(dtype)[6:]}, stride {stride}")
        turned = boxes.T.contiguous().T
        expect_windows(box_to_cells, turned, 1 / stride, expected, f"the same, stored column by column, stride {stride}")

# %% mistake="box_to_cells" hint="You cut the window off at the border. Cells may be negative; whoever reads the map leaves out what lies outside."
def box_to_cells(boxes, spatial_scale):
    cells = boxes * spatial_scale
    cells = (cells.sign() * (cells.abs() + 0.5).floor()).long()
    return torch.cat([cells[:, :2], cells[:, 2:] + 1], 1).clamp(min=0)

# %% mistake="box_to_cells" hint="Your halves go to the even neighbour: that is how torch.round and Python's round treat 2.5. Here a half goes away from zero."
def box_to_cells(boxes, spatial_scale):
    cells = torch.round(boxes * spatial_scale).long()
    return torch.cat([cells[:, :2], torch.maximum(cells[:, :2], cells[:, 2:]) + 1], 1)

# %% mistake="box_to_cells" hint="Your negative halves are rounded up, towards zero: floor(x + 0.5) sends -2.5 to -2. Round the absolute value and put the sign back."
def box_to_cells(boxes, spatial_scale):
    cells = torch.floor(boxes * spatial_scale + 0.5).long()
    return torch.cat([cells[:, :2], torch.maximum(cells[:, :2], cells[:, 2:]) + 1], 1)

# %% mistake="box_to_cells" hint="Your corners are cut to whole numbers, not rounded: .long() and .int() drop what stands after the point."
def box_to_cells(boxes, spatial_scale):
    cells = (boxes * spatial_scale).long()
    return torch.cat([cells[:, :2], torch.maximum(cells[:, :2], cells[:, 2:]) + 1], 1)

# %% mistake="box_to_cells" hint="You take the cell that a corner falls into (floor), not the nearest one."
def box_to_cells(boxes, spatial_scale):
    cells = torch.floor(boxes * spatial_scale).long()
    return torch.cat([cells[:, :2], torch.maximum(cells[:, :2], cells[:, 2:]) + 1], 1)

# %% mistake="box_to_cells" hint="You round outwards, so that the window covers the whole box. RoI pooling rounds every corner to the nearest cell."
def box_to_cells(boxes, spatial_scale):
    scaled = boxes * spatial_scale
    start, stop = scaled[:, :2].floor().long(), scaled[:, 2:].ceil().long()
    return torch.cat([start, torch.maximum(start + 1, stop)], 1)

# %% mistake="box_to_cells" hint="Your windows stop before the cell of the far corner. That cell is the last one of the window, so the stop is one after it."
def box_to_cells(boxes, spatial_scale):
    scaled = boxes * spatial_scale
    cells = (scaled.sign() * torch.floor(scaled.abs() + 0.5)).long()
    return torch.cat([cells[:, :2], torch.maximum(cells[:, :2] + 1, cells[:, 2:])], 1)

# %% mistake="box_to_cells" hint="A malformed box gets an empty window, or one of negative size. It gets the one cell of its first corner."
def box_to_cells(boxes, spatial_scale):
    scaled = boxes * spatial_scale
    cells = (scaled.sign() * torch.floor(scaled.abs() + 0.5)).long()
    return torch.cat([cells[:, :2], cells[:, 2:] + 1], 1)

# %% mistake="box_to_cells" hint="A malformed box gets an empty window: start and stop are equal. It gets the one cell of its first corner."
def box_to_cells(boxes, spatial_scale):
    scaled = boxes * spatial_scale
    cells = (scaled.sign() * torch.floor(scaled.abs() + 0.5)).long()
    return torch.cat([cells[:, :2], torch.maximum(cells[:, :2], cells[:, 2:] + 1)], 1)

# %% mistake="box_to_cells" hint="You turn a malformed box around, by sorting its corners. RoI pooling keeps the first corner and takes its one cell."
def box_to_cells(boxes, spatial_scale):
    scaled = boxes * spatial_scale
    cells = (scaled.sign() * torch.floor(scaled.abs() + 0.5)).long()
    return torch.cat([torch.minimum(cells[:, :2], cells[:, 2:]), torch.maximum(cells[:, :2], cells[:, 2:]) + 1], 1)

# %% mistake="box_to_cells" hint="You refuse a malformed box. It is legal here, and gets the one cell of its first corner."
def box_to_cells(boxes, spatial_scale):
    scaled = boxes * spatial_scale
    cells = (scaled.sign() * torch.floor(scaled.abs() + 0.5)).long()
    start, stop = cells[:, :2], cells[:, 2:] + 1
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError("x2 < x1 or y2 < y1")
    return torch.cat([start, stop], 1)

# %% mistake="box_to_cells" hint="Your windows are cut off at 0. Leave negative cells as they are: the bins are laid out over the whole window first."
def box_to_cells(boxes, spatial_scale):
    scaled = boxes * spatial_scale
    cells = (scaled.sign() * torch.floor(scaled.abs() + 0.5)).long()
    return torch.cat([cells[:, :2], torch.maximum(cells[:, :2], cells[:, 2:]) + 1], 1).clamp(min=0)

# %% mistake="box_to_cells" hint="You return rows before columns. The order is that of a box: x, y, x, y."
def box_to_cells(boxes, spatial_scale):
    scaled = boxes * spatial_scale
    cells = (scaled.sign() * torch.floor(scaled.abs() + 0.5)).long()
    return torch.cat([cells[:, :2], torch.maximum(cells[:, :2], cells[:, 2:]) + 1], 1)[:, [1, 0, 3, 2]]

# %% mistake="box_to_cells" hint="You divide by spatial_scale. It is cells a pixel, 1 / 16 for a stride of 16, so multiply."
def box_to_cells(boxes, spatial_scale):
    scaled = boxes / spatial_scale
    cells = (scaled.sign() * torch.floor(scaled.abs() + 0.5)).long()
    return torch.cat([cells[:, :2], torch.maximum(cells[:, :2], cells[:, 2:]) + 1], 1)

# %% mistake="box_to_cells" hint="You round the start and the size of the box. RoI pooling rounds both corners, so the size follows from them."
def box_to_cells(boxes, spatial_scale):
    scaled = boxes * spatial_scale
    start = (scaled[:, :2].sign() * torch.floor(scaled[:, :2].abs() + 0.5)).long()
    size = torch.floor((scaled[:, 2:] - scaled[:, :2]).clamp(min=0) + 0.5).long() + 1
    return torch.cat([start, start + size], 1)

# %% mistake="box_to_cells" hint="Your cells are still floating-point numbers. They will be indices: return them as int64, with .long()."
def box_to_cells(boxes, spatial_scale):
    scaled = boxes * spatial_scale
    cells = scaled.sign() * torch.floor(scaled.abs() + 0.5)
    return torch.cat([cells[:, :2], torch.maximum(cells[:, :2], cells[:, 2:]) + 1], 1)

# %% alternative="box_to_cells"
def box_to_cells(boxes, spatial_scale):
    def nearest(number):
        return int(math.copysign(math.floor(abs(number) + 0.5), number))

    windows = []
    for box in (boxes * spatial_scale).tolist():
        x1, y1, x2, y2 = map(nearest, box)
        windows.append([x1, y1, max(x1, x2) + 1, max(y1, y2) + 1])
    return torch.tensor(windows, dtype=torch.int64).reshape(-1, 4)

# %% alternative="box_to_cells"
def box_to_cells(boxes, spatial_scale):
    scaled = spatial_scale * boxes
    corners = torch.where(scaled < 0, torch.ceil(scaled - 0.5), torch.floor(scaled + 0.5)).to(torch.int64)
    first, last = corners.split(2, dim=1)
    return torch.cat((first, last.where(last > first, first) + 1), dim=1)

# %% [markdown]
# What does the rounding do to a real box? The scene below has 96 × 128 pixels. For the box of one object we draw the window at three
# strides. **Predict first.** By how many pixels can a side of the window lie off the side of the box, at stride 16?

# %%
if lab.ready("box_to_cells"):
    picture = scenes.render(scenes.sample([4], seed=12), (96, 128))
    box = picture.boxes[:, picture.visible[0].argmax()]  # (1, 4)
    fig, axes = plt.subplots(1, 3, figsize=(9, 2.6))
    for ax, stride in zip(axes, (4, 8, 16)):
        window = box_to_cells(box, 1 / stride)[0] * stride  # back in pixels
        ax.imshow(picture.images[0].permute(1, 2, 0))
        for corners, colour in [(box[0], "C1"), (window, "C0")]:
            x1, y1, x2, y2 = corners.tolist()
            ax.add_patch(plt.Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, color=colour, linewidth=2))
        off = (window - box[0]).tolist()
        ax.set(title=f"stride {stride}", xticks=np.arange(0, 129, stride) - 0.5, yticks=np.arange(0, 97, stride) - 0.5)
        ax.tick_params(labelbottom=False, labelleft=False, length=0)
        print(f"stride {stride:2d}: sides off by " + ", ".join(f"{name} {value:+.0f}" for name, value in zip(("left", "top", "right", "bottom"), off)))
    fig.suptitle("The coarser the map, the worse the window (blue) fits the box (orange)")
    plots.show(fig, alt="A scene with the box of one object in orange and its window in blue, close at stride 4, far off at stride 16.")

# %% [markdown]
# Rounding to the nearest cell moves a side by up to half a stride. The last cell is kept whole on top of that, so the right and the bottom
# side lie between half a stride and one and a half strides too far out.

# %% [markdown]
# ## Exercise 2: split a window into bins (2 points, 8 minutes)
#
# Complete `bin_edges`. A window of `length` cells becomes `num_bins` half-open ranges. Range $i$ starts at
# $\lfloor i \cdot \text{length} / \text{num\_bins} \rfloor$ and stops at $\lceil (i + 1) \cdot \text{length} / \text{num\_bins} \rceil$. No range is
# ever empty, and neighbours share a cell where the division leaves a rest.
#
# Return a list of pairs of integers, `[(start, stop), …]`. Lengths and counts under 1 raise `ValueError`. The library's adaptive pooling,
# which cuts its input in the same way, is off limits.
#
# <details><summary>Hint 1</summary>
#
# Cut 5 cells into 2 bins on paper. The border at 2.5 runs through cell 2, and both bins take it.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Stay with whole numbers. `a // b` rounds down, and `-(-a // b)` rounds up.
#
# </details>

# %% exercise="bin_edges"
def bin_edges(length: int, num_bins: int) -> list[tuple[int, int]]:
    """Split `length` cells into `num_bins` half-open ranges (start, stop).

    Args:
        length: cells of the window, at least 1.
        num_bins: ranges, at least 1; there may be more of them than cells.

    Returns:
        One (start, stop) a bin, 0 <= start < stop <= length.

    Raises:
        ValueError: length or num_bins is under 1.

    Source: He et al., "Spatial pyramid pooling in deep convolutional networks for visual recognition", TPAMI 2015, appendix A,
        "Implementation of pooling bins".
    Reference: the windows of torch.nn.functional.adaptive_max_pool1d.
    """
    ### BEGIN SOLUTION
    if length < 1 or num_bins < 1:
        raise ValueError(f"length and num_bins must be at least 1, got {length} and {num_bins}")
    # Whole numbers throughout: i * (length / num_bins) in floating point can land one cell too far.
    return [(i * length // num_bins, -(-(i + 1) * length // num_bins)) for i in range(num_bins)]
    ### END SOLUTION

# %% check="bin_edges" points=2
@lab.check("bin_edges", points=1, forbid=("adaptive",))
def by_hand(bin_edges):
    """Five cells in two bins share the middle one; two cells still fill three bins; nonsense is refused."""
    expect_equal(bin_edges(6, 2), [(0, 3), (3, 6)], "6 cells, 2 bins")
    expect_equal(bin_edges(5, 2), [(0, 3), (2, 5)], "5 cells, 2 bins")
    expect_equal(bin_edges(2, 3), [(0, 1), (0, 2), (1, 2)], "2 cells, 3 bins")
    expect_equal(bin_edges(1, 4), [(0, 1)] * 4, "1 cell, 4 bins")
    expect_equal(bin_edges(4, 1), [(0, 4)], "4 cells, 1 bin")
    expect_equal(bin_edges(29, 7)[-1], (24, 29), "29 cells, 7 bins: the last bin")
    expect_raises(ValueError, lambda: bin_edges(0, 2), "no cells")
    expect_raises(ValueError, lambda: bin_edges(-3, 2), "-3 cells")
    expect_raises(ValueError, lambda: bin_edges(4, 0), "no bins")
    expect_raises(ValueError, lambda: bin_edges(4, -1), "-1 bins")


@lab.check("bin_edges", points=1, forbid=("adaptive",))
def as_adaptive_pooling(bin_edges, rng):
    """The ranges that adaptive pooling takes, for any length."""
    cases = [(10, 4), (7, 3), (4, 3), (5, 6), (17, 6)]
    cases += [(int(rng.integers(6, 40)), int(rng.integers(2, 7))) for _ in range(6)]
    for length, num_bins in cases:
        ramp = torch.arange(float(length))[None]
        last = F.adaptive_max_pool1d(ramp, num_bins)[0]
        first = -F.adaptive_max_pool1d(-ramp, num_bins)[0]
        expected = [(int(a), int(b) + 1) for a, b in zip(first, last)]
        expect_equal(bin_edges(length, num_bins), expected, f"{length} cells, {num_bins} bins")

# %% mistake="bin_edges" hint="You compute borders in floating point: 7 * (29 / 7) comes out a little over 29, and rounding up makes 30 of it. Use // on integers."
def bin_edges(length, num_bins):
    if length < 1 or num_bins < 1:
        raise ValueError("under 1")
    size = length / num_bins
    return [(math.floor(i * size), math.ceil((i + 1) * size)) for i in range(num_bins)]

# %% mistake="bin_edges" hint="Your bins all have the same size and lose the rest. Round the end of a bin up."
def bin_edges(length, num_bins):
    if length < 1 or num_bins < 1:
        raise ValueError("under 1")
    size = length // num_bins
    return [(i * size, (i + 1) * size) for i in range(num_bins)]

# %% mistake="bin_edges" hint="Your bins never share a cell, as they stop where the next one starts. The stop is rounded up, not down."
def bin_edges(length, num_bins):
    if length < 1 or num_bins < 1:
        raise ValueError("under 1")
    return [(i * length // num_bins, (i + 1) * length // num_bins) for i in range(num_bins)]

# %% mistake="bin_edges" hint="You round to the nearest cell: start is rounded down, stop is rounded up."
def bin_edges(length, num_bins):
    if length < 1 or num_bins < 1:
        raise ValueError("under 1")
    return [(round(i * length / num_bins), round((i + 1) * length / num_bins)) for i in range(num_bins)]

# %% mistake="bin_edges" hint="Your bins start too late: start is rounded down, so that a cell that a border cuts belongs to both neighbours."
def bin_edges(length, num_bins):
    if length < 1 or num_bins < 1:
        raise ValueError("under 1")
    return [(-(-i * length // num_bins), -(-(i + 1) * length // num_bins)) for i in range(num_bins)]

# %% mistake="bin_edges" hint="Your stop is the last cell of a bin. A half-open range stops one after it."
def bin_edges(length, num_bins):
    if length < 1 or num_bins < 1:
        raise ValueError("under 1")
    return [(i * length // num_bins, -(-(i + 1) * length // num_bins) - 1) for i in range(num_bins)]

# %% mistake="bin_edges" hint="Your stop is always one cell too far where the division leaves no rest: floor(a) + 1 is not ceil(a) for a whole number."
def bin_edges(length, num_bins):
    if length < 1 or num_bins < 1:
        raise ValueError("under 1")
    return [(i * length // num_bins, min((i + 1) * length // num_bins + 1, length)) for i in range(num_bins)]

# %% mistake="bin_edges" hint="Your last bin takes the whole rest, and the others have equal sizes. Every border is computed from the length, one by one."
def bin_edges(length, num_bins):
    if length < 1 or num_bins < 1:
        raise ValueError("under 1")
    size = length // num_bins
    return [(i * size, length if i == num_bins - 1 else (i + 1) * size) for i in range(num_bins)]

# %% mistake="bin_edges" hint="Your bins have the rounded up size and start one after the other, so the last ones are short, empty or past the end. Every border is computed from the length, one by one."
def bin_edges(length, num_bins):
    if length < 1 or num_bins < 1:
        raise ValueError("under 1")
    size = -(-length // num_bins)
    return [(min(i * size, length), min((i + 1) * size, length)) for i in range(num_bins)]

# %% mistake="bin_edges" hint="Your borders are right but are no integers. They will be indices: use // or int()."
def bin_edges(length, num_bins):
    if length < 1 or num_bins < 1:
        raise ValueError("under 1")
    return [(np.floor(i * length / num_bins), np.ceil((i + 1) * length / num_bins)) for i in range(num_bins)]

# %% mistake="bin_edges" hint="Your borders are right, but each bin should be a tuple (start, stop), and the bins a list."
def bin_edges(length, num_bins):
    if length < 1 or num_bins < 1:
        raise ValueError("under 1")
    return [[i * length // num_bins, -(-(i + 1) * length // num_bins)] for i in range(num_bins)]

# %% mistake="bin_edges" hint="Your bins are right, but a length or a number of bins under 1 passes. It must raise ValueError."
def bin_edges(length, num_bins):
    return [(i * length // num_bins, -(-(i + 1) * length // num_bins)) for i in range(num_bins)]

# %% mistake="bin_edges" hint="You swapped length and number of bins: there are num_bins ranges over `length` cells."
def bin_edges(length, num_bins):
    if length < 1 or num_bins < 1:
        raise ValueError("under 1")
    return [(i * num_bins // length, -(-(i + 1) * num_bins // length)) for i in range(length)]

# %% mistake="bin_edges" hint="You refuse more bins than cells. That is legal: then one cell belongs to several bins."
def bin_edges(length, num_bins):
    if length < 1 or num_bins < 1 or num_bins > length:
        raise ValueError("under 1")
    return [(i * length // num_bins, -(-(i + 1) * length // num_bins)) for i in range(num_bins)]

# %% alternative="bin_edges"
def bin_edges(length, num_bins):
    if min(length, num_bins) < 1:
        raise ValueError(f"nothing to split: {length=}, {num_bins=}")
    ranges = []
    for number in range(num_bins):
        touched = [cell for cell in range(length) if cell * num_bins < (number + 1) * length and (cell + 1) * num_bins > number * length]
        ranges.append((touched[0], touched[-1] + 1))  # the cells that share more than a point with the bin
    return ranges

# %% alternative="bin_edges"
def bin_edges(length, num_bins):
    if length < 1 or num_bins < 1:
        raise ValueError("under 1")
    borders = [divmod(i * length, num_bins) for i in range(num_bins + 1)]
    return [(first, last + (rest > 0)) for (first, _), (last, rest) in zip(borders, borders[1:])]

# %% [markdown]
# ## Exercise 3: pool a spatial pyramid (2 points, 10 minutes)
#
# Complete `spatial_pyramid_pool`, the layer of SPPnet that RoI pooling comes from. It turns a feature map of **any** size into a vector of
# one length. A level $l$ splits rows and columns into $l$ bins each, as in exercise 2, and takes the **maximum** of each of the $l \times l$ bins
# in each channel.
#
# - The vector of an image holds one level after the other, in the order of `levels`. Within a level, channels come first, then rows of
#   bins, then columns: the order in which a tensor of shape $(C, l, l)$ is flattened. Its length is $C \sum l^2$.
# - The map may be smaller than a level; then some bins share their cells.
# - Gradients flow to `features`, to the cell of each maximum. (Equal maxima in one bin do not occur in the checks.)
#
# The library's adaptive pooling is off limits here: with it, the exercise would be one line a level.
#
# <details><summary>Hint 1</summary>
#
# The rows of a level are `bin_edges(H, level)`, its columns `bin_edges(W, level)`. A bin is a slice of the map.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `features[:, :, top:bottom, left:right].amax((2, 3))` is one bin of all images and channels, (N, C). `torch.stack` puts bins side by side.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# Stack the bins of a level along a **new last** axis, to (N, C, l * l). Then `flatten(1)`, and join the levels with `torch.cat`.
#
# </details>

# %% exercise="spatial_pyramid_pool"
def spatial_pyramid_pool(features: Tensor, levels: tuple[int, ...] = (1, 2, 4)) -> Tensor:
    """Maxima over grids of 1 x 1, 2 x 2, ... bins, as one vector an image.

    Args:
        features: (N, C, H, W), any height and width.
        levels: bins an axis of each level.

    Returns:
        (N, C * sum(l * l for l in levels)), level after level, each in the order channel, row, column.

    Source: He et al., "Spatial pyramid pooling in deep convolutional networks for visual recognition", ECCV 2014, section 2.2.
    Reference: torch.nn.functional.adaptive_max_pool2d, level by level.
    """
    ### BEGIN SOLUTION
    N, C, H, W = features.shape
    pooled = []
    for level in levels:
        bins = [
            features[:, :, top:bottom, left:right].amax((2, 3))  # (N, C)
            for top, bottom in bin_edges(H, level)
            for left, right in bin_edges(W, level)
        ]
        pooled.append(torch.stack(bins, 2).flatten(1))  # (N, C * level * level)
    return torch.cat(pooled, 1)
    ### END SOLUTION

# %% check="spatial_pyramid_pool" points=2
WITH_OUR_BINS = {"forbid": ("adaptive",), "substitute": {"bin_edges": "library_bin_edges"}}


def adaptive_pyramid(features, levels=(1, 2, 4)):
    return torch.cat([F.adaptive_max_pool2d(features, level).flatten(1) for level in levels], 1)


@lab.check("spatial_pyramid_pool", points=1, **WITH_OUR_BINS)
def by_hand(spatial_pyramid_pool):
    """A map of 3 x 4 whose values are easy to follow, two channels, negative values, and a map of a single cell."""
    plane = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
    expect_close(spatial_pyramid_pool(plane[None, None], (1,)), torch.tensor([[12.0]]), "level 1 of a plane of 3 x 4")
    expect_close(spatial_pyramid_pool(plane[None, None], (2,)), torch.tensor([[6.0, 8, 10, 12]]), "level 2 of a plane of 3 x 4")
    expected = torch.tensor([[6.0, 8, 10, 12, 12]])
    expect_close(spatial_pyramid_pool(plane[None, None], (2, 1)), expected, "levels 2 and 1, in this order")
    both = torch.stack([plane, -plane])[None]
    expected = torch.tensor([[12.0, -1, 6, 8, 10, 12, -1, -3, -5, -7]])
    expect_close(spatial_pyramid_pool(both, (1, 2)), expected, "levels 1 and 2 of two channels, the second one negative")
    cell = torch.tensor([[[[5.0]], [[-6.0]]]])
    expected = torch.tensor([[5.0, -6] + [5.0] * 4 + [-6.0] * 4 + [5.0] * 16 + [-6.0] * 16])
    expect_close(spatial_pyramid_pool(cell), expected, "the usual levels 1, 2, 4 of a map of one cell and two channels")


@lab.check("spatial_pyramid_pool", points=1, **WITH_OUR_BINS)
def agrees_with_adaptive_pooling(spatial_pyramid_pool, rng):
    """Equal to adaptive pooling level by level, for maps of any size: values in the type of the map, and gradients."""
    cases = [((2, 3, 7, 9), (1, 2, 4), torch.float32), ((3, 2, 10, 5), (3, 1, 6), torch.float64)]
    cases.append(((2, 2, int(rng.integers(3, 14)), int(rng.integers(3, 14))), (1, 2, 5), torch.float32))
    for shape, levels, dtype in cases:
        features = normal(rng, *shape, dtype=dtype)
        case = f"features {shape} of type {str(dtype)[6:]}, levels {levels}"
        expect_close(spatial_pyramid_pool(features, levels), adaptive_pyramid(features, levels), case)
        ours = gradients(lambda features: spatial_pyramid_pool(features, levels), features)
        expect_close(ours, gradients(lambda features: adaptive_pyramid(features, levels), features), f"{case}: gradient")
    turned = normal(rng, 2, 8, 5, 3).permute(0, 3, 2, 1)
    expect_close(spatial_pyramid_pool(turned), adaptive_pyramid(turned.contiguous()), "a map whose axes were permuted")

# %% mistake="spatial_pyramid_pool" hint="Channels stand behind the bins in your vector. Within a level, all bins of the first channel come first: stack the bins along a new last axis."
def spatial_pyramid_pool(features, levels=(1, 2, 4)):
    N, C, H, W = features.shape
    pooled = []
    for level in levels:
        bins = [features[:, :, a:b, c:d].amax((2, 3)) for a, b in bin_edges(H, level) for c, d in bin_edges(W, level)]
        pooled.append(torch.cat(bins, 1))
    return torch.cat(pooled, 1)

# %% mistake="spatial_pyramid_pool" hint="You join the levels channel by channel. First comes the whole first level with all its channels, then the second."
def spatial_pyramid_pool(features, levels=(1, 2, 4)):
    N, C, H, W = features.shape
    pooled = []
    for level in levels:
        bins = [features[:, :, a:b, c:d].amax((2, 3)) for a, b in bin_edges(H, level) for c, d in bin_edges(W, level)]
        pooled.append(torch.stack(bins, 2))
    return torch.cat(pooled, 2).flatten(1)

# %% mistake="spatial_pyramid_pool" hint="You go through the columns of bins first. Within a channel the first row of bins comes first."
def spatial_pyramid_pool(features, levels=(1, 2, 4)):
    N, C, H, W = features.shape
    pooled = []
    for level in levels:
        bins = [features[:, :, a:b, c:d].amax((2, 3)) for c, d in bin_edges(W, level) for a, b in bin_edges(H, level)]
        pooled.append(torch.stack(bins, 2).flatten(1))
    return torch.cat(pooled, 1)

# %% mistake="spatial_pyramid_pool" hint="You take the mean of a bin. SPPnet pools the maximum."
def spatial_pyramid_pool(features, levels=(1, 2, 4)):
    N, C, H, W = features.shape
    pooled = []
    for level in levels:
        bins = [features[:, :, a:b, c:d].mean((2, 3)) for a, b in bin_edges(H, level) for c, d in bin_edges(W, level)]
        pooled.append(torch.stack(bins, 2).flatten(1))
    return torch.cat(pooled, 1)

# %% mistake="spatial_pyramid_pool" hint="Your levels come in ascending order, whatever the order of `levels` is. Keep the order that is given."
def spatial_pyramid_pool(features, levels=(1, 2, 4)):
    N, C, H, W = features.shape
    pooled = []
    for level in sorted(levels):
        bins = [features[:, :, a:b, c:d].amax((2, 3)) for a, b in bin_edges(H, level) for c, d in bin_edges(W, level)]
        pooled.append(torch.stack(bins, 2).flatten(1))
    return torch.cat(pooled, 1)

# %% mistake="spatial_pyramid_pool" hint="A level l gives you l bins, not l x l: rows and columns are both split."
def spatial_pyramid_pool(features, levels=(1, 2, 4)):
    N, C, H, W = features.shape
    pooled = []
    for level in levels:
        bins = [features[:, :, a:b, c:d].amax((2, 3)) for (a, b), (c, d) in zip(bin_edges(H, level), bin_edges(W, level))]
        pooled.append(torch.stack(bins, 2).flatten(1))
    return torch.cat(pooled, 1)

# %% mistake="spatial_pyramid_pool" hint="You cut the columns with the bins of the rows. Columns are split by bin_edges(W, level)."
def spatial_pyramid_pool(features, levels=(1, 2, 4)):
    N, C, H, W = features.shape
    pooled = []
    for level in levels:
        bins = [features[:, :, a:b, min(c, W - 1) : d].amax((2, 3)) for a, b in bin_edges(H, level) for c, d in bin_edges(H, level)]
        pooled.append(torch.stack(bins, 2).flatten(1))
    return torch.cat(pooled, 1)

# %% mistake="spatial_pyramid_pool" hint="Your bins start at 0, so that negative maxima are lost. A maximum may be negative."
def spatial_pyramid_pool(features, levels=(1, 2, 4)):
    N, C, H, W = features.shape
    pooled = []
    for level in levels:
        bins = [features[:, :, a:b, c:d].amax((2, 3)).clamp(min=0) for a, b in bin_edges(H, level) for c, d in bin_edges(W, level)]
        pooled.append(torch.stack(bins, 2).flatten(1))
    return torch.cat(pooled, 1)

# %% mistake="spatial_pyramid_pool" hint="You return one vector for the whole batch. Each image keeps a row of its own."
def spatial_pyramid_pool(features, levels=(1, 2, 4)):
    N, C, H, W = features.shape
    pooled = []
    for level in levels:
        bins = [features[:, :, a:b, c:d].amax((2, 3)) for a, b in bin_edges(H, level) for c, d in bin_edges(W, level)]
        pooled.append(torch.stack(bins, 2).flatten())
    return torch.cat(pooled)

# %% mistake="spatial_pyramid_pool" hint="Your values are right, but no gradient reaches the features: `.data`, `.detach()`, `.item()` or numpy cut it off."
def spatial_pyramid_pool(features, levels=(1, 2, 4)):
    N, C, H, W = features.shape
    pooled = []
    for level in levels:
        bins = [features.detach()[:, :, a:b, c:d].amax((2, 3)) for a, b in bin_edges(H, level) for c, d in bin_edges(W, level)]
        pooled.append(torch.stack(bins, 2).flatten(1))
    return torch.cat(pooled, 1)

# %% mistake="spatial_pyramid_pool" hint="Your levels are always 1, 2 and 4. Use `levels`."
def spatial_pyramid_pool(features, levels=(1, 2, 4)):
    N, C, H, W = features.shape
    pooled = []
    for level in (1, 2, 4):
        bins = [features[:, :, a:b, c:d].amax((2, 3)) for a, b in bin_edges(H, level) for c, d in bin_edges(W, level)]
        pooled.append(torch.stack(bins, 2).flatten(1))
    return torch.cat(pooled, 1)

# %% alternative="spatial_pyramid_pool"
def spatial_pyramid_pool(features, levels=(1, 2, 4)):
    N, C, H, W = features.shape
    vectors = []
    for level in levels:
        grid = features.new_zeros(N, C, level, level)
        for i, (top, bottom) in enumerate(bin_edges(H, level)):
            strip = features[:, :, top:bottom].max(2).values  # (N, C, W): rows first, then columns
            for j, (left, right) in enumerate(bin_edges(W, level)):
                grid[:, :, i, j] = strip[:, :, left:right].max(2).values
        vectors.append(grid.reshape(N, -1))
    return torch.cat(vectors, dim=1)

# %% alternative="spatial_pyramid_pool"
def spatial_pyramid_pool(features, levels=(1, 2, 4)):
    def inside(size, level):  # (level, size) bool: the cells of each bin
        return torch.tensor([[start <= cell < stop for cell in range(size)] for start, stop in bin_edges(size, level)])

    N, C, H, W = features.shape
    vectors = []
    for level in levels:
        bins = inside(H, level)[:, None, :, None] & inside(W, level)[None, :, None, :]  # (l, l, H, W)
        hidden = features[:, :, None, None].masked_fill(~bins, -math.inf)
        vectors.append(hidden.flatten(4).max(4).values.flatten(1))
    return torch.cat(vectors, 1)

# %% [markdown]
# A classifier needs a vector of one length, and photographs come in all shapes. Here two photographs take the place of feature maps, with
# their three colours as channels. **Predict first.** The cat has 300 × 451 pixels, the rocket 427 × 640. How long are their vectors, at
# the levels 1, 3 and 12?

# %%
if lab.ready("spatial_pyramid_pool"):
    for name in ("cat", "rocket"):
        photograph = datasets.photograph(name)  # (3, H, W)
        vector = spatial_pyramid_pool(photograph[None], (1, 3, 12))[0]
        grids = [part.reshape(3, level, level) for part, level in zip(vector.split([3, 27, 432]), (1, 3, 12))]
        print(f"{name}: {photograph.shape[1]} x {photograph.shape[2]} pixels -> a vector of {len(vector)}")
        fig = plots.image_row([F.avg_pool2d(photograph, 4), *grids], [name, "level 1", "level 3", "level 12"], height=1.3)
        plots.show(fig, alt=f"A photograph ({name}), then its brightest colour, nine, and 144 squares in which its outline can be guessed.")

# %% [markdown]
# Both end up as 462 numbers: 3 channels times 1 + 9 + 144 bins. A fully connected layer can follow, whatever the size of the photograph.
# (Level 1 of the rocket is white, since each colour reaches its full value somewhere.) RoI pooling is one level of such a pyramid, laid over the window of a box instead of the whole map.

# %% [markdown]
# Next comes RoI pooling itself. The next cell opens the explorer of the lecture: move a box over a map, and watch its window, its bins, and
# what both operators return. Come back to it whenever a rounding confuses you.

# %%
from course_lib import explore

explore.roi.show()

# %% [markdown]
# ## Exercise 4: pool regions of interest (4 points, 20 minutes)
#
# Complete `roi_pool`, the layer of Fast R-CNN. Each row of `rois` names an image of the batch and a box in it. Its window (exercise 1) is
# split into `output_size` $= (o_h, o_w)$ bins (exercise 2), and each bin becomes the **maximum** of its cells, in each channel.
#
# - The bins are laid out over the **whole** window, also where it reaches over the border of the map. Only then are cells outside
#   the map left out.
# - A bin without a single cell on the map is **0**. A bin with cells on the map is their maximum, which may be negative.
# - There may be no RoI at all: the result is then of shape $(0, C, o_h, o_w)$.
# - `rois` has the type of `features`, and so has the result. Gradients flow to `features`, to the cell of each maximum; none is asked for
#   `rois`. (Equal maxima in one bin do not occur in the checks.)
#
# torchvision's `roi_pool` and `roi_align` are off limits. Loops over RoIs and bins are welcome; the solution shows how it gets fast.
#
# <details><summary>Hint 1</summary>
#
# Begin with one RoI and one loop over bins. Which rows of the map belong to bin $i$ of a window that starts at `y_start`?
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `bin_edges(y_stop - y_start, oh)` counts from the start of the window. Add `y_start`, then clip both numbers to $0 … H$.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# After clipping, a bin outside the map has start = stop. Write the others into `features.new_zeros(K, C, oh, ow)`:
# `pooled[k, :, i, j] = features[image, :, top:bottom, left:right].amax((1, 2))`.
#
# </details>

# %% exercise="roi_pool"
def roi_pool(features: Tensor, rois: Tensor, output_size: tuple[int, int], spatial_scale: float) -> Tensor:
    """The maximum of each bin of each region of interest.

    Args:
        features: (N, C, H, W), float.
        rois: (K, 5) of the same type: number of the image in the batch, then xyxy in pixels.
        output_size: (oh, ow), bins of a window.
        spatial_scale: cells a pixel.

    Returns:
        (K, C, oh, ow), the type of features; 0 where a bin lies outside the map.

    Source: Girshick, "Fast R-CNN", ICCV 2015, section 2.1.
    Reference: torchvision.ops.roi_pool, up to six bins an axis (it computes the bins in floating point, and with more bins it can
        read a cell too far).
    """
    ### BEGIN SOLUTION
    (N, C, H, W), (oh, ow) = features.shape, output_size
    x_start, y_start, x_stop, y_stop = box_to_cells(rois[:, 1:], spatial_scale).unbind(1)

    def bins_on_map(start, stop, num_bins, size):
        """First cell and number of cells of each bin, (K, num_bins) both, without what lies off the map."""
        edges = [bin_edges(length, num_bins) for length in (stop - start).tolist()]
        edges = torch.tensor(edges, dtype=torch.int64, device=rois.device).reshape(-1, num_bins, 2)
        edges = (edges + start[:, None, None]).clamp(0, size)
        return edges[..., 0], edges[..., 1] - edges[..., 0]

    top, heights = bins_on_map(y_start, y_stop, oh, H)
    left, widths = bins_on_map(x_start, x_stop, ow, W)
    image = rois[:, 0].long()[:, None, None]
    corner = ((image * H + top[:, :, None]) * W + left[:, None, :]).flatten()  # (K * oh * ow,) where in the table a bin begins
    counts = (heights[:, :, None] * widths[:, None, :]).flatten()  # (K * oh * ow,) cells of each bin
    widths = widths[:, None, :].expand(-1, oh, -1).flatten()

    # All cells of all bins in one list, a bin being a bag: row by row, number 0, 1, 2, ... of its bag.
    first = counts.cumsum(0) - counts  # where in the list a bag begins
    bag = torch.arange(len(counts), device=rois.device).repeat_interleave(counts)
    number = torch.arange(len(bag), device=rois.device) - first[bag]
    cells = corner[bag] + number // widths[bag] * W + number % widths[bag]
    table = features.permute(0, 2, 3, 1).reshape(-1, C)  # (N * H * W, C), a row a cell
    pooled = F.embedding_bag(cells, table, first, mode="max")  # (K * oh * ow, C); the maximum of an empty bag is 0
    return pooled.reshape(-1, oh, ow, C).permute(0, 3, 1, 2)
    ### END SOLUTION

# %% check="roi_pool" points=4
from torchvision import ops

OWN_POOLING = {"forbid": ("roi_pool", "roi_align"), "substitute": {"box_to_cells": "library_box_to_cells", "bin_edges": "library_bin_edges"}}


@lab.check("roi_pool", points=1, **OWN_POOLING)
def by_hand(roi_pool):
    """A map of 4 x 5 cells that hold their own numbers: one bin, bins that share cells, the second image, two channels, no RoI."""
    numbers = torch.arange(20.0).reshape(1, 1, 4, 5)
    whole = torch.tensor([[0.0, 0, 0, 64, 48]])
    expect_close(roi_pool(numbers, whole, (1, 1), 1 / 16), torch.tensor([[[[19.0]]]]), "the whole map, one bin")
    expected = torch.tensor([[[[7.0, 8, 9], [17, 18, 19]]]])
    expect_close(roi_pool(numbers, torch.tensor([[0.0, 16, 0, 64, 48]]), (2, 3), 1 / 16), expected, "columns 1 to 4 of the map, 2 x 3 bins")
    inner = torch.tensor([[0.0, 16, 16, 48, 32]])
    expect_close(roi_pool(numbers, inner, (2, 1), 1 / 16), torch.tensor([[[[8.0], [13]]]]), "rows 1 and 2, columns 1 to 3, 2 x 1 bins")
    batch = torch.cat([numbers, 100 - numbers])
    both = torch.tensor([[1.0, 16, 16, 48, 32], [0.0, 16, 16, 48, 32]])
    expect_close(roi_pool(batch, both, (1, 1), 1 / 16), torch.tensor([94.0, 13]).reshape(2, 1, 1, 1), "one box in image 1 and in image 0")
    channels = torch.cat([numbers, -numbers], 1)
    expected = torch.tensor([[[[7.0, 8], [12, 13]], [[-6.0, -7], [-11, -12]]]])
    expect_close(roi_pool(channels, inner, (2, 2), 1 / 16), expected, "two channels, the second one negative, 2 x 2 bins")
    expect_equal(tuple(roi_pool(channels, inner[:0], (2, 3), 1 / 16).shape), (0, 2, 2, 3), "no RoI: shape for 2 x 3 bins")


@lab.check("roi_pool", points=0.5, **OWN_POOLING)
def border_of_the_map(roi_pool):
    """Windows that reach over the border and windows off the map, on a map of negative numbers: bins without a cell are 0."""
    numbers = torch.arange(20.0).reshape(1, 1, 4, 5) - 30
    cases = [
        ("two columns right of the map, four bins", [0.0, 48, 0, 96, 0], (1, 4), [[-27.0, -26, 0, 0]]),
        ("two columns left of the map, three bins", [0.0, -32, 16, 48, 16], (1, 3), [[0.0, -24, -22]]),
        ("a row above the map and one on it", [0.0, 0, -16, 0, 0], (2, 1), [[0.0], [-30]]),
        ("wholly below the map", [0.0, 0, 80, 32, 112], (2, 2), [[0.0, 0], [0, 0]]),
        ("wholly left of the map", [0.0, -48, 0, -16, 16], (1, 3), [[0.0, 0, 0]]),
        ("malformed: x2 left of x1", [0.0, 48, 16, 16, 16], (1, 2), [[-22.0, -22]]),
    ]
    for case, roi, output_size, expected in cases:
        expect_close(roi_pool(numbers, torch.tensor([roi]), output_size, 1 / 16), torch.tensor([[expected]]), case)


@lab.check("roi_pool", points=1.5, **OWN_POOLING)
def agrees_with_torchvision(roi_pool, rng):
    """Equal to torchvision's operator for maps of any size and boxes anywhere, up to six bins, in the type of the map."""
    cases = [((2, 3, 9, 7), (2, 3), 1 / 16, torch.float32), ((3, 2, 6, 11), (4, 1), 1 / 8, torch.float64)]
    cases.append(((2, 2, int(rng.integers(5, 15)), int(rng.integers(5, 15))), (5, int(rng.integers(2, 7))), 1 / 4, torch.float32))
    for shape, output_size, scale, dtype in cases:
        features = normal(rng, *shape, dtype=dtype)
        rois = random_rois(rng, 8, features, scale)
        case = f"features {shape} of type {str(dtype)[6:]}, 8 RoIs, {output_size[0]} x {output_size[1]} bins, spatial_scale 1/{round(1 / scale)}"
        expect_close(roi_pool(features, rois, output_size, scale), ops.roi_pool(features, rois, output_size, scale), case)
    features = normal(rng, 2, 7, 9, 3).permute(0, 3, 2, 1)
    rois = random_rois(rng, 5, features, 1 / 16)
    expected = ops.roi_pool(features.contiguous(), rois, (3, 2), 1 / 16)
    expect_close(roi_pool(features, rois, (3, 2), 1 / 16), expected, "a map whose axes were permuted, 3 x 2 bins")


@lab.check("roi_pool", points=1, **OWN_POOLING)
def gradient_of_features(roi_pool, rng):
    """The gradient reaches the cell of each maximum, added up where several bins or RoIs share it, as torchvision's does."""
    for shape, output_size, dtype in [((2, 3, 8, 6), (2, 3), torch.float32), ((2, 2, 5, 9), (3, 2), torch.float64)]:
        features = normal(rng, *shape, dtype=dtype)
        rois = random_rois(rng, 6, features, 1 / 16)
        ours = gradients(lambda features: roi_pool(features, rois, output_size, 1 / 16), features)
        expected = gradients(lambda features: ops.roi_pool(features, rois, output_size, 1 / 16), features)
        expect_close(ours, expected, f"features {shape} of type {str(dtype)[6:]}, 6 RoIs, {output_size[0]} x {output_size[1]} bins")

# %% mistake="roi_pool" hint="You cut the window off at the border and then lay the bins over what is left. The bins belong to the whole window; cells off the map are left out afterwards."
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (oh, ow) = features.shape, output_size
    pooled = features.new_zeros(len(rois), C, oh, ow)
    windows = box_to_cells(rois[:, 1:], spatial_scale).tolist()
    for k, (image, (x0, y0, x1, y1)) in enumerate(zip(rois[:, 0].long().tolist(), windows)):
        x0, y0, x1, y1 = min(max(x0, 0), W), min(max(y0, 0), H), max(min(x1, W), 0), max(min(y1, H), 0)
        if x0 >= x1 or y0 >= y1:
            continue
        for i, (a, b) in enumerate(bin_edges(y1 - y0, oh)):
            top, bottom = max(y0 + a, 0), min(y0 + b, H)
            for j, (c, d) in enumerate(bin_edges(x1 - x0, ow)):
                left, right = max(x0 + c, 0), min(x0 + d, W)
                if top < bottom and left < right:
                    pooled[k, :, i, j] = features[image, :, top:bottom, left:right].amax((1, 2))
    return pooled

# %% mistake="roi_pool" hint="Every box is pooled from the first image. The first column of `rois` says which image of the batch it belongs to."
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (oh, ow) = features.shape, output_size
    pooled = features.new_zeros(len(rois), C, oh, ow)
    windows = box_to_cells(rois[:, 1:], spatial_scale).tolist()
    for k, (image, (x0, y0, x1, y1)) in enumerate(zip(rois[:, 0].long().tolist(), windows)):
        for i, (a, b) in enumerate(bin_edges(y1 - y0, oh)):
            top, bottom = max(y0 + a, 0), min(y0 + b, H)
            for j, (c, d) in enumerate(bin_edges(x1 - x0, ow)):
                left, right = max(x0 + c, 0), min(x0 + d, W)
                if top < bottom and left < right:
                    pooled[k, :, i, j] = features[0, :, top:bottom, left:right].amax((1, 2))
    return pooled

# %% mistake="roi_pool" hint="Image k belongs to RoI k in your code. The first column of `rois` says which image of the batch a box belongs to."
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (oh, ow) = features.shape, output_size
    pooled = features.new_zeros(len(rois), C, oh, ow)
    windows = box_to_cells(rois[:, 1:], spatial_scale).tolist()
    for k, (image, (x0, y0, x1, y1)) in enumerate(zip(rois[:, 0].long().tolist(), windows)):
        for i, (a, b) in enumerate(bin_edges(y1 - y0, oh)):
            top, bottom = max(y0 + a, 0), min(y0 + b, H)
            for j, (c, d) in enumerate(bin_edges(x1 - x0, ow)):
                left, right = max(x0 + c, 0), min(x0 + d, W)
                if top < bottom and left < right:
                    pooled[k, :, i, j] = features[k % N, :, top:bottom, left:right].amax((1, 2))
    return pooled

# %% mistake="roi_pool" hint="You take the mean of a bin. RoI pooling takes the maximum; the mean comes with RoI Align."
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (oh, ow) = features.shape, output_size
    pooled = features.new_zeros(len(rois), C, oh, ow)
    windows = box_to_cells(rois[:, 1:], spatial_scale).tolist()
    for k, (image, (x0, y0, x1, y1)) in enumerate(zip(rois[:, 0].long().tolist(), windows)):
        for i, (a, b) in enumerate(bin_edges(y1 - y0, oh)):
            top, bottom = max(y0 + a, 0), min(y0 + b, H)
            for j, (c, d) in enumerate(bin_edges(x1 - x0, ow)):
                left, right = max(x0 + c, 0), min(x0 + d, W)
                if top < bottom and left < right:
                    pooled[k, :, i, j] = features[image, :, top:bottom, left:right].mean((1, 2))
    return pooled

# %% mistake="roi_pool" hint="You mixed up rows and columns of `output_size`: it is (rows, columns) = (oh, ow)."
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (ow, oh) = features.shape, output_size
    pooled = features.new_zeros(len(rois), C, oh, ow)
    windows = box_to_cells(rois[:, 1:], spatial_scale).tolist()
    for k, (image, (x0, y0, x1, y1)) in enumerate(zip(rois[:, 0].long().tolist(), windows)):
        for i, (a, b) in enumerate(bin_edges(y1 - y0, oh)):
            top, bottom = max(y0 + a, 0), min(y0 + b, H)
            for j, (c, d) in enumerate(bin_edges(x1 - x0, ow)):
                left, right = max(x0 + c, 0), min(x0 + d, W)
                if top < bottom and left < right:
                    pooled[k, :, i, j] = features[image, :, top:bottom, left:right].amax((1, 2))
    return pooled

# %% mistake="roi_pool" hint="Rows and columns of the window are swapped: x counts columns, the last axis of the map, and y counts rows."
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (oh, ow) = features.shape, output_size
    pooled = features.new_zeros(len(rois), C, oh, ow)
    windows = box_to_cells(rois[:, 1:], spatial_scale).tolist()
    for k, (image, (y0, x0, y1, x1)) in enumerate(zip(rois[:, 0].long().tolist(), windows)):
        for i, (a, b) in enumerate(bin_edges(y1 - y0, oh)):
            top, bottom = max(y0 + a, 0), min(y0 + b, H)
            for j, (c, d) in enumerate(bin_edges(x1 - x0, ow)):
                left, right = max(x0 + c, 0), min(x0 + d, W)
                if top < bottom and left < right:
                    pooled[k, :, i, j] = features[image, :, top:bottom, left:right].amax((1, 2))
    return pooled

# %% mistake="roi_pool" hint="A bin off the map should be 0, but yours is minus infinity."
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (oh, ow) = features.shape, output_size
    pooled = features.new_full((len(rois), C, oh, ow), -math.inf)
    windows = box_to_cells(rois[:, 1:], spatial_scale).tolist()
    for k, (image, (x0, y0, x1, y1)) in enumerate(zip(rois[:, 0].long().tolist(), windows)):
        for i, (a, b) in enumerate(bin_edges(y1 - y0, oh)):
            top, bottom = max(y0 + a, 0), min(y0 + b, H)
            for j, (c, d) in enumerate(bin_edges(x1 - x0, ow)):
                left, right = max(x0 + c, 0), min(x0 + d, W)
                if top < bottom and left < right:
                    pooled[k, :, i, j] = features[image, :, top:bottom, left:right].amax((1, 2))
    return pooled

# %% mistake="roi_pool" hint="Your bins never fall under 0. A maximum of negative cells is negative; only a bin without any cell is 0."
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (oh, ow) = features.shape, output_size
    pooled = features.new_zeros(len(rois), C, oh, ow)
    windows = box_to_cells(rois[:, 1:], spatial_scale).tolist()
    for k, (image, (x0, y0, x1, y1)) in enumerate(zip(rois[:, 0].long().tolist(), windows)):
        for i, (a, b) in enumerate(bin_edges(y1 - y0, oh)):
            top, bottom = max(y0 + a, 0), min(y0 + b, H)
            for j, (c, d) in enumerate(bin_edges(x1 - x0, ow)):
                left, right = max(x0 + c, 0), min(x0 + d, W)
                if top < bottom and left < right:
                    pooled[k, :, i, j] = features[image, :, top:bottom, left:right].amax((1, 2)).clamp(min=0)
    return pooled

# %% mistake="roi_pool" hint="You pull cells off the map back to its edge, so that bins off the map repeat the edge. They are 0."
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (oh, ow) = features.shape, output_size
    pooled = features.new_zeros(len(rois), C, oh, ow)
    windows = box_to_cells(rois[:, 1:], spatial_scale).tolist()
    for k, (image, (x0, y0, x1, y1)) in enumerate(zip(rois[:, 0].long().tolist(), windows)):
        for i, (a, b) in enumerate(bin_edges(y1 - y0, oh)):
            top, bottom = min(max(y0 + a, 0), H - 1), min(max(y0 + b, 1), H)
            for j, (c, d) in enumerate(bin_edges(x1 - x0, ow)):
                left, right = min(max(x0 + c, 0), W - 1), min(max(x0 + d, 1), W)
                if top < bottom and left < right:
                    pooled[k, :, i, j] = features[image, :, top:bottom, left:right].amax((1, 2))
    return pooled

# %% mistake="roi_pool" hint="Negative cells count from the far end in your code, as they do in Python's indexing. They lie off the map: clip starts at 0."
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (oh, ow) = features.shape, output_size
    pooled = features.new_zeros(len(rois), C, oh, ow)
    windows = box_to_cells(rois[:, 1:], spatial_scale).tolist()
    for k, (image, (x0, y0, x1, y1)) in enumerate(zip(rois[:, 0].long().tolist(), windows)):
        for i, (a, b) in enumerate(bin_edges(y1 - y0, oh)):
            top, bottom = y0 + a, min(y0 + b, H)
            for j, (c, d) in enumerate(bin_edges(x1 - x0, ow)):
                left, right = x0 + c, min(x0 + d, W)
                if features[image, :, top:bottom, left:right].numel():
                    pooled[k, :, i, j] = features[image, :, top:bottom, left:right].amax((1, 2))
    return pooled

# %% mistake="roi_pool" hint="Your bins are cut from the corner of the map: `bin_edges` counts from the start of the window, so add the start."
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (oh, ow) = features.shape, output_size
    pooled = features.new_zeros(len(rois), C, oh, ow)
    windows = box_to_cells(rois[:, 1:], spatial_scale).tolist()
    for k, (image, (x0, y0, x1, y1)) in enumerate(zip(rois[:, 0].long().tolist(), windows)):
        for i, (a, b) in enumerate(bin_edges(y1 - y0, oh)):
            top, bottom = a, min(b, H)
            for j, (c, d) in enumerate(bin_edges(x1 - x0, ow)):
                left, right = c, min(d, W)
                if top < bottom and left < right:
                    pooled[k, :, i, j] = features[image, :, top:bottom, left:right].amax((1, 2))
    return pooled

# %% mistake="roi_pool" hint="Your columns are cut with the bins of the rows. Rows are split into oh bins of the window's height, columns into ow bins of its width."
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (oh, ow) = features.shape, output_size
    pooled = features.new_zeros(len(rois), C, oh, ow)
    windows = box_to_cells(rois[:, 1:], spatial_scale).tolist()
    for k, (image, (x0, y0, x1, y1)) in enumerate(zip(rois[:, 0].long().tolist(), windows)):
        for i, (a, b) in enumerate(bin_edges(y1 - y0, oh)):
            top, bottom = max(y0 + a, 0), min(y0 + b, H)
            for j, (c, d) in enumerate(bin_edges(y1 - y0, ow)):
                left, right = max(x0 + c, 0), min(x0 + d, W)
                if top < bottom and left < right:
                    pooled[k, :, i, j] = features[image, :, top:bottom, left:right].amax((1, 2))
    return pooled

# %% mistake="roi_pool" hint="You read the image number as part of the box. A row of `rois` is (image, x1, y1, x2, y2)."
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (oh, ow) = features.shape, output_size
    pooled = features.new_zeros(len(rois), C, oh, ow)
    windows = box_to_cells(rois[:, :4], spatial_scale).tolist()
    for k, (image, (x0, y0, x1, y1)) in enumerate(zip(rois[:, 0].long().tolist(), windows)):
        for i, (a, b) in enumerate(bin_edges(y1 - y0, oh)):
            top, bottom = max(y0 + a, 0), min(y0 + b, H)
            for j, (c, d) in enumerate(bin_edges(x1 - x0, ow)):
                left, right = max(x0 + c, 0), min(x0 + d, W)
                if top < bottom and left < right:
                    pooled[k, :, i, j] = features[image, :, top:bottom, left:right].amax((1, 2))
    return pooled

# %% mistake="roi_pool" hint="You left out spatial_scale: boxes are in pixels, bins in cells."
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (oh, ow) = features.shape, output_size
    pooled = features.new_zeros(len(rois), C, oh, ow)
    windows = box_to_cells(rois[:, 1:], 1.0).tolist()
    for k, (image, (x0, y0, x1, y1)) in enumerate(zip(rois[:, 0].long().tolist(), windows)):
        for i, (a, b) in enumerate(bin_edges(y1 - y0, oh)):
            top, bottom = max(y0 + a, 0), min(y0 + b, H)
            for j, (c, d) in enumerate(bin_edges(x1 - x0, ow)):
                left, right = max(x0 + c, 0), min(x0 + d, W)
                if top < bottom and left < right:
                    pooled[k, :, i, j] = features[image, :, top:bottom, left:right].amax((1, 2))
    return pooled

# %% mistake="roi_pool" hint="Your values are right, but no gradient reaches the features: `.data`, `.detach()`, `.item()` or numpy cut it off."
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (oh, ow) = features.shape, output_size
    pooled = features.new_zeros(len(rois), C, oh, ow)
    windows = box_to_cells(rois[:, 1:], spatial_scale).tolist()
    for k, (image, (x0, y0, x1, y1)) in enumerate(zip(rois[:, 0].long().tolist(), windows)):
        for i, (a, b) in enumerate(bin_edges(y1 - y0, oh)):
            top, bottom = max(y0 + a, 0), min(y0 + b, H)
            for j, (c, d) in enumerate(bin_edges(x1 - x0, ow)):
                left, right = max(x0 + c, 0), min(x0 + d, W)
                if top < bottom and left < right:
                    pooled[k, :, i, j] = features[image, :, top:bottom, left:right].amax((1, 2)).detach()
    return pooled

# %% mistake="roi_pool" hint="Your result is always float32. It should have the type of the features: `features.new_zeros`."
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (oh, ow) = features.shape, output_size
    pooled = torch.zeros(len(rois), C, oh, ow)
    windows = box_to_cells(rois[:, 1:], spatial_scale).tolist()
    for k, (image, (x0, y0, x1, y1)) in enumerate(zip(rois[:, 0].long().tolist(), windows)):
        for i, (a, b) in enumerate(bin_edges(y1 - y0, oh)):
            top, bottom = max(y0 + a, 0), min(y0 + b, H)
            for j, (c, d) in enumerate(bin_edges(x1 - x0, ow)):
                left, right = max(x0 + c, 0), min(x0 + d, W)
                if top < bottom and left < right:
                    pooled[k, :, i, j] = features[image, :, top:bottom, left:right].amax((1, 2))
    return pooled

# %% alternative="roi_pool"
def roi_pool(features, rois, output_size, spatial_scale):
    (N, C, H, W), (oh, ow) = features.shape, output_size
    channels_last = features.permute(0, 2, 3, 1).contiguous()  # then a maximum over cells runs over whole rows of memory
    pooled = features.new_zeros(len(rois), oh, ow, C)
    for k, (x0, y0, x1, y1) in enumerate(box_to_cells(rois[:, 1:], spatial_scale).tolist()):
        rows = [(max(y0 + a, 0), min(y0 + b, H)) for a, b in bin_edges(y1 - y0, oh)]
        columns = [(max(x0 + a, 0), min(x0 + b, W)) for a, b in bin_edges(x1 - x0, ow)]
        for j, (left, right) in enumerate(columns):
            if left < right:
                strip = channels_last[int(rois[k, 0]), :, left:right].amax(1)  # (H, C): columns first, then rows
                for i, (top, bottom) in enumerate(rows):
                    if top < bottom:
                        pooled[k, i, j] = strip[top:bottom].amax(0)
    return pooled.permute(0, 3, 1, 2)

# %% alternative="roi_pool"
def roi_pool(features, rois, output_size, spatial_scale):
    N, C, H, W = features.shape
    pooled = [features.new_zeros(0, C, *output_size)]
    for roi, (x0, y0, x1, y1) in zip(rois, box_to_cells(rois[:, 1:], spatial_scale).tolist()):
        margins = (max(-x0, 0), max(x1 - W, 0), max(-y0, 0), max(y1 - H, 0))  # cells of the window off the map
        wide = F.pad(features[int(roi[0])], margins, value=-math.inf)
        window = wide[:, max(y0, 0) : max(y0, 0) + y1 - y0, max(x0, 0) : max(x0, 0) + x1 - x0]
        maxima = F.adaptive_max_pool2d(window[None], output_size)  # the same bins, in whole numbers
        pooled.append(maxima.masked_fill(maxima.isneginf(), 0))
    return torch.cat(pooled)

# %% [markdown]
# Pool the pixels themselves and you see what the layer does: objects of any size and place become images of one size. We pool the
# objects of a scene that are more than half visible to 24 × 24, and the face, the eyes and the nose of a cat.

# %%
def pooled_row(image, boxes, names, pool, size):
    """A picture with boxes in it, and beside it what each box pools to."""
    rois = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
    fig = plots.image_row([image, *pool(image[None], rois, (size, size), 1.0)], ["", *names], height=1.5)
    for x1, y1, x2, y2 in boxes.tolist():
        fig.axes[0].add_patch(plt.Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor="white", linewidth=1.5))
    return fig


if lab.ready("roi_pool"):
    picture = scenes.render(scenes.sample([7], seed=12), (160, 208))
    order = [k for k in picture.boxes[0, :, 0].argsort().tolist() if picture.visible[0, k] > 0.5]  # from left to right
    names = [scenes.KINDS[picture.kind[0, k]] for k in order]
    fig = pooled_row(picture.images[0], picture.boxes[0, order], names, roi_pool, 24)
    plots.show(fig, alt=f"A scene with boxes, and beside it their contents, each as 24 x 24 blocks: {', '.join(names)}.")
    parts = torch.tensor([[40.0, 10, 370, 290], [130, 80, 212, 150], [290, 105, 348, 170], [225, 215, 295, 275]])
    fig = pooled_row(datasets.photograph("cat"), parts, ["face", "an eye", "the other", "nose"], roi_pool, 24)
    plots.show(fig, alt="A cat with four boxes, and beside it the face, both eyes and the nose, each as 24 x 24 blocks.")

# %% [markdown]
# ## Exercise 5: read between the cells (3 points, 15 minutes)
#
# RoI Align rounds nothing. It reads the map at points that lie between cells. Complete `bilinear_sample`, which does that for one image.
# The value of cell $(i, j)$ sits at $y = i$, $x = j$. A point between four cells is their mean, weighted by how near it is: with
# $y = i + d_y$, $x = j + d_x$ and both $d$ in $0 … 1$,
#
# $$(1 - d_y)(1 - d_x)\, f_{i,j} + (1 - d_y)\, d_x\, f_{i,j+1} + d_y (1 - d_x)\, f_{i+1,j} + d_y\, d_x\, f_{i+1,j+1} .$$
#
# At the border follow torchvision's rule:
#
# - A point with $y < -1$, $y > H$, $x < -1$ or $x > W$ reads 0. (The limits themselves are still inside.)
# - Any other point is first moved onto the map: $y$ into $0 … H - 1$, and $x$ into $0 … W - 1$. So up to one cell off the map, the edge is
#   repeated.
#
# `y` and `x` have the type of `features`, and so has the result. Gradients flow to `features`; none is asked for `y` and `x`. There may be
# no point at all. The library's `grid_sample` is off limits here: you write what it does.
#
# <details><summary>Hint 1</summary>
#
# Remember which points are inside **before** you move them onto the map with `clamp`. Not in place: `y` and `x` belong to the caller.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `top = y.floor().long()` after clamping. On the last row `top + 1` does not exist. Its weight is 0 there, so any cell will do.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# `features[:, top, left]` reads one cell a point: (C, P). You need four of these, with weights of shape (P,).
#
# </details>

# %% exercise="bilinear_sample"
def bilinear_sample(features: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Values of a feature map at points between its cells.

    Args:
        features: (C, H, W), float; cell (i, j) has its value at y = i, x = j.
        y, x: (P,) of the same type, in cells, anywhere.

    Returns:
        (C, P), the type of features; 0 for points more than one cell off the map, the nearest edge for points up to one cell off it.

    Source: Jaderberg et al., "Spatial transformer networks", NeurIPS 2015, equation 5; border rule of torchvision.ops.roi_align.
    Reference: torch.nn.functional.grid_sample(..., padding_mode="border", align_corners=True), zeroed outside.
    """
    ### BEGIN SOLUTION
    C, H, W = features.shape
    inside = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]  # (C, P)
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * inside
    ### END SOLUTION

# %% check="bilinear_sample" points=3
# In float32 `grid_sample` rounds a position of some 10 cells by up to 1e-6, and the value read there by a few times as much.
ROUNDED_POSITIONS = {torch.float32: {"atol": 1e-4}, torch.float64: {}}


def expect_values(bilinear_sample, features, points, expected, case):
    y, x = torch.tensor(points, dtype=features.dtype).reshape(-1, 2).unbind(1)
    expect_close(bilinear_sample(features, y, x), torch.tensor([expected], dtype=features.dtype), case)


@lab.check("bilinear_sample", points=1, forbid=("grid_sampler",))
def by_hand(bilinear_sample):
    """A map of 3 x 4: centres, halfway, a quarter of the way, the edge, two channels, no point."""
    plane = torch.tensor([[[0.0, 8, 0, 4], [16, 0, 0, 4], [0, 0, 12, 4]]])
    expect_values(bilinear_sample, plane, [[0, 1], [1, 0], [2, 3]], [8.0, 16, 4], "centres of the cells (0, 1), (1, 0) and (2, 3)")
    expect_values(bilinear_sample, plane, [[0, 0.5], [0.5, 1]], [4.0, 4], "halfway between two cells, along x and along y")
    expect_values(bilinear_sample, plane, [[0.5, 0.5], [1.5, 2.5]], [6.0, 5], "in the middle of four cells")
    expect_values(bilinear_sample, plane, [[0, 0.25], [0.25, 0], [0.25, 0.75]], [2.0, 4, 5.5], "y, x = 0, 0.25 and 0.25, 0 and 0.25, 0.75")
    expect_values(bilinear_sample, plane, [[2, 1.5], [1.5, 3]], [6.0, 4], "on the last row and on the last column")
    two = torch.cat([plane, 1 - plane])
    y, x = torch.tensor([0.25, 1.5]), torch.tensor([0.75, 2.5])
    expect_close(bilinear_sample(two, y, x), torch.tensor([[5.5, 5], [-4.5, -4]]), "two points on two channels")
    expect_equal(tuple(bilinear_sample(two, y[:0], x[:0]).shape), (2, 0), "no point: shape")


@lab.check("bilinear_sample", points=1, forbid=("grid_sampler",))
def border_rule(bilinear_sample):
    """Up to one cell off the map the edge is repeated, limits included; further off there is 0; maps of one row and of one column."""
    plane = torch.tensor([[[1.0, 8, 2, 4], [16, 3, 5, 6], [7, 9, 12, 10]]])
    near = [[-0.5, 1], [-0.75, 0.5], [2.5, 2], [1, -0.25], [0.5, 3.75], [2.75, 3.5]]
    expect_values(bilinear_sample, plane, near, [8.0, 4.5, 12, 16, 5, 10], "less than a cell off a map of 3 x 4")
    expect_values(bilinear_sample, plane, [[-1, 1], [3, 2], [1, -1], [1, 4], [3, 4]], [8.0, 12, 16, 6, 10], "exactly one cell off")
    far = [[-1.25, 1], [3.25, 2], [1, -1.5], [1, 4.125], [-40, 1], [1, 90], [-1.25, 4.5]]
    expect_values(bilinear_sample, plane, far, [0.0] * 7, "more than a cell off")
    expect_values(bilinear_sample, plane[:, :1], [[0, 0.5], [0.75, 1], [-1, 3], [1.5, 1]], [4.5, 8, 4, 0], "a map of one row")
    expect_values(bilinear_sample, plane[:, :, :1], [[0.5, 0], [1.5, 0.5], [1, -0.5], [1, 1.5]], [8.5, 11.5, 16, 0], "a map of one column")


@lab.check("bilinear_sample", points=1, forbid=("grid_sampler",))
def agrees_with_grid_sample(bilinear_sample, rng):
    """Equal to `F.grid_sample` with the border rule, for points anywhere: values in the type of the map, and gradients."""
    for shape, dtype in [((3, 5, 7), torch.float32), ((2, 8, 4), torch.float64), ((2, int(rng.integers(2, 9)), 6), torch.float32)]:
        features = normal(rng, *shape, dtype=dtype)
        y, x = (torch.tensor(rng.uniform(-2, size + 1, 25), dtype=dtype) for size in shape[1:])
        case = f"features {shape} of type {str(dtype)[6:]}, 25 points"
        expect_close(bilinear_sample(features, y, x), library_bilinear_sample(features, y, x), case, **ROUNDED_POSITIONS[dtype])
        ours = gradients(lambda features: bilinear_sample(features, y, x), features)
        expected = gradients(lambda features: library_bilinear_sample(features, y, x), features)
        expect_close(ours, expected, f"{case}: gradient", **ROUNDED_POSITIONS[dtype])
    turned, points = normal(rng, 6, 5, 3).permute(2, 1, 0), torch.tensor(rng.uniform(-1, 6, (2, 12)), dtype=torch.float32)
    expected = library_bilinear_sample(turned.contiguous(), *points)
    expect_close(bilinear_sample(turned, *points), expected, "a map whose axes were permuted", atol=1e-4)

# %% mistake="bilinear_sample" hint="You mixed up y and x: y counts rows, the second axis of the features, x counts columns."
def bilinear_sample(features, y, x):
    C, W, H = features.shape
    features = features.transpose(1, 2)
    inside = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * inside

# %% mistake="bilinear_sample" hint="You read the nearest cell. Bilinear sampling weights the four cells around a point."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = (y - top).round(), (x - left).round()
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * inside

# %% mistake="bilinear_sample" hint="You read the cell that the point falls into and ignore its neighbours."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = (y - top) * 0, (x - left) * 0
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * inside

# %% mistake="bilinear_sample" hint="Your weights are the wrong way round: the nearer a cell, the larger its weight. The upper row has the weight 1 - dy, the left column 1 - dx."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = 1 - (y - top), 1 - (x - left)
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * inside

# %% mistake="bilinear_sample" hint="The weights of rows and columns are swapped: dy belongs to the step from top to bottom, dx to the step from left to right."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dx, dy = y - top, x - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * inside

# %% mistake="bilinear_sample" hint="You interpolate along x only."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = (y - top) * 0, x - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * inside

# %% mistake="bilinear_sample" hint="You average the four cells with equal weights. Weights follow from the distances."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = y * 0 + 0.5, x * 0 + 0.5
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * inside

# %% mistake="bilinear_sample" hint="Points far off the map repeat its edge. More than one cell off, the value is 0."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower)

# %% mistake="bilinear_sample" hint="Points off the map read 0 at once. Up to one cell off, the edge is repeated."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = (y >= 0) & (y <= H - 1) & (x >= 0) & (x <= W - 1)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * inside

# %% mistake="bilinear_sample" hint="Cells off the map count as 0 in your mean, so the value fades out towards the border. The point is first moved onto the map: the edge is repeated."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    y0, x0 = y, x
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * (1 - (y0 - y).abs()).clamp(min=0) * (1 - (x0 - x).abs()).clamp(min=0)

# %% mistake="bilinear_sample" hint="The limits themselves belong to the inside: a point exactly one cell off the map still repeats the edge."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = (y > -1) & (y < H) & (x > -1) & (x < W)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * inside

# %% mistake="bilinear_sample" hint="Your far limits are H - 1 and W - 1, the last cell. They are H and W, one cell further."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = (y >= -1) & (y <= H - 1) & (x >= -1) & (x <= W - 1)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * inside

# %% mistake="bilinear_sample" hint="Your far limits are too wide: the map ends at row H - 1, so one cell off it is H, not H + 1."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = (y >= -1) & (y <= H + 1) & (x >= -1) & (x <= W + 1)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * inside

# %% mistake="bilinear_sample" hint="A point is outside when y or x is; yours is outside only when both are."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = ((y >= -1) & (y <= H)) | ((x >= -1) & (x <= W))
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * inside

# %% mistake="bilinear_sample" hint="You use the fractions of the unmoved point, so the edge is continued as a slope. Move y and x onto the map first, then take the fractions."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    top, left = y.clamp(0, H - 1).floor().long(), x.clamp(0, W - 1).floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = y.clamp(-1, H) - top, x.clamp(-1, W) - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * inside

# %% mistake="bilinear_sample" hint="You shift the points by half a cell. Here the value of cell (i, j) sits at y = i, x = j."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = y - 0.5, x - 0.5
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * inside

# %% mistake="bilinear_sample" hint="Your result is (P, C). It should be (C, P): channels first."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return (((1 - dy) * upper + dy * lower) * inside).T

# %% mistake="bilinear_sample" hint="You combine every y with every x. Point p is the pair (y[p], x[p]): index both axes at once."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    result = ((1 - dy) * upper + dy * lower) * inside
    return result[:, :, None].expand(-1, -1, len(x))

# %% mistake="bilinear_sample" hint="Your values are right, but no gradient reaches the features: `.data`, `.detach()`, `torch.no_grad()` or numpy cut it off."
def bilinear_sample(features, y, x):
    features = features.detach()
    C, H, W = features.shape
    inside = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return ((1 - dy) * upper + dy * lower) * inside

# %% mistake="bilinear_sample" hint="Your result is always float32. It should have the type of the features."
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    inside = (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=H - 1), (left + 1).clamp(max=W - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * features[:, top, left] + dx * features[:, top, right]
    lower = (1 - dx) * features[:, bottom, left] + dx * features[:, bottom, right]
    return (((1 - dy) * upper + dy * lower) * inside).float()

# %% alternative="bilinear_sample"
def bilinear_sample(features, y, x):
    def tents(position, size):  # (P, size): the weight of each row (column) for each point, a tent of width 2 around it
        inside = (position >= -1) & (position <= size)
        cells = torch.arange(size, dtype=position.dtype)
        return (1 - (position.clamp(0, size - 1)[:, None] - cells).abs()).clamp(min=0) * inside[:, None]

    return torch.einsum("chw,ph,pw->cp", features, tents(y, features.shape[1]), tents(x, features.shape[2]))

# %% alternative="bilinear_sample"
def bilinear_sample(features, y, x):
    C, H, W = features.shape
    table = features.flatten(1).T  # (H * W, C), a row a cell
    keep = (y.abs() < math.inf) & (y >= -1) & (y <= H) & (x >= -1) & (x <= W)
    y, x = y.clip(0, H - 1), x.clip(0, W - 1)
    i, j = y.floor(), x.floor()
    values = 0
    for row, wy in [(i, i + 1 - y), ((i + 1).clip(max=H - 1), y - i)]:
        for column, wx in [(j, j + 1 - x), ((j + 1).clip(max=W - 1), x - j)]:
            values = values + table[(row * W + column).long()] * (wy * wx * keep)[:, None]
    return values.T

# %% [markdown]
# A function that reads an image anywhere can bend it in any way. Here the points run around the centre of a coin, and around the eye
# of a cat: one row of the result is one circle. **Predict first.** What becomes of the rim of the coin?

# %%
if lab.ready("bilinear_sample"):
    angles = torch.linspace(0, 2 * math.pi, 241)[:-1]
    for name, row, column, radius in [("coins", 187, 347, 35), ("cat", 113, 172, 42)]:
        photograph, radii = datasets.photograph(name), torch.linspace(0, radius, 60)
        y, x = row - radii[:, None] * angles.cos(), column + radii[:, None] * angles.sin()  # (60, 240) circles, clockwise from the top
        unrolled = bilinear_sample(photograph, y.flatten(), x.flatten()).reshape(-1, 60, 240)
        around = photograph[:, row - radius : row + radius, column - radius : column + radius]
        fig = plots.image_row([around, unrolled], [name, "unrolled: the centre above, the outermost circle below"], height=1.3)
        plots.show(fig, alt=f"A round thing ({name}), and its circles unrolled to rows, in which its edge runs almost straight from left to right.")

# %% [markdown]
# The rim of the coin becomes almost a straight line. The edge of the iris stays wavy: the lids cut it, and an eye is not quite a circle.
# RoI Align reads at far simpler points, on a regular grid in each bin.

# %% [markdown]
# ## Exercise 6: pool without rounding (4 points, 25 minutes)
#
# Complete `roi_align`, the layer of Mask R-CNN. Nothing is rounded:
#
# - The box times `spatial_scale` gives a region in cells, in floating point. With `aligned=True`, 0.5 is then subtracted from all four
#   coordinates: the value of cell 0 sits in the middle of the pixels it covers, at 0.5 cells, but `bilinear_sample` calls this place 0.
#   With `aligned=False` nothing is subtracted, and a region less than 1 cell wide (high) is made 1 cell wide (high), keeping its first corner.
# - The region is split into $o_h \times o_w$ bins of equal size. Each bin is split into $s \times s$ equal parts, $s$ = `sampling_ratio`, and the map
#   is read with `bilinear_sample` at the **centre** of each part.
# - The value of a bin is the **mean** of its $s^2$ samples, in each channel. Samples off the map count as the 0 that they read.
#
# `rois` is as in exercise 4, with $x_1 \le x_2$ and $y_1 \le y_2$; there may be no RoI at all (`features.new_zeros(0, C, oh, ow)`, since
# `torch.stack` refuses an empty list). The result is $(K, C, o_h, o_w)$ in the type
# of `features`, and as exact as that type allows, so compute positions in the type of `rois`. Gradients flow to `features`; none is asked
# for `rois`. Raise `ValueError` when `sampling_ratio` is under 1. (torchvision takes 0 and −1 as "choose by the size of the box"; we leave
# that out.)
#
# torchvision's `roi_align` and `roi_pool` are off limits; `grid_sample` is allowed here. Loops are welcome again.
#
# <details><summary>Hint 1</summary>
#
# Along one axis, without bins: a region from `start` to `stop`, cut into `n` equal parts. Where are the `n` centres? Then take
# $n = o_h \cdot s$.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `ys = start + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * (stop - start) / (oh * s)`, and the same for `xs`. Each `y` meets each `x`:
# `torch.meshgrid(ys, xs, indexing="ij")`, or `repeat_interleave` for one and `repeat` for the other.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# The samples of one RoI have the shape $(C, o_h \cdot s \cdot o_w \cdot s)$. Reshape to `(C, oh, s, ow, s)`, and take the mean over the axes of the
# samples, 2 and 4.
#
# </details>

# %% exercise="roi_align"
def roi_align(
    features: Tensor, rois: Tensor, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int = 2, aligned: bool = True
) -> Tensor:
    """The mean of regularly placed bilinear samples in each bin of each region of interest.

    Args:
        features: (N, C, H, W), float.
        rois: (K, 5) of the same type: number of the image in the batch, then xyxy in pixels, x1 <= x2 and y1 <= y2.
        output_size: (oh, ow), bins of a region.
        spatial_scale: cells a pixel.
        sampling_ratio: samples a bin along each axis, at least 1.
        aligned: subtract half a cell, so that pixel and cell coordinates agree; False is the original version without it.

    Returns:
        (K, C, oh, ow), the type of features.

    Raises:
        ValueError: sampling_ratio is under 1.

    Source: He et al., "Mask R-CNN", ICCV 2017, section 3, "RoIAlign".
    Reference: torchvision.ops.roi_align(features, rois, output_size, spatial_scale, sampling_ratio, aligned).
    """
    ### BEGIN SOLUTION
    if sampling_ratio < 1:
        raise ValueError(f"sampling_ratio must be at least 1, got {sampling_ratio}")
    (N, C, H, W), (oh, ow) = features.shape, output_size
    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale - (0.5 if aligned else 0)).unbind(1)

    def neighbours(start, stop, num_bins, size):
        """Cells that the samples of each bin read along one axis, and their weights: (K, num_bins, 2 * sampling_ratio) both."""
        length = stop - start if aligned else (stop - start).clamp(min=1)
        steps = torch.arange(num_bins * sampling_ratio, dtype=rois.dtype, device=rois.device) + 0.5
        positions = start[:, None] + steps / (num_bins * sampling_ratio) * length[:, None]  # (K, num_bins * sampling_ratio)
        inside = (positions >= -1) & (positions <= size)
        positions = positions.clamp(0, size - 1)
        near = positions.floor()
        cells = torch.stack([near, (near + 1).clamp(max=size - 1)], 2).long()
        weights = torch.stack([near + 1 - positions, positions - near], 2) * inside[:, :, None]
        return cells.reshape(-1, num_bins, 2 * sampling_ratio), weights.reshape(-1, num_bins, 2 * sampling_ratio)

    rows, row_weights = neighbours(y1, y2, oh, H)
    columns, column_weights = neighbours(x1, x2, ow, W)
    # A bin is a bag of (2 * sampling_ratio) ** 2 cells: each of its rows meets each of its columns, and their weights multiply.
    image = rois[:, 0].long()[:, None, None, None, None]
    cells = (image * H + rows[:, :, None, :, None]) * W + columns[:, None, :, None, :]  # (K, oh, ow, 2s, 2s)
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :] / sampling_ratio**2
    table = features.permute(0, 2, 3, 1).reshape(-1, C)  # (N * H * W, C), a row a cell
    pooled = F.embedding_bag(cells.flatten(3).flatten(0, 2), table, mode="sum", per_sample_weights=weights.flatten(3).flatten(0, 2))
    return pooled.reshape(-1, oh, ow, C).permute(0, 3, 1, 2)
    ### END SOLUTION

# %% check="roi_align" points=4
from torchvision import ops

# In float32 a position of some 10 cells is rounded by up to 1e-6, and the value read there by a few times as much.
ROUNDED_POSITIONS = {torch.float32: {"atol": 1e-4}, torch.float64: {}}
OWN_ALIGN = {"forbid": ("roi_pool", "roi_align"), "substitute": {"bilinear_sample": "library_bilinear_sample"}}


@lab.check("roi_align", points=1, **OWN_ALIGN)
def by_hand(roi_align):
    """A map of 4 x 5 cells that hold 10 * row + column, so that a bin reads its own centre: one bin, several, no rounding, no RoI."""
    numbers = (10 * torch.arange(4.0)[:, None] + torch.arange(5.0))[None, None]
    inner = torch.tensor([[0.0, 16, 16, 64, 48]])
    case = "columns 1 to 4 and rows 1 to 3 at stride 16"
    expect_close(roi_align(numbers, inner, (1, 1), 1 / 16, 1), torch.tensor([[[[17.0]]]]), f"{case}: one bin, one sample")
    expected = torch.tensor([[[[11.0, 12, 13], [21, 22, 23]]]])
    expect_close(roi_align(numbers, inner, (2, 3), 1 / 16), expected, f"{case}: 2 x 3 bins")
    expected = torch.tensor([[[[11.5, 12.5, 13.5], [21.5, 22.5, 23.5]]]]) + 5
    expect_close(roi_align(numbers, inner, (2, 3), 1 / 16, aligned=False), expected, f"{case}: 2 x 3 bins, aligned=False")
    expected = torch.tensor([[[[17.25]]]])
    expect_close(roi_align(numbers, inner + torch.tensor([0.0, 4, 0, 4, 0]), (1, 1), 1 / 16), expected, f"{case}, moved right by 4 pixels")
    expected = torch.tensor([[[[11.25, 12.75], [21.25, 22.75]]]])
    expect_close(roi_align(numbers, inner, (2, 2), 1 / 16, 3), expected, f"{case}: 2 x 2 bins of 3 x 3 samples")
    batch = torch.cat([torch.cat([numbers, 2 * numbers], 1), torch.cat([-numbers, numbers + 100], 1)])
    both = torch.cat([inner + torch.tensor([1.0, 0, 0, 0, 0]), inner])
    expected = torch.tensor([[-17.0, 117], [17, 34]]).reshape(2, 2, 1, 1)
    expect_close(roi_align(batch, both, (1, 1), 1 / 16), expected, "one box in image 1 and in image 0, two channels")
    expect_equal(tuple(roi_align(batch, both[:0], (3, 2), 1 / 16).shape), (0, 2, 3, 2), "no RoI: shape for 3 x 2 bins")


@lab.check("roi_align", points=0.5, **OWN_ALIGN)
def border_and_small_boxes(roi_align):
    """Samples off the map, boxes of no size, a box under a cell with aligned=False, and a sampling_ratio of 0."""
    numbers = (10 * torch.arange(4.0)[:, None] + torch.arange(5.0) + 1)[None, None]
    cases = [
        ("half off the map to the right, four bins", [0.0, 48, 8, 112, 40], (1, 4), {}, [[14.0, 14.875, 7.5, 0]]),
        ("half off the map at the top, two bins, one sample each", [0.0, 0, -64, 16, 64], (2, 1), {"sampling_ratio": 1}, [[0.0], [16]]),
        ("wholly below the map", [0.0, 0, 96, 32, 128], (2, 2), {}, [[0.0, 0], [0, 0]]),
        ("a point one cell left of the first one", [0.0, -8, 16, -8, 16], (1, 1), {}, [[6.0]]),
        ("a point one cell right of the last one", [0.0, 88, 16, 88, 16], (1, 1), {}, [[10.0]]),
        ("a box of no size at (40, 24)", [0.0, 40, 24, 40, 24], (1, 2), {}, [[13.0, 13]]),
        ("the same box with aligned=False", [0.0, 40, 24, 40, 24], (1, 2), {"aligned": False}, [[23.75, 24.25]]),
        ("8 x 24 pixels with aligned=False", [0.0, 16, 16, 24, 40], (3, 1), {"aligned": False}, [[15.0], [20], [25]]),
    ]
    for case, roi, output_size, arguments, expected in cases:
        expect_close(roi_align(numbers, torch.tensor([roi]), output_size, 1 / 16, **arguments), torch.tensor([[expected]]), case)
    box = torch.tensor([[0.0, 0, 0, 32, 32]])
    expect_raises(ValueError, lambda: roi_align(numbers, box, (1, 1), 1 / 16, 0), "sampling_ratio 0")
    expect_raises(ValueError, lambda: roi_align(numbers, box, (1, 1), 1 / 16, -1), "sampling_ratio -1")


@lab.check("roi_align", points=1.5, **OWN_ALIGN)
def agrees_with_torchvision(roi_align, rng):
    """Equal to torchvision's operator for maps of any size and boxes anywhere, up to six bins, aligned and not, in the type of the map."""
    cases = [((2, 3, 9, 7), (2, 3), 1 / 16, 2, True, torch.float32), ((3, 2, 6, 11), (4, 1), 1 / 8, 3, False, torch.float64)]
    cases.append(((2, 2, int(rng.integers(5, 15)), int(rng.integers(5, 15))), (3, int(rng.integers(2, 7))), 1 / 4, 1, True, torch.float64))
    for shape, output_size, scale, samples, aligned, dtype in cases:
        features = normal(rng, *shape, dtype=dtype)
        rois = random_rois(rng, 6, features, scale)
        case = f"features {shape} of type {str(dtype)[6:]}, 6 RoIs, {output_size[0]} x {output_size[1]} bins of {samples} x {samples} samples, "
        case += f"spatial_scale 1/{round(1 / scale)}, aligned={aligned}"
        expected = ops.roi_align(features, rois, output_size, scale, samples, aligned)
        expect_close(roi_align(features, rois, output_size, scale, samples, aligned), expected, case, **ROUNDED_POSITIONS[dtype])
    features = normal(rng, 2, 7, 9, 3, dtype=torch.float64).permute(0, 3, 2, 1)
    rois = random_rois(rng, 4, features, 1 / 16)
    expected = ops.roi_align(features.contiguous(), rois, (3, 2), 1 / 16, 2, True)
    expect_close(roi_align(features, rois, (3, 2), 1 / 16), expected, "a map whose axes were permuted, 3 x 2 bins, all else by default")


@lab.check("roi_align", points=1, **OWN_ALIGN)
def gradient_of_features(roi_align, rng):
    """Every cell that a sample reads gets its share of the gradient, as with torchvision."""
    for shape, output_size, aligned, dtype in [((2, 3, 8, 6), (2, 3), True, torch.float32), ((2, 2, 5, 9), (3, 2), False, torch.float64)]:
        features = normal(rng, *shape, dtype=dtype)
        rois = random_rois(rng, 5, features, 1 / 16)
        ours = gradients(lambda features: roi_align(features, rois, output_size, 1 / 16, 2, aligned), features)
        expected = gradients(lambda features: ops.roi_align(features, rois, output_size, 1 / 16, 2, aligned), features)
        case = f"features {shape} of type {str(dtype)[6:]}, 5 RoIs, {output_size[0]} x {output_size[1]} bins, aligned={aligned}"
        expect_close(ours, expected, case, **ROUNDED_POSITIONS[dtype])

# %% mistake="roi_align" hint="Rows of samples come before columns of bins: reshape to (C, oh, s, ow, s), then take the mean over axes 2 and 4."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError(f"{sampling_ratio=}")
    (oh, ow), s = output_size, sampling_ratio
    pooled = [features.new_zeros(0, features.shape[1], oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        height, width = (y2 - y1, x2 - x1) if aligned else ((y2 - y1).clamp(min=1), (x2 - x1).clamp(min=1))
        ys = y1 + height * (torch.arange(oh * s, dtype=rois.dtype) + 0.5) / (oh * s)
        xs = x1 + width * (torch.arange(ow * s, dtype=rois.dtype) + 0.5) / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, -1, oh, ow, s, s).mean((4, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="You left out the half cell: with aligned=True, 0.5 is subtracted from all four coordinates."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - 0.0
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="You subtract half a cell in any case. With aligned=False nothing is subtracted."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - 0.5
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="You add the half cell instead of subtracting it."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale + (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="You subtract half a pixel before scaling. It is half a cell: scale first."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = (roi[1:] - (0.5 if aligned else 0.0)) * spatial_scale
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="Your samples stand at the beginning of their parts, not in the middle: add 0.5 to the number of a part before you scale it."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + torch.arange(oh * s, dtype=rois.dtype) * height / (oh * s)
        xs = x1 + torch.arange(ow * s, dtype=rois.dtype) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="Your samples reach from one side of the region to the other, both included (linspace). They stand in the middle of equal parts."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + height * torch.linspace(0, 1, oh * s, dtype=rois.dtype)
        xs = x1 + width * torch.linspace(0, 1, ow * s, dtype=rois.dtype)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="You take the maximum of the samples. Here a bin is their mean."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).amax((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="You add the samples of a bin up. Divide by their number."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).sum((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="Samples off the map are left out of your mean. They count, as the 0 that they read."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        on_map = bilinear_sample(torch.ones_like(features[0]), y.flatten(), x.flatten()).reshape(1, C, oh, s, ow, s).mean((3, 5))
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)) / on_map.clamp(min=1e-6))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="Your region is rounded to whole cells, as in RoI pooling. That is what RoI Align does without."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = torch.round(roi[1:] * spatial_scale) - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="With aligned=True too, your regions are made at least 1 cell wide and high. That rule belongs to aligned=False."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1)
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="With aligned=False a region must be made at least 1 cell wide and high."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = x2 - x1, y2 - y1
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="With aligned=False your small regions grow around their middle. They keep their first corner."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        x1, y1 = x1 - (width - (x2 - x1)) / 2, y1 - (height - (y2 - y1)) / 2
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="One sample a bin and axis, whatever sampling_ratio is."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, 1
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="You always take 2 x 2 samples. Use sampling_ratio."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, 2
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="You mixed up rows and columns of `output_size`: it is (rows, columns) = (oh, ow)."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (ow, oh), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="x and y of the region are swapped: x counts columns, the last axis of the map, and y counts rows."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        y1, x1, y2, x2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="Every box is pooled from the first image. The first column of `rois` says which image of the batch it belongs to."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[0], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="Your samples are sorted into the wrong bins: the s samples of a bin are neighbours, so the axes are (C, oh, s, ow, s)."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, s, oh, s, ow).mean((2, 4)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="You left out spatial_scale: boxes are in pixels, samples in cells."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="Your values are right, but no gradient reaches the features: `.data`, `.detach()`, `torch.no_grad()` or numpy cut it off."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.detach().reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="Your positions are float32 even where the boxes are float64, and so the result is not exact. Give `torch.arange` or `torch.linspace` the type of `rois`."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys.float().to(rois.dtype), xs.float().to(rois.dtype), indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% mistake="roi_align" hint="A sampling_ratio under 1 passes. It must raise ValueError."
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    sampling_ratio = max(sampling_ratio, 1)
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% alternative="roi_align"
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError("sampling_ratio")
    (N, C, H, W), (oh, ow), s = features.shape, output_size, sampling_ratio
    pooled = [features.new_zeros(0, C, oh, ow)]
    for roi in rois:
        x1, y1, x2, y2 = roi[1:] * spatial_scale - (0.5 if aligned else 0.0)
        width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
        ys = y1 + (torch.arange(oh * s, dtype=rois.dtype) + 0.5) * height / (oh * s)
        xs = x1 + (torch.arange(ow * s, dtype=rois.dtype) + 0.5) * width / (ow * s)
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        samples = bilinear_sample(features[int(roi[0])], y.flatten(), x.flatten())
        pooled.append(samples.reshape(1, C, oh, s, ow, s).mean((3, 5)))
    return torch.cat(pooled)

# %% alternative="roi_align"
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2, aligned=True):
    if sampling_ratio < 1:
        raise ValueError(f"{sampling_ratio=}")
    H, W = features.shape[2:]
    rows, columns = (bins * sampling_ratio for bins in output_size)
    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale - 0.5 * aligned).T[:, :, None]  # (K, 1) each
    width, height = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
    y = y1 + height * (torch.arange(rows, dtype=rois.dtype) + 0.5) / rows  # (K, rows)
    x = x1 + width * (torch.arange(columns, dtype=rois.dtype) + 0.5) / columns
    # grid_sample calls the centres of the outermost cells -1 and 1; a map of one cell has but one centre
    grid = torch.stack(torch.broadcast_tensors(2 * x[:, None] / max(W - 1, 1) - 1, 2 * y[:, :, None] / max(H - 1, 1) - 1), 3)
    samples = F.grid_sample(features[rois[:, 0].long()], grid, padding_mode="border", align_corners=True)
    inside = ((y >= -1) & (y <= H))[:, None, :, None] & ((x >= -1) & (x <= W))[:, None, None, :]
    samples = samples * inside
    return samples.unflatten(3, (-1, sampling_ratio)).unflatten(2, (-1, sampling_ratio)).mean((3, 5))

# %% [markdown]
# Slide a box to the right, one pixel at a time, over a map of stride 16. The map is the simplest backbone there is: means of 16 × 16
# pixels of a photograph. We draw the bin that begins beside the eye, and count the steps in which any bin changes. **Predict first.** In how many
# of 64 steps does the answer of RoI pooling change? And that of RoI Align?

# %%
if lab.ready("roi_pool") and lab.ready("roi_align"):
    photograph = datasets.photograph("cat")[:, :288, :448]
    features = F.avg_pool2d(photograph, 16)[None]  # (1, 3, 18, 28)
    shifts = torch.arange(65.0)
    rois = torch.tensor([[0.0, 50, 60, 230, 210]]) + shifts[:, None] * torch.tensor([0.0, 1, 0, 1, 0])
    answers = {"RoI pooling": roi_pool(features, rois, (6, 6), 1 / 16), "RoI Align": roi_align(features, rois, (6, 6), 1 / 16)}
    fig, ax = plt.subplots(figsize=(6, 3.2))
    for (name, answer), colour in zip(answers.items(), ("C1", "C0")):
        changed = (answer[1:] != answer[:-1]).flatten(1).any(1)
        print(f"{name:12s} some bin changes in {int(changed.sum())} of {len(changed)} steps")
        ax.plot(shifts, answer[:, 1, 2, 2], ".-", color=colour, label=name, drawstyle="steps-post" if name == "RoI pooling" else "default")
    ax.set(xlabel="box moved to the right by (pixels)", ylabel="green in one bin", title="RoI pooling jumps, RoI Align glides")
    ax.legend()
    plots.show(fig, alt="Two curves over 64 pixels: that of RoI pooling is flat with jumps, that of RoI Align is smooth.")

# %% [markdown]
# RoI pooling is blind for movements within a stride, and then jumps: once when the left side is rounded to the next cell, and once when
# the right side is. Two jumps every 16 pixels make 8; the bin that is drawn shows some of them. What the rounding hides is where things are. Below: what a box holds, averaged over 12 × 12 bins of pixels; then
# the two layers on a map of stride 8.

# %%
if lab.ready("roi_pool") and lab.ready("roi_align"):
    features, roi = F.avg_pool2d(photograph, 8)[None], torch.tensor([[0.0, 83, 51, 258, 195]])
    held = roi_align(photograph[None], roi, (12, 12), 1.0, sampling_ratio=16)[0]
    pooled, smooth = roi_pool(features, roi, (12, 12), 1 / 8)[0], roi_align(features, roi, (12, 12), 1 / 8)[0]
    for name, answer in [("RoI pooling", pooled), ("RoI Align", smooth)]:
        print(f"{name:12s} mean distance to what the box holds: {(answer - held).abs().mean():.3f}")
    fig = plots.image_row([photograph[:, 51:195, 83:258], held, pooled, smooth], ["the box", "its bins", "RoI pooling", "RoI Align"], height=1.6)
    plots.show(fig, alt="A cat's eye and three coarse versions: its bins; RoI pooling, brighter and moved; RoI Align, close to the bins.")

# %% [markdown]
# A part of the distance is the maximum, which prefers bright cells. The rest is the rounding, which moves and stretches the picture.

# %% [markdown]
# ## What readable operators cost
#
# The solutions of `roi_pool` and `roi_align` contain no loop over bins. Both write down, for each bin, which cells of the map it needs (its
# bag), and hand all bags to `F.embedding_bag`, which takes the maximum, or the weighted sum, of the rows of a table. Here the table
# is the feature map, one row a cell. How does that compare with torchvision's C++? A map of 256 channels and 50 × 50 cells, 300 RoIs,
# 7 × 7 bins, one thread. **Predict first.** How many times slower are the two, forward? And forward and backward together?

# %% measure="operator_ratios" seeds=5
def operator_ratios(seed):
    """Process time of roi_pool and roi_align, each divided by torchvision's, forward alone, and forward and backward."""
    from torchvision import ops

    generator = torch.Generator().manual_seed(seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    features = torch.randn(1, 256, 50, 50, generator=generator)
    corners = 800 * torch.rand(2, 300, 2, generator=generator)
    rois = torch.cat([torch.zeros(300, 1), corners.amin(0), corners.amax(0)], 1)
    cotangent = torch.randn(300, 256, 7, 7, generator=generator)
    found = {}
    for name, own, library in [
        ("roi_pool", roi_pool, ops.roi_pool),
        ("roi_align", roi_align, lambda *arguments: ops.roi_align(*arguments, sampling_ratio=2, aligned=True)),
    ]:
        for backward in (False, True):
            times = {own: [], library: []}
            for _ in range(7):
                for function in (own, library):  # in turn, so that a busy moment hits both
                    x = features.clone().requires_grad_(backward)
                    start = time.process_time()
                    pooled = function(x, rois, (7, 7), 1 / 16)
                    if backward:
                        pooled.backward(cotangent)
                    times[function].append(time.process_time() - start)
            found[f"{name}, {'forward and backward' if backward else 'forward'}"] = min(times[own]) / min(times[library])
    torch.set_num_threads(threads)
    return found

# %%
runs = measurements.load("12_roi_pooling", "operator_ratios")
cases = [name for name in runs[0] if name != "seed"]
fig, ax = plt.subplots(figsize=(6, 2.8))
for place, case in enumerate(cases):
    ratios = np.array([run[case] for run in runs])
    ax.plot(ratios, np.full(len(ratios), len(cases) - 1 - place), "o", color="C0", alpha=0.6)
    print(f"{case:32s} {np.median(ratios):.2f} times torchvision ({ratios.min():.2f} to {ratios.max():.2f})")
ax.axvline(1, color="C1")
ax.set_yticks(range(len(cases)), cases[::-1])
ax.set(xscale="log", xlim=(0.15, 6), ylim=(-0.5, len(cases) - 0.5), xlabel="time / torchvision's time", title="RoI Align: slower forward, ahead with backward")
ax.set_xticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
ax.minorticks_off()
plots.show(fig, alt="Time ratios on a logarithmic axis: roi_align is above 1 forward and well below 1 with backward; roi_pool lies between 2 and 3.")

# %% [markdown]
# ## Exercise 7: draw the RoIs of a training step (3 points, 20 minutes)
#
# RoIs share computation only when they lie in the same image. So Fast R-CNN draws few images, and many RoIs from each. Complete
# `sample_rois`, which chooses from all RoIs of a data set. RoI $m$ has the class `labels[m]`, 0 being background, and lies in the image
# `image_index[m]`, any integer.
#
# 1. Draw `images_per_batch` different images among those that occur in `image_index`. All are equally likely, however many RoIs they have.
# 2. Each of them may give `rois_per_batch / images_per_batch` RoIs, its **quota**.
# 3. Of the foreground RoIs of an image (label over 0) draw `foreground_fraction` times the quota, rounded to the nearest integer. (Halves do not
#    occur in the checks.) Where there are fewer, take all of them.
# 4. **Background fills up**: of the background RoIs of the image draw as many as are missing to the quota. Where there are fewer, take all of
#    them. Then the image gives less than its quota: no RoI is taken twice, and there is no further foreground.
#
# Within an image, all foreground RoIs are equally likely, and so are all background RoIs. Return indices into `labels` as one `int64`
# tensor, in any order. All chance comes from `generator`; the global random state stays as it is.
#
# Raise `ValueError` when `images_per_batch` is under 1, when `rois_per_batch` is not a positive multiple of it, when fewer than
# `images_per_batch` images occur, and when `foreground_fraction` is not in $0 … 1$.
#
# <details><summary>Hint 1</summary>
#
# `image_index.unique()` lists the images that occur. `torch.randperm(n, generator=generator)` is a random order of `n` things; its first few
# entries are a draw without replacement.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# For one image: `(image_index == image).nonzero().flatten()` are its RoIs. Shuffle them once. Then the first few with a label over 0 are a
# fair draw of its foreground.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# A slice `[:n]` of a tensor that is shorter than `n` takes all of it. How many background RoIs are missing follows from how many foreground
# RoIs there really are.
#
# </details>

# %% exercise="sample_rois"
def sample_rois(
    labels: Tensor, image_index: Tensor, images_per_batch: int, rois_per_batch: int, foreground_fraction: float, generator: torch.Generator
) -> Tensor:
    """Draw a few images, and from each of them foreground and background RoIs.

    Args:
        labels: (M,) int64, class of each RoI, 0 is background.
        image_index: (M,) int64, the image that each RoI lies in.
        images_per_batch: images to draw, at least 1.
        rois_per_batch: RoIs of all images together, a multiple of images_per_batch.
        foreground_fraction: share of an image's RoIs that are foreground, where it has so many, 0 to 1.
        generator: the only source of chance.

    Returns:
        (R,) int64, different indices into labels, in any order; R is rois_per_batch, or less where images have too few RoIs.

    Raises:
        ValueError: a number is out of its range, or too few images occur.

    Source: Girshick, "Fast R-CNN", ICCV 2015, section 2.3, "Mini-batch sampling" (2 images, 128 RoIs, a quarter of them foreground).
    """
    ### BEGIN SOLUTION
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError(f"images_per_batch must be from 1 to {len(images)}, the number of images, got {images_per_batch}")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch:
        raise ValueError(f"rois_per_batch must be a positive multiple of images_per_batch {images_per_batch}, got {rois_per_batch}")
    if not 0 <= foreground_fraction <= 1:
        raise ValueError(f"foreground_fraction must be from 0 to 1, got {foreground_fraction}")
    quota = rois_per_batch // images_per_batch
    most_foreground = round(foreground_fraction * quota)
    drawn = []
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > 0][:most_foreground]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)
    ### END SOLUTION

# %% check="sample_rois" points=3
def some_rois(rng, counts):
    """Labels and images of RoIs in random order; `counts` says how many are foreground and background in each image."""
    numbers = rng.choice(50, len(counts), replace=False)
    rows = [(1 + i % 5, n) for n, (front, _) in zip(numbers, counts) for i in range(front)]
    rows += [(0, n) for n, (_, back) in zip(numbers, counts) for _ in range(back)]
    return torch.tensor(rows)[torch.from_numpy(rng.permutation(len(rows)))].unbind(1)


def expect_fair_batch(drawn, labels, image_index, num_images, quota, most_foreground, case):
    """An answer in any order: different indices, so many images, and of each image what the rules say."""
    expect_true(isinstance(drawn, Tensor) and drawn.dtype == torch.int64 and drawn.ndim == 1, case, "The answer should be a vector of int64 indices.")
    expect_true(drawn.numel() and 0 <= drawn.min() and drawn.max() < len(labels), case, "Every index should be one of `labels`, and there should be some.")
    expect_equal(len(drawn.unique()), len(drawn), f"{case}: number of different RoIs in the answer")
    images = image_index[drawn].unique().tolist()
    expect_equal(len(images), num_images, f"{case}: number of images drawn from")
    for image in images:
        own = image_index == image
        num_foreground = min(int((own & (labels > 0)).sum()), most_foreground)
        num_background = min(int((own & (labels == 0)).sum()), quota - num_foreground)
        mine = labels[drawn[image_index[drawn] == image]]
        expect_equal(int((mine > 0).sum()), num_foreground, f"{case}: foreground RoIs of image {image}")
        expect_equal(int((mine == 0).sum()), num_background, f"{case}: background RoIs of image {image}")


@lab.check("sample_rois", points=1)
def composition(sample_rois, rng):
    """The right number of images, and of foreground and background RoIs from each, all different."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    counts = [(9, 20), (7, 30), (12, 25), (30, 16)]
    for num_images, quota, fraction, most in [(2, 12, 0.25, 3), (4, 7, 0.5 + 0.02, 4), (1, 10, 0.56, 6), (3, 11, 0.3, 3), (2, 6, 0.0, 0), (2, 6, 1.0, 6)]:
        labels, image_index = some_rois(rng, counts)
        drawn = sample_rois(labels, image_index, num_images, num_images * quota, fraction, generator)
        case = f"{num_images} of 4 images, {num_images * quota} RoIs, fraction {fraction}"
        expect_fair_batch(drawn, labels, image_index, num_images, quota, most, case)


@lab.check("sample_rois", points=0.5)
def too_few(sample_rois, rng):
    """Images with too little foreground, too little background, or too little of both; and random ones."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    cases = [
        ("no foreground", [(0, 20)], 8, 0.5, 4),
        ("1 foreground RoI where 4 are wanted", [(1, 20)], 8, 0.5, 4),
        ("2 background RoIs, where 6 are wanted", [(20, 2)], 8, 0.25, 2),
        ("no background", [(20, 0)], 8, 0.25, 2),
        ("3 RoIs in all", [(1, 2)], 8, 0.25, 2),
    ]
    counts = [tuple(int(n) for n in rng.integers(1, 12, 2)) for _ in range(3)]
    for case, counts, quota, fraction, most in [*cases, ("three images", counts, 10, 0.4, 4)]:
        labels, image_index = some_rois(rng, counts)
        drawn = sample_rois(labels, image_index, len(counts), len(counts) * quota, fraction, generator)
        expect_fair_batch(drawn, labels, image_index, len(counts), quota, most, f"{case}, quota {quota}, fraction {fraction}")


@lab.check("sample_rois", points=1)
def chance(sample_rois, many_draws, rng):
    """The generator alone decides, and over 240 draws every image and every RoI of a kind comes about equally often."""
    labels, image_index = some_rois(rng, [(8, 8)])
    seed, counted, draws = int(rng.integers(2**31)), torch.zeros(16), 240
    first, again = (sample_rois(labels, image_index, 1, 8, 0.25, torch.Generator().manual_seed(seed)) for _ in range(2))
    expect_equal(sorted(again.tolist()), sorted(first.tolist()), "two generators with the same seed: the RoIs drawn")
    generator = torch.Generator().manual_seed(seed)
    for drawn in many_draws(sample_rois, draws, labels, image_index, 1, 8, 0.25, generator):
        counted[drawn] += 1
    share = torch.where(labels > 0, 2 / 8, 6 / 8)
    often = (counted - draws * share).abs() / (draws * share * (1 - share)).sqrt()
    unfair = "Some RoIs come up far more often than others of their kind. Draw them without replacement, all equally likely."
    expect_true(often.max() < 5.5, "how often each of 8 foreground and 8 background RoIs is drawn", unfair)

    labels, image_index = some_rois(rng, [(2, 2), (4, 4), (6, 6), (20, 40)])
    images, counted = image_index.unique(), torch.zeros(4)
    for drawn in many_draws(sample_rois, draws, labels, image_index, 2, 4, 0.5, generator):
        counted += torch.isin(images, image_index[drawn])
    often = (counted - draws / 2).abs() / math.sqrt(draws / 4)
    unfair = "Some images come up far more often than others. All are equally likely, however many RoIs they have."
    expect_true(often.max() < 5.5, "how often each of 4 images is drawn", unfair)


@lab.check("sample_rois", points=0.5)
def refuses_nonsense(sample_rois, rng):
    """Numbers out of their range raise ValueError, and their legal neighbours do not."""
    labels, image_index = some_rois(rng, [(3, 9), (4, 9)])
    generator = torch.Generator().manual_seed(0)

    def draw(images_per_batch=2, rois_per_batch=8, foreground_fraction=0.25):
        return sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator)

    expect_equal(len(draw()), 8, "2 of 2 images, 8 RoIs, fraction 0.25: number of RoIs drawn")
    expect_raises(ValueError, lambda: draw(rois_per_batch=0), "no RoI")
    expect_raises(ValueError, lambda: draw(rois_per_batch=7), "7 RoIs from 2 images")
    expect_equal(len(draw(images_per_batch=1, rois_per_batch=7)), 7, "7 RoIs from 1 image: number of RoIs drawn")
    expect_equal(len(draw(images_per_batch=1, rois_per_batch=1)), 1, "1 RoI from 1 image: number of RoIs drawn")
    expect_raises(ValueError, lambda: draw(rois_per_batch=-2), "-2 RoIs")
    expect_raises(ValueError, lambda: draw(images_per_batch=3, rois_per_batch=9), "3 of 2 images")
    expect_raises(ValueError, lambda: draw(images_per_batch=0), "no image")
    expect_raises(ValueError, lambda: draw(images_per_batch=-2), "-2 images")
    expect_raises(ValueError, lambda: draw(foreground_fraction=1.25), "fraction 1.25")
    expect_raises(ValueError, lambda: draw(foreground_fraction=-0.25), "fraction -0.25")
    expect_equal(len(draw(foreground_fraction=1.0)), 8, "fraction 1: number of RoIs drawn")
    expect_equal(len(draw(foreground_fraction=0.0)), 8, "fraction 0: number of RoIs drawn")

# %% mistake="sample_rois" hint="You draw RoIs from the whole data set. First draw images, then RoIs from those alone."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    order = torch.randperm(len(labels), generator=generator)
    most, quota = most * images_per_batch, rois_per_batch
    foreground = order[labels[order] > 0][:most]
    return torch.cat([foreground, order[labels[order] == 0][: quota - len(foreground)]])

# %% mistake="sample_rois" hint="An image with many RoIs is drawn more often than one with few. Draw among the images, not among the RoIs."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    shuffled = image_index[torch.randperm(len(image_index), generator=generator)].tolist()
    for image in list(dict.fromkeys(shuffled))[:images_per_batch]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="You do not keep to foreground_fraction: foreground and background are drawn together."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > -1][:quota]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="Where an image has too few RoIs you take some of them twice. Take each once; the batch is smaller then."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    drawn = torch.cat(drawn)
    return torch.cat([drawn, drawn[: rois_per_batch - len(drawn)]])

# %% mistake="sample_rois" hint="Where background is missing you fill up with more foreground. Leave it out: the image gives less than its quota."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        foreground = members[labels[members] > 0][: max(most, quota - len(background))]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="You limit the foreground of each image by the share of the whole batch. The limit is foreground_fraction times the quota of one image."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * rois_per_batch)
    drawn = []
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > 0][: min(most, quota)]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="Each image gives rois_per_batch RoIs in your code. They are the RoIs of all images together."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="Background does not fill up in your code: where an image has little foreground, more background takes its place."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - most]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="You round the number of foreground RoIs down (`int`, `//` or floor). It is the nearest integer."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = int(foreground_fraction * quota)
    drawn = []
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="You round the number of foreground RoIs up. It is the nearest integer."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = math.ceil(foreground_fraction * quota)
    drawn = []
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="Within an image you always take the first RoIs. Shuffle them before you take some."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator).sort().values]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="You always take the first images. Draw them."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    for image in images[:images_per_batch]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="Your draw uses the global random state. Give `generator=generator` to every function that draws."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    for image in images[torch.randperm(len(images), generator=None)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=None)]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="Your function makes a generator of its own with a fixed seed, so that every step gets the same RoIs. Use the one that is handed in, as it comes."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    generator = torch.Generator().manual_seed(0)
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="You return places within an image. Indices count in the whole of `labels`."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        inside = (image_index == image).cumsum(0) - 1
        drawn += [inside[foreground], inside[background]]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="You draw image numbers from 0 up. Numbers may be missing: draw among those that occur, `image_index.unique()`."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    for image in torch.randperm(int(image_index.max()) + 1, generator=generator)[:images_per_batch]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="RoIs come up twice: you draw with replacement (randint, or multinomial with replacement). Use randperm."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randint(len(members), (len(members),), generator=generator)]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="Images come up twice: you draw them with replacement. Use randperm."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    for image in images[torch.randint(len(images), (images_per_batch,), generator=generator)]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="Foreground is every label over 0. You take the label 1 alone."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] == 1][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="Background and foreground are exchanged: label 0 is background."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or rois_per_batch % images_per_batch or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] == 0][:most]
        background = members[labels[members] > 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="Your draws are right, but illegal numbers pass. Check them first, as the statement says."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    images_per_batch = max(images_per_batch, 1)
    quota = max(rois_per_batch, 1) // images_per_batch
    most = round(min(max(foreground_fraction, 0), 1) * quota)
    drawn = []
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% mistake="sample_rois" hint="A rois_per_batch that is not a multiple of images_per_batch passes. It must raise ValueError."
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = image_index.unique()
    if not 1 <= images_per_batch <= len(images):
        raise ValueError("images_per_batch")
    if rois_per_batch < 1 or not 0 <= foreground_fraction <= 1:
        raise ValueError("rois_per_batch or foreground_fraction")
    quota = rois_per_batch // images_per_batch
    most = round(foreground_fraction * quota)
    drawn = []
    for image in images[torch.randperm(len(images), generator=generator)[:images_per_batch]]:
        members = (image_index == image).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        foreground = members[labels[members] > 0][:most]
        background = members[labels[members] == 0][: quota - len(foreground)]
        drawn += [foreground, background]
    return torch.cat(drawn)

# %% alternative="sample_rois"
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images = sorted(set(image_index.tolist()))
    if images_per_batch < 1 or images_per_batch > len(images):
        raise ValueError(f"{images_per_batch=} of {len(images)}")
    quota, rest = divmod(rois_per_batch, images_per_batch)
    if rest != 0 or quota < 1 or foreground_fraction < 0 or foreground_fraction > 1:
        raise ValueError(f"{rois_per_batch=}, {images_per_batch=}, {foreground_fraction=}")

    def some(candidates, number):
        if min(number, len(candidates)) == 0:
            return candidates[:0]
        return candidates[torch.multinomial(torch.ones(len(candidates)), min(number, len(candidates)), generator=generator)]

    chosen = []
    for image in some(torch.tensor(images), images_per_batch):
        chosen.append(some(torch.where((image_index == image) & (labels > 0))[0], int(foreground_fraction * quota + 0.5)))
        chosen.append(some(torch.where((image_index == image) & (labels == 0))[0], quota - len(chosen[-1])))
    return torch.cat(chosen)

# %% alternative="sample_rois"
def sample_rois(labels, image_index, images_per_batch, rois_per_batch, foreground_fraction, generator):
    images, number = image_index.unique(return_inverse=True)
    quota = rois_per_batch // images_per_batch if images_per_batch > 0 else 0
    if not 0 < images_per_batch <= len(images) or quota < 1 or quota * images_per_batch != rois_per_batch or abs(foreground_fraction - 0.5) > 0.5:
        raise ValueError("an argument is out of its range")
    lots, tickets = torch.rand(len(images), generator=generator), torch.rand(len(labels), generator=generator)
    candidates = (lots.argsort().argsort() < images_per_batch)[number]  # RoIs of the images with the smallest lots

    def smallest(kind, at_most):  # of each image, the RoIs of a kind with the smallest tickets
        rank = ((number[:, None] == number) & kind & (tickets < tickets[:, None])).sum(1)
        return candidates & kind & (rank < at_most)

    foreground = smallest(labels > 0, round(foreground_fraction * quota))
    missing = quota - ((number[:, None] == number) & foreground).sum(1)
    return (foreground | smallest(labels == 0, missing)).nonzero().flatten()

# %% [markdown]
# ## Exercise 8: give the network two answers (2 points, 10 minutes)
#
# Complete the module `FastRCNNHead`, the last layer of Fast R-CNN. From the features of each RoI it computes, side by side, one score a
# class and four box numbers a class.
#
# - The input is $(K, \text{in\_channels})$, or anything that flattens to it, such as $(K, C, o_h, o_w)$ with $C\, o_h\, o_w$ = `in_channels`.
#   There may be no RoI at all, $K = 0$.
# - `forward` returns the pair `(class_logits, box_deltas)`, of shapes $(K, \text{num\_classes})$ and $(K, \text{num\_classes}, 4)$. Logits are raw
#   scores, without a softmax. `num_classes` includes the background, class 0. (The four numbers of the background are never used. They are
#   there so that class numbers need no shift.)
# - The parameters are those of two linear layers, kept in `cls_score` and `bbox_pred`: `cls_score.weight` (num_classes, in_channels),
#   `bbox_pred.weight` (4 num_classes, in_channels), and their biases. Rows $4c … 4c + 3$ of `bbox_pred` belong to class $c$.
# - As in the paper, the weights start from normal distributions with mean 0 and standard deviation **0.01** for `cls_score` and **0.001** for
#   `bbox_pred`; the biases start at 0.
#
# Raise `ValueError` when `num_classes` is under 2. Gradients reach the input and all parameters. All of the library is allowed.
#
# <details><summary>Hint 1</summary>
#
# `super().__init__()`, then two `nn.Linear`. `x.flatten(1)` keeps the first axis and joins the others.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `nn.init.normal_(self.cls_score.weight, std=0.01)` fills a weight in place, `nn.init.zeros_` a bias. The deltas only need a
# `reshape(-1, num_classes, 4)` at the end.
#
# </details>

# %% exercise="FastRCNNHead"
class FastRCNNHead(nn.Module):
    """Class scores and box numbers for the features of each RoI, from two linear layers side by side.

    Args:
        in_channels: features of a RoI.
        num_classes: classes with the background, which is class 0; at least 2.

    Shapes: (K, in_channels) or (K, ...) that flattens to it -> (K, num_classes), (K, num_classes, 4).
    Parameters: cls_score.weight, cls_score.bias, bbox_pred.weight, bbox_pred.bias.

    Raises:
        ValueError: num_classes is under 2.

    Source: Girshick, "Fast R-CNN", ICCV 2015, section 2.1, and section 2.3, "SGD hyper-parameters" (initial weights).
    Reference: torchvision.models.detection.faster_rcnn.FastRCNNPredictor, which has other initial weights and flat deltas.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        ### BEGIN SOLUTION
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, background and one more, got {num_classes}")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        for layer, std in [(self.cls_score, 0.01), (self.bbox_pred, 0.001)]:
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        ### END SOLUTION

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ### BEGIN SOLUTION
        x = x.flatten(1)  # (K, in_channels)
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))
        ### END SOLUTION

# %% check="FastRCNNHead" points=2
def head_with_known_weights(FastRCNNHead, rng, in_channels, num_classes, dtype=torch.float32):
    """A head of the student's, and what it should answer with the weights it was given."""
    head = FastRCNNHead(in_channels, num_classes)
    shapes = {"cls_score.weight": (num_classes, in_channels), "cls_score.bias": (num_classes,)}
    shapes |= {"bbox_pred.weight": (4 * num_classes, in_channels), "bbox_pred.bias": (4 * num_classes,)}
    state = {name: normal(rng, *shape) for name, shape in shapes.items()}
    head.load_state_dict(state)
    if dtype == torch.float64:
        head = head.double()

    def reference(x, state):
        rows = x.reshape(len(x), in_channels)
        deltas = [F.linear(rows, state["bbox_pred.weight"][c : c + 4], state["bbox_pred.bias"][c : c + 4]) for c in range(0, 4 * num_classes, 4)]
        return F.linear(rows, state["cls_score.weight"], state["cls_score.bias"]), torch.stack(deltas, 1)

    return head, {name: value.to(dtype) for name, value in state.items()}, reference


@lab.check("FastRCNNHead", points=1)
def parameters_and_their_start(FastRCNNHead):
    """Names and shapes of the parameters, how they are distributed at the start, different starts, and too few classes."""
    for in_channels, num_classes in [(300, 7), (9, 2)]:
        case = f"FastRCNNHead({in_channels}, {num_classes})"
        state = FastRCNNHead(in_channels, num_classes).state_dict()
        shapes = {"cls_score.weight": (num_classes, in_channels), "cls_score.bias": (num_classes,)}
        shapes |= {"bbox_pred.weight": (4 * num_classes, in_channels), "bbox_pred.bias": (4 * num_classes,)}
        expect_equal({name: tuple(value.shape) for name, value in state.items()}, shapes, f"{case}: its state_dict")
    state, other = (FastRCNNHead(300, 7).state_dict() for _ in range(2))
    for name, std in [("cls_score", 0.01), ("bbox_pred", 0.001)]:
        weight = state[f"{name}.weight"] / std
        near = f"The weights should be normal with mean 0 and standard deviation {std}."
        # 2,100 numbers or more: their mean and spread stray by a few hundredths; a uniform distribution never reaches 2.
        expect_true(0.85 < weight.std() < 1.15 and weight.mean().abs() < 0.15 and weight.abs().max() > 2.2, f"weights of {name} at the start", near)
        expect_true((state[f"{name}.bias"] == 0).all(), f"biases of {name} at the start", "The biases should be 0.")
        same = "Two new heads should start from different random numbers."
        expect_true((state[f"{name}.weight"] != other[f"{name}.weight"]).any(), f"weights of {name} in two heads", same)
    expect_raises(ValueError, lambda: FastRCNNHead(9, 1), "1 class")
    expect_raises(ValueError, lambda: FastRCNNHead(9, 0), "0 classes")


@lab.check("FastRCNNHead", points=0.5)
def agrees_with_reference(FastRCNNHead, rng):
    """With weights that we load: logits and deltas of the right classes, for flat features, pooled maps, one RoI and none."""
    cases = [((5, 6), 6, 4), ((4, 3, 2, 5), 30, 3), ((1, 8), 8, 2), ((0, 2, 3, 1), 6, 3), ((3, 7), 7, int(rng.integers(2, 8)))]
    for shape, in_channels, num_classes in cases:
        head, state, reference = head_with_known_weights(FastRCNNHead, rng, in_channels, num_classes)
        x = normal(rng, *shape)
        expect_close(head(x), reference(x, state), f"x {shape}, {num_classes} classes")
    head, state, reference = head_with_known_weights(FastRCNNHead, rng, 12, 3, torch.float64)
    x = normal(rng, 2, 3, 2, 4, dtype=torch.float64).permute(3, 2, 1, 0)  # four maps of 2 x 3 x 2
    expect_close(head(x), reference(x, state), "pooled maps whose axes were permuted, float64")


@lab.check("FastRCNNHead", points=0.5)
def learns(FastRCNNHead, gradients_of_parameters, rng):
    """Gradients of the input and of all four parameters are those of the reference."""
    head, state, reference = head_with_known_weights(FastRCNNHead, rng, 12, 3)
    x = normal(rng, 4, 3, 2, 2)
    expect_close(gradients(head, x), gradients(lambda x: reference(x, state), x), "gradient of x")
    weights = [normal(rng, 4, 3), normal(rng, 4, 3, 4)]
    leaves = {name: value.requires_grad_() for name, value in state.items()}
    total = sum((output * weight).sum() for output, weight in zip(reference(x, leaves), weights))
    expected = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values()))))
    expect_close(gradients_of_parameters(head, x, weights), expected, "gradients of the parameters")

# %% mistake="FastRCNNHead" hint="You add a class for the background. num_classes already includes it."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes + 1)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes + 4)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))

# %% mistake="FastRCNNHead" hint="You predict boxes for num_classes - 1 classes. Here the background has four numbers too, unused, so that class numbers need no shift."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes - 4)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))

# %% mistake="FastRCNNHead" hint="You predict one box for all classes. Each class has four numbers of its own."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))

# %% mistake="FastRCNNHead" hint="Your deltas are sorted the other way: rows 4c to 4c + 3 of bbox_pred belong to class c, so reshape to (K, num_classes, 4) at once."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (4, -1)).transpose(1, 2)

# %% mistake="FastRCNNHead" hint="Your deltas are flat, (K, 4 * num_classes). Reshape them to (K, num_classes, 4)."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x)

# %% mistake="FastRCNNHead" hint="Your weights start as PyTorch starts a linear layer. Set them: normal, with 0.01 and 0.001."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))

# %% mistake="FastRCNNHead" hint="The two standard deviations are exchanged: 0.01 is for the class scores, 0.001 for the boxes."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.001)
        nn.init.normal_(self.bbox_pred.weight, std=0.01)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))

# %% mistake="FastRCNNHead" hint="Both layers start with 0.01. The weights of the boxes start ten times smaller."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.01)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))

# %% mistake="FastRCNNHead" hint="You took 0.01 and 0.001 for variances. They are standard deviations."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.1)
        nn.init.normal_(self.bbox_pred.weight, std=0.0316)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))

# %% mistake="FastRCNNHead" hint="Your weights are uniform between -0.01 and 0.01 (0.001 for boxes). They should be normal."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.uniform_(self.cls_score.weight, -0.01, 0.01)
        nn.init.uniform_(self.bbox_pred.weight, -0.001, 0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))

# %% mistake="FastRCNNHead" hint="Your biases do not start at 0: nn.Linear draws them at random."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))

# %% mistake="FastRCNNHead" hint="Your layers have no bias."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes, bias=False)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes, bias=False)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))

# %% mistake="FastRCNNHead" hint="Pooled maps do not pass: flatten everything behind the first axis before the linear layers."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        return self.cls_score(x), self.bbox_pred(x).unflatten(-1, (-1, 4))

# %% mistake="FastRCNNHead" hint="You return probabilities. The loss wants raw scores, so leave the softmax out."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x).softmax(1), self.bbox_pred(x).unflatten(1, (-1, 4))

# %% mistake="FastRCNNHead" hint="Something follows the linear layers: negative answers are cut off."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x).relu(), self.bbox_pred(x).relu().unflatten(1, (-1, 4))

# %% mistake="FastRCNNHead" hint="The two answers come in the other order. Class logits first."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.bbox_pred(x).unflatten(1, (-1, 4)), self.cls_score(x)

# %% mistake="FastRCNNHead" hint="The layers have other names. Keep them in `cls_score` and `bbox_pred`."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.classes = nn.Linear(in_channels, num_classes)
        self.boxes = nn.Linear(in_channels, 4 * num_classes)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.boxes.weight, std=0.001)
        nn.init.zeros_(self.classes.bias)
        nn.init.zeros_(self.boxes.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.classes(x), self.boxes(x).unflatten(1, (-1, 4))

# %% mistake="FastRCNNHead" hint="Your head computes the right thing but cannot learn: `torch.no_grad()` or `.detach()` cuts the gradients off."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        with torch.no_grad():
            return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))

# %% mistake="FastRCNNHead" hint="The gradient of the input is lost: `.detach()` or `.data` cuts it off, and the backbone cannot learn from this head."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.detach().flatten(1)
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))

# %% mistake="FastRCNNHead" hint="Every new head starts with the same numbers: leave the seed to the caller."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        torch.manual_seed(0)
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))

# %% mistake="FastRCNNHead" hint="Your head fails where there is no RoI at all: with K = 0, reshape(K, -1, 4) cannot tell how many classes there are. Name their number."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        if num_classes < 2:
            raise ValueError("num_classes")
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x).reshape(len(x), -1, 4)

# %% mistake="FastRCNNHead" hint="Fewer than 2 classes pass. That must raise ValueError when the head is made."
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * num_classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, x):
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))

# %% alternative="FastRCNNHead"
class FastRCNNHead(nn.Module):
    def __init__(self, in_channels, num_classes):
        if num_classes < 2:
            raise ValueError(f"{num_classes=}")
        super().__init__()
        self.num_classes = num_classes
        for name, rows, spread in [("cls_score", num_classes, 0.01), ("bbox_pred", 4 * num_classes, 0.001)]:
            layer = nn.Linear(in_channels, rows)
            layer.weight = nn.Parameter(spread * torch.randn(rows, in_channels))
            layer.bias = nn.Parameter(torch.zeros(rows))
            setattr(self, name, layer)

    def forward(self, x):
        rows = x.reshape(x.shape[0], self.cls_score.in_features)
        everything = F.linear(rows, torch.cat([self.cls_score.weight, self.bbox_pred.weight]), torch.cat([self.cls_score.bias, self.bbox_pred.bias]))
        logits, deltas = everything.split([self.num_classes, 4 * self.num_classes], dim=1)
        return logits, deltas.unflatten(1, (self.num_classes, 4))

# %% [markdown]
# ## Exercise 9: judge both answers at once (3 points, 12 minutes)
#
# Complete `detection_loss`, the two terms of Fast R-CNN's loss. Return them as a pair of scalars, `(class_loss, box_loss)`.
#
# - `class_loss` is the cross entropy of `class_logits` $(K, \text{num\_classes})$ and `labels` $(K,)$, the **mean over all RoIs**.
# - `box_loss` compares, for each **foreground** RoI (label over 0), the four numbers of **its own class**, `box_deltas[k, labels[k]]`, with
#   `box_targets[k]`, by the smooth L1 loss with $\beta = 1$:
#
# $$\ell(d) = \begin{cases} d^2 / 2 & |d| < 1 \\ |d| - 1/2 & \text{else.} \end{cases}$$
#
# - The $\ell$ of the four numbers and of all foreground RoIs are **added up** and divided by the number $K$ of **all** RoIs, background included.
#   So a RoI weighs the same in either term, whatever class it has.
#
# A background RoI has no box: its row of `box_targets` may hold anything, even NaN, and must not reach the loss or a gradient. Without
# foreground, `box_loss` is 0. $K$ is at least 1. Gradients flow to `class_logits` and `box_deltas`. All of the library is allowed.
#
# <details><summary>Hint 1</summary>
#
# Choose the foreground first, with `labels > 0`, and compare only what you chose. Multiplying by a mask keeps a NaN: NaN times 0 is NaN.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `foreground = labels.nonzero().flatten()`. Two index tensors pick one row a RoI: `box_deltas[foreground, labels[foreground]]`, (F, 4).
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# `F.smooth_l1_loss(…, reduction="sum", beta=1.0)`. The sum of no numbers is 0, so no foreground needs no special case.
#
# </details>

# %% exercise="detection_loss"
def detection_loss(class_logits: Tensor, box_deltas: Tensor, labels: Tensor, box_targets: Tensor) -> tuple[Tensor, Tensor]:
    """Class loss and box loss of Fast R-CNN.

    Args:
        class_logits: (K, num_classes), raw scores; class 0 is background; K at least 1.
        box_deltas: (K, num_classes, 4), box numbers for each class.
        labels: (K,) int64, true classes.
        box_targets: (K, 4), what the box numbers of the true class should be; anything where the label is 0.

    Returns:
        class_loss and box_loss, scalars.

    Source: Girshick, "Fast R-CNN", ICCV 2015, section 2.3, equations 1 to 3 (lambda = 1; normalised by all RoIs in the published code).
    Reference: fastrcnn_loss in torchvision.models.detection.roi_heads, which has beta = 1/9 and flat deltas.
    """
    ### BEGIN SOLUTION
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels > 0).nonzero().flatten()  # (F,)
    deltas = box_deltas[foreground, labels[foreground]]  # (F, 4), those of the true class
    box_loss = F.smooth_l1_loss(deltas, box_targets[foreground], reduction="sum", beta=1.0) / len(labels)
    return class_loss, box_loss
    ### END SOLUTION

# %% check="detection_loss" points=3
def losses_one_by_one(class_logits, box_deltas, labels, box_targets):
    """Both terms, number by number."""
    class_loss = box_loss = class_logits.sum() * 0 + box_deltas.sum() * 0
    for logits, deltas, label, target in zip(class_logits, box_deltas, labels.tolist(), box_targets):
        class_loss = class_loss + torch.logsumexp(logits, 0) - logits[label]
        for i in range(4) if label else ():
            distance = (deltas[label, i] - target[i]).abs()
            box_loss = box_loss + (distance**2 / 2 if distance < 1 else distance - 0.5)
    return class_loss / len(labels), box_loss / len(labels)


def some_answers(rng, num_rois, num_classes, dtype=torch.float32):
    """Logits, deltas, labels and targets with background in them, whose targets are NaN."""
    logits, deltas = 2 * normal(rng, num_rois, num_classes, dtype=dtype), normal(rng, num_rois, num_classes, 4, dtype=dtype)
    labels = torch.from_numpy(rng.permutation(np.arange(num_rois) % num_classes))
    targets = 2 * normal(rng, num_rois, 4, dtype=dtype)
    targets[labels == 0] = math.nan
    return logits, deltas, labels, targets


@lab.check("detection_loss", points=1)
def by_hand(detection_loss):
    """Four RoIs of three classes, equal logits: each term of the box loss can be counted on paper."""
    logits, deltas = torch.zeros(4, 3), torch.zeros(4, 3, 4)
    deltas[1, 2] = torch.tensor([0.5, 2, 0, 0])
    deltas[1, 1] = deltas[0, 0] = 7.0  # of other classes, and of background
    deltas[2, 1] = torch.tensor([0.0, 0, -1, 1])
    labels, targets = torch.tensor([0, 2, 1, 0]), torch.zeros(4, 4)
    targets[2] = torch.tensor([0.0, 0, 2, 1])
    expected = torch.tensor(math.log(3)), torch.tensor((0.125 + 1.5 + 2.5) / 4)
    expect_close(detection_loss(logits, deltas, labels, targets), expected, "equal logits; distances 0.5, 2 and 3; 2 of 4 RoIs are foreground")
    logits[0, 0], logits[1, 1] = 3.0, 2.0
    expected = (4 * math.log(3) - 2 * math.log(3) + math.log(math.exp(3) + 2) - 3 + math.log(math.exp(2) + 2)) / 4
    class_loss, _ = detection_loss(logits, deltas, labels, targets)
    expect_close(class_loss, torch.tensor(expected), "one sure and right, one sure and wrong: class_loss")


@lab.check("detection_loss", points=0.5)
def background_has_no_box(detection_loss):
    """Background alone costs no box loss, and its targets do not matter, not even NaN."""
    logits, deltas = torch.tensor([[2.0, 0, 1], [0, 1, 1]]), torch.full((2, 3, 4), 5.0)
    labels, targets = torch.tensor([0, 0]), torch.full((2, 4), math.nan)
    class_loss = torch.tensor((math.log(math.exp(2) + 1 + math.e) - 2 + math.log(1 + 2 * math.e)) / 2)
    expect_close(detection_loss(logits, deltas, labels, targets), (class_loss, torch.tensor(0.0)), "two background RoIs")
    targets[1] = 4.5
    _, box_loss = detection_loss(logits, deltas, torch.tensor([0, 2]), targets)
    expect_close(box_loss, torch.tensor(0.25), "a background RoI whose target is NaN, and a foreground RoI: box_loss")


@lab.check("detection_loss", points=0.5)
def agrees_number_by_number(detection_loss, rng):
    """Equal to both formulas taken number by number, in the type of the logits."""
    for num_rois, num_classes, dtype in [(7, 3, torch.float32), (9, 5, torch.float64), (int(rng.integers(3, 12)), 2, torch.float32)]:
        answers = some_answers(rng, num_rois, num_classes, dtype)
        case = f"{num_rois} RoIs, {num_classes} classes, type {str(dtype)[6:]}"
        expect_close(detection_loss(*answers), losses_one_by_one(*answers), case)
    logits, deltas, labels, targets = some_answers(rng, 6, 4)
    turned = deltas.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    expected = losses_one_by_one(logits, deltas, labels, targets)
    expect_close(detection_loss(logits, turned, labels, targets), expected, "deltas whose axes were permuted")


@lab.check("detection_loss", points=1)
def gradients_of_both(detection_loss, rng):
    """Logits of all RoIs learn; of the deltas only those of the true class of foreground RoIs do."""
    for num_rois, num_classes in [(8, 3), (5, 4)]:
        logits, deltas, labels, targets = some_answers(rng, num_rois, num_classes)
        ours = gradients(lambda logits, deltas: detection_loss(logits, deltas, labels, targets), logits, deltas)
        expected = gradients(lambda logits, deltas: losses_one_by_one(logits, deltas, labels, targets), logits, deltas)
        expect_close(ours, expected, f"{num_rois} RoIs, {num_classes} classes: gradients of logits and deltas")

# %% mistake="detection_loss" hint="You take the mean of smooth L1 over foreground and numbers: reduction=\"sum\", then divide by the number of all RoIs. And a mean of nothing is NaN."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    foreground = labels.nonzero().flatten()
    near = F.smooth_l1_loss(box_deltas[foreground, labels[foreground]], box_targets[foreground])
    return F.cross_entropy(class_logits, labels), near

# %% mistake="detection_loss" hint="You take the numbers of the background, box_deltas[k, 0]. Take those of the RoI's own class, labels[k]."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    foreground = labels.nonzero().flatten()
    near = F.smooth_l1_loss(box_deltas[foreground, 0], box_targets[foreground], reduction="sum")
    return F.cross_entropy(class_logits, labels), near / len(labels)

# %% mistake="detection_loss" hint="You divide the box loss by the number of foreground RoIs. Divide by the number of all RoIs, so that a RoI weighs the same in both terms."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground]]
    box_loss = F.smooth_l1_loss(deltas, box_targets[foreground], reduction="sum", beta=1.0) / max(len(foreground), 1)
    return class_loss, box_loss

# %% mistake="detection_loss" hint="You take the mean over the four numbers of a box. They are added up."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground]]
    box_loss = F.smooth_l1_loss(deltas, box_targets[foreground], reduction="sum", beta=1.0) / len(labels) / 4
    return class_loss, box_loss

# %% mistake="detection_loss" hint="You take the mean over foreground and numbers (the default of `smooth_l1_loss`). Sum up, then divide by the number of all RoIs."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground]]
    box_loss = F.smooth_l1_loss(deltas, box_targets[foreground], beta=1.0) if len(foreground) else box_deltas.sum() * 0
    return class_loss, box_loss

# %% mistake="detection_loss" hint="Your box loss is not divided at all. Divide the sum by the number of all RoIs."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground]]
    box_loss = F.smooth_l1_loss(deltas, box_targets[foreground], reduction="sum", beta=1.0)
    return class_loss, box_loss

# %% mistake="detection_loss" hint="Background RoIs count in your box loss. Choose the foreground first: label over 0."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels >= 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground]]
    box_loss = F.smooth_l1_loss(deltas, box_targets.nan_to_num()[foreground], reduction="sum", beta=1.0) / len(labels)
    return class_loss, box_loss

# %% mistake="detection_loss" hint="NaN comes through from the background: a mask multiplied afterwards keeps it, as NaN times 0 is NaN. Choose the foreground rows before you compare."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    deltas = box_deltas[torch.arange(len(labels)), labels]
    box_loss = (F.smooth_l1_loss(deltas, box_targets, reduction="none") * (labels > 0)[:, None]).sum() / len(labels)
    return class_loss, box_loss

# %% mistake="detection_loss" hint="Your loss is right, but NaN comes through in the gradient: `torch.where` after the comparison hides it from the value alone. Choose the foreground rows before you compare."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    deltas = box_deltas[torch.arange(len(labels)), labels]
    costs = ((deltas - box_targets) ** 2 + 0).sqrt()
    costs = torch.where(costs < 1, costs**2 / 2, costs - 0.5)
    box_loss = torch.where((labels > 0)[:, None], costs, 0).sum() / len(labels)
    return class_loss, box_loss

# %% mistake="detection_loss" hint="You compare the boxes of every class with the target. Only those of the true class count."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground]
    box_loss = F.smooth_l1_loss(deltas, box_targets[foreground][:, None].expand_as(deltas), reduction="sum", beta=1.0) / len(labels)
    return class_loss, box_loss

# %% mistake="detection_loss" hint="You take the box of the class with the highest score. In training it is that of the true class."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, class_logits[foreground].argmax(1)]
    box_loss = F.smooth_l1_loss(deltas, box_targets[foreground], reduction="sum", beta=1.0) / len(labels)
    return class_loss, box_loss

# %% mistake="detection_loss" hint="The class of your boxes is one off: class numbers need no shift, the background has its own row."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground] - 1]
    box_loss = F.smooth_l1_loss(deltas, box_targets[foreground], reduction="sum", beta=1.0) / len(labels)
    return class_loss, box_loss

# %% mistake="detection_loss" hint="Your smooth L1 changes over at 1/9 (torchvision's detectors). Here beta is 1."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground]]
    box_loss = F.smooth_l1_loss(deltas, box_targets[foreground], reduction="sum", beta=1 / 9) / len(labels)
    return class_loss, box_loss

# %% mistake="detection_loss" hint="You use the absolute distance (L1). Under 1, the loss is half the square."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground]]
    box_loss = F.l1_loss(deltas, box_targets[foreground], reduction="sum") / len(labels)
    return class_loss, box_loss

# %% mistake="detection_loss" hint="You use the squared distance. From 1 on, the loss grows linearly."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground]]
    box_loss = F.mse_loss(deltas, box_targets[foreground], reduction="sum") / len(labels)
    return class_loss, box_loss

# %% mistake="detection_loss" hint="The linear part of your loss lacks the - 1/2, so that it jumps at 1."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground]]
    distance = (deltas - box_targets[foreground]).abs()
    box_loss = torch.where(distance < 1, distance**2 / 2, distance).sum() / len(labels)
    return class_loss, box_loss

# %% mistake="detection_loss" hint="The class loss is added up over the RoIs. Take their mean."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels, reduction="sum")
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground]]
    box_loss = F.smooth_l1_loss(deltas, box_targets[foreground], reduction="sum", beta=1.0) / len(labels)
    return class_loss, box_loss

# %% mistake="detection_loss" hint="Your class loss leaves the background out. Background is a class like the others there."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels, ignore_index=0) if (labels > 0).any() else class_logits.sum() * 0
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground]]
    box_loss = F.smooth_l1_loss(deltas, box_targets[foreground], reduction="sum", beta=1.0) / len(labels)
    return class_loss, box_loss

# %% mistake="detection_loss" hint="You take a softmax before the cross entropy, which takes one itself."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits.softmax(1), labels)
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground]]
    box_loss = F.smooth_l1_loss(deltas, box_targets[foreground], reduction="sum", beta=1.0) / len(labels)
    return class_loss, box_loss

# %% mistake="detection_loss" hint="Without foreground your box loss is NaN: 0 divided by 0."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground]]
    box_loss = F.smooth_l1_loss(deltas, box_targets[foreground], reduction="mean", beta=1.0) * 4 * len(foreground) / len(labels)
    return class_loss, box_loss

# %% mistake="detection_loss" hint="You return the sum of both terms. Return the pair."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground]]
    box_loss = F.smooth_l1_loss(deltas, box_targets[foreground], reduction="sum", beta=1.0) / len(labels)
    return class_loss + box_loss

# %% mistake="detection_loss" hint="The two terms come in the other order: class_loss first."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground]]
    box_loss = F.smooth_l1_loss(deltas, box_targets[foreground], reduction="sum", beta=1.0) / len(labels)
    return box_loss, class_loss

# %% mistake="detection_loss" hint="Your values are right, but the box loss cannot be learned from: `.detach()`, `.item()` or numpy cut the gradient off."
def detection_loss(class_logits, box_deltas, labels, box_targets):
    class_loss = F.cross_entropy(class_logits, labels)
    foreground = (labels > 0).nonzero().flatten()
    deltas = box_deltas[foreground, labels[foreground]]
    box_loss = F.smooth_l1_loss(deltas, box_targets[foreground], reduction="sum", beta=1.0) / len(labels)
    return class_loss, box_loss.detach()

# %% alternative="detection_loss"
def detection_loss(class_logits, box_deltas, labels, box_targets):
    log_probs = class_logits.log_softmax(1)
    class_loss = -log_probs.gather(1, labels[:, None]).mean()
    own = F.one_hot(labels, class_logits.shape[1]).bool()
    own[:, 0] = False  # no box for the background
    distance = (box_deltas[own] - box_targets[labels > 0]).abs()  # both (F, 4), RoI by RoI
    box_loss = torch.where(distance < 1, 0.5 * distance**2, distance - 0.5).sum() / labels.numel()
    return class_loss, box_loss

# %% alternative="detection_loss"
def detection_loss(class_logits, box_deltas, labels, box_targets):
    targets = torch.where((labels > 0)[:, None], box_targets, 0.0)
    chosen = torch.einsum("kcd,kc->kd", box_deltas, F.one_hot(labels, class_logits.shape[1]).to(box_deltas.dtype))
    chosen = chosen * (labels > 0)[:, None]  # background: 0 against 0
    box_loss = F.huber_loss(chosen, targets, reduction="none").sum(1).mean()
    return F.nll_loss(class_logits.log_softmax(1), labels), box_loss

# %% [markdown]
# ## Train your own Fast R-CNN
#
# All parts are there. The data: rendered scenes, and boxes with **noise**. Around each object we place boxes that are moved and scaled at
# random, as a rough proposal method would; those with an IoU of 0.5 or more get the object's kind as their label. Boxes at
# random places that meet no object with more than 0.3 are background. The targets are the four deltas of the lecture, here called box numbers: centre and
# logarithm of the size relative to the box, divided by their spread, as the paper does.

# %%
def iou(boxes, others):
    """Intersection over union of each box with each other one: (A, 4), (B, 4) -> (A, B)."""
    sides = torch.minimum(boxes[:, None, 2:], others[:, 2:]) - torch.maximum(boxes[:, None, :2], others[:, :2])
    common = sides.clamp(min=0).prod(2)
    return common / ((boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None] + (others[:, 2:] - others[:, :2]).prod(1) - common)


def box_numbers(boxes, targets):
    """(K, 4) how far the centre of each target is off, in sizes of the box, and the logarithm of the ratio of the sizes."""
    size, target_size = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    return torch.cat([(targets[:, :2] + targets[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2 / size, (target_size / size).log()], 1)


def moved_boxes(boxes, numbers):
    """The boxes that such numbers lead to."""
    size = boxes[:, 2:] - boxes[:, :2]
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2 + numbers[:, :2] * size, size * numbers[:, 2:].exp() / 2
    return torch.cat([centre - half, centre + half], 1)


def noisy_boxes(scene_data, generator):
    """RoIs (M, 5) in the images of a data set, their labels (M,), and the true box of each (M, 4); NaN for background."""
    rois, labels, truth = [], [], []
    for n, (boxes, kind, visible) in enumerate(zip(*(scene_data.tensors[name] for name in ("boxes", "kind", "visible")))):
        clear = (kind >= 0) & (visible > 0.4) & ((boxes[:, 2:] - boxes[:, :2]).amin(1) >= IMAGE_SIZE / 8)
        near = boxes[clear].repeat_interleave(6, 0)
        size = near[:, 2:] - near[:, :2]
        numbers = torch.randn(len(near), 4, generator=generator) * torch.tensor([0.15, 0.15, 0.2, 0.2])
        corner, side = torch.rand(2, 20, 2, generator=generator) * IMAGE_SIZE
        anywhere = torch.cat([corner, corner + 8 + side / 2], 1)
        found = torch.cat([moved_boxes(near, numbers), anywhere]).clamp(0, IMAGE_SIZE)
        found = found[(found[:, 2:] - found[:, :2]).amin(1) > 4]
        overlap = iou(found, boxes) * (kind >= 0)  # with each object of the scene
        best, which = overlap.max(1)
        front, back = (best >= 0.5) & clear[which], best < 0.3
        rois.append(torch.cat([torch.full((len(found), 1), n), found], 1)[front | back])
        labels.append(torch.where(front, kind[which] + 1, 0)[front | back])
        truth.append(boxes[which].where(front[:, None], math.nan)[front | back])
    return torch.cat(rois), torch.cat(labels), torch.cat(truth)


generator = torch.Generator().manual_seed(0)
fields = ("images", "boxes", "kind", "visible")
train_scenes = scenes.SceneDataset(NUM_TRAIN, IMAGE_SIZE, fields=fields, seed=5)
test_scenes = scenes.SceneDataset(NUM_TEST, IMAGE_SIZE, fields=fields, seed=5, first=NUM_TRAIN)
train_rois, train_labels, train_truth = noisy_boxes(train_scenes, generator)
test_rois, test_labels, test_truth = noisy_boxes(test_scenes, generator)
train_numbers = box_numbers(train_rois[:, 1:], train_truth)
spread = train_numbers[train_labels > 0].std(0)
print(f"{len(train_rois)} RoIs to train on, {(train_labels > 0).float().mean():.0%} foreground; {len(test_rois)} to test on")

# %% [markdown]
# How much do minibatches of few images save? Each image costs one pass through the backbone, however many RoIs lie in it.
# **Predict first.** From how many images come 256 RoIs that are drawn from the whole data set?

# %%
if lab.ready("sample_rois"):
    image_index = train_rois[:, 0].long()
    drawn = sample_rois(train_labels, image_index, IMAGES_PER_BATCH, ROIS_PER_BATCH, 0.5, generator)
    anywhere = torch.randperm(len(image_index), generator=generator)[: len(drawn)]
    passes = [len(image_index[chosen].unique()) for chosen in (drawn, anywhere)]
    print(f"{len(drawn)} RoIs of your batch: {passes[0]} images; as many from the whole data set: {passes[1]} images")
    first = image_index[drawn].mode().values
    fig, axes = plt.subplots(1, 2, figsize=(6, 3.3))
    for ax, chosen, title in [(axes[0], image_index == first, "all RoIs of an image"), (axes[1], drawn[image_index[drawn] == first], "those drawn")]:
        ax.imshow(train_scenes.tensors["images"][first].permute(1, 2, 0))
        for (x1, y1, x2, y2), label in zip(train_rois[chosen, 1:].tolist(), train_labels[chosen].tolist()):
            ax.add_patch(plt.Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor="C1" if label else "0.75", linewidth=1))
        ax.set_title(title)
        ax.set_axis_off()
    fig.suptitle("Half of the draw is foreground (orange), background fills up (grey)")
    plots.show(fig, alt="A scene with many boxes around its objects in orange and elsewhere in grey; beside it the same scene with 16 of them.")

# %% [markdown]
# The network: four convolutions that shrink the image 8 times, a RoI layer with 4 × 4 bins, one hidden layer, and your head. Four
# by four is little, but so is the map: it has 8 × 8 cells.

# %%
class FastRCNN(nn.Module):
    """Scores and box numbers for RoIs; `pool` is the RoI layer."""

    def __init__(self, pool):
        super().__init__()
        layers, channels = [], 3
        for width, stride in [(WIDTH, 2), (2 * WIDTH, 2), (3 * WIDTH, 1), (4 * WIDTH, 2)]:
            layers += [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.body, self.pool = nn.Sequential(*layers), pool
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(16 * channels, 128), nn.ReLU())
        self.head = FastRCNNHead(128, len(scenes.KINDS) + 1)

    def forward(self, images, rois):
        pooled = self.pool(self.body(images), rois, (4, 4), 1 / 8)
        return self.head(self.hidden(pooled))


def train_detector(pool, seed):
    """A network trained on minibatches of RoIs."""
    repro.seed_all(seed)
    generator = torch.Generator().manual_seed(seed)
    network = FastRCNN(pool).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, NUM_STEPS)
    for _ in range(NUM_STEPS):
        chosen = sample_rois(train_labels, train_rois[:, 0].long(), IMAGES_PER_BATCH, ROIS_PER_BATCH, 0.5, generator)
        images, place = train_rois[chosen, 0].long().unique(return_inverse=True)
        rois = torch.cat([place[:, None], train_rois[chosen, 1:]], 1).to(device)  # images are numbered within the batch
        logits, deltas = network(train_scenes.tensors["images"][images].to(device), rois)
        targets = train_numbers[chosen] / spread
        loss = sum(detection_loss(logits, deltas, train_labels[chosen].to(device), targets.to(device)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return network.eval()


@torch.no_grad()
def detect(network):
    """Classes (M,) and boxes (M, 4) for the RoIs of the test scenes; the box is that of the likeliest kind of object."""
    logits, deltas = network(test_scenes.tensors["images"].to(device), test_rois.to(device))
    kind = logits[:, 1:].argmax(1) + 1
    numbers = deltas[torch.arange(len(kind)), kind].cpu() * spread
    return logits.argmax(1).cpu(), moved_boxes(test_rois[:, 1:], numbers).clamp(0, IMAGE_SIZE)


def box_quality(boxes):
    """Mean IoU of foreground boxes with their true boxes, and mean distance of their sides in pixels."""
    front = test_labels > 0
    boxes, truth = boxes[front], test_truth[front]
    overlap = torch.cat([iou(*pair).diagonal() for pair in zip(boxes.split(500), truth.split(500))])
    return overlap.mean().item(), (boxes - truth).abs().mean().item()


if all([lab.ready(name) for name in ("roi_align", "sample_rois", "FastRCNNHead", "detection_loss")]):
    network = train_detector(roi_align, seed=0)
    classes, boxes = detect(network)
    before, after = box_quality(test_rois[:, 1:]), box_quality(boxes)
    print(f"right class: {(classes == test_labels).float().mean():.1%} of all test RoIs")
    print(f"boxes:       mean IoU {before[0]:.3f} before, {after[0]:.3f} after; sides off by {before[1]:.2f} pixels before, {after[1]:.2f} after")
    assert after[0] > before[0] + 0.03 and after[1] < before[1], "your network should improve the boxes"

# %% [markdown]
# Look at four test scenes: the noisy boxes that went in (grey), the boxes that came out (orange), and what the network takes them for,
# which is not always right. One box an object is drawn. "background" means that the network sees no object there; the box is then that of
# the likeliest kind.

# %%
if all([lab.ready(name) for name in ("roi_align", "sample_rois", "FastRCNNHead", "detection_loss")]):
    fig, axes = plt.subplots(1, 4, figsize=(9, 2.6))
    for ax, n in zip(axes, (0, 2, 4, 9)):
        ax.imshow(test_scenes.tensors["images"][n].permute(1, 2, 0))
        ax.set_axis_off()
        seen = set()
        for m in ((test_rois[:, 0] == n) & (test_labels > 0)).nonzero().flatten().tolist():
            if tuple(test_truth[m].tolist()) in seen:
                continue
            seen.add(tuple(test_truth[m].tolist()))
            for (x1, y1, x2, y2), colour in [(test_rois[m, 1:].tolist(), "0.8"), (boxes[m].tolist(), "C1")]:
                ax.add_patch(plt.Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.2))
            name = ("background", *scenes.KINDS)[classes[m]]
            ax.text(boxes[m, 0], boxes[m, 1] - 1, name, fontsize=8, color="white", bbox={"facecolor": "C1", "pad": 1, "linewidth": 0})
    fig.suptitle("Noisy boxes (grey) go in, named ones (orange) that fit better come out")
    plots.show(fig, alt="Four test scenes, each object with a loose grey box and a tighter orange box with a name; some names are wrong.")

# %% [markdown]
# ## Does rounding matter?
#
# Four RoI layers compete in this network; the lecture has shown the outcome. Everything but the layer is the same: draws, budget, learning
# rate. Beside your `roi_pool` and `roi_align` there is `roi_align` with `aligned=False`, which moves every box by the same
# half cell, 4 pixels, and `roi_align` of boxes whose corners are rounded to whole cells first, so that nothing but this rounding is
# new. The numbers below come from five runs of this lab's solution. To see it with layers of your own (four trainings), run `roi_layers(0)`.
# **Say it from memory first:** which two layers end up equal, and why?

# %% measure="roi_layers" seeds=5
def roi_layers(seed):
    """Accuracy of the classes, mean IoU and mean distance of the sides on the test scenes, with four RoI layers."""

    def unaligned(*arguments):
        return roi_align(*arguments, aligned=False)

    def rounded(features, rois, output_size, scale):
        corners = torch.round(rois[:, 1:] * scale) / scale
        return roi_align(features, torch.cat([rois[:, :1], corners], 1), output_size, scale)

    overlap, distance = box_quality(test_rois[:, 1:])
    found = {"before, IoU": overlap, "before, pixels": distance}
    layers = {"RoI pooling": roi_pool, "RoI Align": roi_align, "aligned=False": unaligned, "corners rounded": rounded}
    for name, pool in layers.items():
        classes, boxes = detect(train_detector(pool, seed))
        overlap, distance = box_quality(boxes)
        accuracy = (classes == test_labels).float().mean().item()
        found |= {f"{name}, accuracy": accuracy, f"{name}, IoU": overlap, f"{name}, pixels": distance}
    return found

# %%
runs = measurements.load("12_roi_pooling", "roi_layers")
names = ["RoI pooling", "corners rounded", "aligned=False", "RoI Align"]
fig, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True)
panels = [("accuracy", "share of RoIs with the right class", (0.72, 0.84)), ("IoU", "mean IoU of the boxes", (0.635, 0.755))]
for ax, (what, label, limits) in zip(axes, panels):
    for row, name in enumerate(names):
        ax.plot([run[f"{name}, {what}"] for run in runs], [row] * len(runs), "o", color="C1" if row < 2 else "C0", alpha=0.6)
    ax.set(xlabel=label, xlim=limits, ylim=(-0.5, 3.5))
axes[1].axvline(runs[0]["before, IoU"], color="grey", linestyle="--", label="noisy boxes")
axes[1].legend(loc="upper left", fontsize=8)
axes[0].set_yticks(range(4), names)
fig.suptitle("Layers that round (orange) return worse boxes; classes differ less")
plots.show(fig, alt="Five dots a layer: both layers that round have lower box IoU than both that do not; accuracies lie within a few hundredths.")
for name in names:
    values = {what: np.array([run[f"{name}, {what}"] for run in runs]) for what in ("accuracy", "IoU", "pixels")}
    print(f"{name:16s}" + "; ".join(f"{what} {v.mean():.3f} ± {v.std(ddof=1):.3f}" for what, v in values.items()))
print(f"noisy boxes     IoU {runs[0]['before, IoU']:.3f}; pixels {runs[0]['before, pixels']:.3f}")
sides = (test_truth[:, 2:] - test_truth[:, :2])[test_labels > 0] / 8
print(f"half of the sides of the objects are between {sides.quantile(0.25):.1f} and {sides.quantile(0.75):.1f} cells")

# %% [markdown]
# Without rounding, the network brings the boxes from an IoU of 0.643 to 0.739. With RoI pooling it gets to 0.690, half of that gain. And RoI
# Align with rounded corners, at 0.693, ends where RoI pooling does: what hurts here is the rounding of the corners, not the maximum and not
# the borders of the bins. The classes suffer less, 2 to 3 RoIs in a hundred. The constant half cell of `aligned=False` does no visible
# harm: its IoU is lower by 0.003, about as much as seeds differ.
#
# Mind the scale: the objects are only a few cells wide, as the last line says. The more cells an object covers, the less half a cell
# matters.

# %% [markdown] written="two_roundings" points=2
# ## Exercise 10: say which rounding hurts, and whom (2 points, 10 minutes)
#
# RoI pooling rounds twice: the corners of the box go to whole cells, and then the borders of the bins do. In five to ten sentences: by how many
# pixels of the image can each rounding move a border of the window, or a border of a bin, at stride 16? Why does the class of a RoI hardly
# suffer, while a mask, or the position of a box, does? (A **mask** says of each small part of a box whether it belongs to the object; each bin
# answers for its own part.) Which of the two roundings is worse for a mask? And why could the network above live with `aligned=False`, which is
# off by half a cell **everywhere**, but not with the rounding?
#
# **Model answer.** Rounding a corner moves it by up to half a cell, 8 pixels. As the last cell is kept whole, the far sides of the window lie 8 to
# 24 pixels outside the box. Rounding the bins moves each of their borders by less than one cell, outwards: a bin starts up to 15 pixels early and
# stops up to 15 pixels late, and it shares these cells with its neighbours. A class is the same wherever the object lies in the window, so an answer
# that does not change under small shifts is just what a classifier learns, and a maximum over a slightly different set of cells is often the
# same number. A mask or a box is an answer **about position**. It is drawn in the coordinates of the box, so if the features come from another
# place than the box says, the answer lies wrong by as much. The rounding of the corners is the worse one: it moves and stretches all bins of
# a RoI together, by an amount that depends on where the box happens to lie between the cells. The head sees pooled numbers only and cannot know this
# amount, so it cannot undo it. The rounding of the bins rather blurs: it widens each bin a little, in both directions. Half a cell
# that is the same for all boxes is something else: a constant shift can be learned, by the box numbers or by the convolutions below.
#
# **Rubric.** 1 point for whom: a class is invariant to small shifts, a mask or box is an answer about position and takes the shift over as error.
# 1 point for which: the corners, since all bins move together by an amount (up to half a cell, 8 pixels; more at the far side) that varies
# from box to box and that the head cannot see, while a constant shift can be learned. Half a point off where the amounts are missing or
# wrong by more than a factor of two, or where the constant shift is not told from the varying one.

# %% [markdown]
# ## How far you are

# %%
lab.progress()
