"""Digits, photographs and a stereo pair that installed packages bring along: nothing is downloaded.

The files are read where scikit-learn and scikit-image keep them. Importing either of the two would take longer than reading.
Every call reads afresh, so that changing a returned tensor changes nothing for the next caller.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

PHOTOGRAPHS = {
    "astronaut": "skimage/data/astronaut.png",
    "brick": "skimage/data/brick.png",
    "camera": "skimage/data/camera.png",
    "cat": "skimage/data/chelsea.png",
    "china": "sklearn/datasets/images/china.jpg",
    "clock": "skimage/data/clock_motion.png",
    "coffee": "skimage/data/coffee.png",
    "coins": "skimage/data/coins.png",
    "flower": "sklearn/datasets/images/flower.jpg",
    "grass": "skimage/data/grass.png",
    "gravel": "skimage/data/gravel.png",
    "horse": "skimage/data/horse.png",
    "hubble_deep_field": "skimage/data/hubble_deep_field.jpg",
    "immunohistochemistry": "skimage/data/ihc.png",
    "retina": "skimage/data/retina.jpg",
    "rocket": "skimage/data/rocket.jpg",
}
PARTS = ("train", "validation", "test")


def digits(part: str = "all") -> tuple[Tensor, Tensor]:
    """Handwritten digits, 8 x 8 pixels: images and their labels.

    The parts "train" (1,078), "validation" (360) and "test" (359) are always the same ones: `split(labels)` of all 1,797.
    Thirteen people wrote the digits, and the file does not say who wrote which: every part holds digits of most of them, so a
    test score says little about a new person's handwriting.

    Args:
        part: "all", "train", "validation" or "test".

    Returns:
        images, (N, 1, 8, 8) float32, 0 (paper) to 1 (ink) in steps of 1/16, and labels, (N,) int64, 0 to 9.

    Raises:
        ValueError: there is no such part.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998, its
        test set, as in scikit-learn (sklearn/datasets/data/digits.csv.gz; described in sklearn/datasets/descr/digits.rst,
        which states no licence of its own; scikit-learn is distributed under BSD-3-Clause).
    Reference: sklearn.datasets.load_digits().
    """
    if part != "all" and part not in PARTS:
        raise ValueError(f"part must be one of all, {', '.join(PARTS)}, got {part!r}")
    with gzip.open(_package_file("sklearn/datasets/data/digits.csv.gz"), "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))  # (1797, 65): 64 pixels, then the label
    images, labels = table[:, :64].reshape(-1, 1, 8, 8) / 16, table[:, 64].long()
    if part == "all":
        return images, labels
    chosen = split(labels)[PARTS.index(part)]
    return images[chosen], labels[chosen]


def split(labels: Tensor, fractions: Sequence[float] = (0.6, 0.2, 0.2), seed: int = 0) -> tuple[Tensor, ...]:
    """Divide examples at random so that every class is divided in the same proportions.

    Args:
        labels: (N,) integers, the class of each example.
        fractions: the share of each part, positive numbers that add up to 1.
        seed: of the shuffle; equal seeds give equal parts.

    Returns:
        One (n,) int64 tensor of ascending indices a part. Each example is in exactly one part, and the size of a part in a
        class is within one example of its share.

    Raises:
        ValueError: labels are not a vector of integers, or the fractions are not positive with sum 1.

    Reference: sklearn.model_selection.train_test_split(..., stratify=labels), which divides in two.
    """
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be a vector of integers, got {labels.dtype} of shape {tuple(labels.shape)}")
    if not all(f > 0 for f in fractions) or not math.isclose(sum(fractions), 1):
        raise ValueError(f"fractions must be positive and add up to 1, got {fractions}")
    generator = torch.Generator().manual_seed(seed)
    edges = np.cumsum([0.0, *fractions])
    parts: list[list[Tensor]] = [[] for _ in fractions]
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().squeeze(1).cpu()  # (n,)
        members = members[torch.randperm(len(members), generator=generator)]
        cuts = [round(edge * len(members)) for edge in edges.tolist()]
        for part, start, stop in zip(parts, cuts, cuts[1:]):
            part.append(members[start:stop])
    nothing = torch.empty(0, dtype=torch.int64)  # so that no example at all is divided into empty parts
    return tuple(torch.cat([nothing, *part]).sort().values for part in parts)


def photograph(name: str) -> Tensor:
    """A photograph by name, in colour or in grey.

    | name | shape | what it shows | licence |
    | --- | --- | --- | --- |
    | astronaut | (3, 512, 512) | Eileen Collins, by NASA | public domain |
    | brick | (1, 512, 512) | a wall, from CC0Textures | CC0 |
    | camera | (1, 512, 512) | a photographer on a lawn, by Lav Varshney | CC0 |
    | cat | (3, 300, 451) | Chelsea, by Stefan van der Walt | CC0 |
    | china | (3, 427, 640) | a tower above a lake, by danielbuechele on Flickr | CC BY 2.0 |
    | clock | (1, 300, 400) | a clock, blurred by motion, by Stefan van der Walt | public domain |
    | coffee | (3, 400, 600) | a cup on a wooden table, by Rachel Michetti | CC0 |
    | coins | (1, 303, 384) | Greek coins from Pompeii, Brooklyn Museum | no known restrictions |
    | flower | (3, 427, 640) | a dahlia, by vultilion on Flickr | CC BY 2.0 |
    | grass | (1, 512, 512) | a lawn from above, by linolafett on DeviantArt | CC0 |
    | gravel | (1, 512, 512) | small stones, from CC0Textures | CC0 |
    | horse | (1, 328, 400) | a drawn silhouette, black on white, by Andreas Preuss | CC0 |
    | hubble_deep_field | (3, 872, 1000) | galaxies, by NASA | public domain |
    | immunohistochemistry | (3, 512, 512) | stained colonic glands, CMMI | no known restrictions |
    | retina | (3, 1411, 1411) | the back of an eye, by Mikael Haggstrom | CC0 |
    | rocket | (3, 427, 640) | Falcon 9 before its start at dusk, by SpaceX | public domain |

    The licences are stated in sklearn/datasets/images/README.txt (china, flower) and, for the others, in the docstrings of the
    functions of those names in skimage/data/_fetchers.py. That README's text credits both of its pictures to danielbuechele,
    while its link for the flower leads to vultilion's page.

    Returns:
        (3, H, W) or (1, H, W) float32, 0 to 1: the file's values over 255, which are gamma-encoded (sRGB), not linear in light.

    Raises:
        ValueError: there is no photograph of that name.

    Reference: sklearn.datasets.load_sample_image(name) and skimage.data, which give (H, W, 3) or (H, W) uint8.
    """
    if name not in PHOTOGRAPHS:
        raise ValueError(f"name must be one of {', '.join(PHOTOGRAPHS)}, got {name!r}")
    return _read_image(PHOTOGRAPHS[name])


def stereo_motorcycle() -> tuple[Tensor, Tensor, Tensor]:
    """A rectified stereo pair of a motorcycle in a workshop, and the true disparity of the left image.

    Pixel (y, x) of the left image shows the same point as pixel (y, x - disparity[0, y, x]) of the right image. Where the truth
    is not known the disparity is +inf (27,226 pixels, 7.3 %; there is no NaN, although scikit-image's text says so): take
    `disparity.isfinite()` as the mask. A pixel with a known disparity can still be hidden in the right image, or lie outside it.
    Depth in millimetres along the optical axis is 193.001 * 994.978 / (disparity + 31.086): baseline, focal length in pixels, and
    the distance in pixels between the two principal points.

    Returns:
        left and right, (3, 500, 741) float32, 0 to 1, and disparity, (1, 500, 741) float32, 7.2 to 59.9 pixels or +inf.

    Source: D. Scharstein et al., "High-Resolution Stereo Datasets with Subpixel-Accurate Ground Truth", GCPR 2014 (Middlebury 2014),
        reduced four times in scikit-image (skimage/data/motorcycle_*; skimage/data/_fetchers.py credits the authors and states
        no licence; scikit-image is distributed under BSD-3-Clause).
    Reference: skimage.data.stereo_motorcycle().
    """
    with np.load(_package_file("skimage/data/motorcycle_disp.npz")) as arrays:
        disparity = torch.from_numpy(arrays["arr_0"])[None]
    return _read_image("skimage/data/motorcycle_left.png"), _read_image("skimage/data/motorcycle_right.png"), disparity


def _read_image(path: str) -> Tensor:
    """An image file as (channels, H, W) float32, 0 to 1; transparent parts are seen on white."""
    with Image.open(_package_file(path)) as image:
        if image.mode == "RGBA":  # of ours only the horse, a black silhouette
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image).convert("L")
        pixels = torch.from_numpy(np.array(image, ndmin=3))  # (H, W, 3), or (1, H, W) for a grey image
    channels_first = pixels if len(pixels) == 1 else pixels.permute(2, 0, 1).contiguous()
    return channels_first.float() / 255


def _package_file(path: str) -> Path:
    """Where an installed package keeps a file. The package is found, not imported."""
    package, rest = path.split("/", 1)
    spec = find_spec(package)
    file = Path(spec.origin).parent / rest if spec and spec.origin else None
    if file is None or not file.is_file():
        raise FileNotFoundError(f"{path} is missing: is the course's environment active? (scikit-learn and scikit-image bring the data)")
    return file
