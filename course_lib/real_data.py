"""Real data sets for the full profile, by torchvision: fetched once with `course data NAME`, kept under data/cache, checked by their checksums.

The quick profile needs none of them. torchvision compares each archive with the MD5 sum that it knows before it unpacks it.
"""

from __future__ import annotations

from pathlib import Path

from course_lib.cli import CommandError

CACHE = Path(__file__).resolve().parents[1] / "data" / "cache"
# name -> (class of torchvision.datasets, arguments of the parts, megabytes to fetch, what it is)
SETS = {
    "cifar10": ("CIFAR10", {"train": {"train": True}, "test": {"train": False}}, 170, "60,000 images of 32 x 32 pixels in 10 classes"),
    "cifar100": ("CIFAR100", {"train": {"train": True}, "test": {"train": False}}, 169, "60,000 images of 32 x 32 pixels in 100 classes"),
    "stl10": (
        "STL10",
        {part: {"split": part} for part in ("train", "test", "unlabeled")},
        2640,
        "13,000 labelled and 100,000 unlabelled images of 96 x 96 pixels",
    ),
    "pets": (
        "OxfordIIITPet",
        {"train": {"split": "trainval", "target_types": "segmentation"}, "test": {"split": "test", "target_types": "segmentation"}},
        811,
        "7,349 photographs of cats and dogs with masks",
    ),
    "voc2012": (
        "VOCSegmentation",
        {part: {"year": "2012", "image_set": name} for part, name in (("train", "train"), ("test", "val"))},
        2000,
        "2,913 photographs with masks of 20 classes",
    ),
}


class DataError(CommandError):
    """A data set is not here, or cannot be fetched. The message says what to do."""


def fetch(name: str, folder: Path = CACHE, say=print) -> None:
    """Download a data set with a progress bar, check it and unpack it; what is there already is kept.

    Raises:
        DataError: no such data set, no network, a checksum that differs, or no room.
    """
    class_name, parts, megabytes, words = _known(name)
    say(f"{name}: {words}; up to {megabytes} MB into {folder}")
    for arguments in parts.values():
        try:
            _class(class_name)(root=str(folder / name), download=True, **arguments)
        except OSError as error:  # urllib's errors are OSErrors too
            advice = "Is there a network? Files fetched elsewhere can be put into that folder; run the command again then."
            raise DataError(f"{name} could not be fetched into {folder / name}: {error}. {advice}") from error
        except RuntimeError as error:  # torchvision: "File not found or corrupted."
            raise DataError(f"{name} in {folder / name} is not what torchvision expects: {error} Remove the folder and run again.") from error


def open_set(name: str, part: str, folder: Path = CACHE, **transforms):
    """A part of a fetched data set, as torchvision's data set class.

    Args:
        name: one of SETS.
        part: "train" or "test"; for stl10 also "unlabeled".
        transforms: torchvision's `transform` and `target_transform`.

    Raises:
        DataError: no such data set or part, or it has not been fetched.
    """
    class_name, parts, _, _ = _known(name)
    if part not in parts:
        raise DataError(f"part of {name} must be one of {', '.join(parts)}, got {part!r}")
    try:
        return _class(class_name)(root=str(folder / name), download=False, **parts[part], **transforms)
    except RuntimeError as error:
        raise DataError(f"{name} is not here: run `course data {name}` once, where there is a network ({error})") from error


def _known(name: str):
    if name not in SETS:
        raise DataError(f"no such data set: {name!r}; there is {', '.join(SETS)}")
    return SETS[name]


def _class(class_name: str):
    from torchvision import datasets  # seconds: only who asks for real data pays

    return getattr(datasets, class_name)
