"""The data set of scenes: what an item is, and when the kept file is used."""

import pytest
import torch
from torch.utils.data import DataLoader

from course_lib import scenes
from course_lib.scenes import dataset
from course_lib.scenes.dataset import SceneDataset

SMALL = {"size": (12, 16), "antialias": 1}


@pytest.fixture
def renders(monkeypatch):
    """How many scenes were rendered."""
    counted = []
    real = dataset.render
    monkeypatch.setattr(dataset, "render", lambda world, *args, **more: counted.append(len(world)) or real(world, *args, **more))
    return counted


def test_items_are_the_fields_of_the_rendered_scenes(tmp_path):
    found = SceneDataset(40, fields=("images", "depth", "semantic", "captions"), first=5, cache=tmp_path, **SMALL)
    world = scenes.sample(range(5, 45))
    picture = scenes.render(world, **SMALL)
    image, depth, semantic, caption = found[7]
    assert (image - picture.images[7]).abs().max() <= 0.5 / 255 + 1e-5
    assert torch.allclose(depth, picture.depth[7], atol=1e-4) and torch.equal(semantic, picture.semantic[7])
    assert caption == scenes.captions(world, picture)[7]
    assert len(found) == 40 and found.tensors["images"].shape == (40, 3, 12, 16)
    with pytest.raises(IndexError):
        found[40]
    assert len(list(found)) == 40  # iteration ends


@pytest.mark.parametrize("name", scenes.dataset.FIELDS)
def test_every_field_has_its_shape(name):
    (value,) = SceneDataset(2, fields=(name,), cache=None, kinds=["figure", "box"], **SMALL)[1]
    k, (h, w) = 5, SMALL["size"]
    shapes = {
        "images": (3, h, w), "depth": (1, h, w), "ray_depth": (1, h, w), "normals": (3, h, w), "instance": (h, w), "semantic": (h, w),
        "amodal": (k, h, w), "kind": (k,), "boxes": (k, 4), "amodal_boxes": (k, 4), "visible": (k,), "intrinsics": (3, 3),
        "extrinsics": (3, 4), "flow": (2, h, w),
        "occluded": (h, w), "outside": (h, w), "keypoints": (k, 14, 2), "keypoints_visible": (k, 14),
    }  # fmt: skip
    if name == "captions":
        assert value.startswith("There ")
    else:
        assert value.shape == shapes[name]
        integers, truths = ("instance", "semantic", "kind"), ("amodal", "occluded", "outside", "keypoints_visible")
        assert value.dtype == (torch.int64 if name in integers else torch.bool if name in truths else torch.float32)


def test_a_loader_batches_it():
    loader = DataLoader(SceneDataset(5, fields=("images", "boxes"), cache=None, **SMALL), batch_size=4)
    (images, boxes), last = loader
    assert images.shape == (4, 3, 12, 16) and boxes.shape == (4, 5, 4) and len(last[0]) == 1


def test_the_second_time_nothing_is_rendered(tmp_path, renders):
    first = SceneDataset(3, fields=("images", "instance", "captions"), cache=tmp_path, **SMALL)
    assert sum(renders) == 3
    again = SceneDataset(3, fields=("captions", "images", "instance"), cache=tmp_path, **SMALL)
    assert sum(renders) == 3
    for name in first.tensors:
        assert torch.equal(first.tensors[name], again.tensors[name]) and first.tensors[name].dtype == again.tensors[name].dtype
    assert first.captions == again.captions and again[0][0] == first.captions[0]


def test_other_arguments_or_other_code_render_again(tmp_path, renders, monkeypatch):
    ways = [{}, {"seed": 1}, {"first": 2}, {"antialias": 2}, {"size": 8}, {"clutter": 1.0}, {"fields": ("depth",)}]
    for number, way in enumerate(ways, start=1):
        SceneDataset(2, **{**SMALL, "cache": tmp_path, **way})
        assert sum(renders) == 2 * number, way
    monkeypatch.setattr(dataset, "_code", lambda: b"changed")
    SceneDataset(2, cache=tmp_path, **SMALL)
    assert sum(renders) == 2 * len(ways) + 2
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".safetensors"]


def test_a_broken_file_is_made_again(tmp_path, renders):
    first = SceneDataset(2, cache=tmp_path, **SMALL)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    again = SceneDataset(2, cache=tmp_path, **SMALL)
    assert sum(renders) == 4 and torch.equal(first.tensors["images"], again.tensors["images"])


def test_without_a_cache_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "CACHE", tmp_path)
    SceneDataset(1, cache=None, **SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"fields": ("image",)}, r"fields must be some of images, .* got \('image',\)"),
        ({"fields": "images"}, "fields must be some of images, .* got 'images'"),
        ({"fields": ()}, r"fields must be some of images, .* got \(\)"),
        ({"num_scenes": 0}, "num_scenes must be at least 1 and first at least 0, got 0 and 0"),
        ({"first": -1}, "num_scenes must be at least 1 and first at least 0, got 1 and -1"),
        ({"overlap": 2}, "overlap must be from 0 to 1, got 2"),
        ({"size": "big"}, "size must be a whole number of pixels .* got 'big'"),
    ],
)
def test_arguments_out_of_range(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        SceneDataset(**{"num_scenes": 1, "cache": tmp_path, **arguments})
    assert not list(tmp_path.iterdir())
