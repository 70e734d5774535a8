"""Topic 23: similarities on a ring of embeddings, what a temperature makes of them, and where the gradient pushes every point."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure, FigureBase

from course_lib import plots
from course_lib.explore import panel
from course_lib.explore.panel import Slider

OTHERS = (75.0, 120.0, 165.0, -70.0, -105.0, -150.0)  # degrees: the negatives that stay where they are
CONTROLS = (
    Slider("temperature", "temperature", 0.05, 1.0, start=0.5, step=0.05),
    Slider("positive", "positive (°)", 0, 180, start=40, step=5),
    Slider("negative", "negative (°)", -175, 180, start=-25, step=5),
)
SIZE = (10.0, 4.5)  # inches
ANCHOR, POSITIVE, NEGATIVE = "black", plots.OURS, plots.REFERENCE


def figure(**setting) -> Figure:
    """The points with the push each of them feels, and the shares that a softmax gives to the candidates.

    Args:
        setting: values of CONTROLS by name; the angles of the positive and of one negative are counted from the anchor.
    """
    fig = Figure(figsize=SIZE, layout="none")
    _draw(fig, **setting)
    return fig


def describe(**setting) -> str:
    """The figure of the same setting in words."""
    s = _numbers(**panel.started(CONTROLS, **setting))
    candidates = ", ".join(
        f"{'positive' if k == 0 else 'negative'} at {angle:g}° {share:.3f}" for k, (angle, share) in enumerate(zip(s.angles, s.shares.tolist()))
    )
    return (
        f"One anchor at 0° of a ring, its positive and seven negatives. At temperature {s.temperature:g} the softmax of the similarities gives: "
        f"{candidates}. The loss is {s.loss:.3f}. The nearest negative receives {s.hardest:.0%} of the push on all negatives."
    )


def strip() -> Figure:
    """Three frames: high, middle and low temperature."""
    return panel.frames(_draw, [dict(temperature=temperature) for temperature in (1.0, 0.3, 0.1)], SIZE)


def show(**start) -> None:
    """Show the explorer; `start` moves controls, as in show(temperature=0.1)."""
    panel.show(figure, describe, CONTROLS, **start)


def _numbers(*, temperature: float, positive: float, negative: float) -> SimpleNamespace:
    angles = torch.tensor([0.0, positive, negative, *OTHERS], dtype=torch.float64)  # the anchor, the positive, seven negatives
    points = torch.stack([torch.cos(torch.deg2rad(angles)), torch.sin(torch.deg2rad(angles))], dim=1).requires_grad_(True)  # (9, 2)
    unit = F.normalize(points, dim=1)  # keeps the gradient along the ring: the length of an embedding does not matter
    similarities = F.cosine_similarity(unit[:1], unit[1:])  # (8,)
    logits = similarities / temperature
    loss = F.cross_entropy(logits[None], torch.tensor([0]))  # the right answer is the first candidate
    (gradient,) = torch.autograd.grad(loss, points)
    pushes = -gradient  # (9, 2) where a step of descent moves each point
    lengths = pushes[2:].norm(dim=1)
    nearest = similarities[1:].argmax()
    hardest = (lengths[nearest] / lengths.sum()).item() if lengths.sum() > 1e-12 else math.nan
    return SimpleNamespace(
        temperature=temperature, angles=angles[1:].tolist(), points=points.detach(), similarities=similarities.detach(), pushes=pushes,
        shares=torch.distributions.Categorical(logits=logits.detach()).probs, loss=loss.item(), lengths=lengths, hardest=hardest,
    )


def _draw(fig: FigureBase, **setting) -> None:
    s = _numbers(**panel.started(CONTROLS, **setting))
    colors = [ANCHOR, POSITIVE] + [NEGATIVE] * 7
    ring, bars = fig.add_axes([0.01, 0.02, 0.41, 0.86]), fig.add_axes([0.5, 0.13, 0.48, 0.71])
    turn = torch.linspace(0, 2 * math.pi, 181)
    ring.plot(torch.cos(turn), torch.sin(turn), color="0.8", linewidth=1)
    x, y = s.points.T
    for name, marker, size, part in [("anchor", "*", 200, slice(0, 1)), ("positive", "o", 80, slice(1, 2)), ("negatives", "s", 60, slice(2, 9))]:
        ring.scatter(x[part], y[part], s=size, marker=marker, color=colors[part][0], label=name, zorder=3)
    largest = s.pushes.norm(dim=1).max()
    if largest > 1e-9:  # arrows keep their proportions; the longest one has a fixed length, and the title says how long it is
        dx, dy = (0.7 * s.pushes / largest).T
        ring.quiver(1.17 * x, 1.17 * y, dx, dy, color=colors, angles="xy", scale_units="xy", scale=1, width=0.01, minlength=0.1)
    ring.set(xlim=(-1.5, 1.5), ylim=(-1.4, 1.4), aspect="equal", xticks=[], yticks=[])
    ring.grid(False)
    ring.spines[:].set_visible(False)
    ring.legend(loc="center", fontsize=9)
    ring.set_title(f"where a step pushes (longest arrow: {largest:.2g})")

    order = s.similarities.argsort(descending=True, stable=True).tolist()
    positions = range(len(order))
    shares = s.shares[order].tolist()
    bars.bar(positions, shares, color=[POSITIVE if k == 0 else NEGATIVE for k in order], hatch=["//" if k == 0 else "" for k in order],
             edgecolor="white")
    for position, share in zip(positions, shares):
        bars.text(position, share + 0.015, f"{share:.2f}", ha="center", fontsize=9)
    bars.set_xticks(positions, [f"{value:.2f}".replace("-", "\N{MINUS SIGN}") for value in s.similarities[order].tolist()])
    bars.set(ylim=(0, 1.08), xlabel="cosine similarity to the anchor (hatched: the positive)", ylabel="share in the softmax")
    bars.set_title(f"loss {s.loss:.2f}, {s.shares[0]:.0%} for the positive")
    part = "no negative is pushed" if math.isnan(s.hardest) else f"the nearest of 7 negatives gets {s.hardest:.0%} of their push"
    fig.suptitle(f"Temperature {s.temperature:g}: {part}", x=0.01, ha="left", fontsize=12)
