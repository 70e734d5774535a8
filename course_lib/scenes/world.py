"""What there is in a scene: objects, materials, floor, sky, sun and camera, drawn at random from a seed.

The world's frame: x and y span the floor, z points up, metres. Time counts frames of a film; the world as sampled is time 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace

import numpy as np
import torch
from torch import Tensor

from course_lib.scenes import figures

KINDS = ("sphere", "box", "cylinder", "cone", "figure")
SPHERE, BOX, CYLINDER, CONE, FIGURE = range(len(KINDS))
NUM_COVERS = 5  # a figure has five materials, the other kinds use the first of theirs
MOST_STONES = 16
FLOOR_RADIUS = 12.0  # the floor is a round disc; behind its edge there is only sky

# Half sizes in metres, from and to: x, y, z of a box; radius, radius, half height of the round kinds; a figure's last is half its height.
SIZES = torch.tensor(
    [
        [[0.32, 0.32, 0.32], [0.62, 0.62, 0.62]],
        [[0.25, 0.25, 0.25], [0.55, 0.55, 0.60]],
        [[0.24, 0.24, 0.30], [0.45, 0.45, 0.70]],
        [[0.34, 0.34, 0.40], [0.58, 0.58, 0.75]],
        [[0.34, 0.34, 0.70], [0.34, 0.34, 0.95]],
    ],
    dtype=torch.float64,
)
HUES = torch.tensor(
    [0.0, 215.0, 130.0, 42.0, 285.0], dtype=torch.float64
)  # the usual colour of a kind, degrees: red, blue, green, orange, purple
HUE_SPREAD, ODD_COLOURS = 28.0, 0.35  # the standard deviation about it, and the share of objects that have any colour instead


@dataclass
class Materials:
    """What surfaces look like: two colours mixed by the product of three sine waves in the frame of the part, (N, M, ...) each."""

    colours: Tensor  # (N, M, 2, 3) red, green, blue in linear light, 0..1
    waves: Tensor  # (N, M, 3, 3) wave vectors, radians a metre
    phases: Tensor  # (N, M, 3) radians
    sharpness: Tensor  # (N, M) 0: one even colour, 2: soft, 20: hard edges
    bias: Tensor  # (N, M) -1..1, more of the first or of the second colour


@dataclass
class World:
    """N scenes of up to K objects and S stones. Index it like a tensor (`world[3:5]`, `world[[0, 0, 0]]`) to choose scenes.

    Not every slot of an object is filled: `kind` says which. Every tensor begins with N.
    """

    index: Tensor  # (N,) which scenes of the seed these are
    kind: Tensor  # (N, K) index into KINDS, -1: an empty slot
    position: Tensor  # (N, K, 3) metres; z of a figure is 0, of the others the height of the centre
    yaw: Tensor  # (N, K) radians about z, 0: forward is x
    lying: Tensor  # (N, K) bool, cylinders that lie on their side
    size: Tensor  # (N, K, 3) metres, as in SIZES
    angles: Tensor  # (N, K, 15) radians, figures.ANGLES
    velocity: Tensor  # (N, K, 3) metres a frame
    spin: Tensor  # (N, K) radians a frame
    angle_speed: Tensor  # (N, K, 15) radians a frame
    stone_shape: Tensor  # (N, S) 0: sphere, 1: box
    stone_position: Tensor  # (N, S, 3) metres
    stone_yaw: Tensor  # (N, S) radians
    stone_size: Tensor  # (N, S, 3) metres, 0: an empty slot
    materials: Materials  # of object k and cover c: k * NUM_COVERS + c, then the stones', then the floor's
    sky: Tensor  # (N, 2, 3) linear colours at the horizon and at the zenith
    sun: Tensor  # (N, 3) unit vector towards the sun
    eye: Tensor  # (N, 3) metres, where the camera is
    eye_velocity: Tensor  # (N, 3) metres a frame
    target: Tensor  # (N, 3) metres, what the camera looks at
    focal: Tensor  # (N,) focal length in heights of the image

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, chosen) -> World:
        chosen = [chosen] if isinstance(chosen, int) else chosen
        return _map(self, lambda tensor: tensor[chosen])

    def to(self, target: torch.device | str | torch.dtype) -> World:
        """The same scenes on a device, or with floating-point numbers of another type."""
        if isinstance(target, torch.dtype):
            return _map(self, lambda tensor: tensor.to(target) if tensor.is_floating_point() else tensor)
        return _map(self, lambda tensor: tensor.to(target))

    def only(self, slot: int) -> World:
        """The same scenes with object `slot` alone, without the other objects and without stones."""
        others = torch.arange(self.kind.shape[1], device=self.kind.device) != slot
        return replace(self, kind=self.kind.masked_fill(others, -1), stone_size=torch.zeros_like(self.stone_size))

    def seen_from(self, azimuth: Tensor | float, elevation: Tensor | float | None = None) -> World:
        """The same scenes with the camera moved on a sphere around what it looks at.

        Args:
            azimuth: degrees to turn about the vertical, a number or (N,); positive is anticlockwise from above.
            elevation: degrees above the floor, a number or (N,), 1 to 89; None keeps each scene's own.
        """
        offset = self.eye - self.target
        distance = offset.norm(dim=1)
        height = (offset[:, 2] / distance).asin() if elevation is None else _radians(elevation, distance)
        around = torch.atan2(offset[:, 1], offset[:, 0]) + _radians(azimuth, distance)
        return replace(self, eye=self.target + distance[:, None] * _direction(around, height))


class Chance:
    """Random numbers for many scenes: each scene has a stream of its own, so that it does not depend on the others of a batch."""

    def __init__(self, seed: int, indices: Sequence[int]):
        self.streams = [np.random.default_rng((seed, index)) for index in indices]

    def uniform(self, low, high, *shape: int) -> Tensor:
        """(N, *shape) float64 between low and high, which are numbers or tensors that broadcast against it."""
        draws = torch.from_numpy(np.stack([stream.random(shape) for stream in self.streams]))
        return low + (high - low) * draws

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """(N, *shape) int64 from low to high, both included."""
        return self.uniform(low, high + 1, *shape).floor().long().clamp(max=high)

    def normal(self, spread: float, *shape: int) -> Tensor:
        """(N, *shape) float64, normal about 0."""
        return spread * torch.from_numpy(np.stack([stream.standard_normal(shape) for stream in self.streams]))


def sample(
    scenes: int | Iterable[int],
    *,
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
    num_objects: tuple[int, int] = (2, 5),
    overlap: float = 0.3,
    clutter: float = 0.5,
    texture: float = 0.7,
    motion: float = 1.0,
) -> World:
    """Draw scenes at random.

    Scene i of a seed is always the same one as long as the settings are the same, whichever others are drawn with it (numbers can differ
    in the last digit).

    Args:
        scenes: how many, or the numbers of the scenes to draw, such as range(1000, 1100) for a test set.
        seed: 0 or more; another seed gives other scenes.
        kinds: names from KINDS. Each object is one of them, all equally likely; a name that stands twice counts twice.
        num_objects: the fewest and the most objects. Where the floor has no room left, an object is missing.
        overlap: 0: objects hide each other as little as there is room for, 1: each stands before or behind another, seen from the camera.
        clutter: 0: no stones on the floor, 1: up to sixteen, in the colours of the objects.
        texture: the share of objects that have a pattern, 0 to 1.
        motion: speed of objects, joints and camera, 1: a few centimetres and degrees a frame.

    Returns:
        A World of float64 tensors on the CPU.

    Raises:
        ValueError: an argument is out of its range.
    """
    indices = list(range(scenes)) if isinstance(scenes, int) else [int(i) for i in scenes]
    _check(indices, seed, kinds, num_objects, {"overlap": overlap, "clutter": clutter, "texture": texture}, motion)
    chance, n, k = Chance(seed, indices), len(indices), num_objects[1]

    distance, around, elevation = chance.uniform(3.9, 5.4), chance.uniform(0, 2 * math.pi), chance.uniform(0.2, 0.6)
    target = torch.cat([chance.normal(0.15, 2), chance.uniform(0.35, 0.65, 1)], 1)
    eye = target + distance[:, None] * _direction(around, elevation)

    count = chance.integers(*num_objects)
    allowed = torch.tensor([KINDS.index(kind) for kind in kinds])
    kind = allowed[chance.integers(0, len(kinds) - 1, k)]  # (N, K)
    low, high = SIZES[kind].unbind(-2)
    size = chance.uniform(low, high, k, 3)
    size[..., 1] = torch.where(kind == BOX, size[..., 1], size[..., 0])  # the others are as deep as wide
    size[..., 2] = torch.where(kind == SPHERE, size[..., 0], size[..., 2])
    lying = (kind == CYLINDER) & (chance.uniform(0, 1, k) < 0.25)
    footprint = torch.where(kind == BOX, size[..., :2].norm(dim=-1), size[..., 0])
    footprint = torch.where(lying, torch.hypot(size[..., 0], size[..., 2]), footprint)
    spot, has_room = _places(chance, footprint, eye, overlap)
    centre_height = torch.where(lying, size[..., 0], size[..., 2]).masked_fill(kind == FIGURE, 0)
    velocity = motion * torch.cat([chance.uniform(-0.06, 0.06, k, 2), torch.zeros(n, k, 1)], -1)

    num_stones = MOST_STONES  # drawn even where there are fewer, so that clutter changes nothing else in a scene
    there = torch.arange(num_stones) < chance.integers(0, round(MOST_STONES * clutter))[:, None]
    stone_size = chance.uniform(0.04, 0.13, num_stones, 3) * there[..., None]
    stone_shape = chance.integers(0, 1, num_stones)
    stone_size[..., 1:] = torch.where(stone_shape[..., None] == 0, stone_size[..., :1], stone_size[..., 1:])
    ground = _disc(chance, 2.6, num_stones)

    swing = chance.uniform(-0.5, 0.5)
    sideways = torch.stack([-around.sin(), around.cos(), torch.zeros(n)], 1)
    return World(
        index=torch.tensor(indices),
        kind=torch.where((torch.arange(k) < count[:, None]) & has_room, kind, -1),
        position=torch.cat([spot, centre_height[..., None]], -1),
        yaw=chance.uniform(0, 2 * math.pi, k),
        lying=lying,
        size=size,
        angles=figures.random_angles(chance, k),
        velocity=velocity,
        spin=motion * chance.uniform(-0.1, 0.1, k),
        angle_speed=motion * chance.uniform(-0.1, 0.1, k, len(figures.ANGLES)),
        stone_shape=stone_shape,
        stone_position=torch.cat([ground, stone_size[..., 2:] * 0.6], -1),
        stone_yaw=chance.uniform(0, 2 * math.pi, num_stones),
        stone_size=stone_size,
        materials=_materials(chance, kind, num_stones, texture),
        sky=hsv(chance.uniform(195, 230, 2), torch.tensor([0.12, 0.5]) * chance.uniform(0.6, 1.3, 1), torch.tensor([0.97, 0.88])),
        sun=_direction(chance.uniform(0, 2 * math.pi), chance.uniform(0.5, 1.1)),
        eye=eye,
        eye_velocity=motion * 0.12 * swing[:, None] * sideways,
        target=target,
        focal=chance.uniform(1.05, 1.3),
    )


def hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Colours in linear light, (..., 3), 0..1, from hue in degrees, saturation and value 0..1 of any shapes that broadcast."""
    hue, saturation, value = torch.broadcast_tensors(hue, saturation, value)
    sector = (torch.tensor([5.0, 3.0, 1.0], dtype=hue.dtype) + hue[..., None] / 60) % 6
    share = torch.minimum(sector, 4 - sector).clamp(0, 1)
    return (value[..., None] * (1 - saturation[..., None] * share)) ** 2.2


