"""Topic 18: what teacher and student answer to a digit while the temperature moves, and how each loss pulls at the student."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure, FigureBase
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from course_lib import datasets, plots
from course_lib.explore import panel
from course_lib.explore.panel import Slider

EXAMPLES = (46, 203, 236, 239, 132, 18, 257, 290, 125, 174)  # of the validation images, one a class, that the teacher gets right
CONTROLS = (
    Slider("temperature", "temperature", 0.5, 20.0, start=1.0, step=0.5),
    Slider("digit", "digit", 0, 9, start=9),
    Slider("images", "images a class", 1, 30, start=3),
)
SIZE = (10.4, 4.2)  # inches
TEACHER, STUDENT = plots.REFERENCE, plots.OURS


@functools.cache
def logits(images: int | None = None) -> Tensor:
    """(10 examples, 10 classes) of a classifier that knows the mean of its training images of each class, and no more.

    The logit of a class is −2 times the squared distance to its mean. The teacher's means are of all training images (about 108 a class),
    the student's of the first few.
    """
    digits, labels = datasets.digits("train")
    means = torch.stack([digits[labels == k][:images].mean(0).flatten() for k in range(10)])  # (10, 64)
    return -2 * torch.cdist(examples().flatten(1), means).square()


@functools.cache
def examples() -> Tensor:
    """(10, 1, 8, 8), 0 to 1: a zero, a one, … a nine that neither classifier has seen."""
    return datasets.digits("validation")[0][list(EXAMPLES)]


def figure(**setting) -> Figure:
    """The digit, both answers at the temperature, and the descent direction of each loss at the student's logits.

    Args:
        setting: values of CONTROLS by name; `images` is how many of each class the student has seen.
    """
    fig = Figure(figsize=SIZE, layout="none")
    _draw(fig, **setting)
    return fig


def describe(**setting) -> str:
    """The figure of the same setting in words."""
    s = _numbers(**panel.started(CONTROLS, **setting))
    teacher, student, soft, hard = (" ".join(f"{value:.2f}" for value in row.tolist()) for row in (s.teacher, s.student, s.soft, s.hard))
    return (
        f"A handwritten {s.digit} at temperature {s.temperature:g}. Teacher's probabilities for 0 to 9: {teacher}. Student's, from {s.images} "
        f"images a class: {student}. Pull of distillation on the student's logits: {soft}; of the hard label: {hard}. KL {s.kl:.3f}, times "
        f"temperature squared {s.loss:.3f}."
    )


def strip() -> Figure:
    """Three frames: temperature 1, 4 and 20."""
    return panel.frames(_draw, [dict(temperature=temperature) for temperature in (1.0, 4.0, 20.0)], SIZE)


def show(**start) -> None:
    """Show the explorer; `start` moves controls, as in show(temperature=4.0)."""
    panel.show(figure, describe, CONTROLS, **start)


def _numbers(*, temperature: float, digit: int, images: int) -> SimpleNamespace:
    student_logits = logits(images)[digit].clone().requires_grad_(True)
    teacher, student = (Categorical(logits=row / temperature) for row in (logits()[digit], student_logits))
    kl = kl_divergence(teacher, student)
    loss = temperature**2 * kl
    label_loss = F.cross_entropy(student_logits[None], torch.tensor([digit]))
    (soft,), (hard,) = (torch.autograd.grad(value, student_logits, retain_graph=True) for value in (loss, label_loss))
    return SimpleNamespace(temperature=temperature, digit=digit, images=images, teacher=teacher.probs, student=student.probs.detach(),
                           soft=-soft, hard=-hard, kl=kl.item(), loss=loss.item())


def _draw(fig: FigureBase, **setting) -> None:
    s = _numbers(**panel.started(CONTROLS, **setting))
    image = fig.add_axes([0.01, 0.12, 0.13, 0.7], anchor="NW")
    answers, pulls = fig.add_axes([0.2, 0.12, 0.36, 0.7]), fig.add_axes([0.66, 0.12, 0.33, 0.7])
    image.imshow(examples()[s.digit, 0].numpy(), cmap="gray_r", vmin=0, vmax=1)
    image.set(xticks=[], yticks=[], title=f"a {s.digit}")
    image.grid(False)
    classes = np.arange(10)
    for ax, rows, names in [
        (answers, (s.teacher, s.student), ("teacher", f"student ({s.images} images a class)")),
        (pulls, (s.soft, s.hard), ("distillation, T² KL", "hard label")),
    ]:
        for shift, row, name, color, hatch in zip((-0.2, 0.2), rows, names, (TEACHER, STUDENT) if ax is answers else ("C2", "0.55"), ("//", "")):
            ax.bar(classes + shift, row.numpy(), 0.4, color=color, hatch=hatch, edgecolor="white", linewidth=0.5, label=name)
        ax.set_xticks(range(10))
        ax.set_xlabel("class")
        ax.legend(fontsize=9, loc="upper left")
    answers.set(ylim=(0, 1.25), ylabel="probability", title=f"answers at T = {s.temperature:g}: KL {s.kl:.3f}, T² KL {s.loss:.2f}")
    reach = 1.3 * max(s.soft.abs().max().item(), s.hard.abs().max().item(), 0.1)
    pulls.set(ylim=(-reach, 1.35 * reach), ylabel="−∂ loss / ∂ logit", title="pull on the student's logits")
    pulls.axhline(0, color="black", linewidth=0.8)
    wrong = 1 - s.teacher[s.digit].item()
    fig.suptitle(f"At temperature {s.temperature:g} the teacher gives {wrong:.0%} to classes other than {s.digit}", x=0.01, ha="left", fontsize=12)
