# %% [markdown]
# # Lab 12: RoI pooling
#
# A detector looks at hundreds of boxes in one image. In this lab you write the layers that let all of them share **one** feature map:
# the window and the bins of RoI pooling, the spatial pyramid it comes from, and RoI Align, which rounds nothing.
#
# **You need** the lecture on RoI pooling. **Time:** about 90 minutes for the exercises, and some for the pictures. **Points:** 17.
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


def gradients_of_parameters(module, x, weights):
    """The gradient of the weighted sum of a module's outputs with respect to each of its parameters, by name."""
    names, parameters = zip(*module.named_parameters())
    total = sum((output * weight).sum() for output, weight in zip(module(x), weights))
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for name, p, g in zip(names, parameters, found)}


# %% [markdown]
# **Coordinates.** A box is $(x_1, y_1, x_2, y_2)$ in pixels of the image. A feature map of total stride 16 has `spatial_scale` $= 1/16$:
# pixels times `spatial_scale` are cells of the map. Feature maps are `(N, C, H, W)`. A row of `rois` (K, 5) starts with the number of its
# image in the batch, a box follows. A window or a bin is a half-open range: it holds the cells from start up to, but without, stop.
# `output_size` is a pair, (rows, columns).
#
# The functions whose names begin with `library_` are for the checks.

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
    expect_raises(ValueError, lambda: bin_edges(0, 2), "no cells")
    expect_raises(ValueError, lambda: bin_edges(-3, 2), "-3 cells")
    expect_raises(ValueError, lambda: bin_edges(4, 0), "no bins")
    expect_raises(ValueError, lambda: bin_edges(4, -1), "-1 bins")


@lab.check("bin_edges", points=1, forbid=("adaptive",))
def as_adaptive_pooling(bin_edges, rng):
    """The ranges that adaptive pooling takes, for any length and up to six bins."""
    cases = [(10, 4), (7, 3), (4, 3), (5, 6), (17, 6)]
    cases += [(int(rng.integers(6, 40)), int(rng.integers(2, 7))) for _ in range(6)]
    for length, num_bins in cases:
        ramp = torch.arange(float(length))[None]
        last = F.adaptive_max_pool1d(ramp, num_bins)[0]
        first = -F.adaptive_max_pool1d(-ramp, num_bins)[0]
        expected = [(int(a), int(b) + 1) for a, b in zip(first, last)]
        expect_equal(bin_edges(length, num_bins), expected, f"{length} cells, {num_bins} bins")

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
        fig = plots.image_row([F.avg_pool2d(photograph, 4), *grids], [name, "level 1", "level 3", "level 12"], height=1.5)
        plots.show(fig, alt=f"A photograph ({name}), then its brightest colour, nine, and 144 squares in which its outline can be guessed.")

# %% [markdown]
# Both end up as 462 numbers: 3 channels times 1 + 9 + 144 bins. A fully connected layer can follow, whatever the size of the photograph.
# RoI pooling is one level of such a pyramid, laid over the window of a box instead of the whole map.

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
# largest objects of a scene to 24 × 24, and the face, the eyes and the nose of a cat.

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
        plots.show(fig, alt=f"A round thing ({name}), and its circles unrolled to rows, in which its edge runs straight from left to right.")

# %% [markdown]
# The rim becomes a line, and so does the edge of the iris. RoI Align reads at far simpler points, on a regular grid in each bin.

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
# `rois` is as in exercise 4, with $x_1 \le x_2$ and $y_1 \le y_2$; there may be no RoI at all. The result is $(K, C, o_h, o_w)$ in the type
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
# pixels of a photograph. We follow the bin that begins beside the eye. **Predict first.** After how many pixels does the answer of RoI
# pooling change? And that of RoI Align?

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
        print(f"{name:12s} changes in {int(changed.sum())} of {len(changed)} steps")
        ax.plot(shifts, answer[:, 1, 2, 2], ".-", color=colour, label=name)
    ax.set(xlabel="box moved to the right by (pixels)", ylabel="green in one bin", title="RoI pooling jumps, RoI Align glides")
    ax.legend()
    plots.show(fig, alt="Two curves over 64 pixels: that of RoI pooling is flat with jumps, that of RoI Align is smooth.")

# %% [markdown]
# RoI pooling is blind for movements within a stride, and then jumps: once when the left side is rounded to the next cell, and once when
# the right side is. What the rounding hides is where things are. Below: what a box holds, averaged over 12 × 12 bins of pixels; then
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
# A part of the distance is the maximum, which prefers bright cells. The rest is the rounding, which moves and stretches the face.

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
# ## How far you are

# %%
lab.progress()
