"""The data are what the packages that ship them say: compared with what scikit-learn's and scikit-image's own readers return."""

import hashlib
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib import datasets

pytestmark = pytest.mark.filterwarnings("error")

# ---------------------------------------------------------------- digits


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    images, labels = datasets.digits()
    expected = load_digits()
    assert images.shape == (1797, 1, 8, 8) and images.dtype == torch.float32 and images.is_contiguous()
    assert labels.shape == (1797,) and labels.dtype == torch.int64
    assert np.array_equal(images[:, 0].numpy() * 16, expected.images)
    assert np.array_equal(labels.numpy(), expected.target)
    assert images.min() == 0 and images.max() == 1


def test_parts_of_the_digits_are_disjoint_complete_stratified_and_never_change():
    images, labels = datasets.digits()
    parts = [datasets.digits(name) for name in datasets.PARTS]
    indices = datasets.split(labels)
    assert [len(part_labels) for _, part_labels in parts] == [1078, 360, 359]  # as the docstring says
    assert sorted(torch.cat(indices).tolist()) == list(range(1797))
    for (part_images, part_labels), chosen in zip(parts, indices):
        assert torch.equal(part_images, images[chosen]) and torch.equal(part_labels, labels[chosen])
        share = len(chosen) / 1797
        assert (part_labels.bincount() - share * labels.bincount()).abs().max() < 1
    # Numbers in the text of the course rest on these parts. Whoever changes them has to run every measurement again.
    digest = hashlib.sha256(torch.cat(indices).numpy().astype("<i8").tobytes()).hexdigest()
    assert digest.startswith("6a8359ad8df5220c")


def test_callers_do_not_share_memory():
    images, labels = datasets.digits()
    images.zero_(), labels.zero_()
    again, labels_again = datasets.digits()
    assert again.max() == 1 and labels_again.max() == 9


@pytest.mark.parametrize("part", ["valid", "", None, 0])
def test_a_part_that_does_not_exist(part):
    with pytest.raises(ValueError, match="part must be one of all, train, validation, test, got") as error:
        datasets.digits(part)
    assert repr(part) in str(error.value)


# ---------------------------------------------------------------- split

shares = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(lambda parts: [p / sum(parts) for p in parts])


@given(st.lists(st.integers(-2, 3), max_size=60), shares, st.integers(0, 5))
def test_a_split_is_a_partition_and_fair_to_every_class(labels, fractions, seed):
    labels = torch.tensor(labels, dtype=torch.int64)
    parts = datasets.split(labels, fractions, seed)
    assert len(parts) == len(fractions)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))
    for part, fraction in zip(parts, fractions):
        assert part.dtype == torch.int64 and part.tolist() == sorted(part.tolist())
        for label in labels.unique():
            assert abs((labels[part] == label).sum() - fraction * (labels == label).sum()) <= 1
    assert all(torch.equal(a, b) for a, b in zip(parts, datasets.split(labels, fractions, seed)))


def test_the_seed_matters_and_global_chance_does_not():
    labels = torch.arange(40) % 2
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, _ = datasets.split(labels, (0.5, 0.5), seed=0)
    second, _ = datasets.split(labels, (0.5, 0.5), seed=1)
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.tolist() != list(range(20))  # shuffled, not the first half


@pytest.mark.parametrize("fractions", [(0.5, 0.4), (0.5, 0.6), (1.0, 0.0), (1.5, -0.5), (), (float("nan"), 1.0)])
def test_fractions_that_do_not_divide_a_whole(fractions):
    with pytest.raises(ValueError, match="fractions must be positive and add up to 1"):
        datasets.split(torch.arange(4), fractions)


@pytest.mark.parametrize("labels", [torch.zeros(3), torch.zeros(3, 1, dtype=torch.int64), torch.tensor(3)])
def test_labels_that_are_no_vector_of_integers(labels):
    with pytest.raises(ValueError, match="labels must be a vector of integers"):
        datasets.split(labels)


