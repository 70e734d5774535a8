"""Numbers that say how good an answer is. Each is computed from plain tensors on any device and returned on the CPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """The fraction of predicted classes that are right, 0 to 1.

    Args:
        predictions: integers of any shape (from scores: `logits.argmax(1)`).
        labels: true classes, integers of the same shape.

    Raises:
        ValueError: shapes differ, nothing to compare, or floating-point numbers.

    Reference: sklearn.metrics.accuracy_score.
    """
    _same_integers(predictions, labels)
    return (predictions.cpu() == labels.cpu()).double().mean().item()


def confusion_matrix(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """How often each true class (row) was taken for each class (column).

    Args:
        predictions: integers from 0 to num_classes - 1, any shape.
        labels: true classes, the same shape and range.

    Returns:
        (num_classes, num_classes) int64 on the CPU; its sum is the number of predictions.

    Raises:
        ValueError: shapes differ, nothing to compare, floating-point numbers, or a class out of range.

    Reference: sklearn.metrics.confusion_matrix(labels, predictions, labels=range(num_classes)).
    """
    _same_integers(predictions, labels)
    for name, classes in (("predictions", predictions), ("labels", labels)):
        if classes.min() < 0 or classes.max() >= num_classes:
            raise ValueError(f"{name} must be from 0 to {num_classes - 1}, got {classes.min().item()} to {classes.max().item()}")
    pairs = labels.cpu().long().flatten() * num_classes + predictions.cpu().long().flatten()  # one number for each pair of classes
    return pairs.bincount(minlength=num_classes**2).reshape(num_classes, num_classes)


def mean_iou(predictions: Tensor, masks: Tensor, num_classes: int, *, ignore_index: int | None = None) -> float:
    """Intersection over union of predicted and true pixels of a class, averaged over the classes, 0 to 1.

    All pixels are counted together, over all images. A class that is neither predicted nor there has no IoU and is left out of
    the average; one that is predicted where it never is counts as 0.

    Args:
        predictions: integers from 0 to num_classes - 1, (N, H, W) or any shape.
        masks: true classes, the same shape and range.
        ignore_index: pixels with this true class are not counted, whatever was predicted there.

    Raises:
        ValueError: shapes differ, nothing to compare, floating-point numbers, or a class out of range.

    Reference: sklearn.metrics.jaccard_score(masks, predictions, average="macro") over flattened pixels.
    """
    _same_integers(predictions, masks)
    if ignore_index is not None:
        counted = masks.cpu() != ignore_index
        predictions, masks = predictions.cpu()[counted], masks.cpu()[counted]
    counts = confusion_matrix(predictions, masks, num_classes).double()
    intersection = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - intersection
    present = union > 0
    return (intersection[present] / union[present]).mean().item()


def psnr(images: Tensor, reference: Tensor, *, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio in decibels, 10 log10(data_range^2 / mean squared difference); equal images give infinity.

    Args:
        images: floating-point numbers of any shape. A batch gives one number for all its pixels, not the mean over its images.
        reference: what they should be, the same shape.
        data_range: largest minus smallest value that an image can have.

    Raises:
        ValueError: shapes differ, nothing to compare, whole numbers, or a range that is not positive.

    Reference: skimage.metrics.peak_signal_noise_ratio.
    """
    _same_shape(images, reference)
    if not images.is_floating_point() or not reference.is_floating_point():
        raise ValueError(f"images and reference must be floating-point numbers, got {images.dtype} and {reference.dtype}")
    if not 0 < data_range < math.inf:
        raise ValueError(f"data_range must be positive, got {data_range}")
    error = (images.detach().cpu().double() - reference.detach().cpu().double()).square().mean().item()
    return math.inf if error == 0 else 20 * math.log10(data_range) - 10 * math.log10(error)


def _same_integers(predictions: Tensor, labels: Tensor) -> None:
    _same_shape(predictions, labels)
    for tensor in (predictions, labels):
        if tensor.is_floating_point() or tensor.is_complex():
            raise ValueError(f"predictions and labels must be whole numbers (classes, not scores), got {tensor.dtype}")


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.numel() == 0:
        raise ValueError(f"both must have one shape and not be empty, got {tuple(a.shape)} and {tuple(b.shape)}")
