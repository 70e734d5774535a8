"""Topic 06: which pixels a pixel listens to at some bandwidths, and what that makes of a coarse answer on a photograph."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure, FigureBase
from torch import Tensor

from course_lib import datasets, plots
from course_lib.explore import panel
from course_lib.explore.panel import Slider

HEIGHT, WIDTH = 40, 48  # pixels: all pairs of 1,920 pixels are 3.7 million
PIXEL = (13, 30)  # row and column of the pixel whose kernel is drawn: inside the flower, at its edge
CONTROLS = (
    Slider("theta_alpha", "θα: place (px)", 1, 40, start=12),
    Slider("theta_beta", "θβ: colour", 0.02, 1.0, start=0.14, step=0.02),
    Slider("theta_gamma", "θγ: spatial (px)", 1, 10, start=2),
    Slider("w_bilateral", "bilateral weight", 0.0, 10.0, start=5.0, step=0.5),
    Slider("w_spatial", "spatial weight", 0.0, 10.0, start=1.0, step=0.5),
    Slider("iterations", "iterations", 0, 10, start=5),
)
SIZE = (10.6, 3.1)  # inches


@functools.cache
def photograph() -> Tensor:
    """(3, 40, 48), 0 to 1: a dahlia, eight times smaller than in the file."""
    return F.interpolate(datasets.photograph("flower")[None], scale_factor=1 / 8, mode="area")[0, :, 5 : 5 + HEIGHT, 14 : 14 + WIDTH]


@functools.cache
def truth() -> Tensor:
    """(40, 48) bool: the flower, a disk laid over it by hand."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return (y - 22.25).square() + (x - 24).square() < 17.25**2


@functools.cache
def coarse() -> Tensor:
    """(40, 48), probabilities of the flower as a network of stride 8 may give them: the disk's share in each block, one block wrong."""
    blocks = F.avg_pool2d(truth()[None, None].float(), 8)  # (1, 1, 5, 6)
    blocks[..., 0, 5] = 0.75
    return 0.1 + 0.8 * F.interpolate(blocks, scale_factor=8, mode="nearest")[0, 0]


def figure(**setting) -> Figure:
    """The photograph, the coarse answer, the kernel of one pixel, and the refined answer.

    Args:
        setting: values of CONTROLS by name: the bandwidths of place, colour (of the range from black to white) and of the spatial kernel,
            the weights of both kernels, and the number of mean field iterations.
    """
    fig = Figure(figsize=SIZE, layout="none")
    _draw(fig, **setting)
    return fig


def describe(**setting) -> str:
    """The figure of the same setting in words."""
    s = _numbers(**panel.started(CONTROLS, **setting))
    return (
        f"A dahlia before dark leaves; a blocky answer with one wrong block in a corner; how much a pixel at the flower's edge listens to the "
        f"others at bandwidths {s.theta_alpha:g} px, {s.theta_beta:g} in colour and {s.theta_gamma:g} px: as if to {s.listened:.0f} pixels, "
        f"{s.inside:.0%} of them in the flower; and the answer after {s.iterations} iterations. IoU with the flower {s.before:.3f} before, "
        f"{s.after:.3f} after."
    )


def strip() -> Figure:
    """Three frames: a sensible colour bandwidth, one so wide that the kernel ignores colour, one so narrow that few pixels are heard."""
    return panel.frames(_draw, [dict(), dict(theta_beta=1.0), dict(theta_beta=0.02)], SIZE)


def show(**start) -> None:
    """Show the explorer; `start` moves controls, as in show(theta_beta=0.3)."""
    panel.show(figure, describe, CONTROLS, **start)


@functools.cache
def _squared_distances() -> tuple[Tensor, Tensor]:
    """Of all pairs of pixels, (1920, 1920) each: in pixels, and in colour. A pixel is infinitely far from itself: it does not listen to itself."""
    places = torch.cartesian_prod(torch.arange(float(HEIGHT)), torch.arange(float(WIDTH)))  # (1920, 2)
    colours = photograph().flatten(1).T  # (1920, 3)
    in_place, in_colour = torch.cdist(places, places).square(), torch.cdist(colours, colours).square()
    return in_place.fill_diagonal_(torch.inf), in_colour