def _places(chance: Chance, radius: Tensor, eye: Tensor, overlap: float) -> tuple[Tensor, Tensor]:
    """Put discs of given radius (N, K) on the floor, one after the other, where they touch no earlier one.

    Of many random spots each disc takes the one where, seen from the camera, it shares as much of its width with another disc
    as was drawn for it, on average `overlap`. Returns spots (N, K, 2) and whether there was room (N, K).
    """
    n, k = radius.shape
    candidates = _disc(chance, 1.7, k, 40)  # (N, K, 40, 2)
    wanted = chance.uniform(0, 2 * overlap, k).clamp(max=1)
    away = candidates - eye[:, None, None, :2]
    bearing = torch.atan2(away[..., 1], away[..., 0])  # (N, K, 40)
    spread = torch.asin((radius[..., None] / away.norm(dim=-1)).clamp(max=1))
    rows = torch.arange(n)
    spots, bearings, spreads = candidates[:, :, 0].clone(), bearing[:, :, 0].clone(), spread[:, :, 0].clone()
    has_room = torch.ones(n, k, dtype=torch.bool)
    for i in range(1, k):
        gap = torch.cdist(candidates[:, i], spots[:, :i]) - radius[:, i, None, None] - radius[:, None, :i]  # (N, 40, i)
        touches = ((gap < 0.05) & has_room[:, None, :i]).any(-1)
        turn = bearing[:, i, :, None] - bearings[:, None, :i]
        turn = torch.atan2(turn.sin(), turn.cos()).abs()
        smaller = torch.minimum(spread[:, i, :, None], spreads[:, None, :i])
        shared = ((spread[:, i, :, None] + spreads[:, None, :i] - turn) / (2 * smaller)).clamp(0, 1).amax(-1)  # (N, 40)
        best = ((shared - wanted[:, i, None]).abs() + 10 * touches).argmin(1)
        spots[:, i], bearings[:, i], spreads[:, i] = candidates[rows, i, best], bearing[rows, i, best], spread[rows, i, best]
        has_room[:, i] = ~touches[rows, best]
    return spots, has_room


