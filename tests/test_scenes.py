"""The rendered world against closed forms, finite differences, brute force and itself seen differently."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from course_lib import scenes
from course_lib.scenes import rendering
from course_lib.scenes import world as world_module

FLOAT = torch.float64


@pytest.fixture(scope="module")
def world():
    return scenes.sample(10, seed=1)


@pytest.fixture(scope="module")
def picture(world):
    return scenes.render(world, (60, 72), dtype=FLOAT)


def lonely(kind: str, *, eye=(4.0, 0.0, 1.0), target=(0.0, 0.0, 1.0), position=(0.0, 0.0, 1.0), size=(0.5, 0.5, 0.5), focal=1.2):
    """One object at a chosen place before a chosen camera."""
    found = scenes.sample(1, kinds=[kind], num_objects=(1, 1), clutter=0)
    zero = torch.zeros(1, 1, dtype=FLOAT)
    numbers = {"eye": eye, "target": target, "position": [position], "size": [size], "focal": focal}
    return replace(found, yaw=zero, lying=zero.bool(), **{name: torch.tensor([value], dtype=FLOAT) for name, value in numbers.items()})


# ---------------------------------------------------------------- closed forms


def test_a_sphere_on_the_axis():
    picture = scenes.render(lonely("sphere"), 65, dtype=FLOAT)
    middle = (0, slice(None), 32, 32)
    assert picture.depth[middle].item() == pytest.approx(3.5, abs=1e-9)  # 4 m away, radius 0.5 m
    assert picture.ray_depth[middle].item() == pytest.approx(3.5, abs=1e-9)
    assert torch.allclose(picture.normals[middle], torch.tensor([0.0, 0.0, -1.0], dtype=FLOAT), atol=1e-9)
    # Its outline is the cone of rays that touch it.
    inside = picture.instance[0] == 1
    radius = 1.2 * 65 * math.tan(math.asin(0.5 / 4))
    y, x = torch.meshgrid(torch.arange(65) - 32.0, torch.arange(65) - 32.0, indexing="ij")
    away = torch.hypot(x, y)
    assert inside[away < radius - 1e-3].all() and not inside[away > radius + 1e-3].any()
    # Off the axis: |t d - c| = 0.5 solved by hand for c = (0, 0, 4).
    d = torch.stack([x, y, torch.full_like(x, 1.2 * 65)], -1).double()
    cosine = d[..., 2] / d.norm(dim=-1)
    t = 4 * cosine - (0.25 - 16 * (1 - cosine**2)).sqrt()
    assert torch.allclose(picture.ray_depth[0, 0][inside], t[inside], atol=1e-9)
    assert torch.allclose(picture.depth[0, 0][inside], (t * cosine)[inside], atol=1e-9)


@pytest.mark.parametrize("kind, depth", [("box", 3.7), ("cylinder", 3.7)])
def test_a_face_towards_the_camera_has_one_depth_and_a_curved_side_its_nearest(kind, depth):
    picture = scenes.render(lonely(kind, size=(0.3, 0.3, 0.6)), 33, dtype=FLOAT)
    assert picture.depth[0, 0, 16, 16].item() == pytest.approx(depth, abs=1e-9)
    row = picture.depth[0, 0, 16][picture.instance[0, 16] == 1]
    assert (row.max() - row.min() < 1e-9) == (kind == "box")


def test_the_floor_in_closed_form():
    """A camera at height h that looks down by an angle a sees the floor at depth h / (sin a + v cos a), v upside down on the sensor."""
    found = lonely("sphere", eye=(3.0, 0.0, 3.0), target=(0.0, 0.0, 0.0), position=(50.0, 0.0, 0.5))
    picture = scenes.render(found, (40, 56), dtype=FLOAT)
    assert (picture.semantic == rendering.FLOOR).all() and not picture.amodal.any()
    v = (torch.arange(40, dtype=FLOAT) + 0.5 - 20) / (1.2 * 40)
    expected = 3.0 / (math.sin(math.pi / 4) + v * math.cos(math.pi / 4))
    assert torch.allclose(picture.depth[0, 0], expected[:, None].expand(40, 56))
    up = torch.tensor([0.0, -math.cos(math.pi / 4), -math.sin(math.pi / 4)], dtype=FLOAT)  # y points down, z away from the camera
    assert torch.allclose(picture.normals[0], up[:, None, None].expand(3, 40, 56), atol=1e-9)


def test_axes_of_the_image():
    """What is on the camera's right is on the right of the image, and what is high is up."""
    right = scenes.render(lonely("sphere", position=(0.0, 0.8, 1.0)), 32)  # the camera looks along -x
    high = scenes.render(lonely("sphere", position=(0.0, 0.0, 1.8)), 32)
    x0, y0, x1, y1 = right.boxes[0, 0].tolist()
    assert x0 > 16 and abs((y0 + y1) / 2 - 16) <= 0.5
    x0, y0, x1, y1 = high.boxes[0, 0].tolist()
    assert y1 < 16 and abs((x0 + x1) / 2 - 16) <= 0.5


