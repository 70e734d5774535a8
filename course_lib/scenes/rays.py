"""Rays against scenes: which part of which object does each ray meet first?

Every object is made of one or more convex parts (solids.py). To test every ray against every part exactly would be slow, so it is done in
two steps: first the sphere around each part, which costs two matrix products for all rays and parts of a scene, then the solid itself
for the few pairs that are left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.scenes import figures, solids
from course_lib.scenes.world import FIGURE, FLOOR_RADIUS, NUM_COVERS, World

NEAREST = 1e-3  # metres; a crossing nearer than this to a ray's origin is the surface that the ray leaves


@dataclass
class Parts:
    """The Q solids of each of N scenes at one time. Slots that are not filled have radius 0 and are never hit."""

    shape: Tensor  # (N, Q) index into solids.SHAPES
    centre: Tensor  # (N, Q, 3) metres, world
    axes: Tensor  # (N, Q, 3, 3) columns: the part's x, y, z in the world
    size: Tensor  # (N, Q, 3) metres, as in solids.intersect
    radius: Tensor  # (N, Q) metres, of the sphere around it
    object: Tensor  # (N, Q) slot of the object it belongs to, -1: a stone
    material: Tensor  # (N, Q) index into World.materials

    def to_local(self, points: Tensor, part: Tensor) -> Tensor:
        """Points of the world (N, R, 3) in the frames of the parts (N, R), (N, R, 3)."""
        moved = points - take(self.centre, part)
        return torch.einsum("nrij,nri->nrj", take(self.axes, part), moved)

    def to_world(self, points: Tensor, part: Tensor) -> Tensor:
        """The way back from `to_local`."""
        return torch.einsum("nrij,nrj->nri", take(self.axes, part), points) + take(self.centre, part)


@dataclass
class Hits:
    """What R rays of each of N scenes meet first."""

    t: Tensor  # (N, R) metres along the ray, inf: nothing
    part: Tensor  # (N, R) index of the part; Q: the floor, Q + 1: the sky
    covered: Tensor  # (N, K, R) bool: the ray meets object k, hidden or not


def take(values: Tensor, index: Tensor) -> Tensor:
    """values (N, Q, ...) at index (N, R) -> (N, R, ...)."""
    n, q = values.shape[:2]
    row = index + q * torch.arange(n, device=index.device)[:, None]
    return values.reshape(n * q, -1).index_select(0, row.flatten()).view(*index.shape, *values.shape[2:])


def parts_at(world: World, time: float = 0.0) -> Parts:
    """All solids of the scenes at a time in frames."""
    n, k = world.kind.shape
    position, yaw = world.position + time * world.velocity, world.yaw + time * world.spin
    turn = about_z(yaw)  # (N, K, 3, 3)
    tilt = turn.new_tensor([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # z, the axis of a cylinder, becomes x
    axes = torch.where(world.lying[..., None, None], turn @ tilt, turn)
    slots = torch.arange(k, device=yaw.device).expand(n, k)
    solid = (world.kind >= 0) & (world.kind != FIGURE)
    shape = torch.where(solid, world.kind, 0)  # the other four kinds are the solids of the same number
    tables = [(solid, shape, position, axes, world.size, slots, slots * NUM_COVERS)]

    if (world.kind == FIGURE).any():
        p = figures.NUM_PARTS
        centre, limb_axes, limb_size = figures.parts(2 * world.size[..., 2], world.angles + time * world.angle_speed)
        centre = position[:, :, None] + torch.einsum("nkij,nkpj->nkpi", turn, centre)
        covers = torch.tensor([cover for *_, cover in figures.LIMBS] + [figures.HEAD], device=yaw.device)
        limb_shape = torch.full((p,), solids.CAPSULE, device=yaw.device)
        limb_shape[-1] = solids.SPHERE
        belongs = (world.kind == FIGURE)[..., None].expand(n, k, p)
        of_object = slots[..., None].expand(n, k, p)
        limb_axes = turn[:, :, None] @ limb_axes
        limbs = (belongs, limb_shape.expand(n, k, p), centre, limb_axes, limb_size, of_object, of_object * NUM_COVERS + covers)
        tables.append(tuple(column.flatten(1, 2) for column in limbs))

    stones = torch.arange(world.stone_yaw.shape[1], device=yaw.device).expand(n, -1)
    stone_shape = torch.where(world.stone_shape == 0, solids.SPHERE, solids.BOX)
    there, nobody = world.stone_size[..., 0] > 0, torch.full_like(stones, -1)
    stone_axes = about_z(world.stone_yaw)
    tables.append((there, stone_shape, world.stone_position, stone_axes, world.stone_size, nobody, k * NUM_COVERS + stones))

    exists, shape, centre, axes, size, slot, material = (torch.cat(columns, 1) for columns in zip(*tables))
    order = (~exists).int().argsort(dim=1, stable=True)[:, : int(exists.sum(1).max().clamp(min=1))]  # filled slots first
    shape, centre, axes, size, slot, material = (take(column, order) for column in (shape, centre, axes, size, slot, material))
    radius = solids.bounding_radius(shape, size).masked_fill(~take(exists, order), 0)
    return Parts(shape, centre, axes, size, radius, slot, material)


def cast(parts: Parts, origins: Tensor, directions: Tensor, num_objects: int = 0) -> Hits:
    """Send rays into scenes.

    Args:
        parts: of N scenes.
        origins: (N, R, 3) or (N, 1, 3) metres.
        directions: (N, R, 3) of length 1.
        num_objects: K, for how many slots to fill in `covered`.
    """
    n, r, _ = directions.shape
    q = parts.shape.shape[1]
    ray, part, enter, _ = _crossings(parts, origins, directions)
    first = enter > NEAREST
    ray, part, enter = ray[first], part[first], enter[first]

    floor, on_floor = floor_crossing(origins, directions)
    t = torch.where(on_floor, floor, torch.inf).flatten()
    t = t.scatter_reduce(0, ray, enter, "amin")
    nearest = enter == t[ray]
    hit = torch.where(on_floor, q, q + 1).flatten()
    hit = hit.masked_fill(torch.zeros_like(hit, dtype=torch.bool).index_fill(0, ray[nearest], True), -1)
    hit = hit.scatter_reduce(0, ray[nearest], part[nearest] % q, "amax")  # of parts that touch there, the last

    covered = torch.zeros(n * num_objects * r, dtype=torch.bool, device=t.device)
    slot = parts.object.flatten()[part]
    owned = (slot >= 0) & (slot < num_objects)
    covered[((ray // r) * num_objects + slot)[owned] * r + (ray % r)[owned]] = True
    return Hits(t.view(n, r), hit.view(n, r), covered.view(n, num_objects, r))


def blocked(parts: Parts, origins: Tensor, directions: Tensor) -> Tensor:
    """Whether rays (N, R, 3) of length-1 directions (N, R, 3) meet any part at all: bool (N, R). They may start on a surface."""
    ray, _, _, leave = _crossings(parts, origins, directions)
    n, r, _ = origins.shape
    return torch.zeros(n * r, dtype=torch.bool, device=origins.device).index_fill(0, ray[leave > NEAREST], True).view(n, r)


def floor_crossing(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Metres along rays (N, R, 3) to the plane of the floor, (N, R), and whether the floor is there."""
    t = -origins[..., 2] / directions[..., 2].clamp(max=-1e-9)
    x, y, _ = (origins + t[..., None] * directions).unbind(-1)
    return t, (directions[..., 2] < 0) & (x**2 + y**2 < FLOOR_RADIUS**2)


