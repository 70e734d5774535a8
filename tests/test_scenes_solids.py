"""Crossings and normals of the solids against independent signed distances, and the joints of figures against their limbs."""

import math

import pytest
import torch

from course_lib.scenes import figures, solids
from course_lib.scenes.world import Chance

NUM_LINES = 4000


def signed_distance(shape: int, size, p):
    """Metres outside (positive) or inside (negative) of a solid; exact near its surface."""
    radius, half = size[:, 0], size[:, 2]
    across = p[:, :2].norm(dim=1)
    if shape == solids.SPHERE:
        return p.norm(dim=1) - radius
    if shape == solids.BOX:
        return (p.abs() - size).amax(1)
    if shape == solids.CYLINDER:
        return torch.maximum(across - radius, p[:, 2].abs() - half)
    if shape == solids.CONE:
        length = torch.hypot(radius, 2 * half)
        flank = (2 * half * across + radius * p[:, 2] - radius * half) / length  # distance to the line from the rim to the tip
        return torch.maximum(flank, -half - p[:, 2])
    nearest = torch.stack([p[:, 0] * 0, p[:, 1] * 0, p[:, 2].clamp(-half.min(), half.min())], 1)
    return (p - nearest).norm(dim=1) - radius


def lines(shape: int):
    """Random lines around solids of one size."""
    generator = torch.Generator().manual_seed(shape)
    size = torch.tensor([0.5, 0.7 if shape == solids.BOX else 0.5, 0.8], dtype=torch.float64).expand(NUM_LINES, 3)
    origins = torch.randn(NUM_LINES, 3, generator=generator, dtype=torch.float64) * 0.7
    directions = torch.nn.functional.normalize(torch.randn(NUM_LINES, 3, generator=generator, dtype=torch.float64), dim=1)
    return torch.full((NUM_LINES,), shape), size, origins, directions


@pytest.mark.parametrize("shape", range(len(solids.SHAPES)), ids=solids.SHAPES)
def test_a_line_is_inside_exactly_between_its_ends(shape):
    shapes, sizes, origins, directions = lines(shape)
    enter, leave = solids.intersect(shapes, sizes, origins, directions)
    hit = enter < leave
    assert 0.2 < hit.double().mean() < 0.95
    for t in torch.linspace(-4, 4, 801, dtype=torch.float64):
        distance = signed_distance(shape, sizes, origins + t * directions)
        clear = distance.abs() > 1e-6
        assert torch.equal((distance < 0)[clear], (hit & (enter < t) & (t < leave))[clear])
    for t in (enter[hit], leave[hit]):
        on_surface = origins[hit] + t[:, None] * directions[hit]
        assert signed_distance(shape, sizes[hit], on_surface).abs().max() < 1e-9


@pytest.mark.parametrize("shape", range(len(solids.SHAPES)), ids=solids.SHAPES)
def test_normals_are_the_gradient_of_the_distance(shape):
    shapes, sizes, origins, directions = lines(shape)
    enter, leave = solids.intersect(shapes, sizes, origins, directions)
    hit = enter < leave
    points, sizes = (origins + enter[:, None] * directions)[hit], sizes[hit]
    normals = solids.normals(shapes[hit], sizes, points)
    step = 1e-5
    slopes = []
    for axis in torch.eye(3, dtype=torch.float64) * step:
        slopes.append((signed_distance(shape, sizes, points + axis) - signed_distance(shape, sizes, points - axis)) / (2 * step))
    expected = torch.stack(slopes, 1)
    smooth = (expected.norm(dim=1) - 1).abs() < 1e-6  # not on an edge, where the distance has a kink
    assert smooth.double().mean() > 0.99
    assert (normals - expected)[smooth].abs().max() < 1e-4


def test_every_solid_fits_its_sphere():
    for shape in range(len(solids.SHAPES)):
        shapes, sizes, origins, directions = lines(shape)
        enter, leave = solids.intersect(shapes, sizes, origins, directions)
        hit = enter < leave
        farthest = (origins + leave[:, None] * directions)[hit].norm(dim=1).max()
        radius = solids.bounding_radius(shapes, sizes)[0]
        assert farthest <= radius + 1e-9 and farthest > 0.9 * radius  # tight, too


def test_a_figure_that_stands_straight_is_as_tall_as_said():
    joints = figures.keypoints(torch.tensor(1.7), torch.zeros(len(figures.ANGLES)))
    index = figures.KEYPOINTS.index
    assert joints[index("head top"), 2].item() == pytest.approx(1.7, abs=1e-6)
    assert joints[index("left ankle"), 2].item() == pytest.approx(1.7 * figures.SHOE, abs=1e-6)
    assert joints[index("left shoulder"), 1] > 0 > joints[index("right shoulder"), 1]  # y is to the left
    assert (joints[:, 0].abs() < 1e-6).all()


def test_angles_of_joints_mean_what_their_names_say():
    straight = torch.zeros(len(figures.ANGLES), dtype=torch.float64)
    height = torch.tensor(1.0, dtype=torch.float64)

    def moved(name, angle):
        angles = straight.clone()
        angles[figures.ANGLES.index(name)] = angle
        before, after = figures.keypoints(height, straight), figures.keypoints(height, angles)
        return {key: (after - before)[i] for i, key in enumerate(figures.KEYPOINTS)}

    right = math.pi / 2
    assert moved("right arm forward", right)["right wrist"][0] == pytest.approx(figures.UPPER_ARM + figures.LOWER_ARM)
    assert moved("right arm out", right)["right wrist"][1] == pytest.approx(-figures.UPPER_ARM - figures.LOWER_ARM)
    assert moved("left arm out", right)["left wrist"][1] == pytest.approx(figures.UPPER_ARM + figures.LOWER_ARM)
    assert moved("left elbow forward", right)["left wrist"][0] == pytest.approx(figures.LOWER_ARM)
    assert moved("left knee", right)["left ankle"][0] == pytest.approx(-figures.SHIN)  # back
    assert moved("lean", 0.3)["neck"][0] == pytest.approx(figures.TORSO * math.sin(0.3))
    assert moved("left elbow forward", right)["right wrist"].abs().max() == 0


def test_bones_keep_their_length_and_limbs_their_frames():
    chance = Chance(0, range(50))
    angles = figures.random_angles(chance, 4)
    height = chance.uniform(1.2, 1.9, 4)
    joints = figures.keypoints(height, angles)
    centres, axes, sizes = figures.parts(height, angles)
    assert torch.allclose(axes.mT @ axes, torch.eye(3, dtype=torch.float64).expand_as(axes), atol=1e-9)
    assert torch.allclose(torch.linalg.det(axes), torch.ones(50, 4, figures.NUM_PARTS, dtype=torch.float64))
    index = figures.KEYPOINTS.index
    bones = [("left hip", "left knee", figures.THIGH), ("right knee", "right ankle", figures.SHIN)]
    for a, b, length in [*bones, ("left elbow", "left wrist", figures.LOWER_ARM)]:
        bone = (joints[..., index(a), :] - joints[..., index(b), :]).norm(dim=-1)
        assert torch.allclose(bone, length * height)
    # Every limb between two keypoints begins and ends there.
    for i, (start, end, _, _) in enumerate(figures.LIMBS):
        if start in figures.KEYPOINTS and end in figures.KEYPOINTS:
            tips = centres[..., i, :] + axes[..., i, :, 2] * sizes[..., i, 2:]
            assert torch.allclose(tips, joints[..., index(end), :])
    assert joints[..., 2].min() > 0