def test_the_camera_projects_what_its_rays_hit(picture):
    pixels, depth = picture.camera.project(scenes.points(picture).flatten(2).mT)
    known = picture.depth[:, 0].isfinite().flatten(1)
    y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(72) + 0.5, indexing="ij")
    grid = torch.stack([x, y], -1).reshape(1, -1, 2).double().expand_as(pixels)
    assert torch.allclose(pixels[known], grid[known], atol=1e-6)
    assert torch.allclose(depth[known], picture.depth.flatten(1)[known], atol=1e-9)


# ---------------------------------------------------------------- depth, normals, masks


def test_sky_has_no_depth_and_no_normal(picture):
    sky = picture.semantic == rendering.SKY
    assert sky.any()
    assert torch.equal(picture.depth[:, 0].isinf(), sky) and torch.equal(picture.ray_depth[:, 0].isinf(), sky)
    assert (picture.normals.movedim(1, -1)[sky] == 0).all()
    assert torch.allclose(picture.normals.norm(dim=1)[~sky], torch.ones(1, dtype=FLOAT))
    assert picture.depth[:, 0][~sky].max() < 20


def test_normals_are_those_of_the_depth(world):
    """Finite differences of the points that the depth gives, away from edges."""
    picture = scenes.render(world, 96, dtype=FLOAT)
    points = scenes.points(picture)
    points = torch.einsum("nij,njhw->nihw", picture.camera.extrinsics[:, :, :3], points)  # turned as the camera
    right, down = points[:, :, 1:-1, 2:] - points[:, :, 1:-1, :-2], points[:, :, 2:, 1:-1] - points[:, :, :-2, 1:-1]
    estimated = torch.nn.functional.normalize(torch.linalg.cross(down, right, dim=1), dim=1)
    normals = picture.normals[:, :, 1:-1, 1:-1]
    # Away from edges: the nine normals around are close to each other, and all belong to one thing.
    windows = picture.normals.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4)  # (N, 3, H - 2, W - 2, 9)
    same = picture.instance.double().unfold(1, 3, 1).unfold(2, 3, 1).flatten(3)
    smooth = ((windows - normals[..., None]).norm(dim=1).amax(-1) < 0.2) & (same == same[..., :1]).all(-1) & ~estimated.isnan().any(1)
    angle = torch.rad2deg((estimated * normals).sum(1).clamp(-1, 1).acos())[smooth]
    assert smooth.double().mean() > 0.6
    assert angle.median() < 0.1 and angle.quantile(0.99) < 3
    curved = angle[(picture.instance[:, 1:-1, 1:-1] > 0)[smooth]]
    assert curved.median() < 1.0


def test_normals_face_the_camera(picture):
    y, x = torch.meshgrid(torch.arange(60) + 0.5 - 30, torch.arange(72) + 0.5 - 36, indexing="ij")
    focal = picture.camera.intrinsics[:, 0, 0, None, None]
    rays = torch.stack([(x / focal), (y / focal), torch.ones_like(x).expand(len(picture), 60, 72)], 1)
    assert ((rays * picture.normals).sum(1) <= 1e-6).all()


