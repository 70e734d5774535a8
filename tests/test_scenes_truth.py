"""Motion, joints, points and captions: each against a second way to know them."""

import math
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from course_lib import scenes
from course_lib.scenes import language
from course_lib.scenes.rays import about_z

FLOAT = torch.float64
SIZE = (72, 80)


@pytest.fixture(scope="module")
def world():
    return scenes.sample(10, seed=2, motion=1.5)


@pytest.fixture(scope="module")
def pictures(world):
    return [scenes.render(world, SIZE, time=time, dtype=FLOAT) for time in (0.0, 1.0)]


@pytest.fixture(scope="module")
def flow(world):
    return scenes.flow(world, SIZE)


def pixel_grid(height, width):
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y], -1).double()


def look_up(values, flow, mode="bilinear"):
    """values (N, C, H, W) at every pixel plus its flow (N, 2, H, W)."""
    height, width = values.shape[2:]
    there = pixel_grid(height, width) + flow.movedim(1, -1)
    grid = 2 * there / torch.tensor([width, height], dtype=FLOAT) - 1
    return F.grid_sample(values, grid, mode=mode, align_corners=False, padding_mode="border")


# ---------------------------------------------------------------- flow


def test_flow_warps_the_second_image_onto_the_first(pictures, flow):
    first, second = pictures
    seen = ~flow.occluded & ~flow.outside
    assert 0.8 < seen.double().mean() < 0.99
    warped = look_up(second.images, flow.flow)
    error, unmoved = ((image - first.images).abs().mean(1)[seen].mean() for image in (warped, second.images))
    assert error < 0.01 and error < 0.6 * unmoved
    # On objects alone, and with the flow's signs and axes wrong, as a check of the check.
    objects = seen & (first.instance > 0)
    wrong = [look_up(second.images, f) for f in (-flow.flow, flow.flow.flip(1))]
    right, *others = ((image - first.images).abs().mean(1)[objects].mean() for image in (warped, *wrong))
    assert all(right < 0.8 * other for other in others)


def test_flow_stays_on_the_same_thing(pictures, flow):
    first, second = pictures
    seen = ~flow.occluded & ~flow.outside
    there = look_up(second.instance[:, None].double(), flow.flow, "nearest")[:, 0]
    assert (there == first.instance)[seen].double().mean() > 0.98  # the nearest pixel can lie across an edge
    assert (there == first.instance)[flow.occluded & ~flow.outside].double().mean() < 0.75


def test_what_is_occluded_lies_behind_what_the_second_image_shows():
    """A second way to know: compare depths of the moved points with the depth map of the second image."""
    world = scenes.sample(8, seed=6, num_objects=(5, 5), overlap=0.8, motion=3.0)
    still = replace(world, velocity=world.velocity * 0, spin=world.spin * 0, angle_speed=world.angle_speed * 0)
    first, second = (scenes.render(still, SIZE, time=time, antialias=1, dtype=FLOAT) for time in (0.0, 3.0))
    truth = scenes.flow(still, SIZE, start=0.0, stop=3.0)
    pixels, depth = second.camera.project(scenes.points(first).flatten(2).mT)
    shape = (len(world), *SIZE)
    expected = (pixels.view(*shape, 2) - pixel_grid(*SIZE)).movedim(-1, 1)
    ground = first.depth[:, 0].isfinite()
    assert torch.allclose(truth.flow.movedim(1, -1)[ground], expected.movedim(1, -1)[ground], atol=1e-6)
    # A depth map says so between its pixels only where the four around a point agree, so judge by the nearest and the farthest of nine.
    finite = second.depth.nan_to_num(posinf=99.0)
    farthest = look_up(F.max_pool2d(finite, 3, 1, 1), truth.flow, "nearest")[:, 0]
    nearest = look_up(-F.max_pool2d(-finite, 3, 1, 1), truth.flow, "nearest")[:, 0]
    behind, before = depth.view(shape) > 1.02 * farthest, depth.view(shape) < nearest + 0.01
    inside = ground & ~truth.outside
    assert truth.occluded[inside & behind].double().mean() > 0.99 and (inside & behind).sum() > 100
    assert truth.occluded[inside & before].double().mean() < 0.001 and (inside & before).sum() > 1000


