"""Figures in one style, with alternative text for readers who cannot see them.

Importing this module applies course.mplstyle. C0 is ours, C1 the reference, and the data are grey (`DATA`).
Arguments may be tensors, on any device and with gradients, or arrays.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

plt.style.use(Path(__file__).with_name("course.mplstyle"))

OURS, REFERENCE, DATA = "C0", "C1", "0.6"


def show(fig: Figure, *, alt: str) -> None:
    """Show a figure in the notebook with an alternative text, and close it. Without a notebook, print the text.

    The picture is put out as an HTML <img> that carries the text: JupyterLab drops the text of a plain PNG output, while this
    way JupyterLab, VS Code and nbconvert all hand it to a screen reader. A front end without HTML shows the text itself.

    Args:
        fig: the figure. Its PNG holds no date and no version, so equal figures give equal bytes on one installation.
        alt: what a reader who cannot see the figure needs to know: what is drawn, and what it shows.

    Raises:
        ValueError: alt is empty.
    """
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(f"alt must say in words what the figure shows, got {alt!r}")
    from IPython import get_ipython
    from IPython.display import display

    alt = " ".join(alt.split())
    if get_ipython() is None:
        print(alt)
    else:
        picture = base64.b64encode(_png(fig)).decode()
        image = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{picture}">'
        display({"text/html": image, "text/plain": alt}, raw=True)
    plt.close(fig)


def image_row(
    images: Iterable,
    titles: Iterable[str] | None = None,
    *,
    limits: tuple[float, float] | None = (0.0, 1.0),
    cmap: str = "gray",
    height: float = 2.2,
) -> Figure:
    """Draw images side by side, all at one height.

    Args:
        images: (H, W), (1, H, W) or (3, H, W) each, or one (N, C, H, W) batch. Colours are clipped to 0..1. Pixels that
            are NaN or infinite in an image of one channel stay blank.
        titles: one an image.
        limits: values drawn as the first and last colour of `cmap`, in every image of one channel; None: each image's own extremes.
        cmap: Matplotlib's name of the colours for images of one channel.
        height: of the images, in inches (100 pixels each).

    Raises:
        ValueError: no image, an image of another shape, colours in whole numbers, or not as many titles as images.
    """
    arrays = [_array(image) for image in images]
    titles = [""] * len(arrays) if titles is None else list(titles)
    if not arrays or len(titles) != len(arrays):
        raise ValueError(f"images and titles must be as many, at least one, got {len(arrays)} and {len(titles)}")
    for a in arrays:
        if a.size == 0 or not (a.ndim == 2 or (a.ndim == 3 and a.shape[0] in (1, 3))):
            raise ValueError(f"images must be of shape (H, W), (1, H, W) or (3, H, W), got {a.shape}")
        if a.ndim == 3 and len(a) == 3 and a.dtype.kind != "f":
            raise ValueError(f"images in colour must be floating-point numbers from 0 to 1, got {a.dtype}")
    widths = [height * a.shape[-1] / a.shape[-2] for a in arrays]
    size = (sum(widths) + 0.12 * len(arrays), height + (0.36 if any(titles) else 0.12))  # inches, with room between and above
    fig, axes = plt.subplots(1, len(arrays), squeeze=False, figsize=size, width_ratios=widths)
    low, high = limits or (None, None)
    for ax, a, title in zip(axes[0], arrays, titles):
        if a.ndim == 3 and len(a) == 3:
            ax.imshow(a.transpose(1, 2, 0).clip(0, 1))
        else:
            ax.imshow(a.reshape(a.shape[-2:]), cmap=cmap, vmin=low, vmax=high)
        ax.set_title(title)
        ax.set_axis_off()
    return fig


def heat_map(ax: Axes, values, *, decimals: int = 2, cmap: str | None = None, limits: tuple[float, float] | None = None) -> None:
    """Draw a small matrix as coloured cells with the number in each.

    Args:
        ax: where to draw.
        values: (rows, columns), up to 400 numbers; whole numbers are written without decimals.
        decimals: digits after the point.
        cmap: colours. By default viridis, or orange and purple about a white zero where values have both signs.
        limits: values of the first and last colour, by default the extremes (of both signs: symmetric about zero).

    Raises:
        ValueError: values are no matrix, or more than 400.
    """
    a = _array(values)
    if a.ndim != 2 or not 0 < a.size <= 400:
        raise ValueError(f"values must be a matrix of 1 to 400 numbers, got shape {a.shape}")
    a = a.astype(np.float64)
    finite = a[np.isfinite(a)] if np.isfinite(a).any() else np.zeros(1)
    signed = finite.min() < 0 < finite.max()
    low, high = limits or ((-abs(finite).max(), abs(finite).max()) if signed else (finite.min(), finite.max()))
    image = ax.imshow(a, cmap=cmap or ("PuOr" if signed else "viridis"), vmin=low, vmax=high)
    decimals = 0 if (finite == finite.round()).all() else decimals
    for (row, column), number in np.ndenumerate(a):
        rgb = np.array(image.to_rgba(number)[:3] if np.isfinite(number) else (1, 1, 1))
        bright = rgb**2.2 @ (0.2126, 0.7152, 0.0722) > 0.18  # luminance at which black and white letters are read equally well
        written = f"{np.round(number, decimals) + 0.0:.{decimals}f}"  # + 0.0 makes -0.00 a plain 0.00
        ax.text(column, row, written, ha="center", va="center", color="black" if bright else "white", fontsize=9)
    ax.set_xticks(range(a.shape[1]))
    ax.set_yticks(range(a.shape[0]))
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)


def mean_curve(ax: Axes, x, runs, *, label: str, color: str = OURS) -> None:
    """Draw the mean over several seeds as a line, and one standard deviation to both sides as a band.

    Args:
        ax: where to draw.
        x: (P,) positions.
        runs: (S, P) values, one row a seed. The deviation is that of a sample (divided by S - 1); one seed has no band.
        label: the name in the legend; the number of seeds is added to it.
        color: OURS, REFERENCE or another of Matplotlib's colours.

    Raises:
        ValueError: the shapes do not fit.
    """
    x, runs = _array(x), _array(runs)
    if x.ndim != 1 or runs.ndim != 2 or runs.shape[0] < 1 or runs.shape[1] != len(x):
        raise ValueError(f"runs must be of shape (seeds, {x.size}) for {x.size} positions x, got {runs.shape} and {x.shape}")
    mean = runs.mean(0)
    ax.plot(x, mean, color=color, label=f"{label} ({len(runs)} seeds)" if len(runs) > 1 else f"{label} (1 seed)")
    if len(runs) > 1:
        spread = runs.std(0, ddof=1)
        ax.fill_between(x, mean - spread, mean + spread, color=color, alpha=0.2, linewidth=0)


def _array(values) -> np.ndarray:
    """A tensor or anything array-like as a NumPy array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values  # NumPy has no bfloat16
    return np.asarray(values)


def _png(fig: Figure) -> bytes:
    """The figure as a PNG file, small enough to be stored in a notebook, without date and version."""
    drawn, stored = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", pil_kwargs={"compress_level": 1})
    image = Image.open(drawn).convert("RGB")
    if image.getcolors(8192):  # a chart, not a photograph in colour: a palette loses nothing one sees and takes a third
        image = image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    image.save(stored, format="png", optimize=True)
    return stored.getvalue()