def test_instances_are_of_the_semantic_class_of_their_kind(picture):
    for i in range(len(picture)):
        for number in picture.instance[i].unique().tolist():
            classes = picture.semantic[i][picture.instance[i] == number].unique().tolist()
            if number == 0:
                assert set(classes) <= {rendering.SKY, rendering.FLOOR}
            else:
                assert [scenes.CLASSES[c] for c in classes] == [scenes.KINDS[picture.kind[i, number - 1]]]


def test_boxes_are_tight(picture):
    """Brute force over pixels."""
    num_boxes = 0
    for masks, boxes in (
        (picture.instance[:, None] == torch.arange(1, 6)[:, None, None], picture.boxes),
        (picture.amodal, picture.amodal_boxes),
    ):
        for mask, box in zip(masks.flatten(0, 1).numpy(), boxes.flatten(0, 1).tolist()):
            rows, columns = np.nonzero(mask)
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0, 0, 0]
            assert box == expected
            num_boxes += len(rows) > 0
    assert num_boxes > 20


def test_visible_fraction_by_rendering_each_object_alone(world, picture):
    some_hidden = 0
    for slot in range(world.kind.shape[1]):
        alone = scenes.render(world.only(slot), (60, 72), antialias=1, dtype=FLOAT)
        whole = alone.instance == slot + 1
        assert torch.equal(picture.amodal[:, slot], whole)
        seen = (picture.instance == slot + 1).sum((1, 2))
        for fraction, part, total in zip(picture.visible[:, slot].tolist(), seen.tolist(), whole.sum((1, 2)).tolist()):
            assert fraction == pytest.approx(part / total if total else 0)
            some_hidden += 0 < part < total
        assert not (whole.sum((1, 2)) > 0)[world.kind[:, slot] < 0].any()
    assert some_hidden > 5


def test_nearer_objects_hide_farther_ones(world, picture):
    """Where two objects overlap, the image shows the one that alone has the smaller depth."""
    alone = [scenes.render(world.only(slot), (60, 72), antialias=1, dtype=FLOAT) for slot in range(world.kind.shape[1])]
    depth = torch.stack([torch.where(a.instance > 0, a.depth[:, 0], torch.inf) for a in alone], 1)  # (N, K, H, W)
    shown = picture.instance > 0
    assert torch.equal(depth.argmin(1)[shown] + 1, picture.instance[shown])


# ---------------------------------------------------------------- light


def test_shadows_lie_where_the_sun_is_hidden():
    """A sphere of radius 0.5 m in the air under a sun at 45 degrees: its shadow on the floor is an ellipse away from the sun."""
    found = lonely("sphere", eye=(0.01, 0.0, 6.0), target=(0.0, 0.0, 0.0), position=(0.0, 0.9, 1.5))
    found.sun[:] = torch.tensor([0.0, math.sqrt(0.5), math.sqrt(0.5)])
    found.materials.colours[:] = 0.5
    picture = scenes.render(found, 101, antialias=1, dtype=FLOAT)
    points = scenes.points(picture)[0]
    floor = picture.semantic[0] == rendering.FLOOR
    # The sun's ray through (0, y, 0) passes the centre (0, 0.9, 1.5): y = 0.9 - 1.5.
    across, along = points[0], (points[1] + 0.6) * math.sqrt(0.5)
    in_shadow = across**2 + along**2 < 0.25
    clear = (across**2 + along**2 - 0.25).abs() > 1e-6
    bright = picture.images[0].mean(0)
    assert (floor & in_shadow).sum() > 100
    assert bright[floor & in_shadow & clear].max() < bright[floor & ~in_shadow & clear].min() - 0.1
    assert bright[floor & ~in_shadow & clear].std() < 1e-9  # matt and even, so equally bright everywhere


