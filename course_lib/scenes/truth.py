"""What else is exactly known about a scene: joints of figures, motion between two times, points in space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.scenes import figures, rays
from course_lib.scenes.rays import take
from course_lib.scenes.rendering import Rendering, camera_at, image_size, pixel_centres, render
from course_lib.scenes.world import FIGURE, World

HIDDEN_BY_ITSELF = 0.13  # of a figure's height: a part of it that much nearer to the camera hides a joint


@dataclass
class Keypoints:
    """The fourteen joints (KEYPOINTS) of every object that is a figure; 0 and False for the others."""

    pixels: Tensor  # (N, K, 14, 2) x, y in pixels, also outside of the image
    points: Tensor  # (N, K, 14, 3) metres in the world, inside of the limbs, not on the skin
    inside: Tensor  # (N, K, 14) bool, within the image and before the camera
    visible: Tensor  # (N, K, 14) bool, inside and not hidden, by another object or by the figure itself


@dataclass
class Flow:
    """Where every pixel of a first image goes until a second."""

    flow: Tensor  # (N, 2, H, W) pixels, x (right) and y (down)
    occluded: Tensor  # (N, H, W) bool, what the pixel shows is hidden in the second image
    outside: Tensor  # (N, H, W) bool, it has left the image


@torch.no_grad()
def keypoints(world: World, size: int | tuple[int, int] = 64, *, time: float = 0.0) -> Keypoints:
    """The joints of figures in images of a size (H, W) at a time. Raises ValueError for a size that is none."""
    height, width = image_size(size)
    n, k = world.kind.shape
    camera, parts = camera_at(world, size, time), rays.parts_at(world, time)
    tall = 2 * world.size[..., 2]
    local = figures.keypoints(tall, world.angles + time * world.angle_speed)  # (N, K, 14, 3)
    turn = rays.about_z(world.yaw + time * world.spin)
    points = torch.einsum("nkij,nkpj->nkpi", turn, local) + (world.position + time * world.velocity)[:, :, None]
    pixels, depth = camera.project(points.flatten(1, 2))
    inside = (depth > 0) & (pixels > 0).all(-1) & (pixels < pixels.new_tensor([width, height])).all(-1)

    eye = camera.eye[:, None]
    away = points.flatten(1, 2) - eye
    distance = away.norm(dim=-1)
    hits = rays.cast(parts, eye, away / distance[..., None])
    owner = take(torch.cat([parts.object, parts.object.new_full((n, 2), -1)], 1), hits.part)
    itself = owner == torch.arange(k, device=owner.device).repeat_interleave(len(figures.KEYPOINTS))
    slack = torch.where(itself, HIDDEN_BY_ITSELF * tall.repeat_interleave(len(figures.KEYPOINTS), 1), 0)
    visible = inside & (hits.t >= distance - slack)

    figure = (world.kind == FIGURE)[..., None]
    shape = (n, k, len(figures.KEYPOINTS))
    return Keypoints(
        pixels=pixels.view(*shape, 2) * figure[..., None],
        points=points * figure[..., None],
        inside=inside.view(shape) & figure,
        visible=visible.view(shape) & figure,
    )


@torch.no_grad()
def flow(world: World, size: int | tuple[int, int] = 64, *, start: float = 0.0, stop: float = 1.0) -> Flow:
    """The forward flow from the image at time `start` to the image at time `stop`.

    Objects, joints and the camera move. The truth does not come from the two images: the point that a pixel's centre shows is carried along
    with its part, projected into the second camera, and a second ray tells whether it can be seen from there.

    Args:
        world: N scenes, on the device and with the precision to compute with.
        size: (H, W) in pixels, or one number for both.

    Raises:
        ValueError: a size that is none.
    """
    height, width = image_size(size)
    before, after = rays.parts_at(world, start), rays.parts_at(world, stop)
    first, second = camera_at(world, size, start), camera_at(world, size, stop)
    centres = pixel_centres(height, width, world.eye)
    directions, _ = first.directions(centres)
    hits = rays.cast(before, first.eye[:, None], directions)
    q = before.shape.shape[1]
    is_part, is_sky = hits.part < q, hits.part == q + 1
    far_away = 1e4  # the sky: so far that the camera's own motion does not show
    points = first.eye[:, None] + torch.where(is_sky, far_away, hits.t)[..., None] * directions
    part = hits.part.clamp(max=q - 1)
    moved = torch.where(is_part[..., None], after.to_world(before.to_local(points, part), part), points)

    pixels, depth = second.project(moved)
    outside = (depth <= 0) | (pixels < 0).any(-1) | (pixels > pixels.new_tensor([width, height])).any(-1)
    away = moved - second.eye[:, None]
    distance = away.norm(dim=-1)
    seen = rays.cast(after, second.eye[:, None], away / distance[..., None])
    occluded = seen.t < 0.999 * distance
    grid = (len(world), height, width)
    return Flow((pixels - centres).mT.reshape(len(world), 2, height, width), occluded.view(grid), outside.view(grid))


def points(rendering: Rendering) -> Tensor:
    """The point of the world that every pixel's centre shows, (N, 3, H, W) metres, NaN for the sky, from depth and camera alone."""
    n, _, height, width = rendering.depth.shape
    directions, local = rendering.camera.directions(pixel_centres(height, width, rendering.depth))
    t = rendering.depth.flatten(1) / local[..., 2]  # metres along the ray
    world = rendering.camera.eye[:, None] + t.masked_fill(t.isinf(), torch.nan)[..., None] * directions
    return world.mT.reshape(n, 3, height, width)


@torch.no_grad()
def point_cloud(
    world: World, num_points: int, generator: torch.Generator, *, views: int = 6, size: int = 48
) -> tuple[Tensor, Tensor, Tensor]:
    """Points on the objects of each scene, as a depth camera would collect them that is carried around the scene.

    Args:
        world: N scenes, each with an object that can be seen.
        num_points: P, drawn with replacement from what the views show.
        generator: on the CPU, draws the points.
        views: how many images, evenly spread about the scene, looking down by 30 degrees.
        size: of these images in pixels.

    Returns:
        points (N, P, 3) metres in the world, colours (N, P, 3) as in the images, and the instance of each, (N, P) int64.

    Raises:
        ValueError: num_points or views under 1, or a scene in which no view shows an object.
    """
    if num_points < 1 or views < 1:
        raise ValueError(f"num_points and views must be at least 1, got {num_points} and {views}")
    seen = [render(world.seen_from(360.0 * i / views, 30.0), size, antialias=1, device=world.eye.device) for i in range(views)]
    instance = torch.stack([view.instance for view in seen], 1).flatten(1)  # (N, views * H * W)
    if not (instance > 0).any(1).all():
        raise ValueError("world must show an object in every scene, got a scene without one")
    where = torch.stack([points(view) for view in seen], 1).movedim(2, -1).flatten(1, 3)
    colours = torch.stack([view.images for view in seen], 1).movedim(2, -1).flatten(1, 3)
    chosen = torch.multinomial((instance > 0).float().cpu(), num_points, replacement=True, generator=generator).to(instance.device)
    return take(where, chosen), take(colours, chosen), instance.gather(1, chosen)
