"""The widget layer that all explorers share: sliders and buttons above a picture, which is drawn again when one of them moves.

An explorer is a module with

    CONTROLS               the sliders and buttons, one for each keyword of the next two functions
    figure(*, ...)         the picture: a pure function of its keywords, without widgets and without pyplot's state
    describe(*, ...)       the same in words, for readers who cannot see it
    strip()                a few frames below each other, for a notebook that is read without a kernel
    show(**start)          the widget

ipywidgets is imported when an explorer is shown, not before.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure, FigureBase


@dataclass(frozen=True)
class Slider:
    """A number from `low` to `high` in steps: a box to type in, and a slider to drag."""

    name: str
    label: str
    low: float
    high: float
    start: float
    step: float = 1

    @property
    def values(self) -> tuple[float, ...]:
        """All numbers that the slider can be at."""
        count = round((self.high - self.low) / self.step) + 1
        return tuple(type(self.step)(round(self.low + i * self.step, 9)) for i in range(count))

    def nearest(self, value: float) -> float:
        """The number in `values` that is closest."""
        return min(self.values, key=lambda other: abs(other - value))


@dataclass(frozen=True)
class Choice:
    """One button for each value, one of them pressed."""

    name: str
    label: str
    values: tuple[str, ...]
    start: str

    def nearest(self, value: str) -> str:
        return value


Control = Slider | Choice
Limits = Callable[..., dict[str, float]]


def started(controls: Sequence[Control], **start: Any) -> dict[str, Any]:
    """Where the controls stand at first, as keywords: their own start, unless `start` says otherwise.

    Raises:
        ValueError: no control has that name, or it has no such value.
    """
    setting = {control.name: control.start for control in controls}
    for name, value in start.items():
        if name not in setting:
            raise ValueError(f"there is no control {name!r}, only {', '.join(setting)}")
        values = next(control.values for control in controls if control.name == name)
        if value not in values:
            shown = ", ".join(map(str, values)) if len(values) < 12 else f"{values[0]}, {values[1]} to {values[-1]}"
            raise ValueError(f"{name} must be one of {shown}, got {value!r}")
        setting[name] = value
    return setting


def frames(draw: Callable[..., None], settings: Sequence[dict], size: tuple[float, float]) -> Figure:
    """One frame of `draw(figure, **setting)` for each setting, below each other, each of `size` inches (width, height)."""
    fig = Figure(figsize=(size[0], size[1] * len(settings)), layout="none")
    for part, setting in zip(fig.subfigures(len(settings), 1, squeeze=False)[:, 0], settings):
        draw(part, **setting)
    return fig


def picture(fig: FigureBase, alt: str) -> str:
    """A figure as an HTML image that carries its text and keeps its place on the page while it is replaced."""
    drawn = io.BytesIO()
    fig.savefig(drawn, format="png", pil_kwargs={"compress_level": 1})  # quickly, not small: it is never stored
    width, height = (round(inches * fig.dpi) for inches in fig.get_size_inches())
    source = base64.b64encode(drawn.getvalue()).decode()
    style = "max-width: 100%; height: auto"
    return f'<img alt="{html.escape(alt)}" width="{width}" height="{height}" style="{style}" src="data:image/png;base64,{source}">'


def build(figure: Callable[..., Figure], describe: Callable[..., str], controls: Sequence[Control], limits: Limits | None = None, **start):
    """The widget of an explorer, and its controls by name (of a slider, the slider; its box follows).

    Args:
        figure, describe: called with one keyword for each control.
        controls: shown in this order.
        limits: from the same keywords to the highest value that some sliders may have now, for those that depend on others.
        start: where controls stand at first.

    Returns:
        (ipywidgets.VBox, dictionary of ipywidgets).
    """
    import ipywidgets

    setting = started(controls, **start)
    rows, handles = zip(*(_row(ipywidgets, control, setting[control.name]) for control in controls))
    handles = {control.name: handle for control, handle in zip(controls, handles)}
    image = ipywidgets.HTML()
    drawn = None

    def redraw(_=None) -> None:
        nonlocal drawn
        for name, high in (limits(**now()) if limits else {}).items():
            handles[name].max = high  # this may move the slider, which calls this function for the new setting before it comes back
        if now() != drawn:
            drawn = now()
            image.value = picture(figure(**drawn), describe(**drawn))

    def now() -> dict[str, Any]:
        return {control.name: control.nearest(handles[control.name].value) for control in controls}

    for handle in handles.values():
        handle.observe(redraw, "value")
    redraw()
    wrapped = ipywidgets.Layout(flex_flow="row wrap")
    return ipywidgets.VBox([ipywidgets.HBox(rows, layout=wrapped), image]), handles


def show(figure, describe, controls: Sequence[Control], limits: Limits | None = None, **start) -> None:
    """Show an explorer in the notebook. Without a notebook, print its text."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        print(describe(**started(controls, **start)))
        return
    widget, _ = build(figure, describe, controls, limits, **start)
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    fallback = "An explorer with sliders: it needs a running kernel. Run this cell to play with it."
    display({"application/vnd.jupyter.widget-view+json": view, "text/plain": fallback}, raw=True)


def _row(widgets, control: Control, value):
    """A control's widget and the part of it that holds the value.

    The handle of a slider has no name that a screen reader could say, and JupyterLab takes the arrow keys away from menus: hence a
    labelled box beside each slider, and buttons for a choice. Both can be reached with the tabulator key.
    """
    if isinstance(control, Choice):
        tips = [f"{control.label}: {option}" for option in control.values]
        buttons = widgets.ToggleButtons(options=control.values, value=value, tooltips=tips, style={"button_width": "auto"})
        name = widgets.Label(control.label, layout=widgets.Layout(width="8em", justify_content="flex-end"))
        return widgets.HBox([name, buttons]), buttons
    whole = isinstance(control.step, int)
    box_type, slider_type = (widgets.BoundedIntText, widgets.IntSlider) if whole else (widgets.BoundedFloatText, widgets.FloatSlider)
    numbers = {"value": value, "min": control.low, "max": control.high, "step": control.step}
    box = box_type(**numbers, description=control.label, tooltip=control.label, style={"description_width": "8em"})
    box.layout.width = "14em"
    slider = slider_type(**numbers, readout=False, tooltip=control.label)
    slider.layout.width = "10em"

    def typed(change) -> None:  # any number: 0.57 lies between two steps
        slider.value = control.nearest(change.new)
        box.value = slider.value

    def dragged(change) -> None:  # a browser adds steps up in floating point: 0.6000000000000001
        box.value = control.nearest(change.new)

    box.observe(typed, "value")
    slider.observe(dragged, "value")
    widgets.dlink((slider, "max"), (box, "max"))
    return widgets.HBox([box, slider]), slider
