"""Topic 01: a kernel stands somewhere on a handwritten digit; each product, their sum, and where the sum goes."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure, FigureBase
from torch import Tensor

from course_lib import datasets
from course_lib.explore import panel
from course_lib.explore.drawing import cells, frame, number
from course_lib.explore.panel import Choice, Slider

KERNELS = {
    "edge": torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]),
    "box": torch.ones(3, 3),
    "sharpen": torch.tensor([[0.0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
}
CONTROLS = (
    Choice("kernel", "kernel", tuple(KERNELS), "edge"),
    Slider("row", "output row", 0, 7, start=1),
    Slider("column", "output column", 0, 8, start=1),
    Slider("stride", "stride", 1, 3, start=1),
    Slider("padding", "padding", 0, 2, start=0),
    Slider("dilation", "dilation", 1, 2, start=1),
)
SIZE = (10.0, 4.0)  # inches


@functools.cache
def image() -> Tensor:
    """(6, 7) whole numbers, 0 to 16: the middle of a handwritten three."""
    images, _ = datasets.digits()
    return (16 * images[3, 0, 1:7, 1:]).round()


def limits(*, stride: int, padding: int, dilation: int, **_) -> dict[str, float]:
    """The last row and column of the output."""
    rows, columns = F.conv2d(image()[None, None], torch.ones(1, 1, 3, 3), None, stride, padding, dilation).shape[2:]
    return {"row": rows - 1, "column": columns - 1}


def figure(**setting) -> Figure:
    """The padded digit with the cells that one output reads, the products, and the output.

    Args:
        setting: values of CONTROLS by name; `kernel` is a name in KERNELS, `row` and `column` say which output (the last where there
            are fewer), the others are as in torch.nn.functional.conv2d.
    """
    fig = Figure(figsize=SIZE, layout="none")
    _draw(fig, **setting)
    return fig


def describe(**setting) -> str:
    """The figure of the same setting in words."""
    s = _numbers(**panel.started(CONTROLS, **setting))
    terms = " + ".join(f"{number(x)} × {number(w)}" for x, w in zip(s.read.flatten().tolist(), s.weights.flatten().tolist()) if w)
    return (
        f"A digit of 6 × 7 cells with padding {s.padding}, the {s.name} kernel, stride {s.stride}, dilation {s.dilation}. "
        f"Output ({s.row}, {s.column}) is {terms} = {number(s.products.sum().item())}. The output has {_by(s.output)} cells."
    )


def strip() -> Figure:
    """Three frames: plain; with stride and padding; with dilation."""
    settings = [dict(stride=1), dict(stride=2, padding=1), dict(dilation=2)]
    return panel.frames(_draw, settings, SIZE)


def show(**start) -> None:
    """Show the explorer; `start` moves controls, as in show(stride=2)."""
    panel.show(figure, describe, CONTROLS, limits, **start)


def _numbers(*, kernel: str, row: int, column: int, stride: int, padding: int, dilation: int) -> SimpleNamespace:
    weights = KERNELS[kernel]
    settings = dict(stride=stride, padding=padding, dilation=dilation)
    output = F.conv2d(image()[None, None], weights[None, None], **settings)[0, 0]
    row, column = min(row, output.shape[0] - 1), min(column, output.shape[1] - 1)
    columns = F.unfold(image()[None, None], 3, **settings)[0]  # (9, outputs)
    read = columns[:, row * output.shape[1] + column].reshape(3, 3)
    return SimpleNamespace(name=kernel, weights=weights, padded=F.pad(image(), (padding,) * 4), read=read, products=read * weights,
                           output=output, row=row, column=column, **settings)


def _draw(fig: FigureBase, **setting) -> None:
    s = _numbers(**panel.started(CONTROLS, **setting))
    axes = fig.subplots(1, 3, width_ratios=[11, 8, 9], gridspec_kw=dict(left=0.01, right=0.99, top=0.84, bottom=0.02, wspace=0.06))
    cells(axes[0], s.padded, (10, 11), (2 - s.padding, 2 - s.padding), cmap="Blues", limits=(0, 24))
    for text, (y, x) in zip(axes[0].texts, torch.cartesian_prod(*map(torch.arange, s.padded.shape)).tolist()):
        if not (s.padding <= y < s.padding + 6 and s.padding <= x < s.padding + 7):
            text.set_color("0.6")  # an added cell
    for i in range(3):
        for j in range(3):
            frame(axes[0], s.row * s.stride + i * s.dilation, s.column * s.stride + j * s.dilation, path_effects=[])
    axes[0].set_title("input 6 × 7" + (f", padded to {_by(s.padded)}" if s.padding else ""))

    largest = 16 * s.weights.abs().max().item()
    cells(axes[1], s.products, (3, 3), cmap="PuOr", limits=(-largest, largest))
    for text, x, w, product in zip(axes[1].texts, *(part.flatten().tolist() for part in (s.read, s.weights, s.products))):
        text.set(text=f"{number(x)} × {number(w)}\n= {number(product)}", fontsize=11)
    axes[1].set_title(f"cell × weight of the {s.name} kernel")

    largest = max(s.output.abs().max().item(), 1)
    cells(axes[2], s.output, (8, 9), cmap="PuOr", limits=(-largest, largest))
    frame(axes[2], s.row, s.column)
    axes[2].set_title(f"output {_by(s.output)}")
    settings = f"stride {s.stride}, padding {s.padding}, dilation {s.dilation}"
    sum_ = number(s.products.sum().item())
    fig.suptitle(f"{settings}: output ({s.row}, {s.column}) is {sum_}, the sum of nine products", x=0.01, ha="left", fontsize=12)


def _by(values: Tensor) -> str:
    return " × ".join(map(str, values.shape))