def test_matt_surfaces_look_the_same_from_all_sides(world):
    """Reprojecting one view into another reproduces its image wherever both see the same point."""
    size = 96
    first = scenes.render(world, size, antialias=1, dtype=FLOAT)
    second = scenes.render(world.seen_from(12.0), size, antialias=1, dtype=FLOAT)
    n = len(world)
    pixels, depth = second.camera.project(scenes.points(first).flatten(2).mT)
    grid = (2 * pixels / size - 1).view(n, size, size, 2).nan_to_num(9.0)

    def sample(values):
        return torch.nn.functional.grid_sample(values, grid, align_corners=False, padding_mode="zeros")

    there = sample(second.depth.nan_to_num(0, posinf=99))[:, 0]
    nearest = torch.nn.functional.grid_sample(second.instance[:, None].double(), grid, mode="nearest", align_corners=False)[:, 0]
    both = ((there - depth.view(n, size, size)).abs() < 0.02) & (nearest == first.instance)
    error = (sample(second.images) - first.images).abs().mean(1)
    assert both.double().mean() > 0.4
    assert error[both].mean() < 0.012 and error[both].quantile(0.9) < 0.03
    unmoved = (second.images - first.images).abs().mean(1)
    assert error[both].mean() < 0.2 * unmoved[both].mean()


def test_images_are_colours(picture):
    assert picture.images.shape == (10, 3, 60, 72)
    assert picture.images.min() >= 0 and picture.images.max() <= 1
    assert picture.images.flatten(1).std(1).min() > 0.03


def test_antialiasing_changes_edges_alone(world):
    rough, fine = (scenes.render(world, 48, antialias=a, dtype=FLOAT) for a in (1, 4))
    change = (rough.images - fine.images).abs().amax(1)
    busy = torch.stack([(rough.images.roll(shift, axis) - rough.images).abs().amax(1) for axis in (2, 3) for shift in (1, -1)]).amax(0)
    assert (change > 0).any() and (change[busy < 0.05] == 0).all()
    assert torch.equal(rough.instance, fine.instance) and torch.equal(rough.depth, fine.depth)
    reference = scenes.render(world, 192, antialias=1, dtype=FLOAT).images  # 4 x 4 rays for every pixel, averaged in linear light
    reference = torch.nn.functional.avg_pool2d(reference**2.2, 4) ** (1 / 2.2)
    assert (fine.images - reference).abs().mean() < 0.01
    assert (fine.images - reference).abs().mean() < 0.5 * (rough.images - reference).abs().mean()


# ---------------------------------------------------------------- one at a time, other precision, other device


def tensors(picture):
    return {name: value for name, value in vars(picture).items() if name != "camera"}


def test_a_batch_equals_its_scenes_one_by_one(world):
    together = scenes.render(world, 32)
    for i in (0, 3, 9):
        single = scenes.render(world[i], 32)
        for name, value in tensors(single).items():
            assert torch.allclose(value, tensors(together)[name][i : i + 1], atol=1e-5), name


def test_rendering_again_gives_equal_numbers(world):
    first, again = scenes.render(world, 32), scenes.render(scenes.sample(10, seed=1), 32)
    for name, value in tensors(first).items():
        assert torch.equal(value, tensors(again)[name]), name


def close(first, second):
    """Equal but for single pixels on edges."""
    for name in ("instance", "semantic", "amodal"):
        assert (tensors(first)[name] != tensors(second)[name]).double().mean() < 5e-4, name
    same = (first.instance == second.instance) & (first.semantic == second.semantic)
    for name, limit in (("depth", 1e-4), ("ray_depth", 1e-4), ("normals", 1e-3), ("images", 1e-3)):
        a, b = (tensors(p)[name].double().cpu().nan_to_num(posinf=0).movedim(1, -1)[same.cpu()] for p in (first, second))
        assert ((a - b).abs() > limit).double().mean() < 2e-3, name


