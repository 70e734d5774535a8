"""Plain English about an image, from a small grammar. Everything that is said is true, and could be read off the image.

caption  = "There " ("is" | "are") " " items "." [" " relation] | "There is nothing."
items    = item | item {", " item} " and " item
item     = ("a" | "an" | number) " " colour " " kind     a number makes a plural; the colour of a figure is that of its shirt
relation = "The " colour " " kind " is " where " the " colour " " kind "."
where    = "left of" | "right of" | "in front of" | "behind"
"""

from __future__ import annotations

import colorsys

import numpy as np
import torch

from course_lib.scenes.rendering import Rendering
from course_lib.scenes.world import KINDS, NUM_COVERS, World

# Hues up to these degrees.
HUE_NAMES = (
    (15, "red"),
    (42, "orange"),
    (70, "yellow"),
    (165, "green"),
    (195, "turquoise"),
    (252, "blue"),
    (300, "purple"),
    (345, "pink"),
    (360, "red"),
)
COLOURS = ("red", "orange", "brown", "yellow", "green", "turquoise", "blue", "purple", "pink", "grey")
NUMBERS = ("no", "a", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
PLURALS = {"sphere": "spheres", "box": "boxes", "cylinder": "cylinders", "cone": "cones", "figure": "figures"}
SHARE_OF_IMAGE, SHARE_OF_OBJECT = 0.003, 0.25  # an object is mentioned if this much of the image shows it, and this much of it is seen
APART, DEEPER = 0.12, 0.5  # of the image's width, and metres: what counts as left or right, and as in front or behind


def colour_names(world: World) -> list[list[str]]:
    """The name of each object's colour, N lists of K; of a pattern, that of the mean of its two colours."""
    k = world.kind.shape[1]
    colours = world.materials.colours[:, : k * NUM_COVERS : NUM_COVERS].mean(2) ** (1 / 2.2)  # (N, K, 3)
    return [[_colour_name(*rgb) for rgb in scene] for scene in colours.tolist()]


def captions(world: World, rendering: Rendering) -> list[str]:
    """One caption for each of N scenes and their images. Equal scenes and images give equal captions.

    Raises:
        ValueError: there are not as many images as scenes.
    """
    if len(world) != len(rendering):
        raise ValueError(f"rendering must have one image for each of {len(world)} scenes, got {len(rendering)}")
    k, pixels = world.kind.shape[1], rendering.instance[0].numel()
    slots = torch.arange(1, k + 1, device=rendering.instance.device)
    seen = (rendering.instance.flatten(1)[:, None] == slots[:, None]).sum(-1)  # (N, K) pixels
    mentioned = (seen >= SHARE_OF_IMAGE * pixels) & (rendering.visible >= SHARE_OF_OBJECT)
    middle = rendering.boxes[..., [0, 2]].mean(-1) / rendering.instance.shape[-1]  # (N, K) 0..1 from the left
    depth = rendering.camera.project(world.position.to(rendering.depth))[1]  # (N, K) metres
    names = colour_names(world)
    result = []
    for i, rows in enumerate(mentioned.tolist()):
        things = [(slot, names[i][slot], KINDS[world.kind[i, slot]]) for slot in range(k) if rows[slot]]
        stream = np.random.default_rng(int(world.index[i]))
        result.append(_inventory(things) + _relation(things, middle[i].tolist(), depth[i].tolist(), stream))
    return result


def _inventory(things: list[tuple[int, str, str]]) -> str:
    """The first sentence: what there is, equal things together."""
    counts: dict[tuple[str, str], int] = {}
    for _, colour, kind in things:
        counts[colour, kind] = counts.get((colour, kind), 0) + 1
    if not counts:
        return "There is nothing."
    items = []
    for (colour, kind), count in counts.items():
        number = "an" if count == 1 and colour == "orange" else NUMBERS[count]
        items.append(f"{number} {colour} {kind if count == 1 else PLURALS[kind]}")
    verb = "is" if next(iter(counts.values())) == 1 else "are"
    return f"There {verb} {' and '.join(filter(None, [', '.join(items[:-1]), items[-1]]))}."


def _relation(things, middle: list[float], depth: list[float], stream: np.random.Generator) -> str:
    """The second sentence: one thing that is true of two objects which a colour and a kind single out; nothing if there is none."""
    described = [(colour, kind) for _, colour, kind in things]
    single = [thing for thing in things if described.count(thing[1:]) == 1]
    facts = []
    for a, colour, kind in single:
        for b, other_colour, other_kind in single:
            if middle[a] < middle[b] - APART:
                facts.append(f" The {colour} {kind} is left of the {other_colour} {other_kind}.")
                facts.append(f" The {other_colour} {other_kind} is right of the {colour} {kind}.")
            if depth[a] < depth[b] - DEEPER:
                facts.append(f" The {colour} {kind} is in front of the {other_colour} {other_kind}.")
                facts.append(f" The {other_colour} {other_kind} is behind the {colour} {kind}.")
    return facts[stream.integers(len(facts))] if facts else ""


def _colour_name(red: float, green: float, blue: float) -> str:
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    name = next(name for limit, name in HUE_NAMES if 360 * hue <= limit)
    if saturation < 0.15:
        return "grey"
    return "brown" if name == "orange" and value < 0.62 else name
