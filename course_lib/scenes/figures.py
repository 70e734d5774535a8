"""Jointed figures: angles of joints become capsules to draw and keypoints to find.

A figure stands at the origin of its own frame: x forward, y to its left, z up, its lowest foot on the floor. Lengths are for a figure one
metre tall and scale with the height.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The fourteen joints of the Leeds Sports Pose data set, in its order. Left and right are the figure's own.
KEYPOINTS = (
    "right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle",
    "right wrist", "right elbow", "right shoulder", "left shoulder", "left elbow", "left wrist", "neck", "head top",
)  # fmt: skip
SKELETON = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (9, 10), (10, 11), (8, 12), (9, 12), (12, 13))

# Angles in radians: the torso's lean forward, then seven a side (right, left): the upper arm forward and out, the lower arm's bend forward
# and out against it, the thigh forward and out, the knee.
ANGLES = ("lean",) + tuple(
    f"{side} {angle}"
    for side in ("right", "left")
    for angle in ("arm forward", "arm out", "elbow forward", "elbow out", "thigh forward", "thigh out", "knee")
)
POSES = torch.deg2rad(
    torch.tensor(
        [
            [0, 0, 12, 10, 0, 0, 5, 0, 0, 12, 10, 0, 0, 5, 0],  # standing
            [6, -35, 8, 35, 0, 30, 3, 10, 35, 8, 35, 0, -25, 3, 25],  # walking
            [0, 0, 105, 0, 55, 0, 6, 0, 0, 15, 15, 0, 0, 6, 0],  # waving
            [-4, 0, 145, 0, 10, 0, 12, 0, 0, 145, 0, 10, 0, 12, 0],  # cheering
            [0, 0, 15, 10, 0, 0, 5, 0, 85, 10, 0, 0, 0, 5, 0],  # pointing
            [15, 55, 10, 30, 0, 75, 10, 85, 55, 10, 30, 0, 75, 10, 85],  # squatting
            [0, 0, 80, 0, 5, 0, 30, 0, 0, 80, 0, 5, 0, 30, 0],  # star
        ],
        dtype=torch.float64,
    )
)

# Of a figure one metre tall.
HIP_WIDTH, SHOULDER_WIDTH, HEAD_RADIUS = 0.072, 0.135, 0.098  # the widths from the middle
SHOE = 0.042  # the radius
TORSO, NECK, UPPER_ARM, LOWER_ARM, THIGH, SHIN, FOOT = 0.29, 0.062, 0.16, 0.15, 0.205, 0.205, 0.07
SHIRT, SKIN, TROUSERS, SHOES, HEAD = range(5)  # what a part is covered with

# Each capsule: start, end, radius, cover. Joints are named by their place in `skeleton`; the head is a sphere.
LIMBS = (
    ("hips", "neck", 0.088, SHIRT),
    ("right shoulder", "left shoulder", 0.052, SHIRT),
    ("right hip", "left hip", 0.062, TROUSERS),
    *((f"{side} shoulder", f"{side} elbow", 0.042, SHIRT) for side in ("right", "left")),
    *((f"{side} elbow", f"{side} wrist", 0.036, SKIN) for side in ("right", "left")),
    *((f"{side} hip", f"{side} knee", 0.056, TROUSERS) for side in ("right", "left")),
    *((f"{side} knee", f"{side} ankle", 0.046, TROUSERS) for side in ("right", "left")),
    *((f"{side} ankle", f"{side} toe", SHOE, SHOES) for side in ("right", "left")),
)
NUM_PARTS = len(LIMBS) + 1  # the head comes last


def skeleton(height: Tensor, angles: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Where the joints are, and which way is forward for the part that begins at each.

    Args:
        height: (...,) metres from the floor to the top of the head when standing straight.
        angles: (..., 15) radians, named in ANGLES.

    Returns:
        joints and forward: (..., 3) each, in the figure's frame; forward is a unit vector at a right angle to the part.
    """
    lean, *sides = angles.split([1, 7, 7], dim=-1)
    lean = lean[..., 0]
    zero = torch.zeros_like(lean)
    up = torch.stack([lean.sin(), zero, lean.cos()], -1)
    joints = {"hips": torch.stack([zero, zero, zero], -1), "neck": TORSO * up}
    joints["head"] = joints["neck"] + (NECK + HEAD_RADIUS) * up
    joints["head top"] = joints["head"] + HEAD_RADIUS * up
    forward = {"hips": torch.stack([lean.cos(), zero, -lean.sin()], -1)}
    forward["head"] = forward["hips"]
    for side, sign, angles_of_side in (("right", -1, sides[0]), ("left", 1, sides[1])):
        arm, arm_out, elbow, elbow_out, thigh, thigh_out, knee = angles_of_side.unbind(-1)
        left = torch.stack([zero, zero + sign, zero], -1)
        joints[f"{side} shoulder"] = 0.94 * joints["neck"] + SHOULDER_WIDTH * left
        joints[f"{side} hip"] = HIP_WIDTH * left
        chain = (
            ("shoulder", "elbow", UPPER_ARM, arm, arm_out),
            ("elbow", "wrist", LOWER_ARM, arm + elbow, arm_out + elbow_out),
            ("hip", "knee", THIGH, thigh, thigh_out),
            ("knee", "ankle", SHIN, thigh - knee, thigh_out),
        )
        for start, end, length, swing, out in chain:
            hanging = torch.stack([swing.sin() * out.cos(), sign * out.sin(), -swing.cos() * out.cos()], -1)
            joints[f"{side} {end}"] = joints[f"{side} {start}"] + length * hanging
            forward[f"{side} {start}"] = torch.stack([swing.cos(), zero, swing.sin()], -1)
        foot = torch.stack([zero + 1, zero, zero], -1)
        joints[f"{side} toe"] = joints[f"{side} ankle"] + FOOT * foot
        forward[f"{side} ankle"] = torch.stack([zero, zero, zero + 1], -1)
    lowest = torch.minimum(joints["right ankle"][..., 2], joints["left ankle"][..., 2])
    lift = torch.stack([zero, zero, SHOE - lowest], -1)
    return {name: height[..., None] * (joint + lift) for name, joint in joints.items()}, forward