def test_both_precisions_agree(world):
    close(scenes.render(world, 64), scenes.render(world, 64, dtype=FLOAT))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_cpu_and_gpu_agree(world):
    on_gpu = scenes.render(world, 64, device="cuda")
    for name, value in tensors(on_gpu).items():
        assert value.is_cuda, name
    on_cpu = replace(on_gpu, **{name: value.cpu() for name, value in tensors(on_gpu).items()})
    close(scenes.render(world, 64), on_cpu)


def test_a_small_image_takes_the_rays_of_a_large_one(world):
    """Pixel (1, 1) of each 3 x 3 block of an image three times as large looks along the same ray."""
    small, large = scenes.render(world, (20, 26), dtype=FLOAT), scenes.render(world, (60, 78), dtype=FLOAT)
    assert torch.allclose(small.depth, large.depth[:, :, 1::3, 1::3])
    assert torch.equal(small.instance, large.instance[:, 1::3, 1::3])


# ---------------------------------------------------------------- the sample


def flat(world):
    """All numbers of the scenes that differ from scene to scene, one row each."""
    return torch.cat(
        [world.kind.double(), world.position.flatten(1), world.eye, world.yaw, world.sun, world.materials.colours.flatten(1)], 1
    )


def test_a_scene_does_not_depend_on_the_others_drawn_with_it():
    many, one = scenes.sample(8, seed=3), scenes.sample([5], seed=3)
    assert torch.allclose(flat(many)[5:6], flat(one), rtol=1e-12, atol=1e-12) and many.index[5] == 5
    assert not torch.equal(flat(scenes.sample([5], seed=4)), flat(one))


def test_no_two_scenes_are_equal():
    rows = torch.cat([flat(scenes.sample(700, seed=seed)) for seed in range(3)])
    assert len(rows.unique(dim=0)) == 2100
    for column in (rows[:, -1], rows[:, 5]):  # a single colour, a single coordinate: no value comes twice
        assert len(column.unique()) == 2100
    images = scenes.render(scenes.sample(200), 16).images
    difference = torch.cdist(images.flatten(1), images.flatten(1)) / math.sqrt(3 * 256)  # root mean square
    difference.fill_diagonal_(1)
    assert difference.min() > 0.02


def test_scenes_draw_their_kinds_and_counts_evenly():
    found = scenes.sample(600, num_objects=(1, 4))
    count = (found.kind >= 0).sum(1)
    assert count.min() >= 1 and count.max() == 4
    shares = found.kind[found.kind >= 0].bincount() / (found.kind >= 0).sum()
    assert (shares - 0.2).abs().max() < 0.04
    only = scenes.sample(50, kinds=["cone", "box"])
    assert set(only.kind.unique().tolist()) == {-1, 1, 3}


def test_objects_do_not_stand_inside_each_other():
    found = scenes.sample(60, kinds=["sphere", "cylinder", "cone"], num_objects=(5, 5), overlap=1.0)
    found = found[~found.lying.any(1)]
    xy, radius, there = found.position[..., :2], found.size[..., 0], found.kind >= 0
    gap = torch.cdist(xy, xy) - radius[:, :, None] - radius[:, None, :] + 9 * torch.eye(5)
    assert gap[there[:, :, None] & there[:, None, :]].min() >= 0.05 - 1e-9


def test_overlap_clutter_and_texture_do_what_they_say():
    visible = [scenes.render(scenes.sample(40, num_objects=(4, 4), overlap=o), 48, antialias=1).visible for o in (0.0, 0.5, 1.0)]
    means = [v[v > 0].mean().item() for v in visible]
    assert means[0] > means[1] + 0.03 > means[2] + 0.05
    assert (scenes.sample(30, clutter=0).stone_size == 0).all()
    stones = (scenes.sample(200, clutter=1.0).stone_size[..., 0] > 0).sum(1)
    assert stones.min() == 0 and stones.max() == 16
    plain, patterned = (scenes.sample(50, texture=t).materials.colours[:, 0 : 5 * 5 : 5] for t in (0.0, 1.0))
    assert torch.equal(plain[:, :, 0], plain[:, :, 1]) and ((patterned[:, :, 0] - patterned[:, :, 1]).abs().amax(-1) > 1e-3).all()


