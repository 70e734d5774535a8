"""A small rendered world: one picture, and the exact truth about it for every topic of the course.

world = scenes.sample(8, seed=0)            # what there is (world.py, figures.py)
picture = scenes.render(world, 64)          # images, depth, normals, masks, boxes (rendering.py, rays.py, solids.py)
motion = scenes.flow(world, 64)             # and joints, points in space (truth.py)
lines = scenes.captions(world, picture)     # in plain English (language.py)
train = scenes.SceneDataset(600, 64)        # many, kept on disk (dataset.py)
"""

from course_lib.scenes.dataset import SceneDataset
from course_lib.scenes.figures import KEYPOINTS, SKELETON
from course_lib.scenes.language import captions, colour_names
from course_lib.scenes.rendering import CLASSES, Camera, Rendering, camera_at, mask_boxes, render
from course_lib.scenes.truth import Flow, Keypoints, flow, keypoints, point_cloud, points
from course_lib.scenes.world import KINDS, World, sample

__all__ = [
    "CLASSES", "KEYPOINTS", "KINDS", "SKELETON", "Camera", "Flow", "Keypoints", "Rendering", "SceneDataset", "World",
    "camera_at", "captions", "colour_names", "flow", "keypoints", "mask_boxes", "point_cloud", "points", "render",
    "sample",
]  # fmt: skip
