"""From scenes to images, and to everything that is exactly known about each pixel."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from course_lib.scenes import rays, solids
from course_lib.scenes.rays import Hits, Parts, take
from course_lib.scenes.world import KINDS, World

CLASSES = ("sky", "floor", *KINDS)  # of the semantic mask; stones count as floor
SKY, FLOOR = 0, 1
SUNLIGHT, SKYLIGHT = 0.95, 0.42  # how much light a white surface gets from the sun straight on, and from the whole sky
SUN_COLOUR = (1.0, 0.95, 0.86)
CONTRAST = 0.08  # neighbouring pixels that differ by more, 0..1, are an edge
PIXELS_AT_ONCE = 2**15  # what is in work stays small enough for a processor's cache


@dataclass
class Camera:
    """Pinhole cameras. Camera frame: x right, y down, z forward, metres.

    The image spans x from 0 to W and y from 0 to H in pixels; the pixel of row i and column j has its centre at (j + 0.5, i + 0.5).
    """

    intrinsics: Tensor  # (N, 3, 3): pixel coordinates times depth = intrinsics @ point in the camera's frame
    extrinsics: Tensor  # (N, 3, 4): point in the camera's frame = extrinsics @ (x, y, z, 1) of the world

    @property
    def eye(self) -> Tensor:
        """(N, 3) metres, where the cameras are in the world."""
        return -torch.einsum("nij,ni->nj", self.extrinsics[:, :, :3], self.extrinsics[:, :, 3])

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points of the world (N, P, 3) -> pixels (N, P, 2) as x, y, and depth along the optical axis (N, P) metres, negative behind."""
        local = points @ self.extrinsics[:, :, :3].mT + self.extrinsics[:, None, :, 3]
        depth = local[..., 2]
        pixels = local @ self.intrinsics.mT
        return pixels[..., :2] / pixels[..., 2:], depth

    def directions(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (N or 1, P, 2) as x, y -> unit vectors of the rays (N, P, 3) in the world and in the camera's frame."""
        focal, middle = self.intrinsics[:, None, [0, 1], [0, 1]], self.intrinsics[:, None, :2, 2]
        local = torch.nn.functional.pad((pixels - middle) / focal, (0, 1), value=1.0)
        local = torch.nn.functional.normalize(local, dim=-1)
        return local @ self.extrinsics[:, :, :3], local


@dataclass
class Rendering:
    """N images of H x W pixels and the truth about them. K is the number of slots for objects."""

    images: Tensor  # (N, 3, H, W) red, green, blue, 0..1, gamma-encoded
    depth: Tensor  # (N, 1, H, W) metres along the optical axis; inf: sky
    ray_depth: Tensor  # (N, 1, H, W) metres along the ray through the pixel's centre; inf: sky
    normals: Tensor  # (N, 3, H, W) unit vectors in the camera's frame, x right, y down, z forward, so that z < 0 faces the camera; 0: sky
    instance: Tensor  # (N, H, W) int64, 0: sky, floor or stone, k + 1: object in slot k
    semantic: Tensor  # (N, H, W) int64, index into CLASSES
    amodal: Tensor  # (N, K, H, W) bool, all pixels of each object within the image, hidden ones too
    kind: Tensor  # (N, K) int64, index into KINDS, -1: an empty slot
    boxes: Tensor  # (N, K, 4) xyxy pixels, the smallest that holds all visible pixels of an object whole; 0 where nothing is seen
    amodal_boxes: Tensor  # (N, K, 4) the same for all pixels of `amodal`
    visible: Tensor  # (N, K) fraction of an object's pixels in the image that are not hidden, 0..1; 0 where it has none
    camera: Camera

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen) -> Rendering:
        """Some of the images: an integer keeps the first dimension."""
        chosen = [chosen] if isinstance(chosen, int) else chosen
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "camera"}
        camera = Camera(self.camera.intrinsics[chosen], self.camera.extrinsics[chosen])
        return Rendering(**{name: value[chosen] for name, value in values.items()}, camera=camera)


def camera_at(world: World, size: int | tuple[int, int], time: float = 0.0) -> Camera:
    """The cameras of the scenes for images of a size (H, W) in pixels."""
    height, width = image_size(size)
    eye = world.eye + time * world.eye_velocity
    forward = torch.nn.functional.normalize(world.target - eye, dim=1)
    up = torch.zeros_like(forward)
    up[:, 2] = 1
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=1)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], 1)  # rows: x right, y down, z forward
    extrinsics = torch.cat([rotation, -rotation @ eye[..., None]], 2)
    intrinsics = torch.zeros_like(rotation)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = world.focal * height
    intrinsics[:, 0, 2], intrinsics[:, 1, 2], intrinsics[:, 2, 2] = width / 2, height / 2, 1
    return Camera(intrinsics, extrinsics)