# ---------------------------------------------------------------- photographs


def by_its_own_package(name: str) -> np.ndarray:
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return load_sample_image(f"{name}.jpg")
    import skimage.data

    return getattr(skimage.data, name)()


@pytest.mark.parametrize("name", datasets.PHOTOGRAPHS)
def test_a_photograph_is_what_its_package_reads(name):
    image = datasets.photograph(name)
    expected = by_its_own_package(name)
    if expected.dtype == bool:  # the horse: scikit-image returns where it is brighter than half
        assert np.array_equal(image[0].numpy() > 0.5, expected)
    else:
        channels_first = expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1)
        assert np.array_equal((image * 255).round().to(torch.uint8).numpy(), channels_first)
    assert image.dtype == torch.float32 and image.is_contiguous()
    assert 0 <= image.min() and image.max() <= 1 and image.max() > image.min()


def test_the_table_in_the_docstring_is_true_and_complete():
    rows = re.findall(r"^ *\| (\w+) \| \((\d), (\d+), (\d+)\) \| [^|]+ \| ([^|]+) \|$", datasets.photograph.__doc__, re.MULTILINE)
    assert [row[0] for row in rows] == list(datasets.PHOTOGRAPHS)
    for name, *shape, licence in rows:
        assert tuple(map(int, shape)) == datasets.photograph(name).shape, name
        assert licence in ("CC0", "CC BY 2.0", "public domain", "no known restrictions")


@pytest.mark.parametrize("name", ["lena", "China", "china.jpg", "", None])
def test_an_unknown_photograph_is_answered_with_the_names(name):
    with pytest.raises(ValueError) as error:
        datasets.photograph(name)
    assert all(known in str(error.value) for known in datasets.PHOTOGRAPHS)
    assert repr(name) in str(error.value)


# ---------------------------------------------------------------- the stereo pair


def test_the_stereo_pair_is_scikit_images():
    import skimage.data

    left, right, disparity = datasets.stereo_motorcycle()
    for ours, theirs in zip((left, right), skimage.data.stereo_motorcycle()):
        assert ours.dtype == torch.float32 and np.array_equal((ours * 255).round().numpy(), theirs.transpose(2, 0, 1))
    assert np.array_equal(disparity[0].numpy(), skimage.data.stereo_motorcycle()[2])


def test_unknown_disparity_is_plus_infinity_and_nothing_else():
    left, right, disparity = datasets.stereo_motorcycle()
    assert left.shape == right.shape == (3, 500, 741) and disparity.shape == (1, 500, 741) and disparity.dtype == torch.float32
    known = disparity.isfinite()
    assert (~known).sum() == 27_226 and bool((disparity[~known] == float("inf")).all())  # so there is no NaN and no -inf
    assert 7.1 < disparity[known].min() < 7.2 and 59.9 < disparity[known].max() < 60


def test_disparity_points_from_the_left_image_to_the_left_in_the_right_one():
    left, right, disparity = datasets.stereo_motorcycle()
    known = disparity[0].isfinite()
    rows, columns = known.nonzero(as_tuple=True)

    def error(direction: int) -> float:
        """Mean difference of grey values when each known pixel is looked up `direction` * disparity further right."""
        targets = (columns + direction * disparity[0][known]).round().long()
        inside = (targets >= 0) & (targets < left.shape[2])
        return (left[:, rows[inside], columns[inside]] - right[:, rows[inside], targets[inside]]).abs().mean().item()

    assert error(-1) < 0.04  # measured: 0.032
    assert error(-1) < error(0) / 4 and error(-1) < error(+1) / 4


def test_a_package_that_is_not_there(monkeypatch):
    monkeypatch.setattr(datasets, "find_spec", lambda package: None)
    with pytest.raises(FileNotFoundError, match="skimage/data/camera.png is missing: is the course's environment active"):
        datasets.photograph("camera")
