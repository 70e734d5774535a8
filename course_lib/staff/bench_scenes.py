"""Rows of `make bench` about the rendered world: how much of the time it takes that the aim allows."""

from __future__ import annotations

from course_lib.staff.bench import alternate, row

AIM = 150  # scenes of 64 x 64 pixels a second, on two cores


def bench_rows(repeats: int = 5, num_scenes: int = 32) -> list[str]:
    """Processor seconds of one thread to draw, render and carry along scenes, as shares of what two cores have for each at 150 a second."""
    import torch

    from course_lib import scenes

    torch.set_num_threads(1)
    world = scenes.sample(num_scenes)
    single = world.to(torch.float32)
    calls = {
        "sample": lambda: scenes.sample(num_scenes),
        "render 64 x 64, one ray a pixel": lambda: scenes.render(world, 64, antialias=1),
        "render 64 x 64, smooth edges": lambda: scenes.render(world, 64),
        "flow and occlusion 64 x 64": lambda: scenes.flow(single, 64),
    }
    seconds = [value / num_scenes for value in alternate(list(calls.values()), repeats)]
    return [
        row(name, value * AIM / 2, f"{value * 1e3:.1f} ms a scene, {1 / value:.0f} a second and core")
        for name, value in zip(calls, seconds)
    ]
