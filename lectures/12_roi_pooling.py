# %% [markdown]
# # RoI pooling
#
# A detector must answer for hundreds or thousands of boxes in one image. How can a network look at the image only once and still give
# every box an answer of its own, whatever the size of the box?
#
# **After this lecture you can** say what one forward pass a box costs; turn a window of any size into a fixed number of values; do RoI
# pooling by hand, with its two roundings and its border cases; derive RoI Align from what the roundings spoil; say in which sense a box
# has a gradient and why it does not get it; put minibatches together that share images; and train the head of Fast R-CNN.
#
# **You need** [lecture 01](01_convolution_arithmetic.ipynb): strides, receptive fields, cost. A box is $(x_1, y_1, x_2, y_2)$ in pixels,
# measured from the upper left corner of the image. The **IoU** of two boxes is the area they share over the area they cover together.
# **Time:** about 90 minutes.
#
# **Sources**
#
# - Girshick, Donahue, Darrell and Malik, [Rich feature hierarchies](https://arxiv.org/abs/1311.2524) (R-CNN), CVPR 2014: section 2.
# - He, Zhang, Ren and Sun, [Spatial pyramid pooling in deep convolutional networks](https://arxiv.org/abs/1406.4729) (SPPnet), ECCV 2014:
#   section 2.2; appendix A of the version on arXiv for the rounding.
# - Girshick, [Fast R-CNN](https://arxiv.org/abs/1504.08083), ICCV 2015: sections 2.1 (RoI pooling) and 2.3 (minibatches, loss).
# - He, Gkioxari, Dollár and Girshick, [Mask R-CNN](https://arxiv.org/abs/1703.06870), ICCV 2017: section 3, "RoIAlign".
# - Jiang, Luo, Mao, Xiao and Jiang, [Acquisition of localization confidence](https://arxiv.org/abs/1807.11590) (IoU-Net), ECCV 2018:
#   "Precise RoI Pooling".
# - The operators: [torchvision.ops](https://docs.pytorch.org/vision/stable/ops.html), `roi_pool` and `roi_align`.

# %% tags=["setup"]
import functools
import math
import time

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import datasets, measurements, plots, repro, scenes

# %%
torch.set_num_threads(1)  # maps as small as these are not worth a second thread

# %% [markdown]
# ## One forward pass a box
#
# R-CNN (Girshick et al. 2014) finds objects by classifying boxes. Some method proposes about 2,000 boxes that may hold an object. Each is
# cut out of the image, warped to 227 × 227 pixels and sent through a convolutional network. The boxes overlap heavily, so the same pixels
# go through the same layers again and again.
#
# By lecture 01 the work of a convolution is proportional to the number of its outputs, and so, for fixed layers, to the number of pixels
# that enter. Count pixels and you have the ratio.
#
# **Predict first.** A photograph of the PASCAL VOC data set has about 500 × 375 pixels. How many times as many pixels does the network
# see box by box? And if the whole image is first enlarged to a shorter side of 600, as Fast R-CNN does?

# %%
# NBVAL_CHECK_OUTPUT
box_by_box = 2000 * 227 * 227
for height, width in [(375, 500), (600, 800)]:
    print(f"{box_by_box:,} pixels against {height * width:,}: {box_by_box / (height * width):.0f} times")

# %% [markdown]
# Some hundred times the work. So let the network see the image once, keep its last **feature map**, and cut the boxes out of the map. Is
# the saving real, when cutting out costs time as well? We take a small network of five convolutions, three of them with stride 2. Its
# total stride is 8: a cell of the map stands for 8 × 8 pixels. `GroupNorm` normalises within one image, so an image's map does not
# depend on which others are in the batch.


# %%
def make_backbone(width):
    """(N, 3, H, W) -> (N, 4 * width, H / 8, W / 8)"""
    layers = []
    for inputs, outputs, stride in [(3, 1, 2), (1, 2, 2), (2, 2, 1), (2, 4, 2), (4, 4, 1)]:
        inputs = inputs if inputs == 3 else inputs * width
        layers += [nn.Conv2d(inputs, outputs * width, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs * width), nn.ReLU()]
    return nn.Sequential(*layers)


# %% [markdown]
# The contest: random boxes in a photograph of 400 × 600 pixels. *Box by box* resizes each crop to 64 × 64 pixels and runs the network on
# all crops. *Shared* runs it once on the photograph and pools all boxes from the map to 8 × 8 cells, the size that a crop of 64 × 64
# pixels gives. (The pooling is `roi_align` of torchvision, which we derive below.) Counting pixels predicts a ratio of
# $\text{boxes} \cdot 64^2 / (400 \cdot 600)$. Time is that of the processor, the median of five runs.


# %% measure="shared_features" seeds=5
@torch.no_grad()
def shared_features(seed):
    """Seconds of the processor with a forward pass a box, over those with one for the image and a pooled box each, by number of boxes."""
    from torchvision import ops

    torch.set_num_threads(1)
    repro.seed_all(seed)
    backbone = make_backbone(16)
    image = datasets.photograph("coffee")[None]  # (1, 3, 400, 600)
    corners = torch.rand(300, 2, 2) * torch.tensor([600, 400])
    boxes = torch.cat([corners.amin(1).floor(), corners.amax(1).ceil() + 8], 1).clamp(max=torch.tensor([600, 400, 600, 400]))
    boxes[:, :2] = torch.minimum(boxes[:, :2], boxes[:, 2:] - 8)  # at least 8 pixels wide and high

    def box_by_box(boxes):
        crops = [image[:, :, y1:y2, x1:x2] for x1, y1, x2, y2 in boxes.int().tolist()]
        warped = torch.cat([F.interpolate(crop, size=(64, 64), mode="bilinear") for crop in crops])
        return torch.cat([backbone(some) for some in warped.split(25)])  # batches that fit into a processor's cache

    def shared(boxes):
        return ops.roi_align(backbone(image), [boxes], (8, 8), 1 / 8, 2, True)

    found = {}
    for num_boxes in (1, 10, 30, 100, 300):
        seconds = {box_by_box: [], shared: []}
        for _ in range(6):
            for way in seconds:
                start = time.process_time()
                way(boxes[:num_boxes])
                seconds[way].append(time.process_time() - start)
        found[f"boxes_{num_boxes}"] = torch.tensor(seconds[box_by_box][1:]).median() / torch.tensor(seconds[shared][1:]).median()
    return found


# %%
counts = torch.tensor([1, 10, 30, 100, 300])
records = measurements.load("12_roi_pooling", "shared_features")
ratios = torch.tensor([[record[f"boxes_{count}"] for count in counts] for record in records])  # (5 seeds, 5 counts)
fig, ax = plt.subplots(figsize=(6, 3.8))
ax.loglog(counts, counts * 64**2 / (400 * 600), "--", color="grey", label="pixels counted")
ax.errorbar(counts, ratios.mean(0), ratios.std(0), fmt="o-", capsize=4, label="measured: mean and std of 5 seeds")
ax.set(title="Sharing pays from some tens of boxes on", xlabel="boxes in the image", ylabel="time, box by box / shared")
ax.set_xticks(counts, counts.tolist())
ax.axhline(1, color="black", linewidth=0.8)
ax.legend()
plots.show(fig, alt="Ratio of times against boxes, both logarithmic: on the line of counted pixels, with the line of equal times crossed between 30 and 100 boxes.")
for count, mean, spread in zip(counts.tolist(), ratios.mean(0), ratios.std(0)):
    print(f"{count:3d} boxes: {mean:5.2f} ± {spread:.2f} times, pixels counted {count * 64**2 / (400 * 600):.2f}")