@torch.no_grad()
def render(
    world: World,
    size: int | tuple[int, int] = 64,
    *,
    time: float = 0.0,
    antialias: int = 2,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Rendering:
    """Render scenes.

    Every tensor tells what the one ray through the centre of a pixel meets. Only in `images`, a pixel that differs from a neighbour
    gets the mean colour of antialias x antialias rays instead, so that edges are smooth.
    The same call gives the same numbers. Another batch, device or precision changes them by up to about 1e-4 metres and 1e-3 in colour,
    except for single pixels on an edge that fall to its other side.

    Args:
        world: N scenes.
        size: (H, W) in pixels, or one number for both.
        time: in frames; the scenes were sampled at 0.
        antialias: rays a pixel and axis, 1 to 8.
        device, dtype: where and how precisely to compute; the result stays there.

    Raises:
        ValueError: size, antialias or dtype out of range.
    """
    height, width = image_size(size)
    if isinstance(antialias, bool) or antialias not in range(1, 9):
        raise ValueError(f"antialias must be from 1 to 8, got {antialias!r}")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    world = world.to(device).to(dtype)
    step = max(1, PIXELS_AT_ONCE // (height * width))
    pieces = [_render(world[start : start + step], height, width, time, antialias) for start in range(0, len(world), step)]
    values = {name: torch.cat([getattr(piece, name) for piece in pieces]) for name in vars(pieces[0]) if name != "camera"}
    return Rendering(**values, camera=camera_at(world, size, time))


def image_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels from one number or two. Raises ValueError."""
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2 or not all(isinstance(s, int) and not isinstance(s, bool) and 1 <= s <= 4096 for s in pair):
        raise ValueError(f"size must be a whole number of pixels or (height, width), 1 to 4096, got {size!r}")
    return pair


def pixel_centres(height: int, width: int, like: Tensor) -> Tensor:
    """(1, H * W, 2) x and y of all pixels' centres, row after row."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y], -1).reshape(1, -1, 2).to(like)


def _render(world: World, height: int, width: int, time: float, antialias: int) -> Rendering:
    n, k = world.kind.shape
    parts, camera = rays.parts_at(world, time), camera_at(world, (height, width), time)
    centres = pixel_centres(height, width, world.eye)
    directions, local = camera.directions(centres)
    origin = camera.eye[:, None]
    hits = rays.cast(parts, origin, directions, k)
    normals = surface_normals(parts, hits, origin + hits.t[..., None] * directions)

    pixel = 1 / camera.intrinsics[:, 1, 1]
    light = shade(world, parts, hits, normals, origin, directions, pixel)
    if antialias > 1:
        busy = contrast(light.view(n, height, width, 3)).flatten(1) > CONTRAST
        order = busy.int().argsort(dim=1, descending=True, stable=True)
        chosen = order[:, : int(busy.sum(1).max())]  # (N, E) busy pixels, then others where a scene has fewer than another
        offsets = (torch.arange(antialias).to(light) + 0.5) / antialias - 0.5
        offsets = torch.cartesian_prod(offsets, offsets)  # (A^2, 2)
        many = (centres[0, chosen][:, :, None] + offsets).flatten(1, 2)
        directions, _ = camera.directions(many)
        finer = rays.cast(parts, origin, directions)
        finer_normals = surface_normals(parts, finer, origin + finer.t[..., None] * directions)
        means = shade(world, parts, finer, finer_normals, origin, directions, pixel).unflatten(1, (-1, antialias**2)).mean(2)
        means = torch.where(busy.gather(1, chosen)[..., None], means, take(light, chosen))
        light = light.scatter(1, chosen[..., None].expand_as(means), means)
    images = light ** (1 / 2.2)

    def grid(values: Tensor) -> Tensor:  # (N, H * W, C) -> (N, C, H, W)
        return values.mT.reshape(n, -1, height, width)

    nothing = torch.full((n, 2), -1, device=hits.part.device)  # what floor and sky are instances of
    slot = take(torch.cat([parts.object, nothing], 1), hits.part)
    background = torch.where(hits.part == parts.shape.shape[1] + 1, SKY, FLOOR)
    semantic = torch.where(slot >= 0, take(world.kind, slot.clamp(min=0)) + 2, background)
    seen = slot[:, None] == torch.arange(k, device=slot.device)[:, None]  # (N, K, R)
    amodal = hits.covered.view(n, k, height, width)
    return Rendering(
        images=grid(images),
        depth=grid((hits.t * local[..., 2])[..., None]),
        ray_depth=grid(hits.t[..., None]),
        normals=grid(normals @ camera.extrinsics[:, :, :3].mT),
        instance=(slot + 1).view(n, height, width),
        semantic=semantic.view(n, height, width),
        amodal=amodal,
        kind=world.kind,
        boxes=mask_boxes(seen.view(n, k, height, width)),
        amodal_boxes=mask_boxes(amodal),
        visible=seen.sum(-1).to(images.dtype) / hits.covered.sum(-1).clamp(min=1),
        camera=camera,
    )


def contrast(light: Tensor) -> Tensor:
    """How much each pixel differs from its four neighbours at most, (N, H, W), 0..1, from linear light (N, H, W, 3)."""
    most = torch.zeros_like(light[..., 0])
    encoded = light.sqrt()  # about as the eye sees it
    for axis in (1, 2):
        step = encoded.diff(dim=axis).abs().amax(-1)
        length = step.shape[axis]
        for start in (0, 1):  # the step counts for the pixels on both of its sides
            side = most.narrow(axis, start, length)
            side.copy_(torch.maximum(side, step))
    return most


def mask_boxes(masks: Tensor) -> Tensor:
    """The smallest boxes that hold masks: (..., H, W) bool -> (..., 4) float32, xyxy in pixels, 0 for an empty mask.

    A mask of the single pixel in row i and column j has the box (j, i, j + 1, i + 1).

    Reference: torchvision.ops.masks_to_boxes, whose right and lower sides are one pixel less.
    """
    columns, rows = masks.any(-2).int(), masks.any(-1).int()
    sides = [line.argmax(-1) for line in (columns, rows)] + [line.shape[-1] - line.flip(-1).argmax(-1) for line in (columns, rows)]
    return torch.stack(sides, -1).float() * masks.flatten(-2).any(-1)[..., None]


def surface_normals(parts: Parts, hits: Hits, points: Tensor) -> Tensor:
    """Outward unit normals (N, R, 3) in the world at points (N, R, 3) where rays hit; 0 for the sky."""
    q = parts.shape.shape[1]
    normals = torch.zeros_like(points)
    normals[..., 2] = (hits.part == q).to(points.dtype)
    scene, ray = torch.where(hits.part < q)
    part = hits.part[scene, ray]
    axes = parts.axes[scene, part]
    local = torch.einsum("mij,mi->mj", axes, points[scene, ray] - parts.centre[scene, part])
    normals[scene, ray] = torch.einsum("mij,mj->mi", axes, solids.normals(parts.shape[scene, part], parts.size[scene, part], local))
    return normals


def shade(world: World, parts: Parts, hits: Hits, normals: Tensor, origin: Tensor, directions: Tensor, pixel: Tensor) -> Tensor:
    """The light that comes back along rays, (N, R, 3), 0..1, linear.

    Surfaces are matt (Lambert): they look equally bright from all sides. A surface gets light from the sun where no part is in the way,
    and from the sky, the more the more it faces up.

    Args:
        origin: (N, 1, 3), directions: (N, R, 3) of the rays.
        pixel: (N,) width of a pixel one metre away, metres: waves of a pattern that are finer fade out.
    """
    q = parts.shape.shape[1]
    is_sky = hits.part == q + 1
    points = origin + torch.where(is_sky, 0, hits.t)[..., None] * directions
    facing = (normals @ world.sun[..., None])[..., 0].clamp(min=0)  # cosine of the angle to the sun
    sunny = ~rays.blocked(parts, points, world.sun[:, None].expand_as(points))
    sunlight = SUNLIGHT * (facing * sunny)[..., None] * points.new_tensor(SUN_COLOUR)
    skylight = SKYLIGHT * (0.65 + 0.35 * normals[..., 2:])
    footprint = hits.t * pixel[:, None]
    light = albedo(world, parts, hits, points, footprint) * (sunlight + skylight)
    up = directions[..., 2:].clamp(0, 1).sqrt()
    sky = world.sky[:, :1] * (1 - up) + world.sky[:, 1:] * up
    return torch.where(is_sky[..., None], sky, light).clamp(0, 1)


def albedo(world: World, parts: Parts, hits: Hits, points: Tensor, footprint: Tensor) -> Tensor:
    """The colour of surfaces under white light, (N, R, 3), linear, at points (N, R, 3) seen through pixels of a footprint (N, R) metres."""
    n, q = parts.shape.shape
    floor = world.materials.bias.shape[1] - 1
    frames = [
        (parts.centre, torch.zeros(n, 2, 3)),
        (parts.axes, torch.eye(3).expand(n, 2, 3, 3)),
        (parts.material, torch.full((n, 2), floor)),
    ]
    centre, axes, material = (torch.cat([of_parts, of_floor.to(of_parts)], 1) for of_parts, of_floor in frames)
    waves, phases, sharpness, bias, colours = (
        take(values, material)
        for values in (
            world.materials.waves,
            world.materials.phases,
            world.materials.sharpness,
            world.materials.bias,
            world.materials.colours,
        )
    )  # (N, Q + 2, ...)
    # A wave w.(A^T (p - c)) + phase of the part's frame is the wave (A w).p + (phase - (A w).c) of the world.
    waves = waves @ axes.mT
    phases = phases - (waves @ centre[..., None])[..., 0]
    waves, phases = take(waves, hits.part), take(phases, hits.part)
    fade = torch.exp(-0.5 * (waves.norm(dim=-1) * footprint[..., None] * 0.5) ** 2)
    value = (((waves @ points[..., None])[..., 0] + phases).sin() * fade).prod(-1)
    share = torch.sigmoid(take(sharpness, hits.part) * (value - take(bias, hits.part)))[..., None]
    first, second = take(colours, hits.part).unbind(-2)
    return first * (1 - share) + second * share
