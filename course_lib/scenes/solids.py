"""Where a straight line goes through a solid. Five convex solids, each in a frame of its own: centre at zero, axis along z.

A line meets a convex solid in one interval. Its two ends are among the points where the line crosses the surfaces that bound the solid:
those crossings that lie on the solid itself. Every function below computes all crossings and keeps the ones that count; a crossing that
does not exist is NaN, and NaN fails every comparison.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHAPES = ("sphere", "box", "cylinder", "cone", "capsule")
SPHERE, BOX, CYLINDER, CONE, CAPSULE = range(len(SHAPES))


def intersect(shapes: Tensor, sizes: Tensor, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Enter and leave solids along lines, each line with one solid.

    Args:
        shapes: (M,) integers, indices into SHAPES.
        sizes: (M, 3) metres. Box: half sizes in x, y, z. The others: radius, radius, half height; a capsule's caps come on top of that.
        origins, directions: (M, 3) of each line in the frame of its solid; directions of length 1.

    Returns:
        enter and leave, (M,) metres along the line, enter <= leave. A line that misses gets inf and -inf.
    """
    enter, leave = torch.full_like(origins[:, 0], torch.inf), torch.full_like(origins[:, 0], -torch.inf)
    for shape, crossings in enumerate((_sphere, _box, _cylinder, _cone, _capsule)):
        (chosen,) = torch.where(shapes == shape)
        if len(chosen):
            enter[chosen], leave[chosen] = crossings(sizes[chosen], origins[chosen], directions[chosen])
    return enter, leave


def normals(shapes: Tensor, sizes: Tensor, points: Tensor) -> Tensor:
    """The outward unit normals at points on solids.

    Args:
        shapes: (M,) integers, indices into SHAPES.
        sizes: (M, 3) as in `intersect`.
        points: (M, 3) on the surface, in the frame of the solid.

    Returns:
        (M, 3) of length 1. On an edge one of the two faces is taken.
    """
    radius, height, z = sizes[:, 0], sizes[:, 2], points[:, 2]
    outward = points.clone()  # a sphere's normal is the point itself, and the side of a cylinder forgets z
    across = points[:, :2].norm(dim=1)

    face = (points.abs() - sizes).argmax(1, keepdim=True)  # the axis along which a box ends here
    outward = torch.where((shapes == BOX)[:, None], torch.zeros_like(points).scatter(1, face, points.gather(1, face)), outward)

    axis = torch.zeros_like(points)
    axis[:, 2] = z.sign()
    side = points - axis * z.abs()[:, None]
    on_cap = z.abs() - height > across - radius
    outward = torch.where((shapes == CYLINDER)[:, None], torch.where(on_cap[:, None], axis, side), outward)

    slope = radius / (2 * height)
    flank = side.clone()
    flank[:, 2] = slope * across
    on_base = -height - z > (across - slope * (height - z)) / (1 + slope**2).sqrt()
    outward = torch.where((shapes == CONE)[:, None], torch.where(on_base[:, None], axis, flank), outward)

    beyond = side + axis * (z.abs() - height).clamp(min=0)[:, None]  # from the nearest point of the capsule's axis
    outward = torch.where((shapes == CAPSULE)[:, None], beyond, outward)
    return torch.nn.functional.normalize(outward, dim=1)


def bounding_radius(shapes: Tensor, sizes: Tensor) -> Tensor:
    """The radius of the sphere around a solid's centre that contains it: shapes (...,), sizes (..., 3) -> (...,) metres."""
    x, y, z = sizes.unbind(-1)
    corner = (x**2 + z**2).sqrt()
    radius = torch.where(shapes == SPHERE, x, torch.where(shapes == CAPSULE, x + z, corner))
    return torch.where(shapes == BOX, sizes.norm(dim=-1), radius)


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Both solutions of a t^2 + 2 b t + c = 0, NaN where there are none. No difference of nearly equal numbers is taken."""
    q = -(b + torch.where(b < 0, -1.0, 1.0) * (b * b - a * c).sqrt())
    return q / a, c / q


def _ends(*crossings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """First and last of the crossings (t, whether it counts)."""
    first = [torch.where(counts, t, torch.inf) for t, counts in crossings]
    last = [torch.where(counts, t, -torch.inf) for t, counts in crossings]
    return torch.stack(first).amin(0), torch.stack(last).amax(0)


def _sphere(sizes, origins, directions):
    t1, t2 = _roots(torch.ones_like(sizes[:, 0]), (origins * directions).sum(1), (origins**2).sum(1) - sizes[:, 0] ** 2)
    return _ends((t1, t1 == t1), (t2, t2 == t2))  # NaN is not equal to itself


def _box(sizes, origins, directions):
    directions = torch.where(directions.abs() < 1e-12, 1e-12, directions)
    t1, t2 = (-sizes - origins) / directions, (sizes - origins) / directions  # (M, 3) crossings of the three pairs of faces
    enter, leave = torch.minimum(t1, t2).amax(1), torch.maximum(t1, t2).amin(1)
    miss = enter > leave
    return torch.where(miss, torch.inf, enter), torch.where(miss, -torch.inf, leave)


def _cylinder(sizes, origins, directions):
    radius, height = sizes[:, 0], sizes[:, 2]
    (x, y, z), (dx, dy, dz) = origins.unbind(1), directions.unbind(1)
    t1, t2 = _roots(dx**2 + dy**2, x * dx + y * dy, x**2 + y**2 - radius**2)
    caps = [(t, (x + t * dx) ** 2 + (y + t * dy) ** 2 <= radius**2) for t in ((height - z) / dz, (-height - z) / dz)]
    return _ends((t1, (z + t1 * dz).abs() <= height), (t2, (z + t2 * dz).abs() <= height), *caps)


def _cone(sizes, origins, directions):
    radius, height = sizes[:, 0], sizes[:, 2]
    (x, y, z), (dx, dy, dz) = origins.unbind(1), directions.unbind(1)
    slope = radius / (2 * height)  # x^2 + y^2 = slope^2 (height - z)^2: the tip is up
    down = height - z
    t1, t2 = _roots(dx**2 + dy**2 - (slope * dz) ** 2, x * dx + y * dy + slope**2 * down * dz, x**2 + y**2 - (slope * down) ** 2)
    base = (-height - z) / dz
    on_base = (x + base * dx) ** 2 + (y + base * dy) ** 2 <= radius**2
    return _ends((t1, (z + t1 * dz).abs() <= height), (t2, (z + t2 * dz).abs() <= height), (base, on_base))


def _capsule(sizes, origins, directions):
    radius, height = sizes[:, 0], sizes[:, 2]
    (x, y, z), (dx, dy, dz) = origins.unbind(1), directions.unbind(1)
    side = _roots(dx**2 + dy**2, x * dx + y * dy, x**2 + y**2 - radius**2)
    crossings = [(t, (z + t * dz).abs() <= height) for t in side]
    for end in (1, -1):  # half a sphere at the top, half a sphere at the bottom
        w = z - end * height
        sphere = _roots(torch.ones_like(x), x * dx + y * dy + w * dz, x**2 + y**2 + w**2 - radius**2)
        crossings += [(t, end * (w + t * dz) >= 0) for t in sphere]
    return _ends(*crossings)
