"""Confusion matrices and what is read from them: Dice, IoU, calibration error.

Matrices and calibration tables add up, so a set is scored by summing over its images; 255 in a mask is ignored.
All figures are fractions in 0..1. Dice and IoU of a class absent from both mask and prediction are nan, and means
leave them out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.classes import IGNORE
from mpamatch.errors import BadInput

Confusion = NDArray[np.int64]
CALIBRATION_BINS = 15


def confusion(prediction: NDArray[np.uint8], mask: NDArray[np.uint8], class_count: int) -> Confusion:
    """Pixels by true class (rows) and predicted class (columns), int64 (C, C).

    ``prediction`` and ``mask`` are class ids of one shape; pixels with 255 in the mask do not count.
    Raises BadInput for other shapes or ids outside the class set.

    >>> confusion(np.array([[0, 1]], np.uint8), np.array([[0, 255]], np.uint8), 2).tolist()
    [[1, 0], [0, 0]]
    """
    if prediction.shape != mask.shape:
        raise BadInput("prediction", f"shape {prediction.shape} is not the mask's {mask.shape}", "score at one size")
    seen = mask != IGNORE
    truth, guess = mask[seen].astype(np.int64), prediction[seen].astype(np.int64)
    if truth.size and max(int(truth.max()), int(guess.max())) >= class_count:
        raise BadInput("mask", f"a class id is not below {class_count}", "check the class list")
    counts = np.bincount(truth * class_count + guess, minlength=class_count * class_count)
    return counts.reshape(class_count, class_count).astype(np.int64)


def dice_per_class(matrix: Confusion) -> NDArray[np.float64]:
    """Dice of each class, float64 (C,): 2 TP / (truth + predicted); nan where a class is absent from both."""
    return _ratio(2.0 * np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1))


def iou_per_class(matrix: Confusion) -> NDArray[np.float64]:
    """Intersection over union of each class, float64 (C,); nan where a class is absent from both."""
    hits = np.diag(matrix)
    return _ratio(hits, matrix.sum(axis=0) + matrix.sum(axis=1) - hits)


def mean_dice(matrix: Confusion) -> float:
    """Mean Dice over classes including background; nan when no pixel was scored."""
    return _mean(dice_per_class(matrix))


def mean_iou(matrix: Confusion) -> float:
    """Mean IoU over classes including background; nan when no pixel was scored."""
    return _mean(iou_per_class(matrix))


def foreground_dice(matrix: Confusion) -> float:
    """Mean Dice over classes without background; nan when no foreground exists or is predicted."""
    return _mean(dice_per_class(matrix)[1:])


def calibration_table(
    probabilities: NDArray[np.float32], mask: NDArray[np.uint8], bins: int = CALIBRATION_BINS
) -> NDArray[np.float64]:
    """What :func:`ece` needs, float64 (3, bins): pixels, sum of confidence, sum of right answers per bin.

    ``probabilities`` is (C, H, W), ``mask`` (H, W) with 255 ignored. Bins are equal widths of confidence.
    """
    seen = mask != IGNORE
    confidence = probabilities.max(axis=0)[seen].astype(np.float64)
    right = (probabilities.argmax(axis=0)[seen] == mask[seen]).astype(np.float64)
    index = np.clip((confidence * bins).astype(np.int64), 0, bins - 1)
    rows = [np.bincount(index, weights, minlength=bins) for weights in (np.ones_like(right), confidence, right)]
    return np.stack(rows).astype(np.float64)


def ece(table: NDArray[np.float64]) -> float:
    """Expected calibration error of a summed :func:`calibration_table`; nan when it holds no pixel.

    Source: Guo et al. 2017, equation 3.
    """
    pixels, confidence, right = table
    total = pixels.sum()
    return float(np.abs(confidence - right).sum() / total) if total else float("nan")


def known_mean(values: Iterable[float]) -> float:
    """The mean of the figures that are known; nan where none is.

    >>> known_mean([0.5, float("nan"), 1.0])
    0.75
    """
    return _mean(np.array(list(values), np.float64))


def _ratio(top: NDArray[Any], bottom: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(top, bottom, out=np.full(len(bottom), np.nan), where=bottom > 0)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
