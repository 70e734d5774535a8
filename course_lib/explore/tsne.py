"""Topic 31: 200 digits find their places on a t-SNE map, iteration by iteration, at a perplexity."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np
import torch
from matplotlib.figure import Figure, FigureBase
from torch import Tensor

from course_lib import datasets, plots
from course_lib.explore import panel
from course_lib.explore.panel import Choice, Slider

NUM_IMAGES = 200
EVERY, LAST = 10, 240  # a frame is kept every 10 iterations
EXAGGERATED = 50  # first iterations in which all affinities count four times
CONTROLS = (
    Slider("iteration", "iteration", 0, LAST, start=0, step=EVERY),
    Slider("perplexity", "perplexity", 2, 60, start=20),
    Choice("start", "start", ("noise", "PCA"), "noise"),
)
SIZE = (9.6, 4.6)  # inches
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7B3294", "#8C6D31", "#999999")  # 0 to 9


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """(200, 64) images as vectors, 0 to 1, and (200,) labels: twenty of each class."""
    images, labels = datasets.digits("train")
    chosen = torch.cat([(labels == k).nonzero().flatten()[: NUM_IMAGES // 10] for k in range(10)])
    return images[chosen].flatten(1).double(), labels[chosen]


@functools.lru_cache(maxsize=8)
def affinities(perplexity: float) -> Tensor:
    """(19900,) of all pairs i < j, sum 1: each point's Gaussian is as wide as its perplexity asks, then both directions are averaged."""
    from scipy.optimize import elementwise

    squares = torch.cdist(digits()[0], digits()[0]).square().fill_diagonal_(torch.inf).numpy()

    def shares(log_precision: np.ndarray, rows: np.ndarray) -> Tensor:
        return torch.softmax(torch.from_numpy(-np.exp(log_precision)[:, None] * squares[rows]), dim=1)

    def too_wide(log_precision: np.ndarray, rows: np.ndarray) -> np.ndarray:  # entropy above the one asked for, in nats
        return torch.special.entr(shares(log_precision, rows)).sum(1).numpy() - np.log(perplexity)

    rows = np.arange(NUM_IMAGES)
    bounds = (np.full(NUM_IMAGES, -10.0), np.full(NUM_IMAGES, 10.0))
    found = elementwise.find_root(too_wide, bounds, args=(rows,), tolerances=dict(xatol=1e-6))
    both = shares(found.x, rows)
    first, second = torch.triu_indices(NUM_IMAGES, NUM_IMAGES, offset=1)
    return (both[first, second] + both[second, first]) / NUM_IMAGES  # the mean of both directions, and a pair stands here once