def test_clutter_texture_and_motion_leave_the_rest_of_a_scene_as_it_is():
    usual = scenes.sample(5)
    for setting in ({"clutter": 0.0}, {"clutter": 1.0}, {"texture": 0.0}, {"motion": 0.0}):
        other = scenes.sample(5, **setting)
        for name in ("kind", "position", "size", "yaw", "eye", "sun", "angles", "lying"):
            assert torch.equal(getattr(usual, name), getattr(other, name)), (setting, name)
        assert torch.equal(usual.materials.colours[:, 0:25:5, 0], other.materials.colours[:, 0:25:5, 0])


def test_colour_tells_the_kind_often_but_not_always():
    found = scenes.sample(800, texture=0.0)
    colours = found.materials.colours[:, 0:25:5, 0]
    there = found.kind >= 0
    usual = world_module.hsv(world_module.HUES, torch.tensor(0.75), torch.tensor(0.75)).double()
    cosine = torch.nn.functional.normalize(colours, dim=-1) @ torch.nn.functional.normalize(usual, dim=-1).T
    share = (cosine.argmax(-1) == found.kind)[there].double().mean().item()
    assert 0.45 < share < 0.7  # five kinds: chance is 0.2


def test_choosing_moving_and_turning_scenes(world):
    assert len(world[2:5]) == 3 and world[2:5].index.tolist() == [2, 3, 4] and len(world[3]) == 1
    again = world[[0, 0]].seen_from(torch.tensor([0.0, 90.0]))
    assert torch.allclose(again.eye[0], world.eye[0])
    offset, turned = again.eye - again.target
    assert offset[:2] @ turned[:2] == pytest.approx(0, abs=1e-9) and turned[2] == pytest.approx(offset[2].item())
    assert offset[0] * turned[1] - offset[1] * turned[0] > 0  # anticlockwise from above
    low = world.seen_from(0.0, 20.0)
    lifted = low.eye - low.target
    assert torch.allclose(lifted[:, 2] / lifted.norm(dim=1), torch.full((10,), math.sin(math.radians(20)), dtype=FLOAT))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: scenes.sample(0), r"scenes must be .* got \[\]"),
        (lambda: scenes.sample([-1]), r"scenes must be .* got \[-1\]"),
        (lambda: scenes.sample(2, seed=-1), "seed must be a whole number from 0 up, got -1"),
        (lambda: scenes.sample(2, kinds=["cube"]), r"kinds must be some of sphere, .* got \['cube'\]"),
        (lambda: scenes.sample(2, kinds="box"), "kinds must be some of sphere, .* got 'box'"),
        (lambda: scenes.sample(2, num_objects=(3, 2)), r"num_objects must be .* got \(3, 2\)"),
        (lambda: scenes.sample(2, overlap=1.5), "overlap must be from 0 to 1, got 1.5"),
        (lambda: scenes.sample(2, clutter=-0.1), "clutter must be from 0 to 1, got -0.1"),
        (lambda: scenes.sample(2, texture=float("nan")), "texture must be from 0 to 1, got nan"),
        (lambda: scenes.sample(2, motion=9), "motion must be from 0 to 3, got 9"),
        (lambda: scenes.render(scenes.sample(1), 0), "size must be a whole number of pixels .* got 0"),
        (lambda: scenes.render(scenes.sample(1), (3, 4, 5)), r"size must be .* got \(3, 4, 5\)"),
        (lambda: scenes.render(scenes.sample(1), 8.0), "size must be .* got 8.0"),
        (lambda: scenes.render(scenes.sample(1), 8, antialias=0), "antialias must be from 1 to 8, got 0"),
        (
            lambda: scenes.render(scenes.sample(1), 8, dtype=torch.float16),
            "dtype must be torch.float32 or torch.float64, got torch.float16",
        ),
    ],
)
def test_arguments_out_of_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()