def _materials(chance: Chance, kind: Tensor, num_stones: int, texture: float) -> Materials:
    """Materials of all objects, of the stones and of the floor, in this order."""
    n, k = kind.shape
    m = k * NUM_COVERS + num_stones + 1
    f = {"dtype": torch.float64}
    covers = Materials(
        torch.zeros(n, m, 2, 3, **f),
        torch.zeros(n, m, 3, 3, **f),
        torch.full((n, m, 3), math.pi / 2, **f),
        torch.zeros(n, m, **f),
        torch.zeros(n, m, **f),
    )
    bodies = slice(0, k * NUM_COVERS, NUM_COVERS)

    def own_or_any_hue(usual: Tensor) -> Tensor:
        hue = usual + chance.normal(HUE_SPREAD, *usual.shape[1:])
        return torch.where(chance.uniform(0, 1, *usual.shape[1:]) < ODD_COLOURS, chance.uniform(0, 360, *usual.shape[1:]), hue) % 360

    hue = own_or_any_hue(HUES[kind])
    saturation, value = chance.uniform(0.5, 0.95, k), chance.uniform(0.55, 0.95, k)
    patterned = chance.uniform(0, 1, k) < texture
    second = hsv(hue + chance.normal(12.0, k), saturation * chance.uniform(0.2, 0.9, k), value * chance.uniform(0.3, 1.1, k).clamp(max=1))
    first = hsv(hue, saturation, value)
    covers.colours[:, bodies] = torch.stack([first, torch.where(patterned[..., None], second, first)], -2)
    covers.waves[:, bodies], covers.phases[:, bodies], covers.sharpness[:, bodies], covers.bias[:, bodies] = _patterns(chance, k, 0.28, 0.7)

    # Figures wear trousers of any colour. The hair is where the wave in the head's frame is positive: behind and on top.
    skin = hsv(chance.uniform(15, 32, k), chance.uniform(0.25, 0.6, k), chance.uniform(0.45, 0.98, k))
    hair = hsv(chance.uniform(10, 45, k), chance.uniform(0.2, 0.7, k), chance.uniform(0.08, 0.5, k))
    trousers = hsv(chance.uniform(0, 360, k), chance.uniform(0.1, 0.6, k), chance.uniform(0.2, 0.6, k))
    for cover, colours in (
        (figures.SKIN, (skin, skin)),
        (figures.TROUSERS, (trousers, trousers)),
        (figures.SHOES, (hair, hair)),
        (figures.HEAD, (skin, hair)),
    ):
        covers.colours[:, cover : k * NUM_COVERS : NUM_COVERS] = torch.stack(colours, -2)
    heads = slice(figures.HEAD, k * NUM_COVERS, NUM_COVERS)
    covers.waves[:, heads, 0] = torch.tensor([-6.0, 0.0, 4.0], **f)
    covers.phases[:, heads, 0] = -0.15
    covers.sharpness[:, heads] = 14.0

    stones = slice(k * NUM_COVERS, m - 1)
    stone_hue = own_or_any_hue(HUES[chance.integers(0, len(KINDS) - 1, num_stones)])
    stone = hsv(stone_hue, chance.uniform(0.1, 0.8, num_stones), chance.uniform(0.3, 0.8, num_stones))
    covers.colours[:, stones] = stone[..., None, :].expand(n, num_stones, 2, 3)

    floor_hue, grey = chance.uniform(0, 360, 1), chance.uniform(0.03, 0.3, 1)
    bright = chance.uniform(0.55, 0.85, 1)
    covers.colours[:, m - 1 :] = torch.stack(
        [hsv(floor_hue, grey, bright), hsv(floor_hue, grey, bright * chance.uniform(0.5, 0.85, 1))], -2
    )
    covers.waves[:, m - 1 :], covers.phases[:, m - 1 :], covers.sharpness[:, m - 1 :], covers.bias[:, m - 1 :] = _patterns(
        chance, 1, 0.8, 2.2
    )
    covers.waves[:, m - 1 :, :, 2] = 0  # the floor has no height; a wave across it would only shift its phase
    return covers