def _crossings(parts: Parts, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All pairs of a ray and a part that meet: index of the ray in N * R, of the part in N * Q, metres to enter and leave, (M,) each."""
    n, r, _ = directions.shape
    q = parts.shape.shape[1]
    pairs = [_near(parts.centre[i], parts.radius[i], origins[i], directions[i]) for i in range(n)]  # scene by scene: fits into a cache
    ray = torch.cat([i * r + ray for i, (ray, _) in enumerate(pairs)])
    part = torch.cat([i * q + part for i, (_, part) in enumerate(pairs)])

    d = directions.reshape(-1, 3)[ray]
    offset = origins.expand(n, r, 3).reshape(-1, 3)[ray] - parts.centre.view(-1, 3)[part]
    shift = -(offset * d).sum(1)  # to the point of the ray nearest to the centre: small numbers lose little in rounding
    axes = parts.axes.view(-1, 3, 3)[part]
    local = torch.stack([offset + shift[:, None] * d, d], 1) @ axes  # (M, 2, 3)
    enter, leave = solids.intersect(parts.shape.view(-1)[part], parts.size.view(-1, 3)[part], local[:, 0], local[:, 1])
    meet = enter < leave
    return ray[meet], part[meet], (enter + shift)[meet], (leave + shift)[meet]


def _near(centre: Tensor, radius: Tensor, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of a ray and a sphere that may meet, of one scene: centre (Q, 3), radius (Q,), origins (R or 1, 3), directions (R, 3)."""
    count = int((radius > 0).sum())  # filled slots come first
    centre = centre[:count]
    reach = 1.01 * radius[:count] + 0.01  # larger by more than the rounding of the products
    # A ray o + t d of length-1 d passes the centre c at t = d.c - d.o, with squared distance |c - o|^2 - t^2.
    along = directions @ centre.mT - (directions * origins).sum(1, keepdim=True)  # (R, Q)
    limit = torch.addmm(centre.square().sum(1) - reach.square(), origins, centre.mT, alpha=-2) + origins.square().sum(1, keepdim=True)
    near = along.clamp_(min=0).square_() >= limit  # a sphere behind the origin counts only if the origin is inside
    pair = near.flatten().nonzero(as_tuple=True)[0]
    return pair // max(count, 1), pair % max(count, 1)


def about_z(angle: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) about z."""
    c, s, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, zero + 1], -1).unflatten(-1, (3, 3))
