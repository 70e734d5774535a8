"""Many rendered scenes as a data set, made once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from course_lib.scenes import truth
from course_lib.scenes.language import captions
from course_lib.scenes.rendering import Rendering, image_size, render
from course_lib.scenes.world import World, sample
from course_lib.training import progress

CACHE = Path(__file__).resolve().parents[2] / "data" / "cache" / "scenes"
RENDERED = ("images", "depth", "ray_depth", "normals", "instance", "semantic", "amodal", "kind", "boxes", "amodal_boxes", "visible")
DERIVED = ("flow", "occluded", "outside", "keypoints", "keypoints_visible")
FIELDS = (*RENDERED, "intrinsics", "extrinsics", *DERIVED, "captions")
AT_ONCE = 32  # scenes rendered between two steps of the progress bar


class SceneDataset(Dataset):
    """Scenes first, first + 1, ... of a seed, rendered once.

    An item is a tuple of the chosen fields, without the batch's dimension, so that a DataLoader batches it.
    `dataset.tensors["images"]` is all of a field at once, and `dataset.captions` the list of captions. Images are rounded to steps of
    1/255, as a file of an image would be.

    Args:
        num_scenes: how many.
        size: (H, W) in pixels, or one number for both.
        fields: names from FIELDS: those of Rendering and its camera; flow, occluded and outside from time 0 to 1; keypoints
            (N, K, 14, 2) and keypoints_visible (N, K, 14); captions.
        seed, first: which scenes. Training and test sets take different `first` of one seed, or different seeds.
        antialias: as in `render`.
        device: where to render; the data set itself is on the CPU.
        cache: the folder to keep it in, by default data/cache/scenes of the course; None: nowhere. A file belongs to these arguments
            and to the code of course_lib.scenes as it is: when either changes, the scenes are rendered again.
        **settings: of `sample`, such as kinds=("box", "sphere") or clutter=1.0.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        num_scenes: int,
        size: int | tuple[int, int] = 64,
        *,
        fields: Sequence[str] = ("images", "semantic"),
        seed: int = 0,
        first: int = 0,
        antialias: int = 2,
        device: torch.device | str = "cpu",
        cache: str | Path | None = CACHE,
        **settings,
    ):
        if isinstance(fields, str) or not fields or not set(fields) <= set(FIELDS):
            raise ValueError(f"fields must be some of {', '.join(FIELDS)}, got {fields!r}")
        if num_scenes < 1 or first < 0:
            raise ValueError(f"num_scenes must be at least 1 and first at least 0, got {num_scenes} and {first}")
        self.fields, self.size = tuple(fields), image_size(size)
        path = None
        if cache is not None:
            asked = [num_scenes, self.size, sorted(fields), seed, first, antialias, sorted(settings.items())]
            key = hashlib.sha256(json.dumps(asked).encode() + _code()).hexdigest()
            path = Path(cache) / f"{key[:20]}.safetensors"
        self.tensors, self.captions = (_load(path) if path else None) or ({}, [])
        if not self.tensors:
            pieces = []
            for start in progress(range(first, first + num_scenes, AT_ONCE), "scenes"):
                world = sample(range(start, min(start + AT_ONCE, first + num_scenes)), seed=seed, **settings)
                picture = render(world, size, antialias=antialias, device=device)
                pieces.append(_chosen(fields, world.to(device).to(torch.float32), picture, self.size))
                self.captions += captions(world.to(device), picture) if "captions" in fields else []
            self.tensors = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
            if path:
                _save(path, self.tensors, self.captions)
        self.tensors = {name: _unpacked(name, tensor) for name, tensor in self.tensors.items()}
        self.num_scenes = num_scenes

    def __len__(self) -> int:
        return self.num_scenes

    def __getitem__(self, i: int) -> tuple:
        if not -len(self) <= i < len(self):
            raise IndexError(f"scene {i} of {len(self)}")
        return tuple(self.captions[i] if name == "captions" else self.tensors[name][i] for name in self.fields)


def _chosen(fields: Sequence[str], world: World, picture: Rendering, size: tuple[int, int]) -> dict[str, Tensor]:
    """The fields of one piece, on the CPU, images and masks as bytes."""
    found = {name: getattr(picture, name) for name in RENDERED if name in fields}
    found |= {name: getattr(picture.camera, name) for name in ("intrinsics", "extrinsics") if name in fields}
    if set(fields) & {"flow", "occluded", "outside"}:
        found |= {name: value for name, value in vars(truth.flow(world, size)).items() if name in fields}
    if set(fields) & {"keypoints", "keypoints_visible"}:
        joints = truth.keypoints(world, size)
        found |= {name: value for name, value in (("keypoints", joints.pixels), ("keypoints_visible", joints.visible)) if name in fields}
    if not found:  # captions alone
        found["kind"] = picture.kind
    return {name: _packed(name, value).cpu().contiguous() for name, value in found.items()}


def _packed(name: str, values: Tensor) -> Tensor:
    if name == "images":
        return (values * 255).round().to(torch.uint8)
    return values.to(torch.uint8) if name in ("instance", "semantic") else values


def _unpacked(name: str, values: Tensor) -> Tensor:
    if name == "images":
        return values.float() / 255
    return values.long() if name in ("instance", "semantic") else values


def _save(path: Path, tensors: dict[str, Tensor], lines: list[str]) -> None:
    """Write a file in one step: it is there whole or not at all, whoever else writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    save_file(tensors, unfinished, metadata={"captions": json.dumps(lines)})
    os.replace(unfinished, path)


def _load(path: Path) -> tuple[dict[str, Tensor], list[str]] | None:
    """What a file holds; None if there is none, or one that cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["captions"])
    except (FileNotFoundError, SafetensorError):
        return None


def _code() -> bytes:
    """The code that makes the scenes."""
    return b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