def test_flow_of_the_sky_is_the_turn_of_the_camera(world, flow, pictures):
    sky = pictures[0].depth[:, 0].isinf()
    assert sky.any()
    first, second = (p.camera for p in pictures)
    directions, _ = first.directions(pixel_grid(*SIZE).view(1, -1, 2))
    turned = torch.einsum("nij,nrj->nri", second.extrinsics[:, :, :3], directions)
    pixels = torch.einsum("nij,nrj->nri", second.intrinsics, turned / turned[..., 2:])[..., :2]
    expected = pixels.view(len(world), *SIZE, 2) - pixel_grid(*SIZE)
    assert torch.allclose(flow.flow.movedim(1, -1)[sky], expected[sky], atol=1e-2)  # pixels


def test_nothing_flows_without_motion():
    found = scenes.sample(3, motion=0.0)
    truth = scenes.flow(found, 40)
    assert truth.flow.abs().max() < 1e-9 and not truth.occluded.any() and not truth.outside.any()


def test_flow_of_one_moving_sphere():
    """A sphere 4 m away that moves by 0.1 m to the right: its points at depth z move by f 0.1 / z pixels."""
    found = scenes.sample(1, kinds=["sphere"], num_objects=(1, 1), clutter=0, motion=0)
    numbers = {"eye": [4.0, 0, 1], "target": [0.0, 0, 1], "position": [[0.0, 0, 1]], "velocity": [[0.0, 0.1, 0]], "size": [[0.5] * 3]}
    found = replace(found, focal=torch.tensor([1.2], dtype=FLOAT), **{k: torch.tensor([v], dtype=FLOAT) for k, v in numbers.items()})
    picture, truth = scenes.render(found, 64, dtype=FLOAT), scenes.flow(found, 64)
    inside = picture.instance[0] == 1
    expected = 1.2 * 64 * 0.1 / picture.depth[0, 0][inside]
    assert torch.allclose(truth.flow[0, 0][inside], expected) and truth.flow[0, 1][inside].abs().max() < 1e-9
    assert truth.flow[0, :, ~inside].abs().max() < 1e-9
    hidden = truth.occluded[0] & ~inside  # the floor and sky just right of the sphere
    assert hidden.any() and torch.nonzero(hidden)[:, 1].min() >= 32


# ---------------------------------------------------------------- joints


def test_joints_lie_on_their_figure(world):
    """In the amodal mask, which comes from other code, all joints of a figure lie but for those half out of the image."""
    picture, joints = scenes.render(world, SIZE, antialias=1, dtype=FLOAT), scenes.keypoints(world, SIZE)
    figures = world.kind == scenes.KINDS.index("figure")
    assert figures.sum() > 5 and not joints.inside[~figures].any() and not joints.visible[~figures].any()
    assert (joints.visible <= joints.inside).all()
    scene, slot, joint = torch.where(joints.inside & (torch.arange(14) != scenes.KEYPOINTS.index("head top")))
    x, y = joints.pixels[scene, slot, joint].floor().long().unbind(-1)
    assert picture.amodal[scene, slot, y, x].double().mean() > 0.985
    scene, slot, joint = torch.where(joints.visible)
    pixels, _ = picture.camera.project(joints.points.flatten(1, 2))
    assert torch.allclose(pixels.view_as(joints.pixels)[figures], joints.pixels[figures])


def test_visible_joints_show_their_figure_and_hidden_ones_something_nearer(world):
    picture, joints = scenes.render(world, (144, 160), antialias=1, dtype=FLOAT), scenes.keypoints(world, (144, 160))
    not_top = torch.arange(14) != scenes.KEYPOINTS.index("head top")  # on the outline
    scene, slot, joint = torch.where(joints.inside & not_top)
    x, y = joints.pixels[scene, slot, joint].floor().long().unbind(-1)
    shown, visible = picture.instance[scene, y, x], joints.visible[scene, slot, joint]
    assert (shown == slot + 1)[visible].double().mean() > 0.97
    eye = picture.camera.eye[scene]
    distance = (joints.points[scene, slot, joint] - eye).norm(dim=1)
    nearer = picture.ray_depth[scene, 0, y, x] < distance
    assert nearer[~visible].double().mean() > 0.97 and (~visible).sum() > 10
    other = (shown != slot + 1) & nearer
    assert not visible[other & (shown > 0)].double().mean() > 0.05