def keypoints(height: Tensor, angles: Tensor) -> Tensor:
    """The joints of KEYPOINTS in the figure's frame, (..., 14, 3) metres, from height (...,) and angles (..., 15)."""
    joints, _ = skeleton(height, angles)
    return torch.stack([joints[name] for name in KEYPOINTS], -2)


def parts(height: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The capsules of a figure, and the sphere of its head, in the figure's frame.

    Args:
        height: (...,) metres.
        angles: (..., 15) radians.

    Returns:
        centres (..., NUM_PARTS, 3), axes (..., NUM_PARTS, 3, 3) whose columns are the parts' x, y, z, and sizes (..., NUM_PARTS, 3):
        radius, radius, half length, metres.
    """
    joints, forward = skeleton(height, angles)
    centres, axes, sizes = [], [], []
    for start, end, radius, _ in LIMBS:
        a, b = joints[start], joints[end]
        length = (b - a).norm(dim=-1)
        z = (b - a) / length[..., None]
        across = (start, end) in (("right shoulder", "left shoulder"), ("right hip", "left hip"))
        x = forward["hips"] if across or start == "hips" else forward[start]
        centres.append((a + b) / 2)
        axes.append(torch.stack([x, torch.linalg.cross(z, x), z], -1))
        sizes.append(torch.stack([radius * height, radius * height, length / 2], -1))
    x = forward["head"]
    up = torch.nn.functional.normalize(joints["head top"] - joints["head"], dim=-1)
    centres.append(joints["head"])
    axes.append(torch.stack([x, torch.linalg.cross(up, x), up], -1))
    sizes.append((HEAD_RADIUS * height)[..., None].expand(*height.shape, 3))
    return torch.stack(centres, -2), torch.stack(axes, -3), torch.stack(sizes, -2)


def random_angles(chance, *shape: int) -> Tensor:
    """Angles of random poses, (N, *shape, 15): one of POSES, sometimes mirrored, every angle moved a little."""
    pose = POSES[chance.integers(0, len(POSES) - 1, *shape)]
    lean, right, left = pose.split([1, 7, 7], dim=-1)
    mirrored = (chance.uniform(0, 1, *shape) < 0.5)[..., None]
    pose = torch.where(mirrored, torch.cat([lean, left, right], -1), pose)
    spread = math.radians(14)
    wiggle = chance.uniform(-spread, spread, *shape, len(ANGLES))
    knees = torch.tensor([name.endswith("knee") for name in ANGLES])
    return torch.where(knees, (pose + wiggle).clamp(min=0), pose + wiggle)  # knees do not bend forward