def _normalised(exponent: Tensor) -> Tensor:
    """A Gaussian kernel of all pairs, each entry divided by the root of both its row's and its column's sum; in logarithms, so that a pixel
    which hardly anybody is like is heard as well."""
    sums = torch.logsumexp(exponent, dim=1)
    return exponent.sub_(sums / 2).sub_(sums[:, None] / 2).exp_()


@functools.lru_cache(maxsize=2)
def _bilateral(theta_alpha: float, theta_beta: float) -> Tensor:
    in_place, in_colour = _squared_distances()
    return _normalised((in_place * (-0.5 / theta_alpha**2)).sub_(in_colour, alpha=0.5 / theta_beta**2))


@functools.lru_cache(maxsize=2)
def _spatial(theta_gamma: float) -> Tensor:
    return _normalised(_squared_distances()[0] * (-0.5 / theta_gamma**2))


def _numbers(
    *, theta_alpha: float, theta_beta: float, theta_gamma: float, w_bilateral: float, w_spatial: float, iterations: int
) -> SimpleNamespace:
    kernel = w_bilateral * _bilateral(theta_alpha, theta_beta) + w_spatial * _spatial(theta_gamma)
    # With two labels and the Potts model one number a pixel is enough: the logit. A neighbour adds its kernel times how sure it is, from −1 to 1.
    from_answer = torch.logit(coarse()).flatten()
    logits = from_answer
    for _ in range(iterations):
        logits = from_answer + kernel @ torch.tanh(logits / 2)  # tanh(logit / 2) = q(flower) − q(background)
    refined = torch.special.expit(logits).reshape(HEIGHT, WIDTH)
    shares = kernel[PIXEL[0] * WIDTH + PIXEL[1]].reshape(HEIGHT, WIDTH)
    shares = shares / shares.sum().clamp(min=1e-12)
    listened = 1 / shares.square().sum().clamp(min=1e-12) if shares.sum() > 0 else torch.tensor(0.0)  # the effective number of pixels
    return SimpleNamespace(
        theta_alpha=theta_alpha, theta_beta=theta_beta, theta_gamma=theta_gamma, iterations=iterations, refined=refined, shares=shares,
        listened=listened.item(), inside=shares[truth()].sum().item(), before=_iou(coarse() > 0.5), after=_iou(refined > 0.5),
    )


def _iou(mask: Tensor) -> float:
    return ((mask & truth()).sum() / (mask | truth()).sum()).item()


def _draw(fig: FigureBase, **setting) -> None:
    s = _numbers(**panel.started(CONTROLS, **setting))
    axes = fig.subplots(1, 4, gridspec_kw=dict(left=0.01, right=0.99, top=0.8, bottom=0.01, wspace=0.05))
    axes[0].imshow(photograph().permute(1, 2, 0).numpy())
    axes[1].imshow(coarse().numpy(), cmap="cividis", vmin=0, vmax=1)
    axes[2].imshow((s.shares / s.shares.max().clamp(min=1e-12)).numpy(), cmap="magma", vmin=0, vmax=1)
    axes[3].imshow(s.refined.numpy(), cmap="cividis", vmin=0, vmax=1)
    for ax in (axes[0], axes[2]):
        ax.plot(PIXEL[1], PIXEL[0], "+", color="white", markersize=11, markeredgewidth=2)
    for ax in (axes[1], axes[3]):
        ax.contour(truth().numpy(), levels=[0.5], colors="white", linewidths=1)
    titles = ["a pixel of the photograph", f"coarse answer: IoU {s.before:.2f}", f"it listens to {s.listened:.0f} pixels",
              f"after {s.iterations} iterations: {s.after:.2f}"]
    for ax, title in zip(axes, titles):
        ax.set(xticks=[], yticks=[], title=title)
        ax.grid(False)
        ax.spines[:].set_visible(False)
    change = "better" if s.after > s.before else "worse" if s.after < s.before else "neither better nor worse"
    widths = f"θα {s.theta_alpha:g} px, θβ {s.theta_beta:g}, θγ {s.theta_gamma:g} px"
    fig.suptitle(f"{widths}: {s.inside:.0%} of what the pixel hears is flower; the answer gets {change}", x=0.01, ha="left", fontsize=12)
