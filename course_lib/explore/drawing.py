"""What the explorers draw alike: small maps with their numbers at one scale, and frames around cells."""

from __future__ import annotations

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from course_lib import plots



def cells(ax: Axes, values: Tensor, shape: tuple[int, int], first: tuple[int, int] = (0, 0), **colours) -> None:
    """Draw a map with its numbers, its cells as large as those of a map of `shape` would be.

    Args:
        values: (rows, columns).
        shape: rows and columns that fill the axes; the same for maps that are to be compared.
        first: where the map begins in it.
        colours: cmap, limits and decimals of plots.heat_map.
    """
    plots.heat_map(ax, values, **colours)
    top, left = -0.5 - first[0], -0.5 - first[1]
    ax.set(xticks=[], yticks=[], xlim=(left, left + shape[1]), ylim=(top + shape[0], top), anchor="NW")
    for text in ax.texts:
        text.set_text(text.get_text().replace("-", "\N{MINUS SIGN}"))


def frame(ax: Axes, row: float, column: float, height: float = 1, width: float = 1, *, color: str = plots.REFERENCE, **style) -> None:
    """Draw a frame around cells; the upper left one is (row, column)."""
    style = dict(fill=False, edgecolor=color, linewidth=2.5, clip_on=False) | style
    outline = [patheffects.withStroke(linewidth=style["linewidth"] + 2, foreground="white")]  # visible on any colour
    style = dict(path_effects=outline) | style
    ax.add_patch(Rectangle((column - 0.5, row - 0.5), width, height, **style))


def number(value: float) -> str:
    """A number as text: whole where it is whole, with a true minus sign, never −0."""
    return f"{round(value, 4) + 0.0:g}".replace("-", "\N{MINUS SIGN}")