def test_a_wall_hides_all_joints():
    found = scenes.sample(6, kinds=["figure"], num_objects=(2, 2), clutter=0, overlap=0.0)
    towards = F.normalize(found.eye - found.position[:, 0], dim=1)
    wall = replace(
        found,
        kind=torch.tensor([[4, 1]]).expand(6, 2),
        position=torch.stack([found.position[:, 0], found.position[:, 0] + 1.2 * towards], 1),
        size=torch.stack([found.size[:, 0], torch.full((6, 3), 1.1, dtype=FLOAT)], 1),
    )
    before, after = scenes.keypoints(found.only(0), 64), scenes.keypoints(wall, 64)
    assert before.visible[:, 0].double().mean() > 0.6
    assert after.visible[:, 0].double().mean() < 0.1 and torch.equal(before.pixels[:, 0], after.pixels[:, 0])


def test_left_and_right_are_the_figures_own():
    found = scenes.sample(20, kinds=["figure"], num_objects=(1, 1))
    joints = scenes.keypoints(found, 64).points[:, 0]
    left = joints[:, scenes.KEYPOINTS.index("left hip")] - joints[:, scenes.KEYPOINTS.index("right hip")]
    forward = about_z(found.yaw[:, 0])[:, :, 0]
    assert (torch.linalg.cross(forward, left)[:, 2] > 0).all()  # left is anticlockwise from forward, seen from above


def test_joints_move_with_time(world):
    joints = [scenes.keypoints(world, SIZE, time=t).points for t in (0.0, 1e-4, 1.0)]
    figures = world.kind == scenes.KINDS.index("figure")
    assert 0 < (joints[1] - joints[0])[figures].abs().max() < 1e-3
    assert 0.01 < (joints[2] - joints[0])[figures].norm(dim=-1).mean() < 0.5


# ---------------------------------------------------------------- points


def test_points_of_the_floor_lie_on_the_floor():
    picture = scenes.render(scenes.sample(6, clutter=0), SIZE, antialias=1, dtype=FLOAT)
    points = scenes.points(picture)
    floor = picture.semantic == scenes.CLASSES.index("floor")
    assert points[:, 2][floor].abs().max() < 1e-9 and points[:, :2].movedim(1, -1)[floor].norm(dim=1).max() < 12
    assert points[:, 2][picture.instance > 0].min() > -1e-9  # nothing is below it
    assert points.isnan().any(1).equal(picture.depth[:, 0].isinf())


def test_a_point_cloud_of_a_sphere_lies_on_it():
    found = scenes.sample(3, kinds=["sphere"], num_objects=(1, 1), overlap=0.0, clutter=0)
    points, colours, instance = scenes.point_cloud(found, 500, torch.Generator().manual_seed(0))
    assert points.shape == (3, 500, 3) and colours.shape == (3, 500, 3) and instance.shape == (3, 500)
    distance = (points.double() - found.position[:, :1]).norm(dim=-1)
    assert torch.allclose(distance, found.size[:, :1, 0].expand(3, 500), atol=1e-3)
    assert (instance == 1).all() and colours.min() >= 0 and colours.max() <= 1
    centred = points.double() - found.position[:, :1]
    for axis in range(2):  # from all sides
        assert (centred[..., axis].amax(1) > 0.9 * found.size[:, 0, 0]).all() and (
            centred[..., axis].amin(1) < -0.9 * found.size[:, 0, 0]
        ).all()


def test_point_clouds_come_from_the_generator():
    found = scenes.sample(2)
    clouds = [scenes.point_cloud(found, 50, torch.Generator().manual_seed(seed), views=2)[0] for seed in (0, 0, 1)]
    assert torch.equal(clouds[0], clouds[1]) and not torch.equal(clouds[0], clouds[2])
    with pytest.raises(ValueError, match="num_points and views must be at least 1, got 0 and 6"):
        scenes.point_cloud(found, 0, torch.Generator())
    with pytest.raises(ValueError, match="world must show an object in every scene"):
        scenes.point_cloud(replace(found, kind=torch.full_like(found.kind, -1)), 5, torch.Generator())