def divergence(p: Tensor, embedding: Tensor, exaggeration: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of the map's affinities from `p` over pairs i < j; exaggeration multiplies its attracting part."""
    log_weights = -torch.log1p(torch.pdist(embedding).square())  # Student's t with one degree of freedom
    attraction, repulsion = -(p * log_weights).sum(), torch.logsumexp(log_weights, dim=0)
    return exaggeration * attraction + repulsion + torch.xlogy(p, p).sum()


@functools.lru_cache(maxsize=8)
def frames(perplexity: float, start: str) -> tuple[Tensor, Tensor]:
    """(25, 200, 2) embeddings, the first one the start, and (25,) their divergences: gradient descent with momentum, by autograd."""
    p = affinities(perplexity).float()
    if start == "PCA":
        centred = digits()[0] - digits()[0].mean(0)
        embedding = (centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T).float()
        embedding = 1e-2 * embedding / embedding[:, 0].std()
    else:
        embedding = 1e-2 * torch.randn(NUM_IMAGES, 2, generator=torch.Generator().manual_seed(0))
    velocity, kept, values = torch.zeros_like(embedding), [], []
    for iteration in range(LAST + 1):
        embedding = embedding.requires_grad_(True)
        early = iteration < EXAGGERATED
        (gradient,) = torch.autograd.grad(divergence(p, embedding, 4.0 if early else 1.0), embedding)
        embedding = embedding.detach()
        if iteration % EVERY == 0:
            kept.append(embedding)
            values.append(divergence(p, embedding))
        velocity = (0.5 if early else 0.8) * velocity - 100 * gradient
        embedding = embedding + velocity
        embedding = embedding - embedding.mean(0)
    return torch.stack(kept), torch.stack(values)


def figure(**setting) -> Figure:
    """The map at an iteration, and the divergence so far.

    Args:
        setting: values of CONTROLS by name; `start` is "noise" or "PCA".
    """
    fig = Figure(figsize=SIZE, layout="none")
    _draw(fig, **setting)
    return fig


def describe(**setting) -> str:
    """The figure of the same setting in words."""
    s = _numbers(**panel.started(CONTROLS, **setting))
    phase = "during early exaggeration" if s.iteration < EXAGGERATED else "after early exaggeration"
    return (
        f"A map of 200 handwritten digits at perplexity {s.perplexity:g}, started from {s.start}, at iteration {s.iteration}, {phase}. "
        f"It reaches from {s.embedding.min():.2g} to {s.embedding.max():.2g}. The nearest neighbour on the map shows the same digit for "
        f"{s.same:.0%} of the images. KL divergence {s.values[s.frame]:.3f}, at the start {s.values[0]:.3f}."
    )


def strip() -> Figure:
    """Three frames: in the middle and at the end at perplexity 20, and at the end at perplexity 2."""
    return panel.frames(_draw, [dict(iteration=40), dict(iteration=LAST), dict(iteration=LAST, perplexity=2)], SIZE)


def show(**start) -> None:
    """Show the explorer; `start` moves controls, as in show(perplexity=5)."""
    panel.show(figure, describe, CONTROLS, **start)


def _numbers(*, iteration: int, perplexity: float, start: str) -> SimpleNamespace:
    embeddings, values = frames(perplexity, start)
    embedding = embeddings[iteration // EVERY]
    labels = digits()[1]
    nearest = torch.cdist(embedding, embedding).fill_diagonal_(torch.inf).argmin(1)
    same = (labels == labels[nearest]).double().mean().item()
    return SimpleNamespace(iteration=iteration, perplexity=perplexity, start=start, frame=iteration // EVERY, embedding=embedding,
                           labels=labels, same=same, values=values)


def _draw(fig: FigureBase, **setting) -> None:
    s = _numbers(**panel.started(CONTROLS, **setting))
    places, curve = fig.add_axes([0.06, 0.07, 0.44, 0.77]), fig.add_axes([0.6, 0.13, 0.38, 0.71])
    for k, color in enumerate(COLOURS):
        x, y = s.embedding[s.labels == k].T
        places.scatter(x, y, s=45, marker=f"${k}$", color=color, linewidths=0)  # the digit tells classes apart, colour only helps
    reach = 1.08 * s.embedding.abs().max().item()
    places.set(xlim=(-reach, reach), ylim=(-reach, reach), title=f"the map at iteration {s.iteration}")
    places.locator_params(nbins=5)
    curve.plot(np.arange(s.frame + 1) * EVERY, s.values[: s.frame + 1], color=plots.OURS)
    curve.plot(s.iteration, s.values[s.frame], "o", color=plots.OURS)
    curve.axvspan(0, EXAGGERATED, color="0.9")
    curve.set(xlim=(-5, LAST + 5), ylim=(0, 1.08 * s.values.max().item()), xlabel="iteration (grey: early exaggeration)", ylabel="KL divergence (nats)")
    curve.set_title(f"KL divergence {s.values[s.frame]:.2f}")
    neighbours = f"{s.same:.0%} of the digits lie next to one of their class"
    fig.suptitle(f"Perplexity {s.perplexity:g}, iteration {s.iteration}, from {s.start}: {neighbours}", x=0.01, ha="left", fontsize=12)
