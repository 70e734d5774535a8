"""Metrics agree with scikit-learn's and scikit-image's, and refuse what they cannot judge."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import peak_signal_noise_ratio
from sklearn import metrics as oracle

from course_lib import metrics

pytestmark = pytest.mark.filterwarnings("error")

K = 4
shapes = hnp.array_shapes(min_dims=1, max_dims=3, max_side=5)
integer_types = st.sampled_from([np.int64, np.int32, np.uint8])


@st.composite
def two_maps(draw, num_classes: int = K):
    """Predicted and true classes of one random shape and integer type."""
    shape, dtype = draw(shapes), draw(integer_types)
    classes = hnp.arrays(dtype, shape, elements=st.integers(0, num_classes - 1))
    return torch.from_numpy(draw(classes)), torch.from_numpy(draw(classes))


@given(two_maps())
def test_accuracy_is_scikit_learns(pair):
    predictions, labels = pair
    got = metrics.accuracy(predictions, labels)
    assert isinstance(got, float)
    assert got == pytest.approx(oracle.accuracy_score(labels.flatten(), predictions.flatten()), abs=1e-15)


@given(two_maps())
def test_confusion_matrix_is_scikit_learns(pair):
    predictions, labels = pair
    counts = metrics.confusion_matrix(predictions, labels, K)
    assert counts.dtype == torch.int64 and counts.sum() == predictions.numel()
    assert np.array_equal(counts.numpy(), oracle.confusion_matrix(labels.flatten(), predictions.flatten(), labels=range(K)))


@given(two_maps())
def test_mean_iou_is_scikit_learns_jaccard_score(pair):
    predictions, masks = pair
    # scikit-learn's macro average likewise runs over the classes that are there or predicted, if none are listed.
    expected = oracle.jaccard_score(masks.flatten(), predictions.flatten(), average="macro", zero_division=0)
    assert metrics.mean_iou(predictions, masks, K) == pytest.approx(expected, abs=1e-12)


@given(two_maps(), st.integers(0, K - 1))
def test_ignored_pixels_count_nowhere(pair, ignored):
    predictions, masks = pair
    kept = masks != ignored
    if not kept.any():
        with pytest.raises(ValueError, match="not be empty"):
            metrics.mean_iou(predictions, masks, K, ignore_index=ignored)
        return
    expected = oracle.jaccard_score(masks[kept], predictions[kept], average="macro", zero_division=0)
    assert metrics.mean_iou(predictions, masks, K, ignore_index=ignored) == pytest.approx(expected, abs=1e-12)


def test_by_hand():
    predictions = torch.tensor([[0, 0, 1], [1, 1, 2]])
    labels = torch.tensor([[0, 1, 1], [1, 0, 0]])
    assert metrics.accuracy(predictions, labels) == 0.5
    assert metrics.confusion_matrix(predictions, labels, 4).tolist() == [[1, 1, 1, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    # class 0: 1 of 4, class 1: 2 of 4, class 2: 0 of 1, class 3 is nowhere and not counted
    assert metrics.mean_iou(predictions, labels, 4) == pytest.approx((1 / 4 + 2 / 4 + 0) / 3)


def test_ignored_pixels_may_hold_255_and_any_prediction():
    masks = torch.tensor([[0, 255, 1]], dtype=torch.uint8)
    assert metrics.mean_iou(torch.tensor([[0, 7, 1]]), masks, 2, ignore_index=255) == 1.0


def test_a_transposed_view_is_compared_by_position():
    labels = torch.tensor([[0, 1, 2], [2, 1, 1]])
    view = labels.T.contiguous().T  # equal values, another layout in memory
    assert metrics.mean_iou(view, labels, 3) == 1.0 and metrics.accuracy(view, labels) == 1.0


@given(st.data(), shapes, st.sampled_from([1.0, 2.0, 255.0]))
def test_psnr_is_scikit_images(data, shape, data_range):
    images = hnp.arrays(np.float64, shape, elements=st.floats(0, data_range))
    a, b = data.draw(images), data.draw(images)
    got = metrics.psnr(torch.from_numpy(a), torch.from_numpy(b), data_range=data_range)
    if np.mean((a - b) ** 2) == 0:
        assert got == math.inf
    else:
        assert got == pytest.approx(peak_signal_noise_ratio(b, a, data_range=data_range), rel=1e-9, abs=1e-9)


def test_psnr_by_hand():
    a = torch.zeros(2, 3)
    assert metrics.psnr(a + 0.1, a) == pytest.approx(20, abs=1e-5)  # 0.1 in float32
    assert metrics.psnr(a, a) == math.inf
    assert metrics.psnr(a + math.inf, a) == -math.inf
    assert math.isnan(metrics.psnr(a + math.nan, a))
    assert metrics.psnr(torch.full((2, 3), 0.1, requires_grad=True), a) == pytest.approx(20, abs=1e-5)


two = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.accuracy(two, torch.tensor([0])), r"one shape and not be empty, got \(2,\) and \(1,\)"),
        (lambda: metrics.accuracy(two[:0], two[:0]), "not be empty"),
        (lambda: metrics.accuracy(two.float(), two), "classes, not scores.*float32"),
        (lambda: metrics.confusion_matrix(two, two, 1), "predictions must be from 0 to 0, got 0 to 1"),
        (lambda: metrics.confusion_matrix(two * 0, two, 1), "labels must be from 0 to 0, got 0 to 1"),
        (lambda: metrics.confusion_matrix(two - 1, two, 2), "predictions must be from 0 to 1, got -1 to 0"),
        (lambda: metrics.mean_iou(two[None], two, 2), "one shape"),
        (lambda: metrics.mean_iou(two, two.double(), 2), "float64"),
        (lambda: metrics.psnr(two, two), "floating-point numbers, got torch.int64"),
        (lambda: metrics.psnr(two.float(), two.float()[None]), "one shape"),
        (lambda: metrics.psnr(two.float(), two.float(), data_range=0), "data_range must be positive, got 0"),
    ],
)
def test_what_cannot_be_judged_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
