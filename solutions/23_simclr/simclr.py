# %% [markdown]
# # Lab 23: SimCLR
#
# A network can learn what images have in common without a single label: show it two altered copies of each image, and let it find out which
# two belong together. Here you build all of it: **two random crops**, **random colours**, **the contrastive loss** and its
# variant without false negatives, **two measures** of what the loss does to the embeddings, the **head** that is thrown away, **two probes**
# that judge the features, and **the training loop**. Then you measure, on digits and on rendered scenes, what such training gives and what
# it does not.
#
# **You need** the [lecture](../../lectures/23_simclr.ipynb). **Time:** about 120 minutes for the exercises, and some for the trainings. **Points:** 29, of them 2 for a written
# answer that is graded by hand.
#
# **How feedback works.** Write your code in the cell that says `YOUR CODE HERE`, run it, then run the check cell below it. The check shows
# what it tried, what it expected and what came back, and it knows the common mistakes by name. Hints are folded under each statement:
# open one when you are stuck, not before. Grading runs the same checks on other random inputs of the same kind.

# %% tags=["setup"]
import functools
import math
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import _dynamo  # the first optimizer of a session imports it, which takes seconds: better here than within a check

from course_lib import measurements, plots
from course_lib import datasets, scenes
from course_lib import metrics, repro, training
from course_lib.checks import Lab, expect_close, expect_equal, expect_raises, expect_true, gradients, normal

lab = Lab("23_simclr")

CROP_SCALE = (0.3, 1.0)  # the smallest and the largest share of an image that a view shows
JITTER_STRENGTH = 0.5  # of the colours of a view, 0 to 1


def make_encoder(in_channels: int, widths: Sequence[int] = (16, 32, 64, 64), strides: Sequence[int] = (2, 2, 2, 1), seed: int = 0) -> nn.Module:
    """A small convolutional network: (N, in_channels, H, W) -> (N, widths[-1]) features, with random weights from a seed.

    Each width is one layer: convolution 3 x 3, batch normalisation, ReLU. The mean over all positions of the last map is the answer.
    """
    layers = []
    with torch.random.fork_rng():  # the weights come from the seed and leave the global random state as it is
        torch.manual_seed(seed)
        for channels, width, stride in zip((in_channels, *widths), widths, strides):
            layers += [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class WatchedEncoder(nn.Sequential):
    """The layers of `make_encoder`, and a list of the batches they were given, for the checks of `pretrain`."""

    def forward(self, images):
        self.seen.append(images.detach().clone())
        return super().forward(images.double())


def watched_encoder(seed):
    """A tiny encoder of float64 numbers, 3 channels -> 6 features, that a check hands to `pretrain`. It comes in evaluation mode."""
    encoder = WatchedEncoder(*make_encoder(3, (4, 6), (1, 2), seed)).double().eval()
    encoder.seen = []
    return encoder


def plain_head(seed):
    """A tiny head of float64 numbers, 6 features -> 4 dimensions, that a check hands to `pretrain`. It comes in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4)).double().eval()


def stand_in_crop(images, size, scale, generator):
    """What a check puts in the place of your `random_resized_crop` where it judges `two_views`: no crop, but random and of the right size."""
    height, width = (size, size) if isinstance(size, int) else size
    shift = int(torch.randint(0, 5, (1,), generator=generator))
    return scale[0] * images.roll(shift, 3)[:, :, :height, :width]


def stand_in_jitter(images, strength, generator):
    """What a check puts in the place of your `color_jitter` where it judges `two_views`: random, but nothing else."""
    return images + strength * torch.rand(len(images), 1, 1, 1, generator=generator, dtype=images.dtype)


def stand_in_views(images, generator):
    """What a check puts in the place of your `two_views` where it judges `pretrain`: each view has a brightness of its own."""
    factors = 0.6 + 0.8 * torch.rand(2, len(images), 1, 1, 1, generator=generator, dtype=images.dtype)
    return images * factors[0], images * factors[1]


def stand_in_loss(z1, z2, temperature):
    """What a check puts in the place of your `nt_xent` where it judges `pretrain`: no contrast, but partners near, and every dimension in use."""
    spread = torch.cat([z1, z2]).var(0, correction=0)  # (D,)
    return F.mse_loss(z1, z2) / temperature + (1 - (spread + 1e-4).sqrt()).square().sum()


# %% [markdown]
# Images are `(N, C, H, W)` with values from 0 to 1. All that happens by chance takes its random numbers from a `torch.Generator` that is
# handed in (`torch.rand(…, generator=generator)`), so that the same generator gives the same views again. Such a function must not touch
# the global random state. Two constants say how strong the views are altered: `CROP_SCALE` and `JITTER_STRENGTH`. The network is given:
# `make_encoder`. The sizes in the next cell are those of the networks that you train at the end. With `COURSE_PROFILE=full` and a GPU, generator and
# images need not be on one device: draw on `generator.device`, then move the numbers to `images.device`, and make all else there.

# %%
full = repro.profile() == "full"  # COURSE_PROFILE=full: larger, on a GPU
device = repro.pick_device() if full else torch.device("cpu")
WIDTHS = (64, 128, 256) if full else (8, 16, 32)  # channels of the encoder's layers
STRIDES = {"digits": (1, 1, 2), "scenes": (2, 1, 2)}  # of the encoder's layers
DIMENSIONS = 128 if full else 32  # of the embeddings
NUM_STEPS, BATCH_SIZE, LR = (5000, 512, 2e-3) if full else (200, 128, 4e-3)
TEMPERATURE = 0.2
NUM_SCENES, SCENE_PIXELS = (20_000, 32) if full else (1000, 16)

# %% [markdown]
# ## Exercise 1: cut a random box out of each image (3 points, 15 minutes)
#
# Complete `random_resized_crop`. Each image gets a random box **of its own**, and what is in the box is enlarged or reduced to
# `size` $= (h', w')$, an int (for a square) or a pair. For an image of $H \times W$ pixels:
#
# - The box has the share $a$ of the image's area, drawn evenly between the two numbers of `scale`.
# - Its shape differs from the image's own by a factor $r$: width $W \sqrt{a r}$ and height $H \sqrt{a / r}$, where $\log r$ is drawn evenly
#   between $-\ell$ and $\ell$, and $\ell = \min(\log \tfrac43, -\log a)$. So the box always fits, and it is the whole image when $a = 1$.
# - Its left edge is drawn evenly among all places where the box lies in the image, and so is its upper edge. Neither needs to be a whole number.
# - The box is divided into $h' \times w'$ equal cells. Each output pixel is the image **at the centre of its cell**, interpolated bilinearly.
#   The centre of pixel $(i, j)$ lies at $(i + \tfrac12, j + \tfrac12)$ of the image, whose upper left corner is $(0, 0)$. Beyond the centres of the outermost
#   pixels their values go on unchanged.
#
# All channels of an image share one box. The result has the type of `images`. Raise `ValueError` when a size is under 1, and when `scale`
# is not $0 < \text{low} \le \text{high} \le 1$. You may use whatever PyTorch offers; no loop over the images is needed.
#
# <details><summary>Hint 1</summary>
#
# Four numbers describe a box. Draw them for all images at once: `torch.rand(4, N, generator=generator, dtype=images.dtype)`. The checks try
# float64 images as well. Compute width and height as fractions of the image first, then the free room on each axis.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `F.affine_grid` and `F.grid_sample` do the rest. In their coordinates the image reaches from $-1$ to $1$ with
# `align_corners=False`: a box whose centre is at the fraction $m$ and whose width is the fraction $w$ is the map $u \mapsto w u + (2 m - 1)$.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# The matrix of image n is $\begin{pmatrix} w & 0 & 2 x_0 + w - 1 \\ 0 & h & 2 y_0 + h - 1 \end{pmatrix}$, with the left edge $x_0$ and the upper edge $y_0$ as fractions.
# `padding_mode="border"` lets the border's values go on.
#
# </details>

# %% exercise="random_resized_crop"
def random_resized_crop(images: Tensor, size: int | tuple[int, int], scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Cut a random box out of each image and resample it to one size.

    Args:
        images: (N, C, H, W), floating point.
        size: int or pair (rows, columns), pixels of the result, at least 1.
        scale: (low, high), the share of the image's area that a box has, 0 < low <= high <= 1.
        generator: of all random numbers; its state moves on.

    Returns:
        (N, C, rows, columns), the type of images.

    Raises:
        ValueError: a size is under 1, or scale is out of its range.

    Source: Szegedy et al., "Going deeper with convolutions", CVPR 2015, section 6 (the crop), as in Chen et al., "A simple framework
        for contrastive learning of visual representations", ICML 2020, appendix A. There, boxes that do not fit are drawn again.
    Reference: torchvision.transforms.RandomResizedCrop, whose boxes are made of whole pixels and whose ratio is that of the sides.
    """
    ### BEGIN SOLUTION
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if min(rows, columns) < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    if not 0 < low <= high <= 1:
        raise ValueError(f"scale must be 0 < low <= high <= 1, got {scale}")
    chance = torch.rand(4, len(images), generator=generator, device=generator.device).to(images)
    area = low + (high - low) * chance[0]  # (N,)
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))  # of log r: a wider box would not fit
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()  # fractions of the image
    left, top = (1 - w) * chance[2], (1 - h) * chance[3]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)  # (N, rows, columns, 2)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    ### END SOLUTION

# %% check="random_resized_crop" points=3
def seeded(seed):
    return torch.Generator().manual_seed(int(seed))


def positions(N, H, W, dtype):
    """Images of two channels that say where they are: column and row of each pixel's centre, as fractions of the image."""
    rows, columns = (torch.arange(H, dtype=dtype) + 0.5) / H, (torch.arange(W, dtype=dtype) + 0.5) / W
    return torch.stack([columns.expand(H, W), rows[:, None].expand(H, W)]).repeat(N, 1, 1, 1)


def edge_and_length(line):
    """Where a box begins and how long it is, (N,) each, from positions (N, n) along one axis: read off between the quarters."""
    n, line = line.shape[1], line.double()
    first, last = n // 4, n - 1 - n // 4
    length = (line[:, last] - line[:, first]) / (last - first) * n
    return line[:, first] - (first + 0.5) / n * length, length


def boxes_of(crops):
    """Left edge, upper edge, width, height as fractions, from cut out `positions`."""
    left, width = edge_and_length(crops[:, 0].double().mean(1))
    top, height = edge_and_length(crops[:, 1].double().mean(2))
    return left, top, width, height


def hats(start, length, cells, n):
    """(N, cells, n) weights of the n pixels of an axis in each cell of a box: bilinear interpolation as a matrix."""
    places = start[:, None] + length[:, None] * (torch.arange(cells) + 0.5) / cells  # (N, cells) fractions
    places = (places * n - 0.5).clamp(0, n - 1)  # in pixels, the first centre is 0
    return (1 - (places[..., None] - torch.arange(n)).abs()).clamp(min=0)


def expect_even(values, low, high, case, what):
    """Values spread evenly between two bounds: none outside, and mean and distribution differ from the even one by no more than chance explains (but for 1 case in 10^8)."""
    share = ((values - low) / (high - low)).sort().values
    expect_true(share.min() > -1e-3 and share.max() < 1.001, case, f"{what} should be from {low:.3g} to {high:.3g}, got {values.min():.3g} to {values.max():.3g}.")
    n = len(share)
    gap = (share - (torch.arange(n) + 0.5) / n).abs().max().item()
    where = f"their mean is {values.mean():.3f}, half of them are under {values.median():.3f}"
    shift = abs(share.mean().item() - 0.5) * math.sqrt(12)  # in standard deviations of one draw
    expect_true(max(gap / 3.1, shift / 5.7) < 1 / math.sqrt(n), case, f"{what} should be spread evenly from {low:.3g} to {high:.3g} over many images; {where}.")


def expect_unrelated(named, case):
    """No two of the quantities, each (N,), go together."""
    names = list(named)
    related = torch.corrcoef(torch.stack([named[name].double() for name in names])).fill_diagonal_(0).abs()
    i, j = divmod(int(related.argmax()), len(names))
    message = f"{names[i]} and {names[j]} go together over many images (correlation {related[i, j]:.2f}). Draw each on its own."
    expect_true(related[i, j] < 6 / math.sqrt(len(named[names[0]])), case, message)


@lab.check("random_resized_crop", points=1)
def whole_images(random_resized_crop, rng):
    """The box is the whole image: the same image again, enlarged and reduced by hand; sizes and shares that do not exist."""
    images = torch.from_numpy(rng.random((2, 3, 5, 7)))
    expect_close(random_resized_crop(images, (5, 7), (1.0, 1.0), seeded(1)), images, "scale (1, 1), the size of the image, float64")
    swapped = images.float().transpose(2, 3)
    expect_close(random_resized_crop(swapped, (7, 5), (1.0, 1.0), seeded(2)), swapped.contiguous(), "rows and columns swapped by a transpose")
    row = torch.tensor([[[[0.0, 1]]]])
    expect_close(random_resized_crop(row, (2, 4), (1.0, 1.0), seeded(3)), torch.tensor([[[[0, 0.25, 0.75, 1]] * 2]]), "a row 0 1, size (2, 4)")
    image = torch.tensor([[[[0.0, 0.2, 0.4, 0.6], [0.2, 0.4, 0.6, 0.8]]]])
    halved = torch.tensor([[[[0.1, 0.5], [0.3, 0.7]]]])
    expect_close(random_resized_crop(image, 2, (1.0, 1.0), seeded(4)), halved, "a ramp of 2 x 4 pixels, size 2: cells of 1 x 2 pixels")
    expect_close(random_resized_crop(image, 1, (1.0, 1.0), seeded(4)), torch.tensor([[[[0.4]]]]), "the same ramp, size 1: between the four pixels in the middle")
    expect_raises(ValueError, lambda: random_resized_crop(images, 0, (0.5, 1.0), seeded(5)), "size 0")
    expect_raises(ValueError, lambda: random_resized_crop(images, (0, 2), (0.5, 1.0), seeded(5)), "size (0, 2)")
    expect_raises(ValueError, lambda: random_resized_crop(images, (2, 0), (0.5, 1.0), seeded(5)), "size (2, 0)")
    expect_raises(ValueError, lambda: random_resized_crop(images, 2, (0.0, 1.0), seeded(5)), "scale (0, 1)")
    expect_raises(ValueError, lambda: random_resized_crop(images, 2, (0.5, 1.1), seeded(5)), "scale (0.5, 1.1)")
    expect_raises(ValueError, lambda: random_resized_crop(images, 2, (0.8, 0.4), seeded(5)), "scale (0.8, 0.4)")


@lab.check("random_resized_crop", points=1)
def pixels_of_the_box(random_resized_crop, rng):
    """Every output pixel is the image at the centre of its cell. Two more channels, which say where each pixel is, tell us the box."""
    for size, dtype in [((5, 7), torch.float64), ((31, 40), torch.float64), (6, torch.float32)]:
        photographs = torch.from_numpy(rng.random((4, 2, 24, 17))).to(dtype)
        images = torch.cat([positions(4, 24, 17, dtype), photographs], 1)
        crops = random_resized_crop(images, size, (0.3, 0.9), seeded(rng.integers(2**31)))
        height, width = (size, size) if isinstance(size, int) else size
        case = f"images of 24 x 17, size {size}, scale (0.3, 0.9), {str(dtype)[6:]}"
        expect_equal(tuple(crops.shape), (4, 4, height, width), f"{case}: the shape")
        left, top, w, h = boxes_of(crops[:, :2])
        inside = torch.stack([left, top, 1 - left - w, 1 - top - h])
        expect_true(inside.min() > -1e-4, case, f"A box reaches over the image's edge by {-inside.min():.3f} of the image.")
        rows, columns = hats(top, h, height, 24), hats(left, w, width, 17)
        expected = torch.einsum("nhi,ncij,nwj->nchw", rows, images.double(), columns).to(dtype)
        tolerance = 1e-9 if dtype == torch.float64 else 2e-4
        expect_close(crops[:, :2], expected[:, :2], f"{case}: images whose pixels say where they are", rtol=tolerance, atol=tolerance)
        expect_close(crops, expected, f"{case}: the other channels too", rtol=tolerance, atol=tolerance)


@lab.check("random_resized_crop", points=1)
def boxes_by_chance(random_resized_crop, rng):
    """Thousands of boxes: area, shape and place spread as the statement says, each image on its own; the generator decides."""
    few, generator = positions(5, 6, 9, torch.float32), seeded(8)
    first = random_resized_crop(few, 3, (0.2, 0.7), generator)
    second = random_resized_crop(few, 3, (0.2, 0.7), generator)
    expect_true((first - second).abs().max() > 1e-3, "two calls with one generator", "Both gave the same boxes: draw from the generator that is handed in.")
    expect_close(random_resized_crop(few, 3, (0.2, 0.7), seeded(8)), first, "another generator with the seed of the first call")
    for N, low, high in [(4000, 0.2, 0.7), (1000, 0.6, 1.0)]:
        images = positions(N, 6, 9, torch.float32)
        case = f"{N} images of 6 x 9, scale ({low}, {high})"
        crops = random_resized_crop(images, (4, 5), (low, high), seeded(rng.integers(2**31)))
        left, top, w, h = boxes_of(crops)
        area, ratio = w * h, w / h
        expect_true((area - area[0]).abs().max() > 1e-3, case, "All images get the same box. Each needs one of its own.")
        expect_even(area, low, high, case, "The boxes' share of the area")
        widest = torch.minimum(-area.log(), torch.tensor(math.log(4 / 3)))
        kept = widest > 0.05  # where the box is almost the image, rounding is as large as what is left of the rest
        share, x, y = (ratio.log() / widest)[kept], (left / (1 - w))[kept], (top / (1 - h))[kept]
        expect_even(share, -1, 1, case, "log r, divided by its bound,")
        free = (1 - w[kept] > 0.02) & (1 - h[kept] > 0.02)
        expect_even(x[free], 0, 1, case, "The left edge, as a share of the free room,")
        expect_even(y[free], 0, 1, case, "The upper edge, as a share of the free room,")
        expect_unrelated({"area": area[kept][free], "shape": share[free], "left edge": x[free], "upper edge": y[free]}, case)

# %% mistake="random_resized_crop" hint="All images get the same box. Draw as many numbers as there are images."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, 1, generator=generator).expand(4, len(images)).to(images)
    area = low + (high - low) * chance[0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) * chance[2], (1 - h) * chance[3]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

# %% mistake="random_resized_crop" hint="You drew the side of the box evenly, not its area: `scale` bounds the share of the area, so the sides are its square root."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), generator=generator, dtype=images.dtype)
    area = (low + (high - low) * chance[0]) ** 2
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) * chance[2], (1 - h) * chance[3]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

# %% mistake="random_resized_crop" hint="Your boxes have the area asked for, but always the image's own shape. The factor r is missing."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), generator=generator, dtype=images.dtype)
    area = low + (high - low) * chance[0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.ones_like(area)
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) * chance[2], (1 - h) * chance[3]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

# %% mistake="random_resized_crop" hint="You drew r itself evenly. Draw its logarithm: then a box twice as wide is as likely as one twice as high."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), generator=generator, dtype=images.dtype)
    area = low + (high - low) * chance[0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp(-widest) + (torch.exp(widest) - torch.exp(-widest)) * chance[1]
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) * chance[2], (1 - h) * chance[3]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

# %% mistake="random_resized_crop" hint="The bound -log(a) is missing: a box of a large area and another shape reaches over the edge of the image."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), generator=generator, dtype=images.dtype)
    area = low + (high - low) * chance[0]
    widest = torch.full_like(area, math.log(4 / 3))
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) * chance[2], (1 - h) * chance[3]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

# %% mistake="random_resized_crop" hint="Your boxes stand in the middle of the image. Draw the left and the upper edge as well."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), generator=generator, dtype=images.dtype)
    area = low + (high - low) * chance[0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) / 2, (1 - h) / 2
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

# %% mistake="random_resized_crop" hint="You drew the box's centre among all places of the image, so that it reaches over the edge. Draw the edge among the places where the box fits."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), generator=generator, dtype=images.dtype)
    area = low + (high - low) * chance[0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = chance[2] - w / 2, chance[3] - h / 2
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

# %% mistake="random_resized_crop" hint="One random number decides about both edges: your boxes lie along the diagonal."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), generator=generator, dtype=images.dtype)
    area = low + (high - low) * chance[0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) * chance[2], (1 - h) * chance[2]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

# %% mistake="random_resized_crop" hint="You rounded the edges to whole pixels. A box may begin and end anywhere."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), generator=generator, dtype=images.dtype)
    area = low + (high - low) * chance[0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) * chance[2], (1 - h) * chance[3]
    left, top = (left * images.shape[3]).floor() / images.shape[3], (top * images.shape[2]).floor() / images.shape[2]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

# %% mistake="random_resized_crop" hint="With `align_corners=True` the outermost samples lie on the box's edge. Here they are the centres of the outermost cells."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), generator=generator, dtype=images.dtype)
    area = low + (high - low) * chance[0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) * chance[2], (1 - h) * chance[3]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=True)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=True)

# %% mistake="random_resized_crop" hint="You filled beyond the outermost pixel centres with 0. Their values go on: see the padding mode of grid_sample."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), generator=generator, dtype=images.dtype)
    area = low + (high - low) * chance[0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) * chance[2], (1 - h) * chance[3]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)

# %% mistake="random_resized_crop" hint="You took the nearest pixel. Interpolate bilinearly."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), generator=generator, dtype=images.dtype)
    area = low + (high - low) * chance[0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) * chance[2], (1 - h) * chance[3]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images, grid, mode="nearest", padding_mode="border", align_corners=False)

# %% mistake="random_resized_crop" hint="Rows and columns of `size` are exchanged: it is (rows, columns)."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size[::-1]
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), generator=generator, dtype=images.dtype)
    area = low + (high - low) * chance[0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) * chance[2], (1 - h) * chance[3]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

# %% mistake="random_resized_crop" hint="`grid_sample` wants the map's shift for the centre of the box, from -1 to 1. You gave it the upper left corner."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), generator=generator, dtype=images.dtype)
    area = low + (high - low) * chance[0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) * chance[2], (1 - h) * chance[3]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left - 1, zero, h, 2 * top - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

# %% mistake="random_resized_crop" hint="The random numbers do not come from `generator`: hand it to every function that draws."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), dtype=images.dtype)
    area = low + (high - low) * chance[0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) * chance[2], (1 - h) * chance[3]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

