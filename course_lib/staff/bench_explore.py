"""Rows of `make bench` about the explorers: how long a picture takes to follow a slider."""

from __future__ import annotations

import io
import itertools

from course_lib.staff.bench import alternate, row

AIM = 0.3  # seconds from a moved slider to its new picture
DEAREST = {"crf": "theta_beta", "tsne": "perplexity"}  # the slider after which most has to be computed; else the first one


def bench_rows(repeats: int = 5) -> list[str]:
    """Processor seconds of one thread for a change, kernel's side (the browser only shows the image), against an empty plot of the same size."""
    from matplotlib.figure import Figure

    from course_lib import explore
    from course_lib.explore import panel

    lines = []
    for name in explore.__all__:
        module = getattr(explore, name)
        _, handles = panel.build(module.figure, module.describe, module.CONTROLS, getattr(module, "limits", None))
        sliders = [control for control in module.CONTROLS if isinstance(control, panel.Slider)]
        chosen = next((slider for slider in sliders if slider.name == DEAREST.get(name)), sliders[0])
        values = itertools.cycle(chosen.values)

        def change() -> None:
            handle, before = handles[chosen.name], handles[chosen.name].value
            while handle.value == before:  # a slider that is limited stays where it is
                handle.value = next(values)

        def plain() -> None:
            fig = Figure(figsize=module.SIZE, layout="none")
            fig.subplots().plot([0, 1], [0, 1])
            fig.savefig(io.BytesIO(), format="png", pil_kwargs={"compress_level": 1})

        seconds, reference = alternate([change, plain], repeats)
        lines.append(row(f"{name}: {chosen.label}", seconds / reference, f"{seconds:.2f} s a change, {seconds / AIM:.0%} of {AIM} s"))
    return lines