def _patterns(chance: Chance, k: int, shortest: float, longest: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Waves (N, k, 3, 3), phases (N, k, 3), sharpness and bias (N, k) of stripes, checks or blotches with wavelengths in metres."""
    pattern = chance.integers(0, 2, k)[..., None, None]
    frequency = 2 * math.pi / chance.uniform(shortest, longest, k)[..., None, None]
    turn = chance.uniform(0, math.pi, k)
    upright = torch.stack([turn.cos() * 0, turn.cos() * 0, turn.cos() * 0 + 1], -1)
    level = torch.stack([turn.cos(), turn.sin(), turn * 0], -1)
    square = torch.stack([-turn.sin(), turn.cos(), turn * 0], -1)
    axes = torch.stack([level, square, upright], -2)  # (N, k, 3, 3)
    slanted = torch.nn.functional.normalize(level + upright * chance.integers(0, 1, k)[..., None], dim=-1)
    stripes = torch.stack([slanted, slanted * 0, slanted * 0], -2)
    blotches = torch.nn.functional.normalize(chance.normal(1.0, k, 3, 3), dim=-1)
    waves = frequency * torch.where(pattern == 0, stripes, torch.where(pattern == 1, axes, blotches))
    still = waves.norm(dim=-1) == 0
    phases = torch.where(still, math.pi / 2, chance.uniform(0, 2 * math.pi, k, 3))
    return waves, phases, chance.uniform(4, 16, k), chance.uniform(-0.25, 0.25, k)


def _disc(chance: Chance, radius: float, *shape: int) -> Tensor:
    """Points spread evenly over a disc of the floor around zero, (N, *shape, 2) metres."""
    r, a = radius * chance.uniform(0, 1, *shape).sqrt(), chance.uniform(0, 2 * math.pi, *shape)
    return torch.stack([r * a.cos(), r * a.sin()], -1)


def _direction(around: Tensor, elevation: Tensor) -> Tensor:
    """Unit vectors (..., 3) from the angle about z and the angle above the floor, radians."""
    return torch.stack([elevation.cos() * around.cos(), elevation.cos() * around.sin(), elevation.sin()], -1)


def _radians(degrees: Tensor | float, like: Tensor) -> Tensor:
    return torch.deg2rad(torch.as_tensor(degrees, dtype=like.dtype, device=like.device)).expand_as(like)


def _map(record, change: Callable[[Tensor], Tensor]):
    """The same dataclass with every tensor changed."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return replace(record, **{name: _map(v, change) if is_dataclass(v) else change(v) for name, v in values.items()})


def _check(indices, seed, kinds, num_objects, shares, motion) -> None:
    if not indices or min(indices) < 0:
        raise ValueError(f"scenes must be a positive count, or numbers from 0 up, got {indices}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a whole number from 0 up, got {seed!r}")
    if isinstance(kinds, str) or not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds must be some of {', '.join(KINDS)}, got {kinds!r}")
    if len(num_objects) != 2 or not 1 <= num_objects[0] <= num_objects[1] <= 12:
        raise ValueError(f"num_objects must be the fewest and the most, 1 to 12, got {num_objects!r}")
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {share!r}")
    if not 0 <= motion <= 3:
        raise ValueError(f"motion must be from 0 to 3, got {motion!r}")