# %% [markdown]
# With one box, sharing is a bad deal: the whole photograph for a small window. The lines cross between 30 and 100 boxes, and from there on
# the ratio grows with the number of boxes, about as the pixels say. R-CNN's 2,000 boxes are far to the right of this picture. The abstract
# of Fast R-CNN reports a factor of 213 at test time for a network of 16 layers.
#
# So sharing is worth it. The question of this lecture is how to cut a box out of a feature map. Look at the cells first: one scene of our
# world and one photograph, each with the grid of its map at stride 8 and a box.

# %%
scene = scenes.render(scenes.sample([12], seed=0), (96, 128))
cat = datasets.photograph("cat")[:, 60:180, 96:256]  # (3, 120, 160), an eye
pictures = {"scene": (scene.images[0], scene.boxes[0][scene.kind[0] == scenes.KINDS.index("figure")][0]),
            "photograph": (cat, torch.tensor([29.0, 17, 106, 92]))}  # fmt: skip


def draw_box(ax, box, **style):
    x1, y1, x2, y2 = box.tolist()
    ax.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, clip_on=False, **style))


def draw_image(ax, image, stride):
    height, width = image.shape[1:]
    ax.imshow(image.permute(1, 2, 0), extent=(0, width, height, 0))
    ax.set(xticks=range(0, width + 1, stride), yticks=range(0, height + 1, stride), xticklabels=[], yticklabels=[])
    ax.grid(True, color="white", linewidth=0.4)
    ax.set_axisbelow(False)
    ax.tick_params(length=0)


fig, axes = plt.subplots(1, 2, figsize=(7.4, 2.9))
for ax, (name, (image, box)) in zip(axes, pictures.items()):
    draw_image(ax, image, 8)
    draw_box(ax, box, edgecolor="yellow", linewidth=2)
    ax.set_title(f"{name}: {(box[2] - box[0]) / 8:.1f} × {(box[3] - box[1]) / 8:.1f} cells")
fig.suptitle("The border of a box falls between the cells of the map")
plots.show(fig, alt="A figure in a rendered scene and a cat's eye, each in a yellow box whose sides cut through cells of a white grid.")

# %% [markdown]
# Two difficulties show. The windows have different sizes, while the layers that follow, fully connected ones, want a fixed number of
# values. And no side of a box lies on a line of the grid. We take them in this order, as history did.
#
# ## A fixed number of bins
#
# The answer to the first is older than RoI pooling. **Spatial pyramid pooling** (He et al. 2014) does not fix the size of a bin, as an
# ordinary pooling layer does, but the *number* of bins, and keeps the largest value of each. If $n$ bins divide $L$ cells, the size $L / n$
# of a bin is rarely whole. SPPnet rounds the start of a bin down and its end up:
#
# $$\text{bin } i = \left\{ \lfloor i\, L / n \rfloor,\ \ldots,\ \lceil (i + 1)\, L / n \rceil - 1 \right\}, \qquad i = 0, \ldots, n - 1 .$$
#
# No bin is empty, not even with more bins than cells; bins that do not divide evenly share a cell. PyTorch's adaptive pooling has the same
# bins. To see which cells an operator reads, feed it a signal whose values are their own index: the maximum of a bin is its last
# cell, and with the sign turned it is the first.
#
# **Predict first.** Write down the bins for 5 cells in 2 bins, and for 2 cells in 3 bins.


# %%
# NBVAL_CHECK_OUTPUT
def bins_of(length, num_bins):
    index = torch.arange(float(length))[None]  # (1, length)
    first = -F.adaptive_max_pool1d(-index, num_bins)[0]
    last = F.adaptive_max_pool1d(index, num_bins)[0]
    return [f"{int(a)}..{int(b)}" for a, b in zip(first, last)]


for length, num_bins in [(5, 2), (2, 3), (6, 3)]:
    print(f"{length} cells, {num_bins} bins:", bins_of(length, num_bins))

# %% [markdown]
# Cell 2 belongs to both bins, cell 0 and cell 1 to two of three. A **pyramid** does this on several levels, say with 1, 2 and 4 bins, and
# joins the results: one value for the whole, two for its halves, four for its quarters. For a signal that is 7 values, for a map 21 values
# a channel, whatever came in.
#
# **Predict first.** The signal is 3, 1, 4, 1, 5, 9, 2, 6. Which seven values?

# %%
# NBVAL_CHECK_OUTPUT
for signal in ([3.0, 1, 4, 1, 5, 9, 2, 6], [2.0, 7, 1]):
    levels = [F.adaptive_max_pool1d(torch.tensor(signal)[None], num_bins)[0] for num_bins in (1, 2, 4)]
    print(len(signal), "cells ->", torch.cat(levels).int().tolist())

# %% [markdown]
# Three cells give seven values too, with repetitions. SPPnet used this for whole images of any size, and for detection it pooled windows of
# a shared map, 50 bins in four levels. **RoI pooling** (Girshick 2015) keeps one level only, say 7 × 7 bins for each *region of interest*,
# and lets the gradient through to the map, so that the network below can learn.
#
# ## RoI pooling by hand
#
# Our map has 6 × 8 cells whose values are their own index, the stride is 16, and the box is (20, 30, 100, 80) pixels. The operator of
# torchvision, like the original, works in three steps.
#
# 1. **Round the box.** Divide by the stride, round all four numbers, keep the last cell: along one axis
#    $\text{start} = \operatorname{round}(x_1 / s)$ and $\text{stop} = \operatorname{round}(x_2 / s) + 1$, where `stop` is one past the end.
# 2. **Round the bins.** Divide these cells into bins as SPPnet does.
# 3. **Maximum** of each bin.
#
# **Predict first.** Which rows and columns does the window have, and what are the four corners of the answer for 3 × 4 bins?

# %%
# NBVAL_CHECK_OUTPUT
from torchvision import ops

index = torch.arange(48.0).view(1, 1, 6, 8)
stride = 16
box = torch.tensor([20.0, 30.0, 100.0, 80.0])
print("box in cells:", (box / stride).tolist())
start_x, start_y, end_x, end_y = torch.floor(box / stride + 0.5).int().tolist()
window = index[:, :, start_y : end_y + 1, start_x : end_x + 1]
print(f"rows {start_y} to {end_y}, columns {start_x} to {end_x}")
by_hand = F.adaptive_max_pool2d(window, (3, 4))[0, 0]
library = ops.roi_pool(index, [box[None]], (3, 4), 1 / stride)[0, 0]
print("by hand:", by_hand.int().tolist())
print("library:", library.int().tolist())

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.3), width_ratios=[8, 4])
plots.heat_map(axes[0], index[0, 0], cmap="Blues", limits=(0, 90))
draw_box(axes[0], box / stride - 0.5, edgecolor="C1", linewidth=2.5)  # the drawing has cell 0 from -0.5 to 0.5
draw_box(axes[0], torch.tensor([start_x, start_y, end_x + 1, end_y + 1]) - 0.5, edgecolor="black", linestyle="--", linewidth=2)
axes[0].set_title("orange: the box; dashed: the window it becomes")
plots.heat_map(axes[1], library, cmap="Blues", limits=(0, 90))
axes[1].set_title("3 × 4 bins")
fig.suptitle("The window is larger than the box and reaches further right and down")
plots.show(fig, alt="A map of cells 0 to 47, the box in orange, the dashed window rows 2 to 5 and columns 1 to 6, and its 12 maxima.")

