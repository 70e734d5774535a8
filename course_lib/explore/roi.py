"""Topic 12: a box over a feature map; the window and bins of RoI pooling, the samples of RoI Align, and what both return."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure, FigureBase
from torch import Tensor

from course_lib import datasets, plots
from course_lib.explore import panel
from course_lib.explore.drawing import cells, frame
from course_lib.explore.panel import Slider

STRIDE = 16  # pixels of the photograph a cell of the map
WIDTH, HEIGHT = 160, 128  # of the photograph, in pixels
CONTROLS = (
    Slider("left", "left (px)", 0, WIDTH - 8, start=41),
    Slider("top", "top (px)", 0, HEIGHT - 8, start=22),
    Slider("width", "width (px)", 8, WIDTH, start=72),
    Slider("height", "height (px)", 8, HEIGHT, start=52),
    Slider("rows", "bins down", 1, 4, start=2),
    Slider("columns", "bins across", 1, 4, start=2),
)
SIZE = (10.6, 4.1)  # inches
SAMPLES = "C2"


@functools.cache
def photograph() -> Tensor:
    """(128, 160), 0 to 1: some of the coins."""
    return datasets.photograph("coins")[0, 10 : 10 + HEIGHT, 20 : 20 + WIDTH]


@functools.cache
def features() -> Tensor:
    """(8, 10) whole numbers: the mean brightness of 16 × 16 pixels, in hundredths."""
    return (100 * F.avg_pool2d(photograph()[None, None], STRIDE)).round()[0, 0]


def limits(*, left: int, top: int, **_) -> dict[str, float]:
    """The box stays inside the photograph."""
    return {"width": WIDTH - left, "height": HEIGHT - top}


def figure(**setting) -> Figure:
    """The photograph and the map under one box, and the bins' values.

    Args:
        setting: values of CONTROLS by name; `left`, `top`, `width` and `height` of the box in pixels of the photograph (a box that would
            leave it is cut), `rows` × `columns` bins.
    """
    fig = Figure(figsize=SIZE, layout="none")
    _draw(fig, **setting)
    return fig


def describe(**setting) -> str:
    """The figure of the same setting in words."""
    s = _numbers(**panel.started(CONTROLS, **setting))
    grids = ["; ".join(" ".join(f"{value:.0f}" for value in row) for row in grid.tolist()) for grid in (s.pooled, s.aligned)]
    y, x, height, width = s.window
    return (
        f"Coins and their feature map of 8 × 10 cells of 16 pixels. A box from pixel ({s.left}, {s.top}) is {s.width / STRIDE:.2f} cells wide and "
        f"{s.height / STRIDE:.2f} high. The window of RoI pooling begins at cell ({x}, {y}) and is {width} wide and {height} high. In {s.rows} × "
        f"{s.columns} bins RoI pooling returns {grids[0]}, RoI Align {grids[1]}."
    )


def strip() -> Figure:
    """Three frames: a box moves to the right by four pixels twice."""
    return panel.frames(_draw, [dict(left=left) for left in (36, 40, 44)], SIZE)


def show(**start) -> None:
    """Show the explorer; `start` moves controls, as in show(left=100, columns=3)."""
    panel.show(figure, describe, CONTROLS, limits, **start)


def _numbers(*, left: int, top: int, width: int, height: int, rows: int, columns: int) -> SimpleNamespace:
    from torchvision import ops

    width, height = min(width, WIDTH - left), min(height, HEIGHT - top)
    roi = torch.tensor([[0.0, left, top, left + width, top + height]])
    pooled = ops.roi_pool(features()[None, None], roi, (rows, columns), 1 / STRIDE)[0, 0]
    aligned = ops.roi_align(features()[None, None], roi, (rows, columns), 1 / STRIDE, sampling_ratio=2, aligned=True)[0, 0]
    # Which cells does the operator read? Ask it: the largest and the smallest number of a row and of a column in each bin, on a map that
    # goes on to the right and below, so that nothing is cut.
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(14.0), indexing="ij")
    ramps = torch.stack([y, x, -y, -x])[None]

    def ranges(size: tuple[int, int]) -> Tensor:  # (bins, 4): first row, first column, number of rows, number of columns
        last, first = ops.roi_pool(ramps, roi, size, 1 / STRIDE)[0].flatten(1).T.split(2, dim=1)
        return torch.cat([-first, last + first + 1], dim=1).int()

    edges = [torch.linspace(start, start + size, 2 * bins + 1) / STRIDE - 0.5  # cell k has its middle at k
             for start, size, bins in ((top, height, rows), (left, width, columns))]
    samples = [(edge[1:] + edge[:-1]) / 2 for edge in edges]  # two along each axis of a bin
    return SimpleNamespace(left=left, top=top, width=width, height=height, rows=rows, columns=columns, pooled=pooled, aligned=aligned,
                           window=ranges((1, 1))[0].tolist(), bins=ranges((rows, columns)).tolist(), samples=samples)


def _draw(fig: FigureBase, **setting) -> None:
    s = _numbers(**panel.started(CONTROLS, **setting))
    places = [(0.01, 0.28, 0.1, 0.74), (0.31, 0.39, 0.01, 0.83), (0.68, 0.15, 0.1, 0.74), (0.845, 0.15, 0.1, 0.74)]
    axes = [fig.add_axes([x, y, width, height], anchor="NW") for x, width, y, height in places]
    axes[0].imshow(photograph().numpy(), cmap="gray", vmin=0, vmax=1)
    axes[0].set(xticks=[], yticks=[])
    axes[0].grid(False)
    frame(axes[0], s.top, s.left, s.height, s.width)
    axes[0].set_title("photograph, 160 × 128 pixels")

    cells(axes[1], features(), (9, 11), cmap="gray", limits=(0, 100))
    y, x, height, width = s.window
    for row, column, down, across in s.bins:
        frame(axes[1], row + 0.08, column + 0.08, down - 0.16, across - 0.16, color=plots.OURS, linewidth=1.5)
    frame(axes[1], y, x, height, width, color="black", linewidth=2, linestyle="--")
    frame(axes[1], s.top / STRIDE, s.left / STRIDE, s.height / STRIDE, s.width / STRIDE)
    points = torch.cartesian_prod(*s.samples)
    axes[1].plot(points[:, 1], points[:, 0], "o", markersize=4.5, color=SAMPLES, markeredgecolor="white")
    axes[1].set_title("box, window (dashed), bins, samples")

    for ax, values, name, color in [(axes[2], s.pooled, "RoI pooling", plots.OURS), (axes[3], s.aligned, "RoI Align", SAMPLES)]:
        plots.heat_map(ax, values, decimals=0, cmap="gray", limits=(0, 100))
        ax.set(xticks=[], yticks=[], anchor="NW")
        ax.set_title(name, color=color)
    axes[2].set_xlabel("largest cell", fontsize=9)
    axes[3].set_xlabel("mean of 4 samples", fontsize=9)
    box = f"{s.width / STRIDE:.2f} × {s.height / STRIDE:.2f}"
    title = f"From pixel ({s.left}, {s.top}) a box of {box} cells becomes a window of {width} × {height} cells"
    fig.suptitle(title, x=0.01, ha="left", fontsize=12)
