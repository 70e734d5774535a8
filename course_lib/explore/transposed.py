"""Topic 02: each input prints a stamp; where stamps overlap they are added, and the number of stamps on a cell is lit up."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure, FigureBase

from course_lib.explore import panel
from course_lib.explore.drawing import cells, frame, number
from course_lib.explore.panel import Choice, Slider

INPUTS = {"numbers": torch.tensor([[1.0, 3, 2], [2, 0, 1], [4, 1, 2]]), "ones": torch.ones(3, 3)}
KERNELS = {  # how the row of weights looks whose products with each other are the kernel; None: 1, 2, 3, … cell by cell
    "1, 2, 3 …": None,
    "ones": [[1], [1, 1], [1, 1, 1], [1, 1, 1, 1]],
    "binomial": [[1], [1, 1], [1, 2, 1], [1, 3, 3, 1]],
}
CONTROLS = (
    Slider("printed", "stamps printed", 1, 9, start=2),
    Slider("kernel_size", "kernel size", 1, 4, start=3),
    Slider("stride", "stride", 1, 3, start=2),
    Slider("padding", "padding", 0, 2, start=0),
    Slider("output_padding", "output padding", 0, 2, start=0),
    Choice("kernel", "kernel", tuple(KERNELS), "1, 2, 3 …"),
    Choice("input", "input", tuple(INPUTS), "numbers"),
)
SIZE = (8.6, 4.95)  # inches
CELL = 0.35  # inches
MOST = 12  # rows and columns of the largest drawing: stride 3, kernel size 4, output padding 2


def limits(*, kernel_size: int, stride: int, **_) -> dict[str, float]:
    """The padding that leaves at least one cell, and the output padding that is smaller than the stride."""
    size = F.conv_transpose2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, kernel_size, kernel_size), stride=stride).shape[-1]
    return {"padding": min(2, (size - 1) // 2), "output_padding": stride - 1}


def figure(**setting) -> Figure:
    """The input, the newest stamp, and all that is printed so far, with the number of stamps on each cell as colour.

    Args:
        setting: values of CONTROLS by name; `printed` of the nine inputs have printed their stamp, row by row; `kernel` and `input` are
            names in KERNELS and INPUTS; the others are as in torch.nn.functional.conv_transpose2d.

    Raises:
        ValueError: padding leaves nothing, or output_padding is not smaller than stride.
    """
    fig = Figure(figsize=SIZE, layout="none")
    _draw(fig, **setting)
    return fig


def describe(**setting) -> str:
    """The figure of the same setting in words."""
    s = _numbers(**panel.started(CONTROLS, **setting))
    rows = "; ".join(" ".join(map(number, row)) for row in s.kept.tolist())
    return (
        f"{s.printed} of 9 inputs have printed a stamp of {s.kernel_size} × {s.kernel_size} at stride {s.stride}; input ({s.row}, {s.column}) "
        f"is the newest, {number(s.value)} times the kernel. With padding {s.padding} and output padding {s.output_padding} the output "
        f"has {s.kept.shape[0]} × {s.kept.shape[1]} cells, on which lie {s.hits.min():g} to {s.hits.max():g} stamps. Rows: {rows}."
    )


def strip() -> Figure:
    """Three frames: two stamps overlap; all of them, unevenly; the same kernel size with a stride that divides it."""
    settings = [
        dict(printed=2),
        dict(printed=9, kernel="ones", input="ones"),
        dict(printed=9, kernel="ones", input="ones", kernel_size=4),
    ]
    return panel.frames(_draw, settings, (SIZE[0], 3.6))


def show(**start) -> None:
    """Show the explorer; `start` moves controls, as in show(kernel_size=4)."""
    panel.show(figure, describe, CONTROLS, limits, **start)


def _numbers(
    *, printed: int, kernel_size: int, stride: int, padding: int, output_padding: int, kernel: str, input: str
) -> SimpleNamespace:
    if not padding <= limits(kernel_size=kernel_size, stride=stride)["padding"]:
        raise ValueError(f"padding {padding} leaves nothing of the canvas")
    if not output_padding < stride:
        raise ValueError(f"output_padding must be smaller than stride {stride}, got {output_padding}")
    if KERNELS[kernel] is None:
        weights = torch.arange(1.0, kernel_size**2 + 1).reshape(kernel_size, kernel_size)
    else:
        weights = torch.outer(*2 * [torch.tensor(KERNELS[kernel][kernel_size - 1], dtype=torch.float32)])
    row, column = divmod(printed - 1, 3)
    so_far = (torch.arange(9) < printed).reshape(3, 3)
    values = INPUTS[input] * so_far

    def transposed(x, weight, **cut):
        return F.conv_transpose2d(x[None, None], weight[None, None], stride=stride, **cut)[0, 0]

    cut = dict(padding=padding, output_padding=output_padding)
    kept = transposed(values, weights, **cut)
    everything = [transposed(x, w, output_padding=output_padding) for x, w in [(values, weights), (so_far.float(), torch.ones_like(weights))]]
    return SimpleNamespace(
        printed=printed, kernel_size=kernel_size, stride=stride, input=INPUTS[input], so_far=so_far, row=row, column=column,
        value=INPUTS[input][row, column].item(), stamp=INPUTS[input][row, column] * weights, kept=kept, canvas=everything[0],
        hits_on_canvas=everything[1], hits=transposed(so_far.float(), torch.ones_like(weights), **cut), **cut,
    )


def _draw(fig: FigureBase, **setting) -> None:
    s = _numbers(**panel.started(CONTROLS, **setting))
    ax = _axes(fig, 0.1, 3, 3)
    cells(ax, s.input, (3, 3), cmap="Greys", limits=(0, 12))
    for text, done in zip(ax.texts, s.so_far.flatten().tolist()):
        text.set_color("black" if done else "0.6")
    frame(ax, s.row, s.column)
    ax.set_title("input")

    ax = _axes(fig, 1.7, 4, 4)
    cells(ax, s.stamp, (4, 4), cmap="Greys", limits=(0, 3 * max(s.stamp.max().item(), 1)))
    frame(ax, 0, 0, s.kernel_size, s.kernel_size)
    ax.set_title(f"stamp: {number(s.value)} × kernel")

    key = torch.tensor([[0.0, 1, 2, 3, 4, 6, 9]])
    shades = dict(cmap="Blues", limits=(0, 3.5))  # of the root of the number of stamps: all steps are seen
    ax = _axes(fig, 0.1, 1, 7, above=2.1)
    cells(ax, key.sqrt(), (1, 7), **shades)
    for text, count in zip(ax.texts, key[0].tolist()):
        text.set_text(number(count))
    ax.set_title("colour: stamps on a cell")

    ax = _axes(fig, 4.2, MOST, MOST)
    cells(ax, s.hits_on_canvas.sqrt(), (MOST, MOST), **shades)
    top, bottom = s.padding, s.padding + s.kept.shape[0]
    for text, (y, x), value in zip(ax.texts, torch.cartesian_prod(*map(torch.arange, s.canvas.shape)).tolist(), s.canvas.flatten().tolist()):
        text.set_text(number(value))
        if not (top <= y < bottom and top <= x < bottom):  # cut off
            text.set(color="0.45", fontstyle="italic", fontsize=7)
    frame(ax, s.row * s.stride, s.column * s.stride, s.kernel_size, s.kernel_size)
    frame(ax, top, top, *s.kept.shape, color="black", linewidth=2, path_effects=[])
    ax.set_title(f"output {s.kept.shape[0]} × {s.kept.shape[1]} in black" + (", what padding cuts in small" if s.padding else ""))
    between = f"{s.hits.min():g} to {s.hits.max():g}"
    title = f"Kernel size {s.kernel_size}, stride {s.stride}, padding {s.padding}, output padding {s.output_padding}: {between} stamps on a cell"
    fig.suptitle(title, x=0.011, ha="left", fontsize=12)


def _axes(fig: FigureBase, left: float, rows: int, columns: int, above: float = 0):
    """Axes for rows × columns cells, `left` inches from the left and `above` inches under the others."""
    width, height = fig.bbox.width / fig.dpi, fig.bbox.height / fig.dpi
    return fig.add_axes([left / width, (height - 0.65 - above - rows * CELL) / height, columns * CELL / width, rows * CELL / height])