# %% [markdown]
# Six columns for a box of 5 cells width, four rows for 3.1. The two roundings are visible: the dashed window is not the box, and with 4
# rows in 3 bins, the middle rows are read twice.
#
# ## Four things the operator does at the edges
#
# Whoever writes RoI pooling anew differs from the library first in these four. We read the cells along one axis with the trick from above;
# numbering from 1 lets us see a bin that reads nothing, since the operator then returns 0.


# %%
def cells_read(x1, x2, num_bins, stride=1.0, num_cells=200, dtype=torch.float32):
    """First and last cell that each bin of roi_pool reads along x, or "nothing"."""
    number = torch.arange(1, num_cells + 1, dtype=dtype)[None, None, None]  # (1, 1, 1, num_cells), counted from 1
    roi = torch.tensor([[0, x1, 0, x2, 0]], dtype=dtype)
    last = ops.roi_pool(number, roi, (1, num_bins), 1 / stride).flatten().int()
    first = -ops.roi_pool(-number, roi, (1, num_bins), 1 / stride).flatten().int()
    return ["nothing" if b == 0 else f"{a - 1}..{b - 1}" for a, b in zip(first.tolist(), last.tolist())]


# %% [markdown]
# **Predict first.** The stride is 16 and there is one bin. Which cells does the box from $x_1 = 40$ to $x_2 = 56$ read, that is from 2.5 to
# 3.5 cells? And the box from 32 to 32, of width zero? Then 3 bins for a box that begins left of the map, from −40 to 24. What do the bins
# read, and what do they return if all features are −5?

# %%
# NBVAL_CHECK_OUTPUT
print("40 to 56:", cells_read(40, 56, 1, stride=16), " but torch.round(2.5) =", torch.tensor(2.5).round().item())
print("32 to 32:", cells_read(32, 32, 1, stride=16))
print("-40 to 24:", cells_read(-40, 24, 3, stride=16))
beyond = ops.roi_pool(torch.full((1, 1, 1, 200), -5.0), torch.tensor([[0.0, -40, 0, 24, 0]]), (1, 3), 1 / 16)
print("all features -5:", beyond.flatten().tolist())

# %% [markdown]
# 1. **Halves are rounded away from zero**, 2.5 to 3 and −2.5 to −3, as the function `round` of C does. Python and PyTorch round
#    halves to the even number, and adding a half and cutting is wrong for negative numbers.
# 2. **The last cell is kept**, so that even a box of width zero reads one cell.
# 3. **The window may leave the map.** It runs from −3 to 2 here; only afterwards is each bin cut to the map. Who cuts the window first
#    and divides it then gets other bins.
# 4. **A bin with no cell returns 0.** After a ReLU that is harmless. Without one, 0 may be the largest value around, as here.
#
# A fifth thing is a fault. The operator computes its bins with floating-point numbers.
#
# **Predict first.** What is `math.ceil(7 * (29 / 7))`?

# %%
# NBVAL_CHECK_OUTPUT
print("ceil(7 * (29 / 7)) =", math.ceil(7 * (29 / 7)))
print("29 cells in 7 bins, the last two:", cells_read(0, 28, 7, dtype=torch.float64)[-2:])

for num_bins in (4, 6, 7, 13):
    for dtype in (torch.float32, torch.float64):
        wrong = [n for n in range(1, 150) if cells_read(0, n - 1, num_bins, dtype=dtype) != bins_of(n, num_bins)]
        print(f"{num_bins:2d} bins, {dtype}: differs from whole numbers at", wrong[:4] or "no size up to 149")

# %% [markdown]
# The window ends with cell 28, and the last bin reads cell 29. $29 / 7$ has no exact binary form, seven times the rounded quotient is a
# little over 29, and the ceiling makes 30 of it. With the usual 7 bins and 32-bit numbers the first size is 57 cells; at stride 16 that is a
# box of about 900 pixels. Rarely a problem, but two right programs can differ there, so our tests stay at 6 bins or fewer.
#
# ## Where does a bin look?
#
# What do the roundings cost? To see it, take a feature map that tells us where it was read: the value of a cell is the position of its
# middle in pixels, $(i + \tfrac12)\, s$. The middle between a bin's first and last cell is where the bin looks. Where it should look
# follows from the box alone.
#
# We compute this place with the first rounding only, that is with bins of equal size in the rounded window, and then ask the operator,
# which does both. We also ask how wide its bins are. There are 2,000 boxes with sides of 2 to 12 cells, and 6 bins.
#
# **Predict first.** The stride is 16 pixels. How large is the error of the place on average, and in which direction?

# %%
# NBVAL_CHECK_OUTPUT
generator = torch.Generator().manual_seed(0)
x1 = 16 + 500 * torch.rand(2000, generator=generator, dtype=torch.float64)
sides = 16 * (2 + 10 * torch.rand(2000, generator=generator, dtype=torch.float64))
nothing = torch.zeros(2000, dtype=torch.float64)
rois = torch.stack([nothing, x1, nothing, x1 + sides, nothing], 1)  # (2000, 5): number of the image, then the box
should = x1[:, None] + sides[:, None] * (torch.arange(6) + 0.5) / 6  # (2000, 6) pixels, the middles of the bins
position = (torch.arange(80, dtype=torch.float64) + 0.5)[None, None, None] * 16  # (1, 1, 1, 80) pixels

start, stop = torch.floor(x1 / 16 + 0.5), torch.floor((x1 + sides) / 16 + 0.5) + 1
box_rounded = 16 * (start[:, None] + (stop - start)[:, None] * (torch.arange(6) + 0.5) / 6)
first, last = (sign * ops.roi_pool(sign * position, rois, (1, 6), 1 / 16).reshape(2000, 6) for sign in (-1, 1))
for name, place in [("box rounded", box_rounded), ("both rounded", (first + last) / 2)]:
    error = place - should
    print(f"{name:12s}: mean error {error.mean():+.1f} pixels, spread {error.std():.1f}, largest {error.abs().max():.0f}")
print(f"width of a bin: {(last - first + 16).mean():.0f} pixels, should be {(sides / 6).mean():.0f}")

# %% [markdown]
# On average a bin looks 8 pixels, half a cell, too far right, and likewise down: that is the last cell, which is kept. It is as if a cell
# were centred on its left border; we come back to this half cell. A network can learn to live with a constant shift. It cannot learn
# the spread of 6 pixels about it, because by how much *this* box was moved is not in what is pooled. The second rounding hardly moves the
# middles. It pushes the two ends of a bin apart: with the kept cell, bins are more than twice as wide as they should be, and overlap.
#
# ## Slide a box, one pixel at a time
#
# Rounding has a second effect. Let us push the box across the picture by one pixel at a time and watch one bin. As a stand-in for a
# network we take a map whose cells are the mean colours of 8 × 8 pixels, so that we can see what is pooled.
#
# **Predict first.** How often does the answer change while the box moves by 32 pixels?


# %%
def mean_colours(image, stride=8):
    return F.avg_pool2d(image[None], stride)  # (1, 3, H / stride, W / stride)


def slide(image, box, pool, num_steps=33):
    """(num_steps, 3, 6, 6): what `pool` returns for the box moved to the right by 0, 1, 2, ... pixels."""
    shifts = torch.arange(float(num_steps))[:, None] * torch.tensor([1.0, 0, 1, 0])
    return pool(mean_colours(image), [box + shifts], (6, 6), 1 / 8)


fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.2), sharex=True)
for ax, (name, (image, box)) in zip(axes, pictures.items()):
    pooled = slide(image, box, ops.roi_pool)
    values = pooled.mean(1)[:, 3, 1]  # (33,) brightness of the bin in row 3, column 1
    ax.step(torch.arange(33), values, where="mid", color="C1")
    moved = (pooled[1:] != pooled[:-1]).flatten(1).any(1).sum()
    ax.set(title=f"{name}: {moved} jumps in 32 steps", xlabel="shift of the box (pixels)", ylabel="value of one bin")
fig.suptitle("RoI pooling stands still and then jumps")
plots.show(fig, alt="Two staircases of a bin's value against the shift of the box, constant for several pixels, then jumping.")

# %% [markdown]
# Each side of the box jumps whenever it crosses the middle of a cell, every 8 pixels; two sides make 8 jumps in 32 pixels. In between, boxes
# up to 7 pixels apart are the same box to the network. If it is asked by how many pixels the box should move, it has to guess.
#
# ## RoI Align, derived on one axis
#
# RoI Align (He et al. 2017) removes both roundings. Since the box may begin and end anywhere, the map must have a value anywhere. We
# have to say where its values *are*. Cell $i$ stands for the pixels from $i\,s$ to $(i + 1)\,s$, so we place its value in the middle,
# at $(i + \tfrac12)\, s$. A point at $x$ pixels then lies at
#
# $$u = \frac{x}{s} - \frac12$$
#
# on the axis on which cell $i$ lies at $i$. Between two cells we interpolate on a line: with $i = \lfloor u \rfloor$ and $w = u - i$,
#
# $$f(x) = (1 - w)\, f_i + w\, f_{i+1} .$$
#
# Beyond the middle of the first and the last cell there is no neighbour; there the value stays what it is at the end. Now nothing needs
# rounding. Bin $b$ of $n$ begins at $x_1 + b\,(x_2 - x_1) / n$. Divide each bin into `samples` equal pieces, take $f$ in the middle of
# each piece, and **average**. So `samples` times `num_bins` points stand evenly along the box.
#
# **Predict first.** The map is 0, 10, 20, 30, 40, 50 at stride 10, and the box runs from 12 to 36 pixels. With 2 bins and 2 samples, where
# are the four points, and what are the two values?


# %%
# NBVAL_CHECK_OUTPUT
def align1d(signal, x1, x2, num_bins, samples, stride):
    """(C, L) values of cells, a box from x1 to x2 in pixels -> (C, num_bins)."""
    steps = torch.arange(num_bins * samples, dtype=signal.dtype, device=signal.device) + 0.5
    points = x1 + (x2 - x1) * steps / (num_bins * samples)  # pixels, evenly spaced
    u = points / stride - 0.5
    left = u.detach().floor().clamp(0, signal.shape[1] - 2).long()
    w = (u - left).clamp(0, 1)  # 0 or 1 beyond the middle of the first or last cell
    values = (1 - w) * signal[:, left] + w * signal[:, left + 1]  # (C, num_bins * samples)
    return values.unflatten(1, (num_bins, samples)).mean(2)


signal = torch.arange(0.0, 60, 10)[None]  # (1, 6)
print("points:", [12 + (36 - 12) * (k + 0.5) / 4 for k in range(4)])
print("ours:   ", align1d(signal, 12.0, 36.0, num_bins=2, samples=2, stride=10)[0].tolist())
rois = torch.tensor([[0.0, 12, 0, 36, 10]])
print("library:", ops.roi_align(signal[None, :, None], rois, (1, 2), 1 / 10, sampling_ratio=2, aligned=True).flatten().tolist())

# %% [markdown]
# A value is 10 times its index, so at $x$ pixels it is $x - 5$: the bins have their middles at 18 and 30, and the answers are 13 and 25.
# On a straight line RoI Align is exact. The library samples along both axes, $2 \times 2$ points a bin; on a map of one row the other axis
# has no say. On random numbers:

# %%
# NBVAL_CHECK_OUTPUT
signal = torch.randn(3, 17, generator=generator, dtype=torch.float64)  # 3 channels, 17 cells, stride 8: 136 pixels
agreed = 0
for _ in range(200):
    a, b = (136 * torch.rand(2, generator=generator, dtype=torch.float64)).sort().values
    roi = torch.stack([torch.zeros_like(a), a, torch.zeros_like(a), b, torch.full_like(a, 8)])[None]
    library = ops.roi_align(signal[None, :, None], roi, (1, 5), 1 / 8, sampling_ratio=3, aligned=True)[0, :, 0]
    agreed += torch.allclose(align1d(signal, a, b, num_bins=5, samples=3, stride=8), library)
print(f"{agreed} of 200 boxes agree")

# %% [markdown]
# In two dimensions each point has four neighbours and their weights are the products of those along the axes; you will write that in the
# lab. Push the box again, with both operators. The grey line is the mean of the *pixels* in the bin, which no map knows.
#
# **Predict first.** RoI pooling takes a maximum and RoI Align a mean. Which of the two lies higher?


# %%
def align(features, boxes, bins, spatial_scale):
    return ops.roi_align(features, boxes, bins, spatial_scale, sampling_ratio=2, aligned=True)


def pixels_in_bin(image, box, shift, row=3, column=1):
    """Mean brightness of the pixels in one of 6 x 6 bins of the moved box, by many samples on the image itself."""
    moved = box + shift * torch.tensor([1.0, 0, 1, 0])
    return ops.roi_align(image[None], [moved[None]], (6, 6), 1.0, sampling_ratio=16, aligned=True)[0, :, row, column].mean()


fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.4), sharex=True)
for ax, (name, (image, box)) in zip(axes, pictures.items()):
    pooled, aligned = (slide(image, box, pool) for pool in (ops.roi_pool, align))
    ax.plot([pixels_in_bin(image, box, shift) for shift in range(33)], color="grey", label="pixels in the bin")
    ax.step(torch.arange(33), pooled.mean(1)[:, 3, 1], where="mid", color="C1", label="RoI pooling")
    ax.plot(aligned.mean(1)[:, 3, 1], color="C0", label="RoI Align")
    ax.set(title=name, xlabel="shift of the box (pixels)", ylabel="value of one bin")
    for kind, values in [("pooling", pooled), ("Align", aligned)]:
        step = (values[1:] - values[:-1]).flatten(1).norm(dim=1)
        print(f"{name:10s} RoI {kind:7s}: largest step {step.max() / step.sum():4.0%} of the way, {(step == 0).sum():2d} of 32 steps are 0")
axes[1].legend()
fig.suptitle("RoI Align moves with the box; RoI pooling stands still and jumps")
plots.show(fig, alt="A bin's value as the box moves: RoI pooling in steps, RoI Align smooth, near the mean of the bin's pixels.")

# %% [markdown]
# RoI Align moves in each of the 32 steps. On the eye it stays near the grey line. In the scene the figure's limbs are narrower than a cell,
# the map has averaged them away, and no pooling brings them back. The maximum lies higher than the mean, as it must. How it looks to pool
# 12 × 12 bins from the same maps, for boxes 2 pixels apart:

# %%
shifts = 2 * torch.arange(5.0)[:, None] * torch.tensor([1.0, 0, 1, 0])
for name, (image, box) in pictures.items():
    fig, axes = plt.subplots(2, 5, figsize=(6.6, 2.9))
    for row, (kind, pool) in zip(axes, [("pooling", ops.roi_pool), ("Align", align)]):
        row[0].set_ylabel(f"RoI {kind}")
        for ax, pooled, shift in zip(row, pool(mean_colours(image), [box + shifts], (12, 12), 1 / 8), shifts[:, 0]):
            ax.imshow(pooled.permute(1, 2, 0))
            ax.set(xticks=[], yticks=[], title=f"+{shift:.0f} px" if kind == "pooling" else "")
    fig.suptitle(f"{name}: RoI pooling changes twice in 8 pixels, RoI Align always", x=0.01, ha="left")
    plots.show(fig, alt=f"{name}: five boxes 2 pixels apart; in the upper row some pooled pictures are equal, in the lower row each one moves.")

# %% [markdown]
# ## Half a cell: `aligned=False`
#
# The first version of RoI Align, and torchvision's default to this day, lacks the $-\tfrac12$: a value is taken to lie at its cell's left
# (and upper) border, $u = x / s$. It also makes boxes narrower than one cell one cell wide, which `aligned=True` does not. We repeat the
# measurement of where the bins look, with the map that knows its position.
#
# **Predict first.** By how many pixels does `aligned=False` miss at stride 16? At stride 4?

# %%
# NBVAL_CHECK_OUTPUT
for stride in (16, 4):
    position = (torch.arange(80, dtype=torch.float64) + 0.5)[None, None, None] * stride  # (1, 1, 1, 80) pixels
    rois = stride * torch.stack([nothing, x1 / 16, nothing, (x1 + sides) / 16, nothing], 1)  # boxes of equal size in cells
    middles = rois[:, 1:2] + (rois[:, 3:4] - rois[:, 1:2]) * (torch.arange(6) + 0.5) / 6
    for aligned in (False, True):
        looks_at = ops.roi_align(position, rois, (1, 6), 1 / stride, sampling_ratio=2, aligned=aligned).reshape(2000, 6)
        error = looks_at - middles
        print(f"stride {stride:2d}, aligned={aligned!s:5s}: mean error {error.mean().abs():.1f} pixels, spread {error.std():.1f}")

# %% [markdown]
# Half a *cell*, 8 pixels at stride 16 and 2 at stride 4, for all boxes alike and always to the right and down; with `aligned=True` there is
# no error at all. So is `aligned=True` always right? That depends on where a cell's value really is. A layer that averages 8 × 8 pixels
# puts it in the middle. A convolution of size 3 with stride 2 and padding 1 centres its first output on the first *pixel* (lecture 01). We
# ask the convolutions of our backbone, with all weights one, which pixels cell 6 looks at, and how often.
#
# **Predict first.** Three such layers have a total stride of 8. Is the centre of cell 6 at $(6 + \tfrac12) \cdot 8 = 52$ pixels?

# %%
# NBVAL_CHECK_OUTPUT
convolutions = nn.Sequential(*(layer for layer in make_backbone(16) if isinstance(layer, nn.Conv2d))).double()
for layer in convolutions:
    nn.init.ones_(layer.weight)
image = torch.zeros(1, 3, 112, 112, dtype=torch.float64, requires_grad=True)
(ways,) = torch.autograd.grad(convolutions(image)[0, 0, 6, 6], image)
ways = ways.sum((0, 1, 2))  # (112,) by column of pixels
centre = (ways * (torch.arange(112) + 0.5)).sum() / ways.sum()
print(f"cell 6 is centred on {centre:.1f} pixels; the middle of its 8 pixels is 52, their left border 48")

# %% [markdown]
# Its values sit almost on the left borders, so `aligned=False` reads this backbone more faithfully than `aligned=True`. Which of the two a
# detector uses should matter little, then, as long as it stays the same: weights that are learned can make up for a shift that is equal
# for all boxes. It is the error that varies from box to box that should hurt. We shall test both sentences.
#
# ## How many samples?
#
# `samples` is called `sampling_ratio` in the library. Two points a bin and axis, four in all, are the usual choice. A point reads two cells
# along an axis, so a bin wider than 4 cells has cells that nobody looks at. The setting −1 takes as many points as the bin has cells,
# rounded up. Gradients show which cells of a map an answer depends on.
#
# **Predict first.** A box begins within cell 3 and is 42 cells wide, so that it touches 43 cells. There are 7 bins. Which share of the 43
# is read with 1, 2 and 4 samples?

# %%
# NBVAL_CHECK_OUTPUT
for cells in (7, 14, 28, 42):
    shares = []
    for sampling_ratio in (1, 2, 4, -1):
        features = torch.zeros(1, 1, 1, 60, requires_grad=True)
        roi = torch.tensor([[0.0, 3.2, 0, 3.2 + cells, 1]])
        ops.roi_align(features, roi, (1, 7), 1.0, sampling_ratio, aligned=True).sum().backward()
        shares.append(f"{(features.grad > 0).sum() / (cells + 1):4.0%}")
    print(f"box of {cells:2d} cells, 7 bins: sampling_ratio 1, 2, 4, -1 read", *shares)

# %% [markdown]
# With 6 cells a bin, two samples read two thirds. Detectors avoid this by taking large boxes from coarser maps.
#
# ## A gradient for the box
#
# In the loss of a detector the box stands as well: it says where to pool. Could training move it? RoI pooling rounds the coordinates, and
# a staircase has slope 0 wherever it has a slope. RoI Align is different. From the formula of `f`,
#
# $$\frac{\partial f}{\partial x} = \frac{f_{i+1} - f_i}{s} , \qquad \text{and a point in bin } b \text{ moves with } x_1 \text{ and } x_2 .$$
#
# Our `align1d` is made of differentiable steps, so autograd computes this. Compare with finite differences, and with what the library
# returns.
#
# **Predict first.** What does the library return as the gradient of the box?

# %%
# NBVAL_CHECK_OUTPUT
edges = torch.tensor([20.0, 75.0], dtype=torch.float64, requires_grad=True)  # x1, x2
weights = torch.randn(3, 5, generator=generator, dtype=torch.float64)  # some loss: a weighted sum of what is pooled


def loss_of(edges):
    return (align1d(signal, edges[0], edges[1], num_bins=5, samples=2, stride=8) * weights).sum()


(by_autograd,) = torch.autograd.grad(loss_of(edges), edges)
tiny = 1e-6 * torch.eye(2, dtype=torch.float64)
by_differences = torch.stack([(loss_of(edges + t) - loss_of(edges - t)) / 2e-6 for t in tiny]).detach()
print("autograd:   ", [f"{g:.5f}" for g in by_autograd.tolist()])
print("differences:", [f"{g:.5f}" for g in by_differences.tolist()])
roi = torch.tensor([[0.0, 20, 0, 75, 8]], dtype=torch.float64, requires_grad=True)
for name, pool in [("roi_pool", ops.roi_pool), ("roi_align", align)]:
    features = signal.clone().requires_grad_(True)[None, :, None]
    loss = (pool(features, roi, (1, 5), 1 / 8)[0, :, 0] * weights).sum()
    print(f"{name} of the library:", torch.autograd.grad(loss, roi, allow_unused=True)[0])