# %% mistake="random_resized_crop" hint="You made a generator of your own, with a fixed seed: every call gives the same boxes. Draw from the one handed in."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), generator=torch.Generator().manual_seed(0), dtype=images.dtype)
    area = low + (high - low) * chance[0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) * chance[2], (1 - h) * chance[3]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

# %% mistake="random_resized_crop" hint="Illegal sizes and scales pass. Check both arguments before you draw."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    low, high, rows, columns = max(low, 0.01), min(high, 1.0), max(rows, 1), max(columns, 1)
    chance = torch.rand(4, len(images), generator=generator, dtype=images.dtype)
    area = low + (high - low) * chance[0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) * chance[2], (1 - h) * chance[3]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

# %% mistake="random_resized_crop" hint="Your result is float32 whatever comes in. It should have the type of `images`."
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    low, high = scale
    if rows < 1 or columns < 1 or not 0 < low <= high <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), generator=generator)
    area = low + (high - low) * chance[0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp(widest * (2 * chance[1] - 1))
    w, h = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = (1 - w) * chance[2], (1 - h) * chance[3]
    zero = torch.zeros_like(w)
    boxes = torch.stack([w, zero, 2 * left + w - 1, zero, h, 2 * top + h - 1], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(boxes, [*images.shape[:2], rows, columns], align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)

# %% alternative="random_resized_crop"
def random_resized_crop(images, size, scale, generator):
    rows, columns = (size, size) if isinstance(size, int) else size
    if min(rows, columns) < 1:
        raise ValueError(f"no pixels: {size=}")
    if not (0 < scale[0] <= scale[1] <= 1):
        raise ValueError(f"no shares of an area: {scale=}")
    N, _, H, W = images.shape
    height = torch.arange(rows, dtype=torch.float64)
    width = torch.arange(columns, dtype=torch.float64)
    crops = []
    for image in images:  # one box after the other, and two passes of interpolation: along the rows, along the columns
        a, r, x, y = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        a = scale[0] + (scale[1] - scale[0]) * a
        bound = min(math.log(4 / 3), -math.log(a))
        r = math.exp(bound * (2 * r - 1))
        w, h = W * math.sqrt(a * r), H * math.sqrt(a / r)
        px = ((W - w) * x + w * (width + 0.5) / columns - 0.5).clamp(0, W - 1)
        py = ((H - h) * y + h * (height + 0.5) / rows - 0.5).clamp(0, H - 1)
        j, i = px.floor().long(), py.floor().long()
        fx, fy = (px - j).to(images), (py - i)[:, None].to(images)
        wide = image[:, :, j] * (1 - fx) + image[:, :, (j + 1).clamp(max=W - 1)] * fx
        crops.append(wide[:, i] * (1 - fy) + wide[:, (i + 1).clamp(max=H - 1)] * fy)
    return torch.stack(crops)

# %% [markdown]
# One scene, the first picture, and eight boxes of it. Which of them would you still recognise as the same picture, and by what: by the object, or by the floor? Keep your
# answer in mind: the network finds it just as convenient.

# %%
if lab.ready("random_resized_crop"):
    world = scenes.sample([4], seed=5, num_objects=(1, 1))
    scene = scenes.render(replace(world, eye=world.target + 0.5 * (world.eye - world.target)), 128).images  # (1, 3, 128, 128), the camera nearer
    boxes = random_resized_crop(scene.expand(8, -1, -1, -1), 64, CROP_SCALE, torch.Generator().manual_seed(2))
    plots.show(plots.image_row([scene[0], *boxes], height=1.4), alt="A rendered scene, and eight boxes cut out of it: different parts at different sizes.")

# %% [markdown]
# ## Exercise 2: change the colours of each image (3 points, 15 minutes)
#
# Complete `color_jitter`. Two crops of one photograph have nearly the same colours, so a network can tell which two belong together by
# their colour histograms alone, and learns nothing else. Random colours take this way out.
#
# Let $\sigma$ be the `strength`. For **each image** draw, evenly and each on its own, the factors $b$ (brightness), $c$ (contrast), $s$
# (saturation) from $1 - 0.8 \sigma$ to $1 + 0.8 \sigma$, and an angle $\theta$ (hue) from $-0.4 \pi \sigma$ to $0.4 \pi \sigma$. The grey
# value $g$ of a pixel is the mean of its channels, the rest $x - g$ is its colour, and $m$ is the mean of $g$ over the image. The new pixel is
#
# $$x' = b \left( m + c \left( g - m + s\, R_\theta (x - g) \right) \right), \qquad R_\theta v = \cos\theta \; v + \frac{\sin\theta}{\sqrt 3}
# \begin{pmatrix} v_\text{blue} - v_\text{green} \\ v_\text{red} - v_\text{blue} \\ v_\text{green} - v_\text{red} \end{pmatrix},$$
#
# where $R_\theta$ turns colours around the grey axis. Values that leave the range 0 to 1 are cut off, **once, at the end**.
#
# Images have three channels (red, green, blue), or one: then $x = g$, and saturation and hue change nothing. Raise `ValueError` for
# another number of channels, and when `strength` is not from 0 to 1. The result has the type of `images`.
#
# <details><summary>Hint 1</summary>
#
# Draw four numbers from $-1$ to $1$ for each image, in a shape that broadcasts: `(4, N, 1, 1, 1)`. `keepdim=True` keeps the shapes of the means.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `v.roll(1, 1)` has the channels (blue, red, green), `v.roll(-1, 1)` has (green, blue, red).
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# With one channel the colour is zero, and so is its roll: the same lines work for both.
#
# </details>

# %% exercise="color_jitter"
def color_jitter(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image at random.

    Args:
        images: (N, C, H, W), floating point, 0 to 1; C is 1 or 3.
        strength: 0 (nothing changes) to 1.
        generator: of all random numbers; its state moves on.

    Returns:
        (N, C, H, W), the type of images, 0 to 1.

    Raises:
        ValueError: neither one nor three channels, or strength is out of its range.

    Source: Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020, appendix A (the ranges of
        brightness, contrast, saturation and hue; there, the jitter is left out for 1 image of 5, and another 1 of 5 becomes grey).
    Reference: torchvision.transforms.ColorJitter, whose grey is a weighted mean, whose hue is that of HSV, and which cuts off in between.
    """
    ### BEGIN SOLUTION
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got {images.shape[1]}")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be from 0 to 1, got {strength}")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, device=generator.device).to(images) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]  # (N, 1, 1, 1) each
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)  # (N, 1, H, W)
    mean = grey.mean((2, 3), keepdim=True)  # (N, 1, 1, 1)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)
    ### END SOLUTION

# %% check="color_jitter" points=3
def seeded(seed):
    return torch.Generator().manual_seed(int(seed))


def factors_of(before, after):
    """Brightness, contrast, saturation, angle of each image, (N, 4), from a jitter that cut nothing off: a fit of 12 numbers an image."""
    x, y = before.double().flatten(2).mT, after.double().flatten(2).mT  # (N, P, 3)
    fitted = torch.linalg.lstsq(torch.cat([x, torch.ones_like(x[..., :1])], -1), y).solution.mT  # (N, 3, 4)
    matrix, shift = fitted[..., :3], fitted[..., 3].mean(1)
    both = matrix.sum((1, 2)) / 3  # brightness times contrast: what a grey pixel is multiplied with
    brightness = shift / x.mean((1, 2)) + both
    along = (matrix.diagonal(dim1=1, dim2=2).sum(1) / both - 1) / 2  # saturation times cosine
    across = (matrix[:, [0, 1, 2], [2, 0, 1]] - matrix[:, [0, 1, 2], [1, 2, 0]]).mean(1) * math.sqrt(3) / 2 / both
    return torch.stack([brightness, both / brightness, torch.hypot(along, across), torch.atan2(across, along)], 1)


def jittered(images, factors):
    """What images become by known factors, with one matrix a pixel and image."""
    brightness, contrast, saturation, angle = factors.double().unbind(1)
    grey = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64) / math.sqrt(3)
    color = angle.cos()[:, None, None] * (torch.eye(3) - grey) + angle.sin()[:, None, None] * cross
    matrix = (brightness * contrast)[:, None, None] * (grey + saturation[:, None, None] * color)
    shift = brightness * (1 - contrast) * images.double().mean((1, 2, 3))
    return (torch.einsum("nij,njhw->nihw", matrix, images.double()) + shift[:, None, None, None]).clamp(0, 1)


def pale(rng, N, C, H, W):
    """Images so dim and even that no jitter cuts anything off."""
    return 0.3 + 0.05 * torch.from_numpy(rng.random((N, C, H, W)))


def expect_even(values, low, high, case, what):
    """Values spread evenly between two bounds: none outside, and the largest gap to the even distribution is not chance (1 in 10^8)."""
    share = ((values - low) / (high - low)).sort().values
    expect_true(share.min() > -1e-3 and share.max() < 1.001, case, f"{what} should be from {low:.3f} to {high:.3f}, got {values.min():.3f} to {values.max():.3f}.")
    n = len(share)
    gap = (share - (torch.arange(n) + 0.5) / n).abs().max().item()
    where = f"their mean is {values.mean():.3f}, half of them are under {values.median():.3f}"
    expect_true(gap < 3.1 / math.sqrt(n), case, f"{what} should be spread evenly from {low:.3f} to {high:.3f} over many images; {where}.")


@lab.check("color_jitter", points=1)
def known_pictures(color_jitter, rng):
    """Strength 0 changes nothing; grey stays grey; results stay in the range and keep their type; illegal arguments are refused."""
    images = torch.from_numpy(rng.random((3, 3, 4, 5)))
    expect_close(color_jitter(images, 0.0, seeded(1)), images, "strength 0, float64")
    swapped = images.float().transpose(2, 3)
    expect_close(color_jitter(swapped, 0.0, seeded(1)), swapped.contiguous(), "strength 0, rows and columns swapped by a transpose")
    single = torch.from_numpy(rng.random((2, 1, 4, 5)))
    expect_close(color_jitter(single, 0.0, seeded(2)), single, "strength 0, one channel")
    strong = color_jitter(images.repeat(40, 1, 1, 1), 1.0, seeded(3))
    expect_equal(tuple(strong.shape), (120, 3, 4, 5), "strength 1: the shape")
    expect_true(strong.min() >= 0 and strong.max() <= 1, "strength 1", f"Values from {strong.min():.3f} to {strong.max():.3f} came back: cut off what leaves 0 to 1.")
    grey = color_jitter(single.expand(-1, 3, -1, -1), 0.7, seeded(4))
    expect_close(grey, grey.mean(1, keepdim=True).expand(-1, 3, -1, -1), "a grey image of three channels stays grey")
    flat = color_jitter(torch.full((50, 1, 2, 3), 0.4, dtype=torch.float64), 0.5, seeded(5))
    expect_close(flat, flat.mean((1, 2, 3), keepdim=True).expand_as(flat), "an even image of one channel stays even")
    expect_true(flat.min() > 0.239 and flat.max() < 0.561, "an even image of 0.4, strength 0.5", "Contrast must not change an even image, and brightness multiplies it by 0.6 to 1.4.")
    for channels in (2, 4):
        expect_raises(ValueError, lambda: color_jitter(torch.zeros(2, channels, 3, 3), 0.5, seeded(6)), f"{channels} channels")
    for strength in (-0.1, 1.1):
        expect_raises(ValueError, lambda: color_jitter(images, strength, seeded(6)), f"strength {strength}")


@lab.check("color_jitter", points=1)
def the_formula(color_jitter, rng):
    """Brightness, contrast, saturation and angle, read off pale images, explain every pixel of other images with the same generator."""
    for strength, N in [(0.4, 6), (1.0, 20)]:
        seed, dim = rng.integers(2**31), pale(rng, N, 3, 4, 5)
        case = f"{N} images of 3 x 4 x 5, strength {strength}"
        bright = torch.from_numpy(rng.random((N, 3, 4, 5)))
        full = color_jitter(bright, strength, seeded(seed))
        out = color_jitter(dim, strength, seeded(seed))
        factors = factors_of(dim, out)
        expect_close(out, jittered(dim, factors), f"{case}, pale: the formula, with the factors that fit best", rtol=1e-7, atol=1e-7)
        expect_close(full, jittered(bright, factors), f"{case}, from 0 to 1, cut off at the end", rtol=1e-6, atol=1e-6)
    dim = pale(rng, 6, 1, 4, 5)
    out = color_jitter(dim, 0.8, seeded(rng.integers(2**31)))
    slope = (out - out.mean((2, 3), keepdim=True)) / (dim - dim.mean((2, 3), keepdim=True))  # brightness times contrast
    expect_close(slope, slope[:, :, :1, :1].expand_as(slope), "one channel: all differences grow alike", rtol=1e-6, atol=1e-6)


@lab.check("color_jitter", points=1)
def factors_by_chance(color_jitter, rng):
    """2,000 images: each factor evenly spread over its range, each image on its own; the generator decides."""
    colourful, strength = torch.from_numpy(rng.random((7, 3, 3, 4))), 0.6
    colourful[:, 1] *= 0.2
    generator = seeded(7)
    first, second = color_jitter(colourful, strength, generator), color_jitter(colourful, strength, generator)
    expect_true((first - second).abs().max() > 1e-3, "two calls with one generator", "Both gave the same colours: draw from the generator that is handed in.")
    expect_close(color_jitter(colourful, strength, seeded(7)), first, "another generator with the seed of the first call")
    dim = pale(rng, 2000, 3, 3, 4)
    case = f"2000 images, strength {strength}"
    factors = factors_of(dim, color_jitter(dim, strength, seeded(rng.integers(2**31))))
    expect_true((factors - factors[0]).abs().max() > 1e-3, case, "All images get the same factors. Each needs its own.")
    for name, values in zip(("brightness", "contrast", "saturation"), factors.T):
        expect_even(values, 1 - 0.8 * strength, 1 + 0.8 * strength, case, f"The factors of {name}")
    expect_even(factors[:, 3], -0.4 * math.pi * strength, 0.4 * math.pi * strength, case, "The angles in radians")
    related = torch.corrcoef(factors.T).fill_diagonal_(0).abs()
    i, j = divmod(int(related.argmax()), 4)
    names = ("brightness", "contrast", "saturation", "hue")
    message = f"{names[i]} and {names[j]} go together over many images (correlation {related[i, j]:.2f}). Draw each on its own."
    expect_true(related[i, j] < 6 / math.sqrt(len(dim)), case, message)

# %% mistake="color_jitter" hint="All images of the batch get the same factors. Draw as many as there are images."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, 1, 1, 1, 1, generator=generator).expand(4, len(images), 1, 1, 1).to(images) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="Every pixel gets factors of its own: that is noise. One factor serves a whole image."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, *images.shape[2:], generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="Every channel gets a brightness of its own, which colours grey images. One factor serves all channels."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    brightness = brightness * (1 + strength * (torch.rand(len(images), images.shape[1], 1, 1, generator=generator, dtype=images.dtype) - 0.5))
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="Contrast stretches around zero in your code, which is a second brightness. It stretches around the mean m."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (contrast * (grey + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="You stretch the contrast around 0.5. It stretches around the mean grey value of the image."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = torch.full_like(grey[:, :, :1, :1], 0.5)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="You took the mean of every channel on its own, which takes the colour out of a tinted image. m is the mean of the grey values."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = images.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (images - mean + saturation * turned - color))).clamp(0, 1)

# %% mistake="color_jitter" hint="m is the mean over one image. You took it over the whole batch, so that one image changes another."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean().reshape(1, 1, 1, 1)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="Your contrast does not reach the colour: multiply grey and colour with it."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean) + saturation * turned)).clamp(0, 1)

# %% mistake="color_jitter" hint="Saturation is missing: multiply the colour x - g with it."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="Hue is missing: the colour is not turned."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * color))).clamp(0, 1)

# %% mistake="color_jitter" hint="Your hue turns the colour without its sine part: that only makes it paler. See the second term of the rotation."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="The sine part lacks its factor of 1 / sqrt(3): your rotation makes colours stronger."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="You turn the whole pixel instead of its colour, so grey is multiplied by the cosine."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (images - mean + saturation * turned - color + (angle.cos() - 1) * grey))).clamp(0, 1)

# %% mistake="color_jitter" hint="Brightness adds in your code. It multiplies."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness - 1 + (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="You cut off in between, after the contrast. Cut off once, at the end."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned)).clamp(0, 1)).clamp(0, 1)

# %% mistake="color_jitter" hint="You cut off after each of the changes. Cut off once, at the end."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    images = (brightness * images).clamp(0, 1)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (mean + contrast * (images - mean)).clamp(0, 1)
    grey = images.mean(1, keepdim=True)
    images = (grey + saturation * (images - grey)).clamp(0, 1)
    color = images - images.mean(1, keepdim=True)
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (images - color + turned).clamp(0, 1)

# %% mistake="color_jitter" hint="You weighted the channels in the grey value. Grey is their plain mean here."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    shares = torch.tensor([0.299, 0.587, 0.114] if images.shape[1] == 3 else [1.0], dtype=images.dtype)
    grey = (shares[:, None, None] * images).sum(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="Values outside 0 to 1 come back. Cut them off at the end."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned)))

# %% mistake="color_jitter" hint="One factor serves as brightness, contrast and saturation. Draw each on its own."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:1].expand(3, -1, -1, -1, -1)
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="Your factors are from 1 to 1 + 0.8 strength: images only become brighter. Draw from -1 to 1."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype)
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="Your factors are normal, not evenly spread: some leave the range. Use torch.rand."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 0.58 * torch.randn(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype)
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="The 0.8 is missing: the factors go from 1 - strength to 1 + strength, and strength 1 can make an image black."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="Your angle spreads over 0.2 strength radians. The bound is 0.2 of a full turn times the strength, 0.4 pi strength."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.2 * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="The random numbers do not come from `generator`: hand it to every function that draws."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1).to(images) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="You made a generator of your own, with a fixed seed: every call gives the same colours. Draw from the one handed in."
def color_jitter(images, strength, generator):
    if images.shape[1] not in (1, 3) or not 0 <= strength <= 1:
        raise ValueError("illegal")
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% mistake="color_jitter" hint="Any number of channels and any strength passes. Check both before you draw."
def color_jitter(images, strength, generator):
    chance = 2 * torch.rand(4, len(images), 1, 1, 1, generator=generator, dtype=images.dtype) - 1
    brightness, contrast, saturation = 1 + 0.8 * strength * chance[:3]
    angle = 0.4 * math.pi * strength * chance[3]
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    color = images - grey
    turned = angle.cos() * color + angle.sin() / math.sqrt(3) * (color.roll(1, 1) - color.roll(-1, 1))
    return (brightness * (mean + contrast * (grey - mean + saturation * turned))).clamp(0, 1)

# %% alternative="color_jitter"
def color_jitter(images, strength, generator):
    channels = images.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"{channels} channels")
    if strength < 0 or strength > 1:
        raise ValueError(f"{strength=}")
    changed = []
    for image in images:  # one matrix and one shift for each image
        b, c, s, turn = (2 * torch.rand(4, generator=generator, dtype=torch.float64) - 1).tolist()
        b, c, s, turn = (1 + 0.8 * strength * b, 1 + 0.8 * strength * c, 1 + 0.8 * strength * s, 0.4 * math.pi * strength * turn)
        matrix = torch.full((channels, channels), 1 / channels, dtype=images.dtype)
        if channels == 3:
            axis = torch.full((3,), 1 / math.sqrt(3), dtype=images.dtype)
            unit = torch.eye(3, dtype=images.dtype)
            across = torch.linalg.cross(axis.expand(3, 3), unit, dim=1).mT  # v -> axis x v
            matrix = matrix + s * (math.cos(turn) * (unit - matrix) + math.sin(turn) * across)
        new = b * c * torch.einsum("ij,jhw->ihw", matrix, image) + b * (1 - c) * image.mean()
        changed.append(torch.minimum(torch.maximum(new, new.new_zeros(())), new.new_ones(())))
    return torch.stack(changed)

# %% [markdown]
# Three scenes, and what strength does to them. From which strength on would you mistake one for another?

# %%
if lab.ready("color_jitter"):
    three = scenes.render(scenes.sample([7, 10, 14], seed=5, num_objects=(1, 1)), 64).images  # (3, 3, 64, 64)
    rows = [color_jitter(three, strength, torch.Generator().manual_seed(9)) for strength in (0.0, 0.25, 0.5, 1.0)]
    fig, axes = plt.subplots(3, 4, figsize=(4.6, 3.6))
    for column, (changed, strength) in enumerate(zip(rows, (0.0, 0.25, 0.5, 1.0))):
        for ax, image in zip(axes[:, column], changed):
            ax.imshow(image.permute(1, 2, 0))
            ax.set_axis_off()
        axes[0, column].set_title(f"strength {strength}")
    plots.show(fig, alt="Three scenes at strengths 0, 0.25, 0.5 and 1: the shapes stay, the colours differ more and more.")

# %% [markdown]
# ## Exercise 3: look at each image twice (2 points, 5 minutes)
#
# Complete `two_views`. A view of a batch is a random crop of every image, at the size the images have, followed by a jitter of its
# colours. Make the first view completely, then the second, both from the one `generator`, with the constants `CROP_SCALE` and
# `JITTER_STRENGTH` (write their names, not their values: later on other values are tried out). Return the pair.
#
# <details><summary>Hint 1</summary>
#
# Both of your functions do all images of a batch at once. Height and width are the last two axes of `images`.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `color_jitter(random_resized_crop(images, …, CROP_SCALE, generator), JITTER_STRENGTH, generator)` is one view.
#
# </details>

# %% exercise="two_views"
def two_views(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two random views of each image: cut out, brought back to the old size, with changed colours.

    Args:
        images: (N, C, H, W), floating point, 0 to 1; C is 1 or 3.
        generator: of all random numbers; its state moves on.

    Returns:
        Two tensors of the shape and type of images.

    Source: Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020, section 3 (there, the views
        are blurred as well, and mirrored).
    """
    ### BEGIN SOLUTION
    size = tuple(images.shape[2:])
    views = []
    for _ in range(2):
        crops = random_resized_crop(images, size, CROP_SCALE, generator)
        views.append(color_jitter(crops, JITTER_STRENGTH, generator))
    return tuple(views)
    ### END SOLUTION

# %% check="two_views" points=2
def seeded(seed):
    return torch.Generator().manual_seed(int(seed))


HELPERS = {"random_resized_crop": "stand_in_crop", "color_jitter": "stand_in_jitter"}


@lab.check("two_views", points=1, substitute=HELPERS)
def first_view(two_views, random_resized_crop, color_jitter, rng):
    """A pair of two batches; the first is crop and jitter of yours with the same generator."""
    for shape, dtype in [((3, 3, 6, 9), torch.float32), ((2, 1, 9, 7), torch.float64)]:
        images = torch.from_numpy(rng.random(shape)).to(dtype)
        seed = rng.integers(2**31)
        generator = seeded(seed)
        cut = random_resized_crop(images, shape[2:], CROP_SCALE, generator)
        expected = color_jitter(cut, JITTER_STRENGTH, generator)
        views = two_views(images, seeded(seed))
        case = f"images of shape {shape}, {str(dtype)[6:]}"
        expect_true(type(views) is tuple and len(views) == 2, case, "Return a tuple of two views.")
        expect_close(views[0], expected, f"{case}: the first view")


@lab.check("two_views", points=1, substitute=HELPERS)
def second_view(two_views, random_resized_crop, color_jitter, rng):
    """The second view has random numbers of its own: those that the generator gives next."""
    images = torch.from_numpy(rng.random((4, 3, 7, 5))).float()
    seed = rng.integers(2**31)
    mine, yours = seeded(seed), seeded(seed)
    views = two_views(images, yours)
    for _ in range(2):
        expected = color_jitter(random_resized_crop(images, (7, 5), CROP_SCALE, mine), JITTER_STRENGTH, mine)
    expect_true(len(views) == 2, "4 images", "Return a pair of views.")
    expect_true((views[0] - views[1]).abs().max() > 1e-3, "4 images", "Both views are the same. Draw again for the second.")
    expect_close(views[1], expected, "4 images: the second view")
    expect_true(torch.equal(mine.get_state(), yours.get_state()), "4 images", "More or fewer random numbers were drawn than two views need.")

# %% mistake="two_views" hint="Both views are one and the same. Crop and jitter again for the second."
def two_views(images, generator):
    view = color_jitter(random_resized_crop(images, tuple(images.shape[2:]), CROP_SCALE, generator), JITTER_STRENGTH, generator)
    return view, view.clone()

# %% mistake="two_views" hint="Your first view is the unaltered image. Both views are random."
def two_views(images, generator):
    return images.clone(), color_jitter(random_resized_crop(images, tuple(images.shape[2:]), CROP_SCALE, generator), JITTER_STRENGTH, generator)

# %% mistake="two_views" hint="Both views show the same box: only the colours were drawn twice."
def two_views(images, generator):
    crop = random_resized_crop(images, tuple(images.shape[2:]), CROP_SCALE, generator)
    return color_jitter(crop, JITTER_STRENGTH, generator), color_jitter(crop, JITTER_STRENGTH, generator)

# %% mistake="two_views" hint="Your colours stay as they are: the jitter is missing."
def two_views(images, generator):
    views = []
    for _ in range(2):
        view = random_resized_crop(images, tuple(images.shape[2:]), CROP_SCALE, generator)
        views.append(view)
    return tuple(views)

# %% mistake="two_views" hint="You show the whole image each time: the crop is missing."
def two_views(images, generator):
    views = []
    for _ in range(2):
        view = images
        views.append(color_jitter(view, JITTER_STRENGTH, generator))
    return tuple(views)

# %% mistake="two_views" hint="You changed the colours first. Crop first: the mean grey value that contrast stretches around is that of the view."
def two_views(images, generator):
    views = []
    for _ in range(2):
        view = color_jitter(images, JITTER_STRENGTH, generator)
        views.append(random_resized_crop(view, tuple(images.shape[2:]), CROP_SCALE, generator))
    return tuple(views)

# %% mistake="two_views" hint="Height and width of your views are exchanged: (H, W) are the last two axes, in this order."
def two_views(images, generator):
    views = []
    for _ in range(2):
        view = random_resized_crop(images, (images.shape[3], images.shape[2]), CROP_SCALE, generator)
        views.append(color_jitter(view, JITTER_STRENGTH, generator))
    return tuple(views)

# %% mistake="two_views" hint="You made both crops before the first jitter. Finish one view, then make the other."
def two_views(images, generator):
    size = tuple(images.shape[2:])
    first, second = (random_resized_crop(images, size, CROP_SCALE, generator) for _ in range(2))
    return color_jitter(first, JITTER_STRENGTH, generator), color_jitter(second, JITTER_STRENGTH, generator)

# %% mistake="two_views" hint="Your views come as one tensor. Return a tuple of two."
def two_views(images, generator):
    views = []
    for _ in range(2):
        view = random_resized_crop(images, tuple(images.shape[2:]), CROP_SCALE, generator)
        views.append(color_jitter(view, JITTER_STRENGTH, generator))
    return torch.cat(views)

# %% mistake="two_views" hint="Your crops are squares. They have the size of the images, which need not be square."
def two_views(images, generator):
    views = []
    for _ in range(2):
        view = random_resized_crop(images, images.shape[2], CROP_SCALE, generator)
        views.append(color_jitter(view, JITTER_STRENGTH, generator))
    return tuple(views)

# %% alternative="two_views"
def two_views(images, generator):
    def view():
        return color_jitter(random_resized_crop(images, images.shape[-2:], CROP_SCALE, generator), JITTER_STRENGTH, generator)

    return view(), view()

# %% [markdown]
# Real digits and rendered scenes, each above with its two views. A network that is to find the pairs among hundreds has to know what stays: strokes,
# shapes, and, alas, the pattern of the floor.

# %%
if lab.ready("two_views"):
    digits = datasets.digits()[0][[3, 8, 21, 34, 55, 65]]
    pictures = scenes.render(scenes.sample(range(20, 26), seed=5, num_objects=(1, 1)), 48).images
    fig, axes = plt.subplots(3, 12, figsize=(11, 3))
    for column, images in [(0, digits), (6, pictures)]:
        for row, batch in enumerate([images, *two_views(images, torch.Generator().manual_seed(4))]):
            for ax, image in zip(axes[row, column:], batch):
                ax.imshow(image.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
                ax.set_axis_off()
    plots.show(fig, alt="Six digits and six scenes, and under each two views: other boxes, other brightness and colours, the same thing.")

# %% [markdown]
# Next comes the loss. The next cell opens the explorer of the lecture: move the positive and one negative around the ring, lower the temperature, and watch which of
# the negatives is pushed, and how hard. Come back to it when you meet a temperature again.

# %%
from course_lib import explore

explore.contrastive.show()

# %% [markdown]
# ## Exercise 4: find the other view among all (4 points, 15 minutes)
#
# Complete `nt_xent`, the normalised temperature-scaled cross entropy. `z1` and `z2`, `(N, D)` each, are the embeddings of two views; row $n$ of
# both belongs to image $n$. Put all $2N$ embeddings below each other, `z1` first. For two of them, $i$ and $k$, the similarity is the cosine of the angle
# between them, divided by the temperature: $s_{ik} = \cos(z_i, z_k) / \tau$. The partner $p(i)$ of $i$ is the other view of the same image. The loss is the mean over **all $2N$** embeddings of
#
# $$\ell_i = -\log \frac{e^{s_{i, p(i)}}}{\sum_{k \ne i} e^{s_{ik}}} .$$
#
# That is the cross entropy of a classification with $2N - 1$ classes: which of the others is the partner? The sum in the denominator leaves out $k = i$ and nothing else: the partner is in it.
#
# - The embeddings have any length; only their direction counts.
# - Return a scalar tensor of the inputs' type, with gradients to both inputs. Small temperatures must not overflow: `0.005` in float32 is tried.
# - With $N = 1$ there is only the partner, and the loss is 0.
# - Raise `ValueError` when the shapes of `z1` and `z2` differ, and when the temperature is not positive.
#
# <details><summary>Hint 1</summary>
#
# `torch.cat([z1, z2])`, every row divided by its length (`F.normalize`), and all cosines are one matrix product.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# An embedding is not a candidate for itself. What must stand on the diagonal so that its exponential is 0?
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# Each row of the matrix is now a list of logits, so `F.cross_entropy` does the rest. The class of row $i$ is the number of its partner: $i + N$ in the upper half, $i - N$ in
# the lower.
#
# </details>

# %% exercise="nt_xent"
def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy: which of the 2N - 1 other embeddings is the other view of the same image?

    Args:
        z1: (N, D), embeddings of the first views, of any length.
        z2: (N, D), embeddings of the second views; row n belongs to the same image as row n of z1.
        temperature: what cosines are divided by, positive.

    Returns:
        Scalar tensor, the mean over both views of all images, the type of z1.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive.

    Source: Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020, equation 1 and algorithm 1.
    """
    ### BEGIN SOLUTION
    if z1.shape != z2.shape:
        raise ValueError(f"z1 and z2 must have one shape, got {tuple(z1.shape)} and {tuple(z2.shape)}")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    z = F.normalize(torch.cat([z1, z2]), dim=1)  # (2N, D)
    similarities = (z @ z.T / temperature).fill_diagonal_(-torch.inf)  # (2N, 2N), nobody is a candidate for itself
    partners = torch.arange(len(z), device=z.device).roll(len(z1))
    return F.cross_entropy(similarities, partners)
    ### END SOLUTION

# %% check="nt_xent" points=4
def by_loops(z1, z2, temperature):
    """The definition, one embedding after the other, one candidate after the other."""
    z, n = torch.cat([z1, z2]).double(), len(z1)
    total = 0.0
    for i in range(2 * n):
        partner = i + n if i < n else i - n
        candidates = [k for k in range(2 * n) if k != i]
        logits = [torch.dot(z[i], z[k]) / (z[i].norm() * z[k].norm()) / temperature for k in candidates]
        largest = max(float(logit.detach()) for logit in logits)
        total = total + largest + torch.log(sum(torch.exp(logit - largest) for logit in logits)) - logits[candidates.index(partner)]
    return (total / (2 * n)).to(z1.dtype)


@lab.check("nt_xent", points=1)
def closed_forms(nt_xent):
    """Losses one can work out: all embeddings alike, right angles between images, opposite partners, a single image."""
    for n, temperature in [(2, 0.5), (5, 0.1)]:
        alike = torch.tensor([[3.0, -4, 0]], dtype=torch.float64).repeat(n, 1)
        expected = torch.tensor(2 * n - 1, dtype=torch.float64).log()
        expect_close(nt_xent(alike, 2 * alike, temperature), expected, f"{n} images, all embeddings in one direction: log({2 * n - 1})")
        angles = torch.eye(n, 7, dtype=torch.float64)
        expected = torch.tensor(1 + (2 * n - 2) * math.exp(-1 / temperature), dtype=torch.float64).log()
        expect_close(nt_xent(angles, angles, temperature), expected, f"{n} images at right angles, partners alike, temperature {temperature}")
    plane = torch.tensor([[1.0, 0], [0, 1]], dtype=torch.float64)
    expected = torch.tensor(1 / 0.5 + math.log(2 + math.exp(-1 / 0.5)), dtype=torch.float64)
    expect_close(nt_xent(plane, -plane, 0.5), expected, "2 images at right angles, partners opposite, temperature 0.5")
    one = torch.tensor([[1.0, 2]], dtype=torch.float64)
    expect_close(nt_xent(one, one.flip(1), 0.3), torch.zeros((), dtype=torch.float64), "a single image")


@lab.check("nt_xent", points=1.5)
def equals_the_definition(nt_xent, rng):
    """Equal to the definition written with loops, to 12 digits in float64; float32, and embeddings whose axes were swapped."""
    for n, d, temperature in [(2, 3, 0.5), (5, 4, 0.1), (4, 2, 1.0), (int(rng.integers(3, 8)), int(rng.integers(2, 7)), float(rng.uniform(0.2, 2)))]:
        z1, z2 = normal(rng, n, d, dtype=torch.float64), 3 * normal(rng, n, d, dtype=torch.float64)
        case = f"{n} images, {d} dimensions, temperature {temperature:.3g}, float64"
        expect_close(nt_xent(z1, z2, temperature), by_loops(z1, z2, temperature), case, rtol=1e-12, atol=0)
    z1, z2 = normal(rng, 3, 6).T, normal(rng, 3, 6).T
    expect_close(nt_xent(z1, z2, 0.4), by_loops(z1, z2, 0.4), "6 images, 3 dimensions, float32, axes swapped by a transpose")
    z1, z2 = normal(rng, 4, 3), normal(rng, 4, 3)
    expect_close(nt_xent(z1, z2, 0.005), by_loops(z1, z2, 0.005), "temperature 0.005, float32")
    expect_raises(ValueError, lambda: nt_xent(z1, z2[:3], 0.5), "4 and 3 embeddings")
    expect_raises(ValueError, lambda: nt_xent(z1, z2[:, :2], 0.5), "3 and 2 dimensions")
    expect_raises(ValueError, lambda: nt_xent(z1, z2, 0.0), "temperature 0")
    expect_raises(ValueError, lambda: nt_xent(z1, z2, -0.5), "temperature -0.5")


@lab.check("nt_xent", points=0.5)
def order_and_length(nt_xent, rng):
    """The order of the images, which view is the first, and the length of an embedding change nothing."""
    z1, z2 = normal(rng, 5, 3, dtype=torch.float64), normal(rng, 5, 3, dtype=torch.float64)
    loss, order = nt_xent(z1, z2, 0.3), torch.from_numpy(rng.permutation(5))
    expect_close(nt_xent(z1[order], z2[order], 0.3), loss, "images in another order")
    expect_close(nt_xent(z2, z1, 0.3), loss, "first and second views exchanged")
    lengths = torch.from_numpy(rng.uniform(0.5, 4, (5, 1)))
    expect_close(nt_xent(lengths * z1, z2 / lengths, 0.3), loss, "embeddings made longer and shorter")
    expect_close(loss, by_loops(z1, z2, 0.3), "the loss itself")


@lab.check("nt_xent", points=1)
def gradients_reach_both(nt_xent, rng):
    """Gradients with respect to both inputs are those of the definition."""
    for n, d, temperature in [(3, 4, 0.5), (4, 2, 0.15)]:
        z1, z2 = normal(rng, n, d, dtype=torch.float64), normal(rng, n, d, dtype=torch.float64)
        ours = gradients(lambda a, b: nt_xent(a, b, temperature), z1, z2)
        theirs = gradients(lambda a, b: by_loops(a, b, temperature), z1, z2)
        expect_close(ours, theirs, f"{n} images, {d} dimensions, temperature {temperature}: gradients of z1 and z2")

# %% mistake="nt_xent" hint="Every embedding is among its own candidates: 2N instead of 2N - 1. Take the diagonal out."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities = z @ z.T / temperature
    similarities = similarities
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent" hint="You set the diagonal to 0, whose exponential is 1: it still counts. It has to be minus infinity."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities = z @ z.T / temperature
    similarities = similarities.masked_fill(torch.eye(2 * n, dtype=torch.bool), 0.0)
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent" hint="You compare inner products. Divide each embedding by its length first."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = torch.cat([z1, z2])
    similarities = z @ z.T / temperature
    similarities = similarities.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent" hint="You normalised each dimension over the batch. Each row is to have length 1."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=0)
    similarities = z @ z.T / temperature
    similarities = similarities.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent" hint="You multiply by the temperature. Divide by it."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities = z @ z.T * temperature
    similarities = similarities.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent" hint="The temperature has no effect in your loss."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities = z @ z.T
    similarities = similarities.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent" hint="Your candidates are the N second views only. The other N - 1 first views are candidates as well."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities, partners = z[:n] @ z[n:].T / temperature, torch.arange(n)
    return (F.cross_entropy(similarities, partners) + F.cross_entropy(similarities.T, partners)) / 2

# %% mistake="nt_xent" hint="You average over the first views only. Each second view has a loss of its own."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities = z @ z.T / temperature
    similarities = similarities.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(similarities[:n], partners[:n])

# %% mistake="nt_xent" hint="You return the sum. It is the mean over all 2N embeddings."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities = z @ z.T / temperature
    similarities = similarities.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(similarities, partners, reduction='sum')

# %% mistake="nt_xent" hint="You divided the sum over 2N embeddings by N."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities = z @ z.T / temperature
    similarities = similarities.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return 2 * F.cross_entropy(similarities, partners)

# %% mistake="nt_xent" hint="The partner is missing in your denominator: only the 2N - 2 negatives are there. It is one of the candidates."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities = z @ z.T / temperature
    similarities = similarities.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    positive = similarities.gather(1, partners[:, None])
    negatives = similarities.scatter(1, partners[:, None], -math.inf)
    return (negatives.logsumexp(1) - positive[:, 0]).mean() if n > 1 else 0 * z.sum()

# %% mistake="nt_xent" hint="Your partners are neighbours (0 and 1, 2 and 3, ...), as if the views were interleaved. After `cat` the partner of row i is N rows away."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities = z @ z.T / temperature
    similarities = similarities.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    partners = torch.arange(2 * n) ^ 1
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent" hint="Your partners are right in the upper half only: row i + N wants i, not i + N, which is itself."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities = z @ z.T / temperature
    similarities = similarities.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    partners = torch.arange(n, 2 * n).repeat(2)
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent" hint="Your exponentials overflow at a small temperature. Let `logsumexp` or `cross_entropy` do them."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities = z @ z.T / temperature
    similarities = similarities.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return (similarities.exp().sum(1).log() - similarities.gather(1, partners[:, None])[:, 0]).mean()

# %% mistake="nt_xent" hint="No gradient reaches one of the views: do not detach it."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2.detach()]), dim=1)
    similarities = z @ z.T / temperature
    similarities = similarities.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent" hint="Illegal temperatures and shapes pass. Check both arguments before you compute."
def nt_xent(z1, z2, temperature):
    n = min(len(z1), len(z2))
    z1, z2 = z1[:n, : z2.shape[1]], z2[:n, : z1.shape[1]]
    temperature = temperature or 1.0
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities = z @ z.T / temperature
    similarities = similarities.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent" hint="Your loss is the similarity of the partners alone. The other candidates have to push away."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities = z @ z.T / temperature
    similarities = similarities.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return -similarities.gather(1, partners[:, None]).mean()

# %% mistake="nt_xent" hint="You took the squared distance in place of the cosine."
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape or temperature <= 0:
        raise ValueError("illegal")
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities = -(z[:, None] - z).square().sum(2) / temperature
    similarities = similarities.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(similarities, partners)

# %% alternative="nt_xent"
def nt_xent(z1, z2, temperature):
    if z1.shape != z2.shape:
        raise ValueError(f"shapes {tuple(z1.shape)} and {tuple(z2.shape)}")
    if not temperature > 0:
        raise ValueError(f"{temperature=}")
    n = len(z1)
    a, b = z1 / z1.norm(dim=1, keepdim=True), z2 / z2.norm(dim=1, keepdim=True)
    partner = (a * b).sum(1) / temperature  # (N,)
    others = ~torch.eye(n, dtype=torch.bool, device=a.device)
    within = [(x @ x.T / temperature)[others].reshape(n, n - 1) for x in (a, b)]  # the same view of other images
    across = a @ b.T / temperature
    first = torch.cat([across, within[0]], 1).logsumexp(1)
    second = torch.cat([across.T, within[1]], 1).logsumexp(1)
    return ((first + second) / 2 - partner).mean()

# %% [markdown]
# An untrained network should be no better than a guess among the $2N - 1$ candidates. **Predict first**: what is the loss of random embeddings of 128 images in 64
# dimensions, at temperatures 1 and 0.1? Look at the second number before you read on. Why is it not the logarithm of 255?

# %%
if lab.ready("nt_xent"):
    generator = torch.Generator().manual_seed(0)
    z1, z2 = torch.randn(2, 128, 64, generator=generator)
    for temperature in (1.0, 0.1):
        print(f"temperature {temperature}: {nt_xent(z1, z2, temperature):.3f}   log 255 = {math.log(255):.3f}")

# %% [markdown]
# Random directions in 64 dimensions are not all at right angles: their cosines scatter by $1 / \sqrt{64} = 0.125$. Divided by 0.1 this is a scatter of 1.25, and the
# mean of $e^s$ is larger than $e$ to the mean of $s$. Only embeddings that are **all alike** give exactly $\log (2N - 1)$.

# %% [markdown]
# ## Exercise 5: leave out false negatives (2 points, 10 minutes)
#
# A batch of 128 images of ten digits holds a dozen sevens, and the loss pushes them apart: each is a *false negative* for the others. Where somebody tells which
# images belong together, they can be left out. Complete `nt_xent_with_negatives_mask`: as `nt_xent`, but the candidates of embedding $i$ are only
#
# - its partner, always,
# - and the embeddings of images with **another label** than image $i$, both views.
#
# `labels` are `(N,)` integers, one for each **image**. The embeddings of other images with the same label are no candidates, and they are no partners either. When all labels are
# equal nobody has a negative, and the loss is 0. The mean is over all $2N$, type, gradients and small temperatures are as before. Raise `ValueError` when the shapes of `z1` and `z2`
# differ, when there are not as many labels as images, and when the temperature is not positive.
#
# <details><summary>Hint 1</summary>
#
# Which entries of the matrix of similarities may stay? Build one mask of shape $(2N, 2N)$ from the labels, written twice.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `labels[:, None] == labels` compares all pairs. It is true for the diagonal and for the partner as well. Only one of these two has to go.
#
# </details>

# %% exercise="nt_xent_with_negatives_mask"
def nt_xent_with_negatives_mask(z1: Tensor, z2: Tensor, temperature: float, labels: Tensor) -> Tensor:
    """NT-Xent whose negatives are only embeddings of images with another label.

    Args:
        z1: (N, D), embeddings of the first views, of any length.
        z2: (N, D), embeddings of the second views.
        temperature: what cosines are divided by, positive.
        labels: (N,) int64, the class of each image.

    Returns:
        Scalar tensor, the mean over both views of all images, the type of z1.

    Raises:
        ValueError: shapes or counts differ, or the temperature is not positive.

    Source: Huynh et al., "Boosting contrastive self-supervised learning with false negative cancellation", WACV 2022, section 3.2
        (elimination of false negatives; there they are guessed, here the labels say them).
    Reference: nt_xent, when all labels differ.
    """
    ### BEGIN SOLUTION
    if z1.shape != z2.shape or len(labels) != len(z1):
        raise ValueError(f"z1, z2 and labels must be as many, got {tuple(z1.shape)}, {tuple(z2.shape)} and {len(labels)}")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    z, both = F.normalize(torch.cat([z1, z2]), dim=1), labels.repeat(2)  # (2N, D), (2N,)
    rows = torch.arange(len(z), device=z.device)
    left_out = both[:, None] == both  # (2N, 2N), itself and the partner too
    left_out[rows, rows.roll(len(z1))] = False
    logits = (z @ z.T / temperature).masked_fill(left_out, -torch.inf)
    return F.cross_entropy(logits, rows.roll(len(z1)))
    ### END SOLUTION

# %% check="nt_xent_with_negatives_mask" points=2
def by_loops(z1, z2, temperature, labels):
    """The definition, one embedding after the other, one candidate after the other."""
    z, n, labels = torch.cat([z1, z2]).double(), len(z1), labels.tolist()
    total = 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        candidates = [partner] + [k for k in range(2 * n) if labels[k % n] != labels[i % n]]
        logits = torch.stack([torch.dot(z[i], z[k]) / (z[i].norm() * z[k].norm()) / temperature for k in candidates])
        total = total + torch.logsumexp(logits, 0) - logits[0]
    return (total / (2 * n)).to(z1.dtype)


@lab.check("nt_xent_with_negatives_mask", points=1)
def special_labels(nt_xent_with_negatives_mask, rng):
    """All labels differ: the plain loss. All are equal: 0. Two classes at right angles, by hand. Illegal arguments are refused."""
    z1, z2 = normal(rng, 5, 3, dtype=torch.float64), normal(rng, 5, 3, dtype=torch.float64)
    plain = by_loops(z1, z2, 0.4, torch.arange(5))
    expect_close(nt_xent_with_negatives_mask(z1, z2, 0.4, torch.tensor([7, 2, -1, 0, 4])), plain, "five different labels", rtol=1e-12, atol=0)
    expect_close(nt_xent_with_negatives_mask(z1, z2, 0.4, torch.full((5,), 3)), torch.zeros((), dtype=torch.float64), "five equal labels", atol=1e-12)
    corners = torch.tensor([[1.0, 0], [1, 0], [0, 1]], dtype=torch.float64)
    labels = torch.tensor([8, 8, 9])
    expected = (4 * math.log(1 + 2 * math.exp(-2)) + 2 * math.log(1 + 4 * math.exp(-2))) / 6
    expected = torch.tensor(expected, dtype=torch.float64)
    expect_close(nt_xent_with_negatives_mask(corners, corners, 0.5, labels), expected, "labels 8 8 9, the classes at right angles, temperature 0.5")
    expect_raises(ValueError, lambda: nt_xent_with_negatives_mask(z1, z2, 0.4, torch.arange(4)), "5 images, 4 labels")
    expect_raises(ValueError, lambda: nt_xent_with_negatives_mask(z1, z2, 0.4, torch.arange(10)), "5 images, 10 labels")
    expect_raises(ValueError, lambda: nt_xent_with_negatives_mask(z1, z2[:4], 0.4, torch.arange(5)), "5 and 4 embeddings")
    expect_raises(ValueError, lambda: nt_xent_with_negatives_mask(z1, z2[:, :2], 0.4, torch.arange(5)), "3 and 2 dimensions")
    for temperature in (0.0, -1.0):
        expect_raises(ValueError, lambda: nt_xent_with_negatives_mask(z1, z2, temperature, torch.arange(5)), f"temperature {temperature}")


@lab.check("nt_xent_with_negatives_mask", points=1)
def equals_the_definition(nt_xent_with_negatives_mask, rng):
    """Equal to the definition written with loops, for labels that repeat: values in both types, and gradients."""
    random_labels = torch.from_numpy(rng.integers(0, 3, 7))
    for labels, temperature in [(torch.tensor([4, 0, 4, 4, 1]), 0.5), (random_labels, 0.2)]:
        n, case = len(labels), f"labels {labels.tolist()}, temperature {temperature}"
        z1, z2 = normal(rng, n, 4, dtype=torch.float64), 2 * normal(rng, n, 4, dtype=torch.float64)
        expect_close(nt_xent_with_negatives_mask(z1, z2, temperature, labels), by_loops(z1, z2, temperature, labels), case, rtol=1e-12, atol=0)
        ours = gradients(lambda a, b: nt_xent_with_negatives_mask(a, b, temperature, labels), z1, z2)
        expect_close(ours, gradients(lambda a, b: by_loops(a, b, temperature, labels), z1, z2), f"{case}: gradients")
    z1, z2, labels = normal(rng, 3, 6).T, normal(rng, 3, 6).T, torch.tensor([2, 2, 0, 0, 2, 1])
    expect_close(nt_xent_with_negatives_mask(z1, z2, 0.01, labels), by_loops(z1, z2, 0.01, labels), "float32, temperature 0.01, axes swapped")

# %% mistake="nt_xent_with_negatives_mask" hint="Your mask takes out the partner as well: it has the same label. It always stays."
def nt_xent_with_negatives_mask(z1, z2, temperature, labels):
    n = len(z1)
    if z1.shape != z2.shape or len(labels) != n or temperature <= 0:
        raise ValueError("illegal")
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    both = torch.cat([labels, labels])
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    keep = both[:, None] != both
    similarities = (z @ z.T / temperature).masked_fill(~keep, -math.inf)
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent_with_negatives_mask" hint="You masked with 0, whose exponential is 1: what is left out still counts. Use minus infinity."
def nt_xent_with_negatives_mask(z1, z2, temperature, labels):
    n = len(z1)
    if z1.shape != z2.shape or len(labels) != n or temperature <= 0:
        raise ValueError("illegal")
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    both = torch.cat([labels, labels])
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    keep = both[:, None] != both
    keep[torch.arange(2 * n), partners] = True
    similarities = (z @ z.T / temperature).masked_fill(~keep, 0.0)
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent_with_negatives_mask" hint="The labels have no effect: that is plain NT-Xent."
def nt_xent_with_negatives_mask(z1, z2, temperature, labels):
    n = len(z1)
    if z1.shape != z2.shape or len(labels) != n or temperature <= 0:
        raise ValueError("illegal")
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    both = torch.cat([labels, labels])
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    keep = ~torch.eye(2 * n, dtype=torch.bool)
    keep[torch.arange(2 * n), partners] = True
    similarities = (z @ z.T / temperature).masked_fill(~keep, -math.inf)
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent_with_negatives_mask" hint="Every embedding is among its own candidates. It has its own label, so the mask should take it out."
def nt_xent_with_negatives_mask(z1, z2, temperature, labels):
    n = len(z1)
    if z1.shape != z2.shape or len(labels) != n or temperature <= 0:
        raise ValueError("illegal")
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    both = torch.cat([labels, labels])
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    keep = (both[:, None] != both) | torch.eye(2 * n, dtype=torch.bool)
    keep[torch.arange(2 * n), partners] = True
    similarities = (z @ z.T / temperature).masked_fill(~keep, -math.inf)
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent_with_negatives_mask" hint="You left out what has another label and kept the false negatives. It is the other way round."
def nt_xent_with_negatives_mask(z1, z2, temperature, labels):
    n = len(z1)
    if z1.shape != z2.shape or len(labels) != n or temperature <= 0:
        raise ValueError("illegal")
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    both = torch.cat([labels, labels])
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    keep = (both[:, None] == both) & ~torch.eye(2 * n, dtype=torch.bool)
    keep[torch.arange(2 * n), partners] = True
    similarities = (z @ z.T / temperature).masked_fill(~keep, -math.inf)
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent_with_negatives_mask" hint="Your mask is turned round (`!=` for `==`): it takes out the other labels, and keeps the embedding itself and its false negatives."
def nt_xent_with_negatives_mask(z1, z2, temperature, labels):
    n = len(z1)
    if z1.shape != z2.shape or len(labels) != n or temperature <= 0:
        raise ValueError("illegal")
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    both = torch.cat([labels, labels])
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    similarities = (z @ z.T / temperature).masked_fill(both[:, None] != both, -math.inf)
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent_with_negatives_mask" hint="Your second half of labels has another order than the embeddings: the labels repeat as a whole (0 1 0 1), not one by one (0 0 1 1)."
def nt_xent_with_negatives_mask(z1, z2, temperature, labels):
    n = len(z1)
    if z1.shape != z2.shape or len(labels) != n or temperature <= 0:
        raise ValueError("illegal")
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    both = labels.repeat_interleave(2)
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    keep = both[:, None] != both
    keep[torch.arange(2 * n), partners] = True
    similarities = (z @ z.T / temperature).masked_fill(~keep, -math.inf)
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent_with_negatives_mask" hint="You treat images with the same label as partners. They are left out, neither pulled nor pushed."
def nt_xent_with_negatives_mask(z1, z2, temperature, labels):
    n = len(z1)
    if z1.shape != z2.shape or len(labels) != n or temperature <= 0:
        raise ValueError("illegal")
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    both = torch.cat([labels, labels])
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    keep = both[:, None] != both
    keep[torch.arange(2 * n), partners] = True
    similarities = (z @ z.T / temperature).masked_fill(~keep, -math.inf)
    similarities = (z @ z.T / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    same = (both[:, None] == both) & ~torch.eye(2 * n, dtype=torch.bool)
    return -(similarities.log_softmax(1).masked_fill(~same, 0).sum(1) / same.sum(1)).mean()

# %% mistake="nt_xent_with_negatives_mask" hint="You left out false negatives of the same view only. Those of the other view are candidates no more either."
def nt_xent_with_negatives_mask(z1, z2, temperature, labels):
    n = len(z1)
    if z1.shape != z2.shape or len(labels) != n or temperature <= 0:
        raise ValueError("illegal")
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    both = torch.cat([labels, labels])
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    keep = both[:, None] != both
    keep[:n, n:] = keep[n:, :n] = True
    keep[torch.arange(2 * n), partners] = True
    similarities = (z @ z.T / temperature).masked_fill(~keep, -math.inf)
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent_with_negatives_mask" hint="You average over the first views only. Each second view has a loss of its own."
def nt_xent_with_negatives_mask(z1, z2, temperature, labels):
    n = len(z1)
    if z1.shape != z2.shape or len(labels) != n or temperature <= 0:
        raise ValueError("illegal")
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    both = torch.cat([labels, labels])
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    keep = both[:, None] != both
    keep[torch.arange(2 * n), partners] = True
    similarities = (z @ z.T / temperature).masked_fill(~keep, -math.inf)
    return F.cross_entropy(similarities[:n], partners[:n])

# %% mistake="nt_xent_with_negatives_mask" hint="You forgot to divide the embeddings by their length."
def nt_xent_with_negatives_mask(z1, z2, temperature, labels):
    n = len(z1)
    if z1.shape != z2.shape or len(labels) != n or temperature <= 0:
        raise ValueError("illegal")
    z = torch.cat([z1, z2])
    both = torch.cat([labels, labels])
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    keep = both[:, None] != both
    keep[torch.arange(2 * n), partners] = True
    similarities = (z @ z.T / temperature).masked_fill(~keep, -math.inf)
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent_with_negatives_mask" hint="Your exponentials overflow at a small temperature. Let `logsumexp` or `cross_entropy` do them."
def nt_xent_with_negatives_mask(z1, z2, temperature, labels):
    n = len(z1)
    if z1.shape != z2.shape or len(labels) != n or temperature <= 0:
        raise ValueError("illegal")
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    both = torch.cat([labels, labels])
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    keep = both[:, None] != both
    keep[torch.arange(2 * n), partners] = True
    similarities = (z @ z.T / temperature).masked_fill(~keep, -math.inf)
    return (similarities.exp().sum(1).log() - similarities.gather(1, partners[:, None])[:, 0]).mean()

# %% mistake="nt_xent_with_negatives_mask" hint="No gradient reaches one of the views: do not detach it."
def nt_xent_with_negatives_mask(z1, z2, temperature, labels):
    n = len(z1)
    if z1.shape != z2.shape or len(labels) != n or temperature <= 0:
        raise ValueError("illegal")
    z = F.normalize(torch.cat([z1, z2.detach()]), dim=1)
    both = torch.cat([labels, labels])
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    keep = both[:, None] != both
    keep[torch.arange(2 * n), partners] = True
    similarities = (z @ z.T / temperature).masked_fill(~keep, -math.inf)
    return F.cross_entropy(similarities, partners)

# %% mistake="nt_xent_with_negatives_mask" hint="Illegal counts and temperatures pass. Check the arguments before you compute."
def nt_xent_with_negatives_mask(z1, z2, temperature, labels):
    n = len(z1)
    if z1.shape != z2.shape:
        n = min(len(z1), len(z2))
        z1, z2 = z1[:n, : z2.shape[1]], z2[:n, : z1.shape[1]]
    temperature = temperature or 1.0
    labels = torch.cat([labels, torch.arange(n)])[:n]
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    both = torch.cat([labels, labels])
    partners = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    keep = both[:, None] != both
    keep[torch.arange(2 * n), partners] = True
    similarities = (z @ z.T / temperature).masked_fill(~keep, -math.inf)
    return F.cross_entropy(similarities, partners)

# %% alternative="nt_xent_with_negatives_mask"
def nt_xent_with_negatives_mask(z1, z2, temperature, labels):
    if z1.shape != z2.shape:
        raise ValueError(f"shapes {tuple(z1.shape)} and {tuple(z2.shape)}")
    if len(labels) != len(z1):
        raise ValueError(f"{len(labels)} labels for {len(z1)} images")
    if not temperature > 0:
        raise ValueError(f"{temperature=}")
    losses = []
    for mine, other in [(z1, z2), (z2, z1)]:
        for n, anchor in enumerate(mine):
            negatives = labels != labels[n]
            candidates = torch.cat([other[n : n + 1], mine[negatives], other[negatives]])
            logits = F.cosine_similarity(anchor[None], candidates) / temperature
            losses.append(torch.logsumexp(logits, 0) - logits[0])
    return torch.stack(losses).mean()

# %% [markdown]
# ## Exercise 6: measure how near the partners are (1 point, 5 minutes)
#
# Two numbers say what the loss has done. The first is the *alignment*: the mean squared distance of partners,
#
# $$\text{alignment} = \frac1N \sum_n \lVert z^1_n - z^2_n \rVert^2 ,$$
#
# 0 when the two views of each image have the same embedding. Rows of `z1` and `z2`, `(N, D)` each, have length 1 already: use them as they are. Return a scalar tensor of their type, with gradients.
# Raise `ValueError` when the shapes differ.
#
# <details><summary>Hint 1</summary>
#
# A squared length is the **sum** of squares over the dimensions. The mean is over the images only.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `(z1 - z2).square().sum(1)` are the N squared distances.
#
# </details>

# %% exercise="alignment"
def alignment(z1: Tensor, z2: Tensor) -> Tensor:
    """Mean squared distance between the embeddings of two views of the same image.

    Args:
        z1: (N, D), unit vectors, embeddings of the first views.
        z2: (N, D), unit vectors, embeddings of the second views.

    Returns:
        Scalar tensor, 0 (partners agree) to 4 (partners are opposite).

    Raises:
        ValueError: the shapes differ.

    Source: Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity on the hypersphere",
        ICML 2020, section 4.1, with the exponent alpha = 2.
    """
    ### BEGIN SOLUTION
    if z1.shape != z2.shape:
        raise ValueError(f"z1 and z2 must have one shape, got {tuple(z1.shape)} and {tuple(z2.shape)}")
    return (z1 - z2).square().sum(1).mean()
    ### END SOLUTION

# %% check="alignment" points=1
@lab.check("alignment", points=0.5)
def known_distances(alignment):
    """Partners that agree, at right angles, opposite, and at 60 degrees; shapes that differ."""
    a = torch.tensor([[1.0, 0, 0], [0, 0.6, 0.8]], dtype=torch.float64)
    expect_close(alignment(a, a), torch.tensor(0.0, dtype=torch.float64), "partners agree")
    expect_close(alignment(a, -a), torch.tensor(4.0, dtype=torch.float64), "partners are opposite")
    expect_close(alignment(a, a[:, [1, 0, 2]]), torch.tensor((2 + 0.72) / 2, dtype=torch.float64), "the first two coordinates exchanged")
    b = torch.tensor([[0.5, math.sqrt(0.75)]])
    expect_close(alignment(b, torch.tensor([[1.0, 0]])), torch.tensor(1.0), "one pair at 60 degrees, float32")
    expect_raises(ValueError, lambda: alignment(a, a[:1]), "2 and 1 embeddings")
    expect_raises(ValueError, lambda: alignment(a, a[:, :1]), "3 dimensions and 1")


@lab.check("alignment", points=0.5)
def by_cosines(alignment, rng):
    """For unit vectors it is 2 minus twice the mean cosine. Gradients are those of the definition."""
    z1, z2 = (F.normalize(normal(rng, 3, 5, dtype=torch.float64), dim=0).T for _ in range(2))
    expect_close(alignment(z1, z2), 2 - 2 * F.cosine_similarity(z1, z2).mean(), "5 pairs in 3 dimensions, axes swapped by a transpose")
    ours = gradients(alignment, z1, z2)
    expect_close(ours, gradients(lambda a, b: torch.stack([torch.dot(x - y, x - y) for x, y in zip(a, b)]).mean(), z1, z2), "gradients of z1 and z2")

# %% mistake="alignment" hint="You averaged over the dimensions too. A squared distance is their sum."
def alignment(z1, z2):
    if z1.shape != z2.shape:
        raise ValueError("shapes")
    return F.mse_loss(z1, z2)

# %% mistake="alignment" hint="That is the mean distance. Square it: leave the root out."
def alignment(z1, z2):
    if z1.shape != z2.shape:
        raise ValueError("shapes")
    return (z1 - z2).norm(dim=1).mean()

# %% mistake="alignment" hint="You added up over the images. It is their mean."
def alignment(z1, z2):
    if z1.shape != z2.shape:
        raise ValueError("shapes")
    return (z1 - z2).square().sum()

# %% mistake="alignment" hint="That is the mean cosine. The squared distance is 2 minus twice the cosine."
def alignment(z1, z2):
    if z1.shape != z2.shape:
        raise ValueError("shapes")
    return (z1 * z2).sum(1).mean()

# %% mistake="alignment" hint="You measured all pairs of a first and a second view. Only partners count: row n of both."
def alignment(z1, z2):
    if z1.shape != z2.shape:
        raise ValueError("shapes")
    return (z1[:, None] - z2).square().sum(2).mean()

# %% mistake="alignment" hint="You squared the distance of the means. Take each pair's squared distance, then the mean."
def alignment(z1, z2):
    if z1.shape != z2.shape:
        raise ValueError("shapes")
    return (z1 - z2).mean(0).square().sum()

# %% mistake="alignment" hint="You added up over the images and averaged over the dimensions: the sum belongs to axis 1."
def alignment(z1, z2):
    if z1.shape != z2.shape:
        raise ValueError("shapes")
    return (z1 - z2).square().sum(0).mean()

# %% mistake="alignment" hint="Shapes that differ pass, because they broadcast. Compare them first."
def alignment(z1, z2):
    return (z1 - z2).square().sum(1).mean()

# %% mistake="alignment" hint="Your value is right, but no gradient reaches the embeddings."
def alignment(z1, z2):
    if z1.shape != z2.shape:
        raise ValueError("shapes")
    return (z1 - z2).detach().square().sum(1).mean()

# %% alternative="alignment"
def alignment(z1, z2):
    if z1.shape != z2.shape:
        raise ValueError(f"{z1.shape} is not {z2.shape}")
    difference = z1 - z2
    return torch.einsum("nd,nd->", difference, difference) / len(z1)

# %% [markdown]
# ## Exercise 7: measure how evenly the embeddings spread (2 points, 5 minutes)
#
# Agreement alone is cheap: a network that answers the same for every image has it. The second number tells. The *uniformity* is the logarithm of the mean of a Gaussian of
# the distance, over all pairs of **distinct** rows:
#
# $$\text{uniformity} = \log \frac{1}{N (N - 1)} \sum_{i \ne j} e^{-t \lVert z_i - z_j \rVert^2} .$$
#
# It is 0 when all embeddings are one, and the lower, the more evenly they spread over the sphere. Rows of `z`, `(N, D)`, have length 1 already: use them as they are. Return a scalar tensor of the type of `z`, with gradients.
# Raise `ValueError` when there are fewer than two rows.
#
# <details><summary>Hint 1</summary>
#
# Each pair counts twice in the sum, and the mean does not notice: the pairs $i < j$ are enough.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `F.pdist(z)` gives the distances of all pairs $i < j$. Square, exponential, mean, logarithm, in this order.
#
# </details>

# %% exercise="uniformity"
def uniformity(z: Tensor, t: float = 2) -> Tensor:
    """Logarithm of the mean Gaussian potential between distinct embeddings.

    Args:
        z: (N, D), unit vectors, N at least 2.
        t: how fast the potential falls with the squared distance, positive.

    Returns:
        Scalar tensor, 0 (all alike) to -4 t (two opposite ones).

    Raises:
        ValueError: fewer than two embeddings.

    Source: Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity on the hypersphere",
        ICML 2020, section 4.1.
    """
    ### BEGIN SOLUTION
    if len(z) < 2:
        raise ValueError(f"z must have at least 2 rows, got {len(z)}")
    return (-t * F.pdist(z).square()).exp().mean().log()
    ### END SOLUTION

# %% check="uniformity" points=2
def by_loops(z, t):
    """The definition, pair after pair."""
    n = len(z)
    terms = [torch.exp(-t * torch.dot(z[i] - z[j], z[i] - z[j])) for i in range(n) for j in range(n) if i != j]
    return torch.log(torch.stack(terms).mean())


@lab.check("uniformity", points=1)
def known_spreads(uniformity):
    """All alike, two opposite points, right angles, the four corners of a square; a single point is refused."""
    alike = torch.tensor([[0.6, 0.8]], dtype=torch.float64).repeat(4, 1)
    expect_close(uniformity(alike), torch.tensor(0.0, dtype=torch.float64), "four points in one place", atol=1e-9)
    expect_close(uniformity(torch.tensor([[1.0, 0], [-1, 0]])), torch.tensor(-8.0), "two opposite points, t = 2")
    expect_close(uniformity(torch.tensor([[1.0, 0], [-1, 0]]), 0.5), torch.tensor(-2.0), "two opposite points, t = 0.5")
    expect_close(uniformity(torch.eye(5, dtype=torch.float64), t=3), torch.tensor(-6.0, dtype=torch.float64), "five points at right angles, t = 3")
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)
    expected = torch.tensor((2 * math.exp(-4) + math.exp(-8)) / 3, dtype=torch.float64).log()
    expect_close(uniformity(square), expected, "the corners of a square: each has two neighbours and one opposite")
    expect_raises(ValueError, lambda: uniformity(square[:1]), "one point")


@lab.check("uniformity", points=1)
def equals_the_definition(uniformity, rng):
    """Equal to the definition written with loops: values in both types, and gradients."""
    for n, d, t in [(6, 3, 2), (4, 5, 0.7), (int(rng.integers(3, 9)), 2, float(rng.uniform(0.5, 3)))]:
        z = F.normalize(normal(rng, n, d, dtype=torch.float64), dim=1)
        expect_close(uniformity(z, t), by_loops(z, t), f"{n} points in {d} dimensions, t = {t:.2g}")
        ours = gradients(lambda z: uniformity(z, t), z)
        expect_close(ours, gradients(lambda z: by_loops(z, t), z), f"{n} points in {d} dimensions, t = {t:.2g}: gradient", rtol=1e-7)
    z = F.normalize(normal(rng, 3, 7), dim=0).T
    expect_close(uniformity(z), by_loops(z, 2), "7 points, float32, axes swapped by a transpose")

# %% mistake="uniformity" hint="Every point is compared with itself too. Only distinct pairs count: there are N (N - 1) of them."
def uniformity(z, t=2):
    if len(z) < 2:
        raise ValueError("rows")
    return (-t * (z[:, None] - z).square().sum(2)).exp().mean().log()

# %% mistake="uniformity" hint="You took the diagonal out of the sum, but divided by all N squared pairs. Divide by N (N - 1)."
def uniformity(z, t=2):
    if len(z) < 2:
        raise ValueError("rows")
    return (2 * (-t * F.pdist(z).square()).exp().sum() / len(z) ** 2).log()

# %% mistake="uniformity" hint="Logarithm and mean do not commute: first the mean of the exponentials, then its logarithm."
def uniformity(z, t=2):
    if len(z) < 2:
        raise ValueError("rows")
    return -t * F.pdist(z).square().mean()

# %% mistake="uniformity" hint="The logarithm is missing."
def uniformity(z, t=2):
    if len(z) < 2:
        raise ValueError("rows")
    return (-t * F.pdist(z).square()).exp().mean()

# %% mistake="uniformity" hint="The exponent takes the squared distance, not the distance."
def uniformity(z, t=2):
    if len(z) < 2:
        raise ValueError("rows")
    return (-t * F.pdist(z)).exp().mean().log()

# %% mistake="uniformity" hint="You added up over the pairs. It is their mean."
def uniformity(z, t=2):
    if len(z) < 2:
        raise ValueError("rows")
    return (-t * F.pdist(z).square()).exp().sum().log()

# %% mistake="uniformity" hint="t has no effect in your code: it is always 2."
def uniformity(z, t=2):
    if len(z) < 2:
        raise ValueError("rows")
    return (-2 * F.pdist(z).square()).exp().mean().log()

# %% mistake="uniformity" hint="Your sign is turned round: the potential falls with the distance, and even spread gives a low value."
def uniformity(z, t=2):
    if len(z) < 2:
        raise ValueError("rows")
    return -(-t * F.pdist(z).square()).exp().mean().log()

# %% mistake="uniformity" hint="A Gaussian of width t divides by 2 t squared. Here t multiplies the squared distance."
def uniformity(z, t=2):
    if len(z) < 2:
        raise ValueError("rows")
    return (-F.pdist(z).square() / (2 * t**2)).exp().mean().log()

# %% mistake="uniformity" hint="A single row passes. There are no pairs then: raise ValueError."
def uniformity(z, t=2):
    return (-t * F.pdist(z).square()).exp().mean().log()

# %% mistake="uniformity" hint="Your value is right, but no gradient reaches the embeddings."
def uniformity(z, t=2):
    if len(z) < 2:
        raise ValueError("rows")
    return (-t * F.pdist(z.detach()).square()).exp().mean().log()

# %% alternative="uniformity"
def uniformity(z, t=2):
    if len(z) < 2:
        raise ValueError(f"{len(z)} rows")
    first, second = torch.triu_indices(len(z), len(z), 1)
    squared = (z[first] - z[second]).square().sum(1)
    return torch.logsumexp(-t * squared, 0) - math.log(len(squared))

# %% [markdown]
# How low can uniformity get? Points drawn evenly on a sphere are the mark to compare with. Here are the two numbers for embeddings of a batch
# that are all alike, that fill a cone, and that are spread evenly; partners differ by the same small step.

# %%
if lab.ready("alignment") and lab.ready("uniformity"):
    generator = torch.Generator().manual_seed(0)
    directions, steps = torch.randn(2, 256, 64, generator=generator)
    north = F.one_hot(torch.tensor(0), 64)
    for name, spread in [("all alike", 0.0), ("a cone", 0.1), ("evenly spread", 1e6)]:
        z1 = F.normalize(north + spread * directions, dim=1)
        z2 = F.normalize(z1 + 0.02 * steps, dim=1)
        print(f"{name:13s}  alignment {alignment(z1, z2):.3f}   uniformity {uniformity(z1):6.3f}")

# %% [markdown]
# The lowest value, $-4t = -8$, is for two opposite points only. The mean squared distance of many points cannot pass 2 by much, so for a
# batch about $-2t = -4$ is the end.

# %% [markdown]
# ## Exercise 8: build the head that is thrown away (2 points, 5 minutes)
#
# The loss does not see the encoder's features but what a small network makes of them, and after the training that network is thrown away. Complete `ProjectionHead`: a linear layer **without
# bias** from `in_features` to `hidden_features`, kept in `self.hidden`, batch normalisation, kept in `self.norm`, a ReLU, and a linear layer with bias to `out_features`, kept in `self.out`.
# Features `(N, in_features)` become embeddings `(N, out_features)`. They are not brought to unit length: `nt_xent` does that. PyTorch's layers are meant to be used, with their default settings and
# initial values.
#
# <details><summary>Hint 1</summary>
#
# `super().__init__()` first, then the three layers, all in `__init__`. `forward` only calls them.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `nn.Linear(…, bias=False)`, `nn.BatchNorm1d(hidden_features)`, and `F.relu` in `forward`.
#
# </details>

# %% exercise="ProjectionHead"
class ProjectionHead(nn.Module):
    """Two linear layers with batch normalisation and ReLU between them: (N, in_features) -> (N, out_features).

    Args:
        in_features: of the encoder.
        hidden_features: of the layer between.
        out_features: dimensions of the embeddings that the loss compares.

    Source: Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020, section 4.2 (two layers
        and ReLU; the batch normalisation is in the authors' code).
    """

    def __init__(self, in_features: int, hidden_features: int, out_features: int):
        ### BEGIN SOLUTION
        super().__init__()
        self.hidden = nn.Linear(in_features, hidden_features, bias=False)  # the normalisation's shift is its bias
        self.norm = nn.BatchNorm1d(hidden_features)
        self.out = nn.Linear(hidden_features, out_features)
        ### END SOLUTION

    def forward(self, features: Tensor) -> Tensor:
        ### BEGIN SOLUTION
        return self.out(F.relu(self.norm(self.hidden(features))))
        ### END SOLUTION

# %% check="ProjectionHead" points=2
def by_hand(features, state, training):
    """Matrix products and the definition of batch normalisation, from the weights of a head."""
    hidden = features @ state["hidden.weight"].T
    if training:
        mean, variance = hidden.mean(0), hidden.var(0, unbiased=False)
    else:
        mean, variance = state["norm.running_mean"], state["norm.running_var"]
    scaled = (hidden - mean) / (variance + 1e-5).sqrt() * state["norm.weight"] + state["norm.bias"]
    return scaled.clamp(min=0) @ state["out.weight"].T + state["out.bias"]


def with_random_numbers(head, rng):
    """Give every number of a head's state another value, and return that state."""
    state = {}
    for name, values in head.state_dict().items():
        positive = name in ("norm.weight", "norm.running_var")
        change = rng.uniform(0.1, 0.9, tuple(values.shape)) if positive else rng.normal(0, 0.5, tuple(values.shape))
        state[name] = values + torch.from_numpy(change).float() if values.ndim else values
    state["out.bias"][:1] = -4.0  # so that some of the answers are negative, whatever the weights are
    head.load_state_dict(state)
    return state


@lab.check("ProjectionHead", points=1)
def layers_and_shapes(ProjectionHead):
    """Names, shapes and number of the weights; the shape of the answer."""
    head = ProjectionHead(5, 7, 3)
    shapes = {name: tuple(values.shape) for name, values in head.state_dict().items()}
    expected = {"hidden.weight": (7, 5), "norm.weight": (7,), "norm.bias": (7,), "norm.running_mean": (7,), "norm.running_var": (7,),
                "norm.num_batches_tracked": (), "out.weight": (3, 7), "out.bias": (3,)}
    expect_equal(shapes, expected, "the state of ProjectionHead(5, 7, 3)")
    expect_equal(tuple(head(torch.ones(4, 5)).shape), (4, 3), "4 features of 5 numbers: the shape of the embeddings")
    expect_equal(sum(p.numel() for p in head.parameters()), 35 + 14 + 24, "ProjectionHead(5, 7, 3): trained numbers")


@lab.check("ProjectionHead", points=1)
def forward_and_gradients(ProjectionHead, rng):
    """Embeddings in training mode (statistics of the batch) and in evaluation mode, and the gradient that the encoder gets."""
    head = ProjectionHead(5, 7, 3)
    state = with_random_numbers(head, rng)
    features, longer = normal(rng, 6, 5), normal(rng, 5, 9).T
    for training, x in [(False, features), (True, features), (True, longer)]:
        head.train(training)
        head.load_state_dict(state)
        case = f"{len(x)} features, {'training' if training else 'evaluation'} mode"
        expect_close(head(x), by_hand(x, state, training), case, rtol=1e-3, atol=1e-4)
        ours = gradients(lambda x: head(x), x)
        expect_close(ours, gradients(lambda x: by_hand(x, state, training), x), f"{case}: gradient of the features", rtol=1e-3, atol=1e-4)

# %% mistake="ProjectionHead" hint="The ReLU is missing: two linear layers in a row are one linear layer."
class ProjectionHead(nn.Module):
    def __init__(self, in_features, hidden_features, out_features):
        super().__init__()
        self.hidden = nn.Linear(in_features, hidden_features, bias=False)
        self.norm = nn.BatchNorm1d(hidden_features)
        self.out = nn.Linear(hidden_features, out_features)

    def forward(self, features):
        return self.out(self.norm(self.hidden(features)))

# %% mistake="ProjectionHead" hint="Your head ends with a ReLU, which leaves only directions without negative numbers. It ends with the linear layer."
class ProjectionHead(nn.Module):
    def __init__(self, in_features, hidden_features, out_features):
        super().__init__()
        self.hidden = nn.Linear(in_features, hidden_features, bias=False)
        self.norm = nn.BatchNorm1d(hidden_features)
        self.out = nn.Linear(hidden_features, out_features)

    def forward(self, features):
        return F.relu(self.out(F.relu(self.norm(self.hidden(features)))))

# %% mistake="ProjectionHead" hint="The batch normalisation is never called in `forward`."
class ProjectionHead(nn.Module):
    def __init__(self, in_features, hidden_features, out_features):
        super().__init__()
        self.hidden = nn.Linear(in_features, hidden_features, bias=False)
        self.norm = nn.BatchNorm1d(hidden_features)
        self.out = nn.Linear(hidden_features, out_features)

    def forward(self, features):
        return self.out(F.relu(self.hidden(features)))

# %% mistake="ProjectionHead" hint="You normalise behind the ReLU. The order is linear, normalisation, ReLU, linear."
class ProjectionHead(nn.Module):
    def __init__(self, in_features, hidden_features, out_features):
        super().__init__()
        self.hidden = nn.Linear(in_features, hidden_features, bias=False)
        self.norm = nn.BatchNorm1d(hidden_features)
        self.out = nn.Linear(hidden_features, out_features)

    def forward(self, features):
        return self.out(self.norm(F.relu(self.hidden(features))))

# %% mistake="ProjectionHead" hint="Your first layer has a bias, which the normalisation takes out again. Make it without."
class ProjectionHead(nn.Module):
    def __init__(self, in_features, hidden_features, out_features):
        super().__init__()
        self.hidden = nn.Linear(in_features, hidden_features)
        self.norm = nn.BatchNorm1d(hidden_features)
        self.out = nn.Linear(hidden_features, out_features)

    def forward(self, features):
        return self.out(F.relu(self.norm(self.hidden(features))))

# %% mistake="ProjectionHead" hint="Your last layer has no bias: the state lacks out.bias."
class ProjectionHead(nn.Module):
    def __init__(self, in_features, hidden_features, out_features):
        super().__init__()
        self.hidden = nn.Linear(in_features, hidden_features, bias=False)
        self.norm = nn.BatchNorm1d(hidden_features)
        self.out = nn.Linear(hidden_features, out_features, bias=False)

    def forward(self, features):
        return self.out(F.relu(self.norm(self.hidden(features))))

# %% mistake="ProjectionHead" hint="Your embeddings have unit length. Leave that to the loss."
class ProjectionHead(nn.Module):
    def __init__(self, in_features, hidden_features, out_features):
        super().__init__()
        self.hidden = nn.Linear(in_features, hidden_features, bias=False)
        self.norm = nn.BatchNorm1d(hidden_features)
        self.out = nn.Linear(hidden_features, out_features)

    def forward(self, features):
        return F.normalize(self.out(F.relu(self.norm(self.hidden(features)))), dim=1)

# %% mistake="ProjectionHead" hint="LayerNorm normalises each row by itself. Batch normalisation takes mean and variance of each feature over the batch."
class ProjectionHead(nn.Module):
    def __init__(self, in_features, hidden_features, out_features):
        super().__init__()
        self.hidden = nn.Linear(in_features, hidden_features, bias=False)
        self.norm = nn.LayerNorm(hidden_features)
        self.out = nn.Linear(hidden_features, out_features)

    def forward(self, features):
        return self.out(F.relu(self.norm(self.hidden(features))))

# %% mistake="ProjectionHead" hint="Hidden and output sizes are exchanged. The arguments are in_features, hidden_features, out_features."
class ProjectionHead(nn.Module):
    def __init__(self, in_features, hidden_features, out_features):
        super().__init__()
        self.hidden = nn.Linear(in_features, out_features, bias=False)
        self.norm = nn.BatchNorm1d(out_features)
        self.out = nn.Linear(out_features, hidden_features)

    def forward(self, features):
        return self.out(F.relu(self.norm(self.hidden(features))))

# %% mistake="ProjectionHead" hint="The layers have other names. Keep them in self.hidden, self.norm and self.out."
class ProjectionHead(nn.Module):
    def __init__(self, in_features, hidden_features, out_features):
        super().__init__()
        self.first = nn.Linear(in_features, hidden_features, bias=False)
        self.norm = nn.BatchNorm1d(hidden_features)
        self.out = nn.Linear(hidden_features, out_features)

    def forward(self, features):
        return self.out(F.relu(self.norm(self.first(features))))

# %% mistake="ProjectionHead" hint="super().__init__() is missing: a module must be initialised before it can hold another one."
class ProjectionHead(nn.Module):
    def __init__(self, in_features, hidden_features, out_features):
        self.hidden = nn.Linear(in_features, hidden_features, bias=False)
        self.norm = nn.BatchNorm1d(hidden_features)
        self.out = nn.Linear(hidden_features, out_features)

    def forward(self, features):
        return self.out(F.relu(self.norm(self.hidden(features))))

# %% mistake="ProjectionHead" hint="No gradient reaches the encoder: do not detach the features."
class ProjectionHead(nn.Module):
    def __init__(self, in_features, hidden_features, out_features):
        super().__init__()
        self.hidden = nn.Linear(in_features, hidden_features, bias=False)
        self.norm = nn.BatchNorm1d(hidden_features)
        self.out = nn.Linear(hidden_features, out_features)

    def forward(self, features):
        return self.out(F.relu(self.norm(self.hidden(features.detach()))))

# %% alternative="ProjectionHead"
class ProjectionHead(nn.Module):
    def __init__(self, in_features, hidden_features, out_features):
        nn.Module.__init__(self)
        self.add_module("hidden", nn.Linear(in_features, hidden_features, False))
        self.norm, self.relu = nn.BatchNorm1d(hidden_features), nn.ReLU()
        self.out = nn.Linear(hidden_features, out_features)

    def forward(self, features):
        for layer in (self.hidden, self.norm, self.relu, self.out):
            features = layer(features)
        return features

# %% [markdown]
# ## Exercise 9: ask the neighbours (2 points, 10 minutes)
#
# How good are features that nobody told a label? The quickest answer trains nothing. Complete `knn_probe`: the class of a test image is what most of its `k` nearest training images are. Near means
# a large cosine between the features. When several classes are equally frequent among the `k`, the **smallest** of them wins. Return the labels, `(M,)` int64.
#
# - Features have any length above zero; only their direction counts. No two training features will be equally near to a test feature.
# - Labels are whole numbers of any size, also negative ones.
# - Raise `ValueError` when `k` is under 1 or larger than the number of training features.
#
# <details><summary>Hint 1</summary>
#
# The matrix of all cosines `(M, N)` is one product, `topk` finds the nearest, and indexing the training labels with that gives `(M, k)` labels.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `labels.unique(return_inverse=True)` numbers the classes in ascending order. Count votes in a matrix `(M, classes)`.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# `F.one_hot(votes, num_classes).sum(1)` counts. `argmax` of equal counts gives the first one.
#
# </details>

# %% exercise="knn_probe"
def knn_probe(train_features: Tensor, train_labels: Tensor, test_features: Tensor, k: int) -> Tensor:
    """Classify by a majority among the nearest training features.

    Args:
        train_features: (N, D), of any length above zero.
        train_labels: (N,) int64.
        test_features: (M, D).
        k: number of neighbours that vote, 1 to N.

    Returns:
        (M,) int64, predicted labels.

    Raises:
        ValueError: k is out of its range.

    Source: Wu et al., "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018, section 3.4 (there the
        votes are weighted by a power of the cosine).
    Reference: sklearn.neighbors.KNeighborsClassifier(k, metric="cosine").
    """
    ### BEGIN SOLUTION
    if not 1 <= k <= len(train_features):
        raise ValueError(f"k must be from 1 to {len(train_features)}, got {k}")
    classes, numbers = train_labels.unique(return_inverse=True)  # ascending classes, (N,) their numbers
    cosines = F.normalize(test_features, dim=1) @ F.normalize(train_features, dim=1).T  # (M, N)
    votes = numbers[cosines.topk(k, dim=1).indices]  # (M, k)
    counts = F.one_hot(votes, len(classes)).sum(1)  # (M, classes)
    return classes[counts.argmax(1)]  # the first of equal counts
    ### END SOLUTION

# %% check="knn_probe" points=2
@lab.check("knn_probe", points=1)
def on_a_circle(knn_probe):
    """Directions on a circle, by hand: one, three and four neighbours, votes that tie, lengths that mislead, illegal k."""
    degrees = torch.tensor([0.0, 10, 40, 100, 125, 180], dtype=torch.float64)
    lengths = torch.tensor([0.1, 3, 1, 20, 1, 5], dtype=torch.float64)
    train = lengths[:, None] * torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], 1)
    labels = torch.tensor([7, 3, 3, -1, 7, -1])
    asked = torch.tensor([1.0, 45, 110, 171], dtype=torch.float64).deg2rad()
    test = torch.stack([asked.cos(), asked.sin()], 1)
    expect_equal(knn_probe(train, labels, test, 1), torch.tensor([7, 3, -1, -1]), "one neighbour")
    expect_equal(knn_probe(train, labels, test, 3), torch.tensor([3, 3, -1, -1]), "three neighbours")
    expect_equal(knn_probe(train, labels, test, 4), torch.tensor([3, 3, -1, -1]), "four neighbours")
    expect_equal(knn_probe(train, labels, test, 6), torch.tensor([-1, -1, -1, -1]), "six neighbours, two votes for each class: the smallest label wins")
    expect_equal(knn_probe(train, labels, test, 2), torch.tensor([3, 3, -1, -1]), "two neighbours: ties go to the smallest label")
    expect_raises(ValueError, lambda: knn_probe(train, labels, test, 0), "k = 0")
    expect_raises(ValueError, lambda: knn_probe(train, labels, test, 7), "k = 7, 6 training features")


@lab.check("knn_probe", points=1)
def agrees_with_scikit_learn(knn_probe, rng):
    """Equal to scikit-learn's classifier on random features of many classes, whose lengths differ."""
    from sklearn.neighbors import KNeighborsClassifier

    for n, m, d, classes, k in [(60, 40, 4, 3, 5), (50, 30, 3, 6, 8), (int(rng.integers(20, 40)), 25, 5, 4, int(rng.integers(1, 7)))]:
        train, test = normal(rng, n, d, dtype=torch.float64), normal(rng, m, d, dtype=torch.float64)
        train *= torch.from_numpy(rng.uniform(0.1, 5, (n, 1)))
        labels = torch.from_numpy(rng.integers(0, classes, n)) * 3 - 4
        expected = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(train.numpy(), labels.numpy()).predict(test.numpy())
        expect_equal(knn_probe(train, labels, test, k), torch.from_numpy(expected), f"{n} training and {m} test features, {classes} classes, k = {k}")
        answer = knn_probe(train.float().T.contiguous().T, labels, test.float(), k)
        agree = (answer == torch.from_numpy(expected)).double().mean()
        expect_true(agree > 0.9, f"{n} training features, float32", f"Only {agree:.0%} of the labels agree with those in float64.")

# %% mistake="knn_probe" hint="You took inner products: long training features win. Divide by the lengths."
def knn_probe(train_features, train_labels, test_features, k):
    if not 1 <= k <= len(train_features):
        raise ValueError("k")
    classes, numbers = train_labels.unique(return_inverse=True)
    similarities = F.normalize(test_features, dim=1) @ train_features.T
    near = similarities.topk(k, dim=1)
    votes = numbers[near.indices]
    counts = F.one_hot(votes, len(classes)).sum(1)
    return classes[counts.argmax(1)]

# %% mistake="knn_probe" hint="You took the Euclidean distance of the features as they are. Only their directions count."
def knn_probe(train_features, train_labels, test_features, k):
    if not 1 <= k <= len(train_features):
        raise ValueError("k")
    classes, numbers = train_labels.unique(return_inverse=True)
    similarities = -torch.cdist(test_features, train_features)
    near = similarities.topk(k, dim=1)
    votes = numbers[near.indices]
    counts = F.one_hot(votes, len(classes)).sum(1)
    return classes[counts.argmax(1)]

# %% mistake="knn_probe" hint="You took the k features that are farthest away. A large cosine is near."
def knn_probe(train_features, train_labels, test_features, k):
    if not 1 <= k <= len(train_features):
        raise ValueError("k")
    classes, numbers = train_labels.unique(return_inverse=True)
    similarities = F.normalize(test_features, dim=1) @ F.normalize(train_features, dim=1).T
    near = similarities.topk(k, dim=1, largest=False)
    votes = numbers[near.indices]
    counts = F.one_hot(votes, len(classes)).sum(1)
    return classes[counts.argmax(1)]

# %% mistake="knn_probe" hint="You look at the nearest neighbour alone. All k vote."
def knn_probe(train_features, train_labels, test_features, k):
    if not 1 <= k <= len(train_features):
        raise ValueError("k")
    classes, numbers = train_labels.unique(return_inverse=True)
    similarities = F.normalize(test_features, dim=1) @ F.normalize(train_features, dim=1).T
    near = similarities.topk(k, dim=1)
    votes = numbers[near.indices[:, :1]]
    counts = F.one_hot(votes, len(classes)).sum(1)
    return classes[counts.argmax(1)]

# %% mistake="knn_probe" hint="Ties go to the largest label in your code. The smallest wins."
def knn_probe(train_features, train_labels, test_features, k):
    if not 1 <= k <= len(train_features):
        raise ValueError("k")
    classes, numbers = train_labels.unique(return_inverse=True)
    similarities = F.normalize(test_features, dim=1) @ F.normalize(train_features, dim=1).T
    near = similarities.topk(k, dim=1)
    votes = numbers[near.indices]
    counts = F.one_hot(votes, len(classes)).sum(1)
    return classes.flip(0)[counts.flip(1).argmax(1)]

# %% mistake="knn_probe" hint="Ties go to the class of the nearest neighbour in your code. The smallest label wins."
def knn_probe(train_features, train_labels, test_features, k):
    if not 1 <= k <= len(train_features):
        raise ValueError("k")
    classes, numbers = train_labels.unique(return_inverse=True)
    similarities = F.normalize(test_features, dim=1) @ F.normalize(train_features, dim=1).T
    near = similarities.topk(k, dim=1)
    votes = numbers[near.indices]
    counts = F.one_hot(votes, len(classes)).sum(1)
    return classes[(counts + 0.5 * F.one_hot(votes[:, 0], len(classes))).argmax(1)]

# %% mistake="knn_probe" hint="Your votes are weighted by the cosine. Each of the k has one vote."
def knn_probe(train_features, train_labels, test_features, k):
    if not 1 <= k <= len(train_features):
        raise ValueError("k")
    classes, numbers = train_labels.unique(return_inverse=True)
    similarities = F.normalize(test_features, dim=1) @ F.normalize(train_features, dim=1).T
    near = similarities.topk(k, dim=1)
    votes = numbers[near.indices]
    counts = (F.one_hot(votes, len(classes)) * near.values[..., None]).sum(1)
    return classes[counts.argmax(1)]

# %% mistake="knn_probe" hint="You averaged the labels of the neighbours. Labels are names: count them."
def knn_probe(train_features, train_labels, test_features, k):
    if not 1 <= k <= len(train_features):
        raise ValueError("k")
    classes, numbers = train_labels.unique(return_inverse=True)
    similarities = F.normalize(test_features, dim=1) @ F.normalize(train_features, dim=1).T
    near = similarities.topk(k, dim=1)
    votes = numbers[near.indices]
    return classes[votes.double().mean(1).round().long()]

# %% mistake="knn_probe" hint="You return the number of the class, not its label: labels need not be 0, 1, 2, ..."
def knn_probe(train_features, train_labels, test_features, k):
    if not 1 <= k <= len(train_features):
        raise ValueError("k")
    classes, numbers = train_labels.unique(return_inverse=True)
    similarities = F.normalize(test_features, dim=1) @ F.normalize(train_features, dim=1).T
    near = similarities.topk(k, dim=1)
    votes = numbers[near.indices]
    counts = F.one_hot(votes, len(classes)).sum(1)
    return counts.argmax(1)

# %% mistake="knn_probe" hint="You dropped the nearest neighbour, as if it were the image itself. Test images are not among the training images."
def knn_probe(train_features, train_labels, test_features, k):
    if not 1 <= k <= len(train_features):
        raise ValueError("k")
    classes, numbers = train_labels.unique(return_inverse=True)
    similarities = F.normalize(test_features, dim=1) @ F.normalize(train_features, dim=1).T
    near = similarities.topk(min(k + 1, len(train_features)), dim=1)
    votes = numbers[near.indices[:, 1:]]
    counts = F.one_hot(votes, len(classes)).sum(1)
    return classes[counts.argmax(1)]

# %% mistake="knn_probe" hint="You normalised each dimension over all images, not each row."
def knn_probe(train_features, train_labels, test_features, k):
    if not 1 <= k <= len(train_features):
        raise ValueError("k")
    classes, numbers = train_labels.unique(return_inverse=True)
    similarities = F.normalize(F.normalize(test_features, dim=0), dim=1) @ F.normalize(F.normalize(train_features, dim=0), dim=1).T
    near = similarities.topk(k, dim=1)
    votes = numbers[near.indices]
    counts = F.one_hot(votes, len(classes)).sum(1)
    return classes[counts.argmax(1)]

# %% mistake="knn_probe" hint="The middle one of the sorted labels is their median, not the most frequent one."
def knn_probe(train_features, train_labels, test_features, k):
    if not 1 <= k <= len(train_features):
        raise ValueError("k")
    classes, numbers = train_labels.unique(return_inverse=True)
    similarities = F.normalize(test_features, dim=1) @ F.normalize(train_features, dim=1).T
    near = similarities.topk(k, dim=1)
    votes = numbers[near.indices]
    return classes[votes.median(1).values]

# %% mistake="knn_probe" hint="Any k passes. Raise ValueError when it is under 1 or over the number of training features."
def knn_probe(train_features, train_labels, test_features, k):
    k = min(max(k, 1), len(train_features))
    classes, numbers = train_labels.unique(return_inverse=True)
    similarities = F.normalize(test_features, dim=1) @ F.normalize(train_features, dim=1).T
    near = similarities.topk(k, dim=1)
    votes = numbers[near.indices]
    counts = F.one_hot(votes, len(classes)).sum(1)
    return classes[counts.argmax(1)]

# %% alternative="knn_probe"
def knn_probe(train_features, train_labels, test_features, k):
    if k < 1 or k > len(train_features):
        raise ValueError(f"{k=}")
    answers = []
    for feature in test_features:  # one image after the other
        order = F.cosine_similarity(feature[None], train_features).argsort(descending=True)
        near = train_labels[order[:k]].tolist()
        answers.append(min(set(near), key=lambda label: (-near.count(label), label)))
    return torch.tensor(answers)

# %% [markdown]
# ## Exercise 10: draw straight borders (3 points, 15 minutes)
#
# The usual judge of features is a linear classifier on top of them. Complete `linear_probe`: multinomial logistic regression, found to convergence.
#
# 1. Standardise: subtract from each feature its mean over the **training** features and divide by its standard deviation over them (of the population: divided by N). A feature that is constant there is only
#    shifted. Do the same, with the same numbers, to the test features.
# 2. Find the weights $W$ `(classes, D)` and the bias $\beta$ `(classes,)` that minimise
#    $$\tfrac12 \lVert W \rVert^2 + C \sum_n -\log \operatorname{softmax}(W x_n + \beta)_{y_n} ,$$
#    the sum being over the training images. The bias is not penalised. This function has one lowest value only; go on until the steps no longer matter, and use float64.
# 3. Return the label with the largest logit for each test image, `(M,)` int64. Labels are whole numbers of any size. There are at least two classes.
#
# Checks compare labels, and only where two classes are not nearly equally likely. Raise `ValueError` when `C` is not positive. Write it yourself: scikit-learn is what the check compares with.
#
# <details><summary>Hint 1</summary>
#
# `torch.optim.LBFGS` with `line_search_fn="strong_wolfe"` finds the minimum in about 50 to 200 iterations, all in one call of `step(closure)`. A closure computes the loss, calls `backward` on it and returns it.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# One tensor of shape `(D + 1, classes)`, zeros at first, can hold both: the last row is the bias, for which the features get a column of ones. `F.cross_entropy(…, reduction="sum")` is the second term.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# Its defaults stop too early: `max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12`.
#
# </details>

# %% exercise="linear_probe"
def linear_probe(train_features: Tensor, train_labels: Tensor, test_features: Tensor, C: float = 1.0) -> Tensor:
    """Classify by multinomial logistic regression on standardised features.

    Args:
        train_features: (N, D).
        train_labels: (N,) int64, at least two classes.
        test_features: (M, D).
        C: weight of the training images against the penalty on large weights, positive.

    Returns:
        (M,) int64, predicted labels.

    Raises:
        ValueError: C is not positive.

    Source: Bishop, "Pattern Recognition and Machine Learning", 2006, section 4.3.4 (multiclass logistic regression); as the judge of
        features without labels: Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020, section 2.3.
    Reference: sklearn.linear_model.LogisticRegression(C=C) behind sklearn.preprocessing.StandardScaler, for three classes and more.
    """
    ### BEGIN SOLUTION
    if C <= 0:
        raise ValueError(f"C must be positive, got {C}")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation[train.amax(0) == train.amin(0)] = 1  # not "where it is 0": rounding can leave 1e-17 of a constant feature
    train, test = ((x - mean) / deviation for x in (train, test))
    train, test = (torch.cat([x, torch.ones_like(x[:, :1])], 1) for x in (train, test))  # (N, D + 1): a one for the bias
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = train.new_zeros(train.shape[1], len(classes), requires_grad=True)
    settings = {"max_iter": 500, "tolerance_grad": 1e-8, "tolerance_change": 1e-12, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([weights], **settings)

    def penalised_loss():
        optimizer.zero_grad()
        loss = weights[:-1].square().sum() / 2 + C * F.cross_entropy(train @ weights, numbers, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(penalised_loss)
    return classes[(test @ weights.detach()).argmax(1)]
    ### END SOLUTION

# %% check="linear_probe" points=3
def clusters(rng, sizes, spread, test):
    """Clouds of points about one random place a class: (N, D) features of very different scales, (N,) labels, (test, D) features."""
    centres = rng.standard_normal((len(sizes), 4)) + 2 * np.eye(len(sizes), 4)
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    scales, shift = np.array([1, 30, 0.02, 5]), np.array([0, 100, 1, -3])
    train = centres[numbers] + spread * rng.standard_normal((len(numbers), 4))
    tested = 0.7 + centres[rng.integers(0, len(sizes), test)] + spread * rng.standard_normal((test, 4))
    order = rng.permutation(len(numbers))
    return torch.from_numpy(scales * train + shift)[order], torch.from_numpy(numbers * 2 - 3)[order], torch.from_numpy(scales * tested + shift)


def scikit_learn(train, labels, test, C):
    """Labels by scikit-learn, and for which test features two classes are not nearly equally likely."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, tol=1e-8, max_iter=5000)).fit(train.numpy(), labels.numpy())
    likely = torch.from_numpy(model.predict_proba(test.numpy())).topk(2, dim=1).values
    return torch.from_numpy(model.predict(test.numpy())), likely[:, 0] - likely[:, 1] > 0.003


@lab.check("linear_probe", points=1, seconds=40)
def borders_by_hand(linear_probe):
    """Two and three classes on a line, whose borders follow from symmetry; a constant feature; labels that are not 0, 1, 2; illegal C."""
    line = torch.tensor([[-3.0, 5], [-2, 5], [2, 5], [3, 5]])
    asked = torch.tensor([[-9.0, 5], [-0.1, 5], [0.1, 5], [4, 5]])
    expect_equal(linear_probe(line, torch.tensor([4, 4, -2, -2]), asked), torch.tensor([4, 4, -2, -2]), "two classes about 0, and a constant feature")
    expect_equal(linear_probe(line + 100, torch.tensor([4, 4, -2, -2]), asked + 100), torch.tensor([4, 4, -2, -2]), "the same, 100 to the right")
    three = torch.tensor([[-4.0], [-4.2], [-0.1], [0.1], [4.2], [4.0]]).double()
    answer = linear_probe(three, torch.tensor([6, 6, 0, 0, 3, 3]), torch.tensor([[-5.0], [-3.8], [0], [3.8], [50]]).double(), 1000.0)
    expect_equal(answer, torch.tensor([6, 6, 0, 3, 3]), "three classes on a line, C = 1000")
    expect_raises(ValueError, lambda: linear_probe(three, torch.tensor([6, 6, 0, 0, 3, 3]), three, 0.0), "C = 0")
    expect_raises(ValueError, lambda: linear_probe(three, torch.tensor([6, 6, 0, 0, 3, 3]), three, -1.0), "C = -1")


@lab.check("linear_probe", points=2, seconds=40)
def agrees_with_scikit_learn(linear_probe, rng):
    """Equal to scikit-learn's labels on clouds of points that overlap, with much and with little penalty, classes of different size."""
    for sizes, spread, C in [((25, 25, 25), 1.5, 1.0), ((60, 12, 8, 20), 1.2, 0.003), ((20, 15, 30), 2.0, 100.0)]:
        train, labels, test = clusters(rng, sizes, spread, 400)
        expected, clear = scikit_learn(train, labels, test, C)
        default = C == 1.0
        answer = linear_probe(train, labels, test) if default else linear_probe(train, labels, test, C)
        expect_equal(tuple(answer.shape), (400,), f"classes of {sizes} points: the shape")
        case = f"classes of {sizes} points in 4 dimensions, {'the default C' if default else f'C = {C}'}"
        expect_equal(answer[clear], expected[clear], case)
    five, asked = torch.from_numpy(rng.normal(0, 1, (5, 1))), torch.linspace(-4, 4, 2001, dtype=torch.float64)[:, None]
    for labels, C in [(torch.tensor([1, 1, 1, 2, 5]), 2.0), (torch.tensor([4, 0, 0, 3, 3]), 0.4)]:
        expected, clear = scikit_learn(five, labels, asked, C)
        expect_equal(linear_probe(five, labels, asked, C)[clear], expected[clear], f"5 points on a line, labels {labels.tolist()}, C = {C}, 2,001 places")
    alike = torch.from_numpy(rng.normal(0, 1, (200, 1)) + 0.03 * rng.normal(0, 1, (200, 6)))  # six features that are nearly one
    labels = (30 * (alike[:, 1] - alike[:, 0]) + torch.from_numpy(rng.normal(0, 0.3, 200))).round().clamp(-1, 1).long()
    expected, clear = scikit_learn(alike[:60], labels[:60], alike[60:], 200.0)
    expect_equal(linear_probe(alike[:60], labels[:60], alike[60:], 200.0)[clear], expected[clear], "6 features that are almost the same, C = 200")
    train, labels, test = clusters(rng, (15, 20, 10), 1.0, 200)
    train, test = train.float(), test.float()
    expected, clear = scikit_learn(train.double(), labels, test.double(), 0.5)
    expect_equal(linear_probe(train.T.contiguous().T, labels, test, 0.5)[clear], expected[clear], "float32, axes swapped, C = 0.5")

# %% mistake="linear_probe" hint="The features are not standardised: the penalty hits those with small numbers hardest."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = train - mean, test - mean
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weights.square().sum() / 2 + C * F.cross_entropy(train @ weights.T + bias, numbers, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% mistake="linear_probe" hint="You standardise the test features by their own mean and deviation. Use those of the training features."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = (train - mean) / deviation, (test - test.mean(0)) / test.std(0, correction=0).clamp(min=1e-12)
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weights.square().sum() / 2 + C * F.cross_entropy(train @ weights.T + bias, numbers, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% mistake="linear_probe" hint="You forgot to standardise the test features."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = (train - mean) / deviation, test
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weights.square().sum() / 2 + C * F.cross_entropy(train @ weights.T + bias, numbers, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% mistake="linear_probe" hint="You divided by N - 1 in the standard deviation. Divide by N: `correction=0`."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weights.square().sum() / 2 + C * F.cross_entropy(train @ weights.T + bias, numbers, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% mistake="linear_probe" hint="A constant feature makes you divide by zero, and everything becomes NaN. Only shift it."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weights.square().sum() / 2 + C * F.cross_entropy(train @ weights.T + bias, numbers, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% mistake="linear_probe" hint="C weighs the penalty in your code. It weighs the images: a large C means little penalty."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = C * weights.square().sum() / 2 + F.cross_entropy(train @ weights.T + bias, numbers, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% mistake="linear_probe" hint="You averaged the loss over the images. It is their sum, so more images count more against the penalty."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weights.square().sum() / 2 + C * F.cross_entropy(train @ weights.T + bias, numbers, reduction="mean")
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% mistake="linear_probe" hint="There is no penalty on the weights in your loss."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = C * F.cross_entropy(train @ weights.T + bias, numbers, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% mistake="linear_probe" hint="Your penalty is the squared length without the one half."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weights.square().sum() + C * F.cross_entropy(train @ weights.T + bias, numbers, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% mistake="linear_probe" hint="Your penalty is the length of W. It is half the squared length."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (weights.square().sum() + 1e-12).sqrt() + C * F.cross_entropy(train @ weights.T + bias, numbers, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% mistake="linear_probe" hint="You penalise the bias as well. Only the weights are penalised."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (weights.square().sum() + bias.square().sum()) / 2 + C * F.cross_entropy(train @ weights.T + bias, numbers, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% mistake="linear_probe" hint="The bias is missing: without it your borders depend on where the middle of the features is, not on how frequent the classes are."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weights.square().sum() / 2 + C * F.cross_entropy(train @ weights.T + bias, numbers, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% mistake="linear_probe" hint="You stopped long before the minimum. Look at the settings of the optimizer."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=4, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weights.square().sum() / 2 + C * F.cross_entropy(train @ weights.T + bias, numbers, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% mistake="linear_probe" hint="You return the number of the class, not its label: labels need not be 0, 1, 2, ..."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weights.square().sum() / 2 + C * F.cross_entropy(train @ weights.T + bias, numbers, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return (test @ weights.detach().T + bias.detach()).argmax(1)

# %% mistake="linear_probe" hint="You minimise squared errors. Logistic regression minimises the cross entropy."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weights.square().sum() / 2 + C * (train @ weights.T + bias - F.one_hot(numbers)).square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% mistake="linear_probe" hint="You trained one classifier for each class against the rest. All classes share one softmax."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weights.square().sum() / 2 + C * F.binary_cross_entropy_with_logits(train @ weights.T + bias, F.one_hot(numbers).double(), reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% mistake="linear_probe" hint="Your C is always 1."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if C <= 0:
        raise ValueError("C")
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weights.square().sum() / 2 + F.cross_entropy(train @ weights.T + bias, numbers, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% mistake="linear_probe" hint="A C that is not positive passes. Raise ValueError."
def linear_probe(train_features, train_labels, test_features, C=1.0):
    C = abs(C)
    train, test = train_features.double(), test_features.double()
    mean, deviation = train.mean(0), train.std(0, correction=0)
    deviation = torch.where(deviation == 0, torch.ones_like(deviation), deviation)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    classes, numbers = train_labels.unique(return_inverse=True)
    weights = torch.zeros(len(classes), train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weights.square().sum() / 2 + C * F.cross_entropy(train @ weights.T + bias, numbers, reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    return classes[(test @ weights.detach().T + bias.detach()).argmax(1)]

# %% alternative="linear_probe"
def linear_probe(train_features, train_labels, test_features, C=1.0):
    if not C > 0:
        raise ValueError(f"{C=}")
    x, asked = train_features.double(), test_features.double()
    middle, width = x.mean(0), x.var(0, correction=0).sqrt()
    width = torch.where(width > 0, width, torch.ones_like(width))
    x, asked = (x - middle) / width, (asked - middle) / width
    classes = sorted(set(train_labels.tolist()))
    truth = (train_labels[:, None] == torch.tensor(classes)).double()  # (N, K)
    N, D, K = len(x), x.shape[1], len(classes)
    x1 = torch.cat([torch.ones(N, 1, dtype=torch.float64), x], 1)
    penalty = torch.eye(D + 1, dtype=torch.float64)
    penalty[0, 0] = 0

    def value(w):
        return (penalty @ w).square().sum() / 2 - C * ((x1 @ w).log_softmax(1) * truth).sum()

    w = torch.zeros(D + 1, K, dtype=torch.float64)
    for _ in range(100):  # Newton's method: the exact second derivative, and half steps while the value does not fall
        probs = (x1 @ w).softmax(1)
        slope = penalty @ w + C * x1.T @ (probs - truth)
        curvature = C * torch.einsum("nd,nk,kl,ne->dkel", x1, probs, torch.eye(K, dtype=torch.float64), x1)
        curvature = curvature - C * torch.einsum("nd,nk,nl,ne->dkel", x1, probs, probs, x1)
        curvature = curvature + torch.einsum("de,kl->dkel", penalty, torch.eye(K, dtype=torch.float64))
        size = (D + 1) * K
        step = torch.linalg.lstsq(curvature.reshape(size, size) + 1e-9 * torch.eye(size), slope.reshape(size, 1)).solution
        step, scale = step.reshape(D + 1, K), 1.0
        while value(w - scale * step) > value(w) and scale > 1e-9:
            scale /= 2
        w = w - scale * step
        if step.abs().max() < 1e-9:
            break
    logits = torch.cat([torch.ones(len(asked), 1, dtype=torch.float64), asked], 1) @ w
    return torch.tensor(classes)[logits.argmax(1)]

# %% [markdown]
# ## Exercise 11: train without labels (3 points, 10 minutes)
#
# Everything is there for the training. Complete `pretrain`. Put `encoder` and `head` in training mode, and leave them there. Make an optimizer for the parameters of **both**:
# `torch.optim.AdamW` with the learning rate `lr`, all else as PyTorch has it. Then do `num_steps` times:
#
# 1. Draw a new batch: `batch_size` **different** images, any of them as likely as any other. Images have no order and may come again in the next batch.
# 2. Make `two_views` of the batch.
# 3. Put both views on top of each other, `(2 * batch_size, C, H, W)`, and send them through encoder and head **in one call**: batch normalisation is to see all of them together.
# 4. Cut the embeddings in two again, and take `nt_xent` of them with the `temperature`.
# 5. Do one step of the optimizer. Step $i = 0, 1, \ldots$ has the learning rate $\text{lr} \cdot \tfrac12 (1 + \cos(\pi i / \text{num\_steps}))$, which falls from `lr` towards zero.
#
# Return the losses of all steps, a list of floats. All that happens by chance comes from `generator`: the same generator and the same weights at the start give the same end. Raise
# `ValueError` when `num_steps` is under 1, or when `batch_size` is under 2 (one image has no negatives) or larger than the number of images.
#
# <details><summary>Hint 1</summary>
#
# `torch.randperm(len(images), generator=generator)` is a random order of all images. The first `batch_size` of them are a batch.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# `[*encoder.parameters(), *head.parameters()]` is what the optimizer needs. `torch.optim.lr_scheduler.CosineAnnealingLR` has the rule for the learning rate: call its `step` after the optimizer's.
#
# </details>
#
# <details><summary>Hint 3</summary>
#
# `z1, z2 = head(encoder(torch.cat(two_views(batch, generator)))).chunk(2)`. Behind the loss come `zero_grad`, `backward`, `step`, and `loss.item()` is the float.
#
# </details>

# %% exercise="pretrain"
def pretrain(
    encoder: nn.Module,
    head: nn.Module,
    images: Tensor,
    num_steps: int,
    batch_size: int,
    temperature: float,
    generator: torch.Generator,
    lr: float = 1e-3,
) -> list[float]:
    """Train encoder and head to find the two views of an image among those of the whole batch.

    Args:
        encoder: (N, C, H, W) -> (N, features). Is changed, and in training mode afterwards.
        head: (N, features) -> (N, dimensions). Is changed, and in training mode afterwards.
        images: (N, C, H, W), floating point, 0 to 1; C is 1 or 3. On the device of the networks.
        num_steps: batches, at least 1.
        batch_size: images in a batch, 2 to N.
        temperature: of the loss, positive.
        generator: of the batches and the views; its state moves on.
        lr: learning rate of the first step; it falls along half a cosine.

    Returns:
        The loss of every step, in order.

    Raises:
        ValueError: num_steps or batch_size is out of its range.

    Source: Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020, algorithm 1 (there, the
        optimizer is LARS, the batch is 4,096, and the learning rate rises for ten epochs before it falls along a cosine).
    """
    ### BEGIN SOLUTION
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if not 2 <= batch_size <= len(images):
        raise ValueError(f"batch_size must be from 2 to {len(images)}, got {batch_size}")
    encoder.train()
    head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in training.progress(range(num_steps), "steps"):
        batch = images[torch.randperm(len(images), generator=generator, device=generator.device)[:batch_size]]
        embeddings = head(encoder(torch.cat(two_views(batch, generator))))  # (2 * batch_size, dimensions)
        loss = nt_xent(*embeddings.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses
    ### END SOLUTION

# %% check="pretrain" points=3
HELPERS = {"two_views": "stand_in_views", "nt_xent": "stand_in_loss"}
HUES = torch.tensor([[0.1, -0.05, -0.05], [0, 0.0866, -0.0866], [-0.1, 0.05, 0.05], [0, -0.0866, 0.0866]], dtype=torch.float64)  # 0, 90, 180, 270 degrees


def seeded(seed):
    return torch.Generator().manual_seed(int(seed))


def four_images():
    """Four images of 7 x 6 pixels that keep their names: each has one colour, and no view of it is nearer to another's hue than to its own."""
    return (0.4 + HUES).float()[:, :, None, None].repeat(1, 1, 7, 6)


def names_of(views):
    """Which of the `four_images` each view, (N, 3, H, W), is of: (N,)."""
    color = views.double().mean((2, 3))
    return ((color - color.mean(1, keepdim=True)) @ HUES.T).argmax(1)


def batches_of(encoder, num_steps, batch_size, case):
    """What the encoder was given, a tensor (2 * batch_size, 3, H, W) a step."""
    seen = encoder.seen
    sizes = [len(batch) for batch in seen]
    words = f"The encoder should be called {num_steps} times with {2 * batch_size} images, both views of {batch_size}; it was called with {sizes[:6]}."
    expect_true(sizes == [2 * batch_size] * num_steps, case, words)
    return seen


def fitted(state, head_state, batches, temperature, lr, nt_xent):
    """Training again, on the views that the encoder was given: losses, and both states afterwards. The optimizer is written out."""
    encoder, head = make_encoder(3, (4, 6), (1, 2)).double(), nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4)).double()
    encoder.load_state_dict(state)
    head.load_state_dict(head_state)
    weights = [*encoder.parameters(), *head.parameters()]
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    history = []
    for i, batch in enumerate(batches):
        loss = nt_xent(*head(encoder(batch.double())).chunk(2), temperature)
        rate = lr * (1 + math.cos(math.pi * i / len(batches))) / 2
        with torch.no_grad():
            for w, m, v, slope in zip(weights, first, second, torch.autograd.grad(loss, weights)):
                m.lerp_(slope, 0.1)
                v.lerp_(slope**2, 0.001)
                w -= rate * (0.01 * w + m / (1 - 0.9 ** (i + 1)) / ((v / (1 - 0.999 ** (i + 1))).sqrt() + 1e-8))
        history.append(float(loss.detach()))
    return history, encoder.state_dict(), head.state_dict()


@lab.check("pretrain", points=1, substitute=HELPERS, seconds=60)
def batches_and_views(pretrain, watched_encoder, plain_head, rng):
    """What the encoder is given: different images in a batch, other ones each time, two random views of each, new ones at every step; illegal counts."""
    images, case = four_images(), "4 images of one colour each, 12 steps, batches of 3"
    encoder, head = watched_encoder(1), plain_head(2)
    losses = pretrain(encoder, head, images, 12, 3, 0.5, seeded(rng.integers(2**31)))
    expect_true(type(losses) is list and len(losses) == 12 and all(type(loss) is float for loss in losses), case, "Return a list of 12 floats, the loss of each step.")
    batches = torch.stack(batches_of(encoder, 12, 3, case)).unflatten(1, (2, 3))  # (12, 2, 3, 3, 7, 6): step, view, place in the batch, an image
    drawn = torch.stack([names_of(first) for first, _ in batches])  # (12, 3)
    for step, (_, second) in enumerate(batches):
        expect_true(len(drawn[step].unique()) == 3, case, f"The batch of step {step} holds the images {drawn[step].tolist()}: one of them more than once.")
        expect_equal(names_of(second), drawn[step], f"{case}: which images the second half of the batch of step {step} shows, in order")
    expect_equal(drawn.unique().tolist(), [0, 1, 2, 3], f"{case}: images that were in one of the batches")
    expect_true(len(drawn.sort(1).values.unique(dim=0)) > 1, case, "All batches hold the same images. Draw each batch anew.")
    for name in range(4):
        first, second = batches[:, 0][drawn == name], batches[:, 1][drawn == name]  # (steps that drew it, 3, 7, 6) each
        expect_true((first - second).abs().amax((1, 2, 3)).min() > 1e-7, case, "Both views of an image are the same.")
        for views in (first, second):
            expect_true((views - images[name]).abs().amax((1, 2, 3)).min() > 1e-7, case, "One of the views is the image as it is. Both are random.")
            if len(views) > 1:
                expect_true((views[1:] - views[:-1]).abs().amax((1, 2, 3)).min() > 1e-7, case, "An image has the same views at two steps. Make new ones each time.")
    for steps, size in [(0, 2), (-1, 2), (3, 1), (3, 0), (3, 5)]:
        expect_raises(ValueError, lambda: pretrain(encoder, head, images, steps, size, 0.5, seeded(3)), f"4 images, num_steps {steps}, batch_size {size}")


@lab.check("pretrain", points=1, substitute=HELPERS, seconds=60)
def every_step(pretrain, nt_xent, watched_encoder, plain_head, rng):
    """Losses, weights and running means are those of the same training done on our side, with the views that the encoder was given."""
    images = torch.from_numpy(rng.random((5, 3, 7, 6))).float()
    for steps, size, temperature, lr in [(5, 4, 0.3, 0.02), (1, 5, 1.2, None)]:
        encoder, head = watched_encoder(rng.integers(1000)), plain_head(rng.integers(1000))
        states = {**encoder.state_dict()}, {**head.state_dict()}
        generator = seeded(rng.integers(2**31))
        rates = [] if lr is None else [lr]
        losses = pretrain(encoder, head, images, steps, size, temperature, generator, *rates)
        case = f"5 images, {steps} steps, batches of {size}, temperature {temperature}, {'the default lr' if lr is None else f'lr {lr}'}"
        batches = batches_of(encoder, steps, size, case)
        expected, *ends = fitted(*states, batches, temperature, 1e-3 if lr is None else lr, nt_xent)
        expect_close(losses[:1], expected[:1], f"{case}: the first loss", rtol=1e-6, atol=1e-9)
        expect_close(losses, expected, f"{case}: all losses", rtol=1e-4, atol=1e-6)
        for what, module, end in [("encoder", encoder, ends[0]), ("head", head, ends[1])]:
            state = module.state_dict()
            for key in end:
                expect_close(state[key], end[key], f"{case}: {key} of the {what} afterwards", rtol=1e-3, atol=1e-5)
            expect_true(module.training, case, f"The {what} should be in training mode, before the first step and afterwards.")


@lab.check("pretrain", points=1, substitute=HELPERS, seconds=60)
def learns(pretrain, nt_xent, watched_encoder, plain_head, rng):
    """Same generator, same end; and after 20 steps other images of the same kind, in other views, have a smaller loss."""
    images = torch.sigmoid(torch.from_numpy(rng.normal(0, 1.5, (2, 40, 3, 1, 1)))).repeat(1, 1, 1, 8, 8)  # (2, 40, 3, 8, 8), of one colour each
    ends = []
    for seed in (5, 5, 6):
        encoder, head = watched_encoder(8), plain_head(9)
        losses = pretrain(encoder, head, images[0].float(), 2 if ends else 20, 2 if ends else 32, 0.5, seeded(seed), 0.03)
        ends.append((losses, {**encoder.state_dict()}, {**head.state_dict()}))
    again = pretrain(watched_encoder(8), plain_head(9), images[0].float(), 2, 2, 0.5, seeded(5), 0.03)
    case = "40 images, 2 steps, batches of 2"
    expect_close(again, ends[1][0], f"{case}: the losses of a second run with the same seed", rtol=1e-6, atol=1e-9)
    differ = max(abs(a - b) for a, b in zip(ends[1][0], ends[2][0]))
    expect_true(differ > 1e-6, case, "Another seed of the generator gave the same losses.")
    scores = []
    bright = torch.from_numpy(rng.uniform(0.7, 1.3, (2, 40, 1, 1, 1)))
    for trained in (False, True):
        encoder, head = make_encoder(3, (4, 6), (1, 2), 8).double(), nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4)).double()
        head.load_state_dict(ends[0][2] if trained else {**plain_head(9).state_dict()})
        if trained:
            encoder.load_state_dict(ends[0][1])
        with torch.no_grad():
            scores.append(nt_xent(*head(encoder(torch.cat([images[1] * bright[0], images[1] * bright[1]]))).chunk(2), 0.5).item())
    words = f"Of 40 other images, each in two shades, the loss was {scores[0]:.3f} before and {scores[1]:.3f} after. It should fall by 3 % at least."
    expect_true(scores[1] < 0.97 * scores[0], "20 steps, batches of 32, lr 0.03", words)

# %% mistake="pretrain" hint="The optimizer knows the encoder only, so the head stays random. Hand it the parameters of both."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="Only the head learns: the optimizer does not know the encoder, or no gradient reaches it. It is the encoder you want."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="Gradients pile up from step to step: zero_grad is missing."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="The temperature is always 0.5 in your loss. Hand on the one that comes in."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="The learning rate is always 1e-3. Hand `lr` to the optimizer."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="There is no weight decay in your training: the optimizer is `AdamW`, not `Adam`."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="The learning rate stays the same all the time. It falls along half a cosine."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="You move the learning rate on before the first step, which is one step too early."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * (len(losses) + 1) / num_steps)) / 2
        optimizer.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="Your learning rate falls along a straight line. It falls along half a cosine."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="You drew with repeats: an image can be in a batch twice, and is then its own false negative. Use randperm."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randint(len(images), (batch_size,), generator=generator)]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="You drew one batch, before the loop, and use it in all steps."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
    for _ in range(num_steps):
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="You always take the first images. Draw the batch at random."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[:batch_size]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="You made the views once, before the loop, and use them in all steps. Make new ones at each step."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    views = two_views(images, generator)
    for _ in range(num_steps):
        drawn = torch.randperm(len(images), generator=generator)[:batch_size]
        z = head(encoder(torch.cat([view[drawn] for view in views])))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="You compare a view with the unaltered image. Both views are random."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat([batch, two_views(batch, generator)[1]])))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="You send the views through the network one after the other, so batch normalisation sees each on its own. Put them in one batch."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = torch.cat([head(encoder(view)) for view in two_views(batch, generator)])
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="The networks are in evaluation mode, as they came. Put both in training mode."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="The head is not in training mode."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="You leave the networks in evaluation mode at the end. Leave them in training mode."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    encoder.eval(), head.eval()
    return losses

# %% mistake="pretrain" hint="You cut the embeddings as if the views stood next to each other, 0 and 1, 2 and 3. They stand on top of each other: use chunk."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(z[::2], z[1::2], temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="You return tensors. Take the number out of each loss with item()."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return losses

# %% mistake="pretrain" hint="You return the last loss only. Collect one at each step."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses[-1]

# %% mistake="pretrain" hint="The batches do not come from `generator`: hand it to randperm."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images))[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="The optimizer never takes a step."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps < 1 or not 2 <= batch_size <= len(images):
        raise ValueError("illegal")
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
    return losses

# %% mistake="pretrain" hint="Illegal counts pass. Check both before the training."
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    encoder.train(), head.train()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    losses = []
    for _ in range(num_steps):
        batch = images[torch.randperm(len(images), generator=generator)[:batch_size]]
        z = head(encoder(torch.cat(two_views(batch, generator))))
        loss = nt_xent(*z.chunk(2), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses

# %% alternative="pretrain"
def pretrain(encoder, head, images, num_steps, batch_size, temperature, generator, lr=1e-3):
    if num_steps <= 0:
        raise ValueError(f"{num_steps=}")
    if batch_size < 2 or batch_size > len(images):
        raise ValueError(f"{batch_size=} of {len(images)} images")
    network = nn.Sequential(encoder, head).train()
    optimizer, losses = torch.optim.AdamW(network.parameters()), []
    for step in range(num_steps):  # a draw without replacement, and the learning rate set by hand
        drawn = torch.multinomial(torch.ones(len(images)), batch_size, generator=generator)
        first, second = two_views(images[drawn], generator)
        z = network(torch.cat((first, second)))
        loss = nt_xent(z[:batch_size], z[batch_size:], temperature)
        for group in optimizer.param_groups:
            group["lr"] = lr * math.cos(math.pi * step / num_steps / 2) ** 2
        network.zero_grad()
        loss.backward()
        optimizer.step()
        losses += [loss.item()]
    return losses

# %% [markdown]
# ## Two trainings without labels
#
# Everything below is made of your own functions, and takes up to half a minute on one core: handwritten digits, and rendered scenes with one object each, a sphere, box, cylinder, cone or figure. The labels
# come in only afterwards, for the probes, which are asked about validation images. **Predict first.** An 8 × 8 digit lies in the middle and looks much like other digits of its class. The objects of the scenes stand on all kinds of
# floors, in all colours, seen from all sides. Where will raw pixels be a good feature, and where will the training get ahead of them?

# %%
LEARNER = ("two_views", "nt_xent", "ProjectionHead", "knn_probe", "linear_probe", "pretrain")


def one_object(first, count):
    """Scenes with one object each, seen from near: images (count, 3, h, w), and the kinds of the objects (count,)."""
    world = scenes.sample(range(first, first + count), seed=5, num_objects=(1, 1), motion=0.0, clutter=0.0)
    middle = world.position * torch.tensor([0.15, 0.15, 1.0], dtype=torch.float64)
    world = replace(world, position=middle, eye=world.target + 0.5 * (world.eye - world.target))
    return scenes.render(world, SCENE_PIXELS).images, world.kind[:, 0]


def probe(name, features, labels, asked, truth):
    """Print the accuracy of both probes."""
    near, straight = knn_probe(features, labels, asked, 5), linear_probe(features, labels, asked)
    print(f"  {name:18s} kNN {metrics.accuracy(near, truth):.3f}   linear {metrics.accuracy(straight, truth):.3f}")


def train_and_probe(name, images, labels, asked, truth):
    """Train on images without labels, print the probes' accuracy, and return the features before and after: pairs (training, asked)."""
    print(f"{name}: {len(images)} images, {NUM_STEPS} steps, batches of {BATCH_SIZE}")
    probe("raw pixels", images.flatten(1), labels, asked.flatten(1), truth)
    encoder = make_encoder(images.shape[1], WIDTHS, STRIDES[name], seed=0).to(device)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = ProjectionHead(WIDTHS[-1], WIDTHS[-1], DIMENSIONS).to(device)
    encoder.train()(images[:1000].to(device))  # the running means of batch normalisation move; no weight does
    before = training.predict(encoder, images), training.predict(encoder, asked)
    probe("untrained encoder", before[0], labels, before[1], truth)
    losses = pretrain(encoder, head, images.to(device), NUM_STEPS, BATCH_SIZE, TEMPERATURE, torch.Generator().manual_seed(0), lr=LR)
    after = training.predict(encoder, images), training.predict(encoder, asked)
    probe("trained encoder", after[0], labels, after[1], truth)
    first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
    print(f"  loss {first:.2f} in the first ten steps, {last:.2f} in the last ten; log(2N - 1) = {math.log(2 * BATCH_SIZE - 1):.2f}")
    assert last < first - 0.3, "the loss should fall"
    return before, after


if all([lab.ready(name) for name in LEARNER]):
    train_and_probe("digits", *datasets.digits("train"), *datasets.digits("validation"))
    pictures, kinds = one_object(0, NUM_SCENES)
    asked, truth = one_object(100_000, 500)
    before, after = train_and_probe("scenes", pictures, kinds, asked, truth)

# %% [markdown]
# On the digits the training improves the features of an untrained network, and still does not reach the raw pixels with so small a network and so few steps. On the scenes, where pixels
# are a poor feature, it gets ahead of them by both probes. This is one seed, and a small budget: it shows the direction, not the size of the effect.
#
# What does the encoder hold for alike? On the left of each row stands a validation scene, then come the six training scenes with the nearest features. An orange frame says that the object is of
# another kind.

# %%
if all([lab.ready(name) for name in LEARNER]):
    rows = [truth.eq(kind).nonzero()[1].item() for kind in range(5)]
    fig, axes = plt.subplots(5, 15, figsize=(10, 3.7))
    for column, (train_features, features) in [(0, before), (8, after)]:
        cosines = F.normalize(features[rows], dim=1) @ F.normalize(train_features, dim=1).T
        for row, near in enumerate(cosines.topk(6).indices):
            for ax, image in zip(axes[row, column:], [asked[rows[row]], *pictures[near]]):
                ax.imshow(image.permute(1, 2, 0))
            for ax, kind in zip(axes[row, column + 1 :], kinds[near]):
                if kind != truth[rows[row]]:
                    ax.add_patch(plt.Rectangle((-0.5, -0.5), SCENE_PIXELS, SCENE_PIXELS, fill=False, edgecolor="C1", linewidth=3))
    for ax in axes.flat:
        ax.set_axis_off()
    axes[0, 3].set_title("nearest, untrained encoder", loc="center").set_in_layout(False)
    axes[0, 11].set_title("nearest, trained encoder", loc="center").set_in_layout(False)
    alt = "Five scenes and their six nearest neighbours, by an untrained and a trained encoder; neighbours of another kind are framed."
    plots.show(fig, alt=alt)

# %% [markdown]
# ## What it gives, and what it does not
#
# One small network for everything: three layers of 8, 16 and 32 channels, so that a run takes seconds. Two sets of images: handwritten
# digits of 8 × 8 pixels, and rendered scenes of 16 × 16 pixels with one object each, to be told apart as sphere, box, cylinder, cone or
# figure. The sizes are those of the cell above exercise 1, but for the runs, which are shorter: a seed has nineteen of them. With
# `COURSE_PROFILE=full` all become those of a GPU.
#
# Settings are chosen on **validation** images: the table of ablations below is measured there, and the settings of the curves were tried
# out there. The **test** images appear in the curves only. All runs of a seed share the images; seeds differ in weights, batches and
# views.

# %%
import time

CURVE_STEPS = 20_000 if full else 640  # of the curves
MEASURED_STEPS, MEASURED_BATCH = (5000, 512) if full else (160, 64)  # of the other thirteen runs of a seed


@functools.cache
def labelled_images(name):
    """Pairs (images, labels) for training, validation and test: "digits", or "scenes" with one object each, seen from near."""
    if name == "digits":
        return tuple(datasets.digits(part) for part in ("train", "validation", "test"))
    parts = []
    for first, count in [(0, NUM_SCENES), (100_000, 500), (200_000, 500)]:
        world = scenes.sample(range(first, first + count), seed=5, num_objects=(1, 1), motion=0.0, clutter=0.0)
        middle = world.position * torch.tensor([0.15, 0.15, 1.0], dtype=torch.float64)
        world = replace(world, position=middle, eye=world.target + 0.5 * (world.eye - world.target))
        parts.append((scenes.render(world, SCENE_PIXELS).images, world.kind[:, 0]))
    return tuple(parts)


def networks(name, seed):
    """Encoder and head with random weights from a seed. Their batch normalisations know the mean and spread of the images: an untrained
    network would be judged with wrong ones otherwise."""
    images = labelled_images(name)[0][0]
    encoder = make_encoder(images.shape[1], WIDTHS, STRIDES[name], seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = ProjectionHead(WIDTHS[-1], WIDTHS[-1], DIMENSIONS)
    both = nn.Sequential(encoder, head).to(device)
    norms = [module for module in both.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for momentum in (None, 0.1):  # None: all that was seen so far counts equally; 0.1 is PyTorch's default
        for norm in norms:
            norm.momentum = momentum
        if momentum is None:
            with torch.no_grad():
                both(images[:500].to(device))
    return encoder, head


@contextmanager
def in_place_of(**others):
    """Other values of global names, such as CROP_SCALE=(1.0, 1.0), until the block ends."""
    before = {name: globals()[name] for name in others}
    globals().update(others)
    try:
        yield
    finally:
        globals().update(before)


def outputs(network, images):
    """What a network answers in evaluation mode, on the CPU."""
    return training.predict(network, images, batch_size=500)


def probed(features, labels, asked, truth):
    """Accuracy of both probes on features."""
    return {
        "kNN": metrics.accuracy(knn_probe(features, labels, asked, 5), truth),
        "linear": metrics.accuracy(linear_probe(features, labels, asked), truth),
    }


def first_of_each_class(labels, count=10):
    """(classes * count,) numbers of the first images of each class."""
    return torch.cat([(labels == c).nonzero()[:count, 0] for c in labels.unique()])


@functools.cache
def pixels_probed(name):
    """Test accuracy of the probes on the pixels themselves; the same for all seeds."""
    (images, labels), _, (asked, truth) = labelled_images(name)
    images, asked, few = images.flatten(1), asked.flatten(1), first_of_each_class(labels)
    tenth = metrics.accuracy(linear_probe(images[few], labels[few], asked), truth)
    return probed(images, labels, asked, truth) | {"linear, 10 labels": tenth}


def spread_of_views(encoder, head, images, seed=7):
    """Alignment and uniformity of the embeddings of two views of held-out images, and the loss on the first MEASURED_BATCH of them."""
    views = two_views(images, torch.Generator().manual_seed(seed))
    z1, z2 = (F.normalize(outputs(nn.Sequential(encoder, head), view), dim=1) for view in views)
    loss = nt_xent(z1[:MEASURED_BATCH], z2[:MEASURED_BATCH], TEMPERATURE)
    return {"alignment": alignment(z1, z2), "uniformity": uniformity(z1), "loss": loss}


def supervised(name, seed, images, labels, asked):
    """Labels for images `asked` by the same encoder with a linear layer, trained on labels, with the same views, steps and optimizer."""
    encoder, _ = networks(name, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = nn.Sequential(encoder, nn.Linear(WIDTHS[-1], int(labels.max()) + 1)).to(device)
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.AdamW(classifier.parameters(), lr=LR)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, CURVE_STEPS)
    for _ in range(CURVE_STEPS):
        chosen = torch.randperm(len(images), generator=generator)[:MEASURED_BATCH]
        views = torch.cat(two_views(images[chosen], generator))
        wrong = F.cross_entropy(classifier(views.to(device)), labels[chosen].repeat(2).to(device))
        adam.zero_grad()
        wrong.backward()
        adam.step()
        falling.step()
    return outputs(classifier, asked).argmax(1)


def moved_to(where, views):
    """`two_views` whose results are moved: the views of small images are made on the CPU, the same on every machine."""
    return lambda images, generator: tuple(view.to(where) for view in views(images, generator))

# %% [markdown]
# **Predict first.** The network is untrained at step 0. How much of the way to the supervised network does a linear probe on such
# features go? And is the training without labels ahead of the raw pixels at all?

# %% measure="curve" seeds=5
def curve(seed):
    """Test accuracy of both probes, alignment, uniformity and seconds along the training on digits and scenes, beside the contestants."""
    torch.set_num_threads(1)
    found = {}
    for name in ("digits", "scenes"):
        (images, labels), _, (asked, truth) = labelled_images(name)
        few = first_of_each_class(labels)
        encoder, head = networks(name, seed)
        plain_views, step, seconds, began = moved_to(device, two_views), 0, 0.0, time.process_time()

        def look():
            """Store what the network is worth after `step` steps."""
            features, held_out = outputs(encoder, images), outputs(encoder, asked)
            now = probed(features, labels, held_out, truth) | spread_of_views(encoder, head, asked)
            now["linear, 10 labels"] = metrics.accuracy(linear_probe(features[few], labels[few], held_out), truth)
            now["seconds"] = seconds
            found.update({f"{name}, {what}, {step}": value for what, value in now.items()})

        def watched(batch, generator):
            """Two views, and a look at the network now and then."""
            nonlocal step, seconds, began
            if step in (0, CURVE_STEPS // 32, CURVE_STEPS // 8, CURVE_STEPS // 2):
                seconds += time.process_time() - began
                with in_place_of(two_views=plain_views):
                    look()
                began = time.process_time()
            step += 1
            return plain_views(batch, generator)

        with in_place_of(two_views=watched):
            pretrain(encoder, head, images, CURVE_STEPS, MEASURED_BATCH, TEMPERATURE, torch.Generator().manual_seed(seed), lr=LR)
        seconds += time.process_time() - began
        look()
        found |= {f"{name}, pixels, {what}": value for what, value in pixels_probed(name).items()}
        found[f"{name}, supervised"] = metrics.accuracy(supervised(name, seed, images, labels, asked), truth)
        found[f"{name}, supervised, 10 labels"] = metrics.accuracy(supervised(name, seed, images[few], labels[few], asked), truth)
    return found

# %% [markdown]
# Now change one thing at a time, on the scenes. All rows see the same number of images: the small batch takes four times as many steps,
# the large one a quarter. These are validation images.
#
# **Predict first.** Which single change costs most?

# %% measure="ablations" seeds=5
def ablations(seed):
    """Validation accuracy of both probes on scenes, and dimensions of the features in use, with one thing changed at a time."""
    torch.set_num_threads(1)
    (images, labels), (asked, truth), _ = labelled_images("scenes")
    plain = {"crop": CROP_SCALE, "jitter": JITTER_STRENGTH, "temperature": TEMPERATURE, "batch": MEASURED_BATCH, "head": True}
    changes = {
        "as it is": {}, "no jitter": {"jitter": 0.0}, "no crop": {"crop": (1.0, 1.0)},
        "temperature 0.1": {"temperature": 0.1}, "temperature 0.5": {"temperature": 0.5}, "temperature 1": {"temperature": 1.0},
        "batch / 4": {"batch": MEASURED_BATCH // 4}, "batch x 4": {"batch": 4 * MEASURED_BATCH}, "no head": {"head": False},
    }
    found = {}
    for row, change in changes.items():
        now = plain | change
        encoder, head = networks("scenes", seed)
        if not now["head"]:
            head = nn.Identity()
        with in_place_of(CROP_SCALE=now["crop"], JITTER_STRENGTH=now["jitter"], two_views=moved_to(device, two_views)):
            generator, num_steps = torch.Generator().manual_seed(seed), MEASURED_STEPS * MEASURED_BATCH // now["batch"]
            pretrain(encoder, head, images, num_steps, now["batch"], now["temperature"], generator, lr=LR)
        features, held_out = outputs(encoder, images), outputs(encoder, asked)
        found |= {f"{row}, {what}": value for what, value in probed(features, labels, held_out, truth).items()}
        found[f"{row}, dimensions"] = dimensions_in_use(held_out)
        if row == "as it is":
            whole = nn.Sequential(encoder, head)
            after = probed(outputs(whole, images), labels, outputs(whole, asked), truth)
            found |= {f"after the head, {what}": value for what, value in after.items()}
            found["after the head, dimensions"] = dimensions_in_use(outputs(whole, asked))
    encoder, _ = networks("scenes", seed)
    features, held_out = outputs(encoder, images), outputs(encoder, asked)
    found |= {f"untrained, {what}": value for what, value in probed(features, labels, held_out, truth).items()}
    return found | {"untrained, dimensions": dimensions_in_use(held_out)}


def spectrum(vectors):
    """Variances along the principal axes of (N, D) vectors, from large to small, as shares of their sum."""
    variances = torch.linalg.svdvals(vectors.double() - vectors.double().mean(0)) ** 2
    return variances / variances.sum().clamp(min=1e-300)


def dimensions_in_use(vectors):
    """The effective number of dimensions: e to the entropy of the spectrum, 1 to D."""
    shares = spectrum(vectors)
    return torch.special.entr(shares).sum().exp()

# %% [markdown]
# Three ways to break it. *Without negatives* the loss only rewards agreement: minus the cosine of partners, divided by the temperature.
# *Without augmentation* both views are the image itself. *The strongest views* are as different as can be: crops from 2 % of the
# area on, and jitter at full strength. **Predict first.** In which of them will the loss be at $\log(2N-1)$, and in which at its minimum?

# %% measure="collapse" seeds=5
def only_attraction(z1, z2, temperature):
    """The numerator of NT-Xent alone: partners attract each other, and nothing pushes away."""
    return -F.cosine_similarity(z1, z2).mean() / temperature


def collapse(seed):
    """Loss, alignment, uniformity, accuracy and spectrum of unit embeddings for four ways to train on scenes, judged on usual views."""
    torch.set_num_threads(1)
    (images, labels), (asked, truth), _ = labelled_images("scenes")
    ways = {
        "NT-Xent": {}, "no negatives": {"nt_xent": only_attraction}, "no augmentation": {"CROP_SCALE": (1.0, 1.0), "JITTER_STRENGTH": 0.0},
        "strongest views": {"CROP_SCALE": (0.02, 1.0), "JITTER_STRENGTH": 1.0},
    }
    found = {}
    for way, change in ways.items():
        encoder, head = networks("scenes", seed)
        generator = torch.Generator().manual_seed(seed)
        with in_place_of(two_views=moved_to(device, two_views), **change):
            losses = pretrain(encoder, head, images, MEASURED_STEPS, MEASURED_BATCH, TEMPERATURE, generator, lr=LR)
        now = spread_of_views(encoder, head, asked) | {"training loss": sum(losses[-10:]) / 10}
        now |= probed(outputs(encoder, images), labels, outputs(encoder, asked), truth)
        embeddings = F.normalize(outputs(nn.Sequential(encoder, head), asked), dim=1)
        now |= {"dimensions": dimensions_in_use(embeddings), "variance": embeddings.double().var(0).sum()}
        now |= {f"axis {axis}": share for axis, share in enumerate(spectrum(embeddings).tolist())}
        found |= {f"{way}, {what}": value for what, value in now.items()}
    return found

# %% [markdown]
# Here are the stored numbers: mean and standard deviation of five seeds.

# %%
stored = {name: measurements.load("23_simclr", name) for name in ("curve", "ablations", "collapse")}


def mean_and_spread(measurement, what):
    """Mean and standard deviation over the seeds of one stored number."""
    values = torch.tensor([record[what] for record in stored[measurement]], dtype=torch.float64)
    return values.mean().item(), values.std().item()


STEPS = sorted(int(key.split(", ")[-1]) for key in stored["curve"][0] if key.startswith("digits, seconds"))
for name in ("digits", "scenes"):
    for what in ("kNN", "linear", "linear, 10 labels"):
        row = [f"{mean:.3f} ± {std:.3f}" for mean, std in (mean_and_spread("curve", f"{name}, {what}, {step}") for step in STEPS)]
        print(f"{name}, {what:18s} after {', '.join(map(str, STEPS))} steps: {'  '.join(row)}")
    for what in ("pixels, kNN", "pixels, linear", "supervised", "pixels, linear, 10 labels", "supervised, 10 labels"):
        mean, std = mean_and_spread("curve", f"{name}, {what}")
        print(f"{name}, {what:26s} {mean:.3f} ± {std:.3f}")
    print(f"{name}: {mean_and_spread('curve', f'{name}, seconds, {STEPS[-1]}')[0]:.1f} seconds of one core")

# %%
rows = [key.removesuffix(", kNN") for key in stored["ablations"][0] if key.endswith(", kNN")]
print(f"{'scenes, validation':20s} {'kNN':>15s} {'linear probe':>15s} {'dimensions':>13s}")
for row in rows:
    (near, near_std), (line, line_std), (wide, wide_std) = (
        mean_and_spread("ablations", f"{row}, {what}") for what in ("kNN", "linear", "dimensions")
    )
    print(f"{row:20s}   {near:.3f} ± {near_std:.3f}   {line:.3f} ± {line_std:.3f}   {wide:5.1f} ± {wide_std:.1f}")
for what in ("training loss", "loss", "alignment", "uniformity", "variance", "dimensions", "linear"):
    ways = ("NT-Xent", "no negatives", "no augmentation", "strongest views")
    means = {way: mean_and_spread("collapse", f"{way}, {what}")[0] for way in ways}
    print(f"{what:14s}", ", ".join(f"{way} {mean:.3f}" for way, mean in means.items()))

# %% [markdown]
# **The curve.** On scenes the features pass the pixels and go about two thirds of the way from random features to the supervised network. On digits they
# end level with the pixels by the linear probe, and kNN on pixels stays ahead of everything: an effect that does not show at this scale. With ten labels a
# class the features are ahead of the pixels on scenes, and about as good as the same network trained on these labels with the same views: much of the gain is what the views know.
#
# **The table.** No crop costs most: its means are even under those of the untrained encoder, though not with every seed. The jitter helps with every seed, a little for the linear probe, more for kNN. Low temperatures are better than high ones, but 0.1 and 0.2 are within the
# spread. A large batch is worse here, as it takes fewer steps for the same number of images. Without a head the probe loses two points, within
# its spread, and behind the head it is not clearly worse than before: our classes are shapes, which the views do not change.
#
# **Collapse.** Without negatives the embeddings fall into one point: their `variance` is almost 0, and `loss` is near $\log 127$. (`loss` is NT-Xent on two
# usual views of the first 64 images, so $\log(2 \cdot 64 - 1)$; the demonstration above had 128 images and $\log 255$.) `training loss` is what
# each run minimised: without negatives it stands at its own minimum, $-1/\tau = -5$. Without augmentation the embeddings spread over 25 of 32 dimensions. Of
# the three trained with NT-Xent its training loss is the lowest, but not at a minimum, and the features are about as good as untrained ones. With the strongest
# views four dimensions are left.
#
# `dimensions` is taken of the features in the upper table, of the unit embeddings in the lower one. It looks only at the shares of the variance: for
# collapsed embeddings, 12.8 is the shares of almost nothing. The
# [lecture](../../lectures/23_simclr.ipynb) draws these numbers.

# %% [markdown]
# ### At real size
#
# The same loss and the same views train a ResNet on real photographs, when there is a GPU and time. The function below can be stopped at
# any moment and goes on from the last whole epoch: it stores weights, optimizer and learning rate after each one. On a GPU it computes in
# bfloat16 where that is safe. With `COURSE_PROFILE=full`, and after `course data cifar10` (or `stl10`), it follows the recipe of Chen et
# al. for CIFAR-10 (appendix B.9): first convolution 3 × 3 with stride 1, no pooling behind it, no blur, jitter 0.5, temperature 0.5, a
# learning rate that rises for a tenth of the epochs and falls along a cosine; with ResNet-18 for their ResNet-50, and AdamW for their
# LARS. In the default profile it runs for two small epochs, once in one go and once with a stop between, and both ends must agree.

# %%
import tempfile
from pathlib import Path

REAL_SET, REAL_EPOCHS, REAL_BATCH, REAL_LR = ("cifar10", 500, 512, 1e-3) if full else ("scenes", 2, 64, 1e-3)


def real_images(name):
    """(images, labels) for training and test: a fetched set as uint8 pixels, or the scenes."""
    if name == "scenes":
        parts = labelled_images("scenes")
        return [(images[:256], labels[:256]) for images, labels in parts[:2]]
    from course_lib import real_data

    found = []
    for part in ("train", "test"):
        opened = real_data.open_set(name, part)
        pixels, labels = torch.as_tensor(opened.data), torch.as_tensor(opened.targets if name == "cifar10" else opened.labels)
        found.append((pixels.movedim(-1, 1) if name == "cifar10" else pixels, labels.long()))
    return found


def as_floats(pixels):
    """Images from 0 to 1 of pixels that may be uint8."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def real_encoder(name):
    """The small encoder for scenes, ResNet-18 for photographs, and the number of its features."""
    if name == "scenes":
        return make_encoder(3, WIDTHS, STRIDES["scenes"]), WIDTHS[-1]
    from torchvision.models import resnet18

    encoder = resnet18()
    encoder.conv1 = nn.Conv2d(3, 64, 3, 1, padding=1, bias=False)
    encoder.maxpool = encoder.fc = nn.Identity()
    return encoder, 512


def train_resumably(folder, stop_after=None):
    """Train on REAL_SET, going on from the checkpoint in `folder` if there is one. Returns the encoder."""
    images = real_images(REAL_SET)[0][0]
    repro.seed_all(0)
    encoder, features = real_encoder(REAL_SET)
    both = nn.Sequential(encoder, ProjectionHead(features, features, DIMENSIONS)).to(device)
    adam = torch.optim.AdamW(both.parameters(), lr=REAL_LR, weight_decay=1e-4)
    per_epoch = len(images) // REAL_BATCH
    total, rising = REAL_EPOCHS * per_epoch, max(1, REAL_EPOCHS // 10) * per_epoch
    factor = lambda step: min((step + 1) / rising, (1 + math.cos(math.pi * step / total)) / 2)  # noqa: E731
    schedule, start, path = torch.optim.lr_scheduler.LambdaLR(adam, factor), 0, Path(folder) / "checkpoint.pt"
    if path.is_file():
        saved = torch.load(path, map_location=device, weights_only=True)
        start = saved["epochs"]
        for what, part in [("networks", both), ("optimizer", adam), ("schedule", schedule)]:
            part.load_state_dict(saved[what])
    both.train()
    for epoch in training.progress(range(start, stop_after or REAL_EPOCHS), "epochs"):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        chance = torch.Generator(device).manual_seed(epoch)  # each epoch has its own: resuming needs no state of it
        for chosen in order[: per_epoch * REAL_BATCH].view(per_epoch, REAL_BATCH):
            views = torch.cat(two_views(as_floats(images[chosen].to(device)), chance))
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                answers = both(views)
            contrast = nt_xent(*answers.float().chunk(2), 0.5)
            adam.zero_grad()
            contrast.backward()
            adam.step()
            schedule.step()
        state = {"epochs": epoch + 1, "networks": both.state_dict(), "optimizer": adam.state_dict(), "schedule": schedule.state_dict()}
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)  # a stop while writing leaves the old one whole
    return encoder


if all([lab.ready(name) for name in ("two_views", "nt_xent", "ProjectionHead", "linear_probe", "knn_probe")]):
    if full:
        from course_lib import real_data

        folder = real_data.CACHE / "23_simclr"
        folder.mkdir(parents=True, exist_ok=True)
        encoder = train_resumably(folder)
        (images, labels), (asked, truth) = real_images(REAL_SET)
        features, held_out = (torch.cat([outputs(encoder, as_floats(some)) for some in part.split(1000)]) for part in (images, asked))
        print({what: round(value, 4) for what, value in probed(features, labels, held_out, truth).items()})
    else:
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            straight = train_resumably(first)
            train_resumably(second, stop_after=1)
            resumed = train_resumably(second)
        apart = max((a - b).abs().max().item() for a, b in zip(straight.parameters(), resumed.parameters()))
        print(f"largest difference of a weight, in one go and with a stop: {apart:.1e}")
        assert apart < 1e-5

# %% [markdown] written="what_collapses" points=2
# ## Exercise 12: say what collapses (2 points, 10 minutes)
#
# Two knobs can be turned to the end. In five to ten sentences: what does the gradient of $\ell_i$ with respect to the cosines $\cos(z_i, z_k)$ look like when the **temperature** goes to zero, and
# which embeddings does it still move? What becomes of it when the temperature is very large? What does the encoder have to know to solve the task when the **augmentations** disappear, so that both views are the
# image itself? And what would the value of the loss tell you: what is it when all embeddings are alike, and what is it near when the task is too easy? You may use what
# the text and the numbers above say.
#
# **Model answer.** With $p_{ik} = e^{s_{ik}} / \sum_{m \ne i} e^{s_{im}}$, the gradient with respect to the cosine of $i$ and $k$ is $p_{ik} / \tau$ for a negative and $(p_{i p(i)} - 1) / \tau$ for the partner. When
# $\tau \to 0$ the softmax becomes a maximum. If the partner is already the nearest, all $p$ of the negatives vanish and nothing moves. Otherwise only the partner and the one nearest negative are moved, with a force that grows as
# $1 / \tau$. So what collapses is the crowd of negatives: a batch of hundreds counts like one, the hardest, and this is
# often a false negative, an image of the same kind. The gradient is noisy, and the spread over the sphere, which needs many weak pushes, is lost. When $\tau$ is very large all negatives have the same weight $1 / (2N - 1)$, however far they
# are: hard ones are not told from easy ones. Without augmentations the partner has exactly the same embedding, whatever the encoder does: its cosine is 1 from the first step on, with random weights too. There is nothing to be
# invariant to. What remains is to spread different images apart, and any feature that tells images apart does that, pixel noise and the mean colour included. So the invariance collapses, and with it the use of the features, not the embeddings
# themselves: alignment is 0 and uniformity is good. The loss tells them apart only in part. It is exactly $\log (2N - 1)$ when all embeddings are alike, at any temperature. It is small, at small temperatures near 0, when the task is too easy: a low loss is no
# proof of good features, and only a probe on held-out images is.
#
# **Rubric.** 1 point for the temperature: at zero only the nearest negative counts (a maximum in place of the softmax), or nothing moves when the partner is the nearest; at large values all negatives weigh the same. 1 point for the augmentations: partners agree
# without learning, so no invariance is learned and any cue that tells images apart will do, while the embeddings stay spread (this is not the collapse to one point). Half a point off where the values of the loss, $\log (2N - 1)$ for embeddings that are all alike and nearly 0 for an
# easy task, are missing or exchanged.

# %% [markdown]
# ## How far you are

# %%
lab.progress()