# ---------------------------------------------------------------- captions

KIND_OF = {word: kind for kind in scenes.KINDS for word in (kind, language.PLURALS[kind])}
COLOUR, KIND = "|".join(language.COLOURS), "|".join(sorted(KIND_OF, key=len, reverse=True))
ITEM = rf"(an?|{'|'.join(language.NUMBERS[2:])}) ({COLOUR}) ({KIND})"
RELATION = rf" The ({COLOUR}) ({KIND}) is (left of|right of|in front of|behind) the ({COLOUR}) ({KIND})\."


def parse(caption):
    """Counts {(colour, kind): number} and the relation, or an AssertionError where the grammar does not allow the caption."""
    if caption == "There is nothing.":
        return {}, None
    match = re.fullmatch(rf"There (is|are) ({ITEM}(?:(?:, {ITEM})* and {ITEM})?)\.({RELATION})?", caption)
    assert match, caption
    items = re.findall(ITEM, match[2])
    assert (match[1] == "is") == (items[0][0] in ("a", "an")), caption
    counts = {}
    for number, colour, kind in items:
        assert (number == "an") == (number in ("a", "an") and colour[0] in "aeiou"), caption
        count = 1 if number in ("a", "an") else language.NUMBERS.index(number)
        assert (kind in scenes.KINDS) == (count == 1), caption
        assert (colour, KIND_OF[kind]) not in counts, caption
        counts[colour, KIND_OF[kind]] = count
    relation = re.search(RELATION, caption)
    return counts, relation and relation.groups()


def test_captions_tell_the_truth():
    world = scenes.sample(150, seed=5, num_objects=(1, 6))
    picture = scenes.render(world, 64, antialias=1)
    names = scenes.colour_names(world)
    relations = set()
    for i, caption in enumerate(scenes.captions(world, picture)):
        counts, relation = parse(caption)
        expected, places = {}, {}
        for slot in range(world.kind.shape[1]):
            mask = picture.instance[i] == slot + 1
            if mask.sum() < 0.003 * 64 * 64 or mask.sum() < 0.25 * picture.amodal[i, slot].sum():
                continue
            name = (names[i][slot], scenes.KINDS[world.kind[i, slot]])
            expected[name] = expected.get(name, 0) + 1
            columns = torch.nonzero(mask)[:, 1]
            away = world.position[i, slot] - world.eye[i]
            forward = F.normalize(world.target[i] - world.eye[i], dim=0)
            places[name] = ((columns.min() + columns.max()).item() / 2, (away @ forward).item())
        assert counts == expected, caption
        if relation:
            a, b = relation[:2], relation[3:]
            assert expected[a] == expected[b] == 1, caption
            (x, z), (other_x, other_z) = places[a], places[b]
            ok = {"left of": x < other_x - 5, "right of": x > other_x + 5, "in front of": z < other_z - 0.4, "behind": z > other_z + 0.4}
            assert ok[relation[2]], caption
            relations.add(relation[2])
    assert len(relations) == 4


def test_colour_names_are_those_of_their_colours():
    world = scenes.sample(1, texture=0.0)
    seen = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.7, 0.2), "blue": (0.1, 0.2, 0.9), "grey": (0.5, 0.5, 0.52), "brown": (0.45, 0.25, 0.1)}
    for name, colour in seen.items():
        world.materials.colours[:] = torch.tensor(colour).double() ** 2.2
        assert scenes.colour_names(world) == [[name] * 5]


def test_captions_want_one_image_a_scene(world):
    with pytest.raises(ValueError, match="rendering must have one image for each of 2 scenes, got 1"):
        scenes.captions(world[:2], scenes.render(world[:1], 16))


def test_a_closed_orbit_comes_back(world):
    views = world[[0] * 4].seen_from(torch.tensor([0.0, 120.0, 240.0, 360.0]), 25.0)
    images = scenes.render(views, 24).images
    assert torch.allclose(images[0], images[3], atol=1e-4) and (images[0] - images[1]).abs().mean() > 0.02
    assert math.isclose((views.eye[0] - views.target[0]).norm(), (world.eye[0] - world.target[0]).norm())