# %% [markdown]
# Ours agrees with finite differences. Both operators of the library return nothing: they are written with a gradient for the map only and
# treat boxes as given. In Fast R-CNN boxes come from outside, and nobody asks. Faster R-CNN computes its boxes and still ignores this path
# when it trains jointly (Ren et al., [section 3.2](https://arxiv.org/abs/1506.01497)).
#
# The gradient of RoI Align jumps whenever a point crosses the middle of a cell, since $f$ has corners there. IoU-Net (Jiang et al. 2018)
# integrates $f$ over the bin instead of sampling it, and moves boxes by the gradient at test time. Is that worth anything? A small
# experiment: pool a box in one row of the photograph, then give the box away from its place and let gradient descent bring it back, by
# the squared distance of what is pooled.
#
# **Predict first.** From how far does it find back: 5 pixels, 20, or 60?

# %%
row = F.avg_pool2d(datasets.photograph("cat")[:, 96:136], (40, 8))[:, 0].double()  # (3, 56) colours of one row of the cat's face
truth = torch.tensor([125.0, 205.0], dtype=torch.float64)  # the eye
target = align1d(row, *truth, num_bins=5, samples=2, stride=8)
fig, ax = plt.subplots(figsize=(6, 3.6))
for color, moved in enumerate([(12.0, 20.0), (-30.0, -15.0), (60.0, 70.0)]):
    edges = (truth + torch.tensor(moved, dtype=torch.float64)).requires_grad_(True)
    optimizer = torch.optim.Adam([edges], lr=1.0)
    path = [edges.detach().clone()]
    for step in range(200):
        loss = (align1d(row, edges[0], edges[1], num_bins=5, samples=2, stride=8) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 1 - step / 200  # pixels
        optimizer.step()
        path.append(edges.detach().clone())
    print(f"moved by {moved}: {(path[-1] - truth).abs().max():.1f} pixels off in the end")
    lines = ax.plot(torch.stack(path), color=f"C{color}")
    lines[0].set_label(f"moved by {moved[0]:+.0f} and {moved[1]:+.0f} pixels")
for edge in truth:
    ax.axhline(edge, color="grey", linestyle="--", linewidth=1)
ax.set(title="Along its gradient a box slides home from nearby", xlabel="step", ylabel="sides of the box (pixels)", ylim=(80, 340))
ax.legend(fontsize=8, loc="upper right")
plots.show(fig, alt="Left and right sides of three boxes over 200 steps: two reach the dashed lines of the true box, the third stays away.")

# %% [markdown]
# From a few pixels up to half its width away, a box comes home exactly; from the other side of the face it stays in a hollow of its own. A
# gradient is local advice. Detectors take another way to better boxes: they *learn* to say how far a box is off, from what is pooled
# inside it. That is the head of Fast R-CNN, and we build it after a look at the variants.
#
# ### Variant card: six ways to pool a box
#
# | variant | box | bins | takes |
# | --- | --- | --- | --- |
# | `roi_pool` ([torchvision](https://docs.pytorch.org/vision/stable/generated/torchvision.ops.roi_pool.html)) | rounded, last cell kept | rounded | maximum |
# | adaptive windows: crop outwards, `adaptive_max_pool2d` | start down, end up | rounded | maximum |
# | `roi_align`, `aligned=False` ([the default](https://docs.pytorch.org/vision/stable/generated/torchvision.ops.roi_align.html)) | as it is, half a cell off | as they are | mean of points |
# | `roi_align`, `aligned=True`, `sampling_ratio` 1, 2 or −1 | as it is | as they are | mean of points |
# | `crop_and_resize` ([TensorFlow](https://www.tensorflow.org/api_docs/python/tf/image/crop_and_resize)) | as it is, corner to corner | none | one point a bin |
#
# The last one puts its first and last points *on* the sides of the box, and its image runs from the middle of the first cell to the middle of the
# last. The cell below says for each variant where its bins look, in pixels as before, at stride 16. Then it pools 300 boxes from the map of
# the cat, and takes as difference $\lVert a - b \rVert / \lVert b - \text{mean} \rVert$ with RoI Align at `sampling_ratio=-1` as $b$.
#
# **Predict first.** Sort the variants by the spread of the place, and then by the difference.


# %%
def adaptive_windows(features, rois, bins, stride):
    pooled = []
    for x1, y1, x2, y2 in rois[:, 1:].tolist():
        rows = slice(max(math.floor(y1 / stride), 0), max(math.ceil(y2 / stride), 1))
        columns = slice(max(math.floor(x1 / stride), 0), max(math.ceil(x2 / stride), 1))
        pooled.append(F.adaptive_max_pool2d(features[:, :, rows, columns], bins))
    return torch.cat(pooled)


def crop_and_resize(features, rois, bins, stride):
    along = [torch.linspace(0, 1, n, dtype=features.dtype) if n > 1 else torch.full((1,), 0.5, dtype=features.dtype) for n in bins]
    y = rois[:, 2:3] + (rois[:, 4:5] - rois[:, 2:3]) * along[0]  # (K, h) pixels
    x = rois[:, 1:2] + (rois[:, 3:4] - rois[:, 1:2]) * along[1]  # (K, w)
    height, width = features.shape[2] * stride, features.shape[3] * stride
    grid = torch.stack(torch.broadcast_tensors(2 * x[:, None] / width - 1, 2 * y[:, :, None] / height - 1), -1)  # (K, h, w, 2)
    return F.grid_sample(features.expand(len(rois), -1, -1, -1), grid, padding_mode="border", align_corners=True)


variants = {"roi_pool": lambda f, r, bins, s: ops.roi_pool(f, r, bins, 1 / s), "adaptive windows": adaptive_windows}
for aligned, sampling_ratio in [(False, 2), (True, 1), (True, 2), (True, -1)]:
    variants[f"roi_align {aligned!s:5s} {sampling_ratio:2d}"] = functools.partial(
        lambda f, r, bins, s, ratio, aligned: ops.roi_align(f, r, bins, 1 / s, ratio, aligned), ratio=sampling_ratio, aligned=aligned)  # fmt: skip
variants["crop_and_resize"] = crop_and_resize

# %%
# NBVAL_CHECK_OUTPUT
position = (torch.arange(50, dtype=torch.float64) + 0.5)[None, None, None] * 16
rois = torch.stack([nothing, x1, nothing, x1 + sides, nothing + 16], 1)
face = F.avg_pool2d(datasets.photograph("cat")[None, :, :296, :448], 8).double()  # (1, 3, 37, 56)
corners = torch.rand(300, 2, generator=generator, dtype=torch.float64) * torch.tensor([300.0, 150])
reach = 24 + 110 * torch.rand(300, 2, generator=generator, dtype=torch.float64)
boxes = torch.cat([torch.zeros(300, 1, dtype=torch.float64), corners, corners + reach], 1)
dense = variants["roi_align True  -1"](face, boxes, (6, 6), 8)
for name, pool in variants.items():
    looks_at = (pool(position, rois, (1, 6), 16) - pool(-position, rois, (1, 6), 16)).reshape(2000, 6) / 2
    error = looks_at - should
    apart = (pool(face, boxes, (6, 6), 8) - dense).norm() / (dense - dense.mean()).norm()
    place = f"{round(error.mean().item(), 1) + 0.0:5.1f} ± {error.std():4.1f} pixels"
    print(f"{name:19s} place {place}, difference on the photograph {apart:.2f}")

# %% [markdown]
# The places agree with what we found. Rounding outwards in place of keeping the last cell heals the mean but not the spread. `crop_and_resize`
# spreads its points too far, so that the outer bins look outwards. On the photograph the two maxima differ from the means by more than
# half of the contrast; that is no error, only another question to the map. Half a cell costs a quarter. One or two samples a bin matter less.
#
# ## Play with it
#
# Move a box over coins and watch both operators at once. The map has cells of 16 pixels, and each holds their mean brightness in hundredths.
# The dashed window and its blue bins belong to RoI pooling, the green points to RoI Align.
#
# **Predict first**, then try:
#
# 1. Move `left` from 36 to 44, pixel by pixel. When do the values of RoI pooling change, and by how much? Those of RoI Align?
# 2. Make the box 8 pixels wide, half a cell, with four bins across. What do the four columns return?
# 3. Make it 8 pixels high as well and push it into the lower right corner, still inside the picture. What does RoI pooling return there?

# %%
from course_lib import explore

explore.roi.show()

# %% [markdown]
# The explorer needs a running kernel. These three frames stand for it where there is none.

# %%
plots.show(explore.roi.strip(), alt="""Coins, their map of 8 by 10 cells with box, dashed window, bins and sample points, and both answers, three times.
    From pixel 36 the window is 6 cells wide, from 40 and 44 it is 5; the values of RoI pooling jump once, those of RoI Align drift.""")

# %% [markdown]
# Four pixels make the window a cell narrower and move its left side by a cell. The next four change nothing for RoI pooling, while RoI Align
# has other values in each frame.

# %% [markdown]
# ## One vector, two answers
#
# Now the detector. Fast R-CNN (Girshick 2015) runs the backbone on the image, pools each box, and sends the pooled values through fully
# connected layers, the **head**. It gives two answers about each box. The first is a score for each class, where class 0 is *background*. The
# second says where the object really is, by four numbers relative to the box $P$, with centres $(P_x, P_y)$ and sides $P_w, P_h$ and the
# same for the true box $G$:
#
# $$t = \left( \frac{G_x - P_x}{P_w},\ \ \frac{G_y - P_y}{P_h},\ \ \log \frac{G_w}{P_w},\ \ \log \frac{G_h}{P_h} \right) .$$
#
# **Predict first.** The box is (10, 10, 30, 50) and the object (14, 10, 34, 30). Which four numbers?


# %%
# NBVAL_CHECK_OUTPUT
def encode(boxes, true_boxes):
    """(..., 4) and (..., 4) pixels -> (..., 4): what leads from one to the other."""
    sides, true_sides = (b[..., 2:] - b[..., :2] for b in (boxes, true_boxes))
    centres, true_centres = ((b[..., 2:] + b[..., :2]) / 2 for b in (boxes, true_boxes))
    return torch.cat([(true_centres - centres) / sides, (true_sides / sides).log()], -1)


def decode(boxes, deltas):
    """(..., 4) pixels and what `encode` gives -> (..., 4) pixels."""
    sides, centres = boxes[..., 2:] - boxes[..., :2], (boxes[..., 2:] + boxes[..., :2]) / 2
    centres, sides = centres + deltas[..., :2] * sides, sides * deltas[..., 2:].exp()
    return torch.cat([centres - sides / 2, centres + sides / 2], -1)


box, true_box = torch.tensor([10.0, 10, 30, 50]), torch.tensor([14.0, 10, 34, 30])
deltas = encode(box, true_box)
print("deltas:", [f"{value:.3f}" for value in deltas.tolist()])
print("back:  ", decode(box, deltas).tolist())

# %% [markdown]
# The shift is 4 of 20 pixels to the right and 10 of 40 up; the width stays and the height halves, $\log \tfrac12$. Measured in sides of the
# box, a near and a far object need the same answer, and this is what a head can see after pooling.
#
# One loss trains both answers at once. For a box with true class $u$, class probabilities $p$, predicted deltas $t$ and true ones $v$ (Fast
# R-CNN, equations 1 to 3, with weight $\lambda = 1$):
#
# $$L = -\log p_u + [u \ge 1] \sum_{i=1}^{4} \operatorname{smooth}_{L_1}(t_i - v_i), \qquad
# \operatorname{smooth}_{L_1}(d) = \begin{cases} d^2 / 2 & |d| < 1 \\ |d| - \tfrac12 & \text{else.} \end{cases}$$
#
# The bracket is 1 for an object and 0 for background: a box with no object has nothing to move to. The deltas are first divided by
# their spread in the training data, so that both losses are of the same size.
#
# **Predict first.** One delta of an object is off by 5. What does it add to the loss, and with which slope? What would half the square
# do? And for a background box?

# %%
# NBVAL_CHECK_OUTPUT
def smooth_l1(d):
    return d**2 / 2 if abs(d) < 1 else abs(d) - 0.5


def loss_of_box(logits, label, deltas, true_deltas):
    """The two parts of the loss of one box; numbers in lists."""
    total = sum(math.exp(logit) for logit in logits)
    class_loss = -math.log(math.exp(logits[label]) / total)
    return class_loss, sum(smooth_l1(t - v) for t, v in zip(deltas, true_deltas)) if label >= 1 else 0.0


logits, deltas, true_deltas = [1.0, 3.0, 0.0], [5.0, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]
for label in (1, 0):
    class_loss, box_loss = loss_of_box(logits, label, deltas, true_deltas)
    print(f"class {label}: class loss {class_loss:.3f}, box loss {box_loss:.3f}")
library = F.cross_entropy(torch.tensor([logits]), torch.tensor([1])), F.smooth_l1_loss(*map(torch.tensor, (deltas, true_deltas)), reduction="sum")
print(f"library: class loss {library[0]:.3f}, box loss {library[1]:.3f}")

# %% [markdown]
# 4.5, with slope 1; half the square would add 12.5 with slope 5. A few boxes that are far off cannot take over the training, as
# they could with squares. Over a minibatch both losses are averaged over *all* boxes, background included, so that an object counts the
# same whatever comes with it.
#
# ## Images or boxes?
#
# A step of training needs a minibatch of $R$ boxes. R-CNN and SPPnet drew them from all over the training set, so nearly every box came
# from an image of its own. With a shared map that is waste. Fast R-CNN draws $N$ images first and then $R / N$ boxes of each. As long as
# the backbone takes nearly all the time, the work falls by the factor $R / N$; the paper has $R = 128$ and $N = 2$.
#
# We measure it on a detector of our own: the backbone from above, a pooling to 4 × 4 bins, and a head with one hidden layer. (Fast R-CNN
# predicts four deltas for each class. Ours has one set for all classes; you build the other in the lab.)


# %%
BINS = 4
KINDS = ("background", *scenes.KINDS)


class Detector(nn.Module):
    """Images (N, 3, H, W) and rois (R, 5), number of the image and box -> class logits (R, 6), deltas (R, 4)."""

    def __init__(self, pool, width):
        super().__init__()
        self.pool = pool
        self.backbone = make_backbone(width)
        self.hidden = nn.Linear(4 * width * BINS**2, 128)
        self.class_logits, self.box_deltas = nn.Linear(128, len(KINDS)), nn.Linear(128, 4)
        nn.init.normal_(self.class_logits.weight, std=0.01)  # Fast R-CNN, section 2.3: 0.01 for classes, 0.001 for boxes
        nn.init.normal_(self.box_deltas.weight, std=0.001)
        nn.init.zeros_(self.box_deltas.bias)

    def forward(self, images, rois):
        pooled = self.pool(self.backbone(images), rois)  # (R, 4 * width, BINS, BINS)
        hidden = F.relu(self.hidden(pooled.flatten(1)))
        return self.class_logits(hidden), self.box_deltas(hidden)


def detector_loss(logits, deltas, labels, true_deltas):
    box_losses = F.smooth_l1_loss(deltas, true_deltas, reduction="none").sum(1)  # (R,)
    return F.cross_entropy(logits, labels) + ((labels > 0) * box_losses).mean()

# %% [markdown]
# **Predict first.** $R = 64$: by which factor is a step cheaper with boxes from 2 images than with boxes from 64? We try images of 64, 128
# and 256 pixels.

# %% measure="minibatch_time" seeds=5
def minibatch_time(seed):
    """Seconds of the processor for a step (forward and backward) with 64 boxes of 64 images, over one with 64 boxes of 2 images."""
    from torchvision import ops

    torch.set_num_threads(1)
    repro.seed_all(seed)
    detector = Detector(lambda features, rois: ops.roi_align(features, rois, BINS, 1 / 8, 2, True), 16)
    labels, true_deltas = torch.randint(len(KINDS), (64,)), torch.randn(64, 4)
    found = {}
    for size in (64, 128, 256):
        images, corners = torch.rand(64, 3, size, size), torch.rand(64, 2) * (size - 24)
        boxes = torch.cat([corners, corners + 24], 1)
        seconds = {2: [], 64: []}
        for _ in range(4):
            for num_images in seconds:
                owner = torch.arange(64) // (64 // num_images)
                start = time.process_time()
                answers = detector(images[:num_images], torch.cat([owner[:, None], boxes], 1))
                detector_loss(*answers, labels, true_deltas).backward()
                seconds[num_images].append(time.process_time() - start)
        found[f"size_{size}"] = torch.tensor(seconds[64][1:]).median() / torch.tensor(seconds[2][1:]).median()
    return found


# %%
# NBVAL_CHECK_OUTPUT
records = measurements.load("12_roi_pooling", "minibatch_time")
for size in (64, 128, 256):
    ratios = torch.tensor([record[f"size_{size}"] for record in records])
    print(f"images of {size:3d} pixels: 64 images cost {ratios.mean():4.1f} ± {ratios.std():.1f} times as much as 2; counted 64 / 2 = 32")

# %% [markdown]
# The head and the pooling work for 64 boxes in either case, and the smaller the image, the more they weigh: the factor stays below the
# count. With the largest images it is above: a step with 64 of them also has to move far more memory than fits into the processor's
# caches, which counting pixels does not show.
#
# Cheap, but is it as good? The boxes of one image resemble each other, so 64 boxes of 2 images say less than 64 boxes of 64 images.
# Girshick found that this did not slow down training. That is for you to try, in open question 4.
#
# ## Does it matter how we pool?
#
# In the lab you train a network like this one on boxes with noise. The boxes of a scene's objects are known; they are moved and resized at random, as the
# proposals of a real detector would be, and the head has to name the object and to bring the box back. Four networks share
# everything but the layer that pools:
#
# - **RoI pooling**, which rounds twice and takes maxima;
# - **corners rounded**: RoI Align on boxes whose corners went to whole cells first. This is the control. It has the first rounding and
#   nothing else of RoI pooling;
# - **RoI Align**, with `aligned=False` and with `aligned=True`.
#
# Same scenes, same draws, same number of steps, five seeds; the numbers come from the solution of the lab.
#
# **Predict first.** Which of the two answers, name or box, suffers from rounding? Where does the control end up? And `aligned=False`?

# %%
runs = measurements.load("12_roi_pooling", "roi_layers")
layers = ["RoI pooling", "corners rounded", "aligned=False", "RoI Align"]


def measured(name, what):
    return torch.tensor([run[f"{name}, {what}"] for run in runs], dtype=torch.float64)  # one number a seed


fig, axes = plt.subplots(1, 2, figsize=(7.8, 3), sharey=True)
for ax, what, label in [(axes[0], "accuracy", "share of boxes named rightly"), (axes[1], "pixels", "distance of a side from the truth (pixels)")]:
    for row, name in enumerate(layers):
        values = measured(name, what)
        ax.errorbar(values.mean(), row, xerr=values.std(), fmt="o", capsize=4, color="C1" if row < 2 else "C0")
    ax.set(xlabel=label, ylim=(3.5, -0.5))
axes[1].axvline(measured("before", "pixels").mean(), color="grey", linestyle="--", label="before the head")
axes[1].legend(loc="upper left", fontsize=8)
axes[0].set_yticks(range(4), layers)
fig.suptitle("Layers that round (orange) return worse boxes; names suffer less", x=0.01, ha="left")
plots.show(fig, alt="Mean and spread of five seeds for four layers: those that round leave the sides of boxes further from the truth.")

# %%
# NBVAL_CHECK_OUTPUT
print(f"before the head: sides {measured('before', 'pixels').mean():.2f} pixels off")
for name in layers:
    accuracy, pixels = measured(name, "accuracy"), measured(name, "pixels")
    print(f"{name:16s} named rightly {accuracy.mean():.3f} ± {accuracy.std():.3f}; sides {pixels.mean():.2f} ± {pixels.std():.2f} pixels off")
for name in layers[:3]:
    gap = measured(name, "pixels") - measured("RoI Align", "pixels")
    print(f"{name:16s} minus RoI Align, seed by seed: {gap.mean():+.2f} ± {gap.std():.2f} pixels")

# %% [markdown]
# The **box** suffers. With RoI Align the head takes away about a third of the error, with either layer that rounds about a fifth. The control
# ends where RoI pooling does, so the rounding of the corners is to blame, and neither the maximum nor the borders of the bins. Of the
# **names** rounding costs 2 to 3 in a hundred: an object is the same half a cell further on.
#
# The surprise is `aligned=False`. It reads half a cell too far right and down *everywhere*, which is as far as rounding can move a corner, and it does
# almost no harm. A shift that is the same for all boxes can be learned by the layers around it. A shift that changes from box to
# box, by an amount that the head does not see, cannot.
#
# **Limits.** The objects of these scenes are a few cells wide. The more cells a box covers, the less half a cell matters, and with large
# objects the two operators come close. The control is one of training in five seeds on one world; on photographs we did not measure it.
#
# ## What to take along
#
# A detector computes its feature map once and lets every box take its part of it; sharing pays from some tens of boxes on, and in training it pays to
# take many boxes of few images. RoI pooling makes a fixed number of values of any box by rounding twice and taking maxima. The rounding
# moves what a bin sees by up to half a cell, differently for every box, which a name forgives and a place does not. RoI Align
# reads between the cells instead and moves with its box, and it could even tell the box where to go.
#
# **Now the lab:** [roi_pooling.ipynb](../labs/12_roi_pooling/roi_pooling.ipynb). There you build both operators for batches, boxes and bins
# of any kind, and train the head.
#
# **Open questions**
#
# 1. *Predict, then count:* at stride 16, how many different windows can a box of 100 × 80 pixels get as it slides over the image?
# 2. *Show* that RoI Align with one sample a bin on a map that is linear in $x$ and $y$ returns the value at the bin's centre.
# 3. *Change and explain:* double the stride of the backbone. What happens to the factor between one pass a box and shared features?
# 4. *Change and explain:* in the lab, draw 64 boxes of 2, of 8 and of 64 images a step. Compare after equal numbers of steps, and after
#    equal time. What would you have to measure before you believe the answer?
