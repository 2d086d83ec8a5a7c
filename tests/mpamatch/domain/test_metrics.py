import numpy as np
import pytest

from mpamatch.domain import metrics
from mpamatch.errors import BadInput


def test_confusion_counts_truth_in_rows_and_leaves_out_ignored_pixels() -> None:
    prediction = np.array([[0, 1, 1], [2, 2, 0]], np.uint8)
    mask = np.array([[0, 0, 1], [2, 255, 1]], np.uint8)
    assert metrics.confusion(prediction, mask, 3).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


@pytest.mark.method_line(44)
def test_dice_and_iou_agree_with_sets_and_with_each_other() -> None:
    rng = np.random.default_rng(0)
    prediction, mask = rng.integers(0, 4, (2, 40, 40)).astype(np.uint8)
    matrix = metrics.confusion(prediction, mask, 4)
    dice, iou = metrics.dice_per_class(matrix), metrics.iou_per_class(matrix)
    for c in range(4):
        a, b = prediction == c, mask == c
        assert dice[c] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
        assert iou[c] == pytest.approx((a & b).sum() / (a | b).sum())
    assert iou == pytest.approx(dice / (2 - dice))


@pytest.mark.method_line(44)
def test_a_class_absent_from_both_is_left_out_of_the_mean() -> None:
    matrix = np.array([[8, 2, 0], [0, 10, 0], [0, 0, 0]])
    assert np.isnan(metrics.dice_per_class(matrix)[2])
    assert metrics.mean_dice(matrix) == pytest.approx((16 / 18 + 20 / 22) / 2)
    assert metrics.foreground_dice(matrix) == pytest.approx(20 / 22)


def test_nothing_scored_is_nan_and_not_a_figure() -> None:
    assert np.isnan(metrics.mean_dice(np.zeros((2, 2), np.int64)))
    assert np.isnan(metrics.ece(np.zeros((3, 15))))


def test_a_mask_with_more_classes_or_another_shape_is_refused() -> None:
    ones = np.ones((2, 2), np.uint8)
    with pytest.raises(BadInput):
        metrics.confusion(ones, 2 * ones, 2)
    with pytest.raises(BadInput):
        metrics.confusion(ones, ones[:1], 2)


@pytest.mark.method_line(41)
def test_calibration_error_of_six_samples_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.65, 0.65, 0.55])
    right = np.array([1, 1, 0, 1, 0, 1])
    mask = np.ones((1, 6), np.uint8)
    shares = np.where(right, confidence, 1 - confidence)
    probabilities = np.stack([1 - shares, shares]).astype(np.float32)[:, None, :]
    expected = (3 * abs(0.95 - 2 / 3) + 2 * abs(0.65 - 0.5) + abs(0.55 - 1)) / 6
    table = metrics.calibration_table(probabilities, mask, bins=10)
    assert metrics.ece(table) == pytest.approx(expected, abs=1e-6)


@pytest.mark.method_line(47)
def test_figures_of_a_set_are_those_of_its_pixels_however_they_are_cut_into_images() -> None:
    rng = np.random.default_rng(2)
    prediction, mask = rng.integers(0, 3, (2, 40, 40)).astype(np.uint8)
    whole = metrics.confusion(prediction, mask, 3)
    for rows in (1, 7, 40):
        parts = [metrics.confusion(prediction[y : y + rows], mask[y : y + rows], 3) for y in range(0, 40, rows)]
        assert (np.sum(parts, axis=0) == whole).all()


@pytest.mark.method_line(47)
def test_calibration_tables_of_two_images_add_up() -> None:
    rng = np.random.default_rng(1)
    shares = rng.random((1, 20, 20)).astype(np.float32)
    probabilities = np.concatenate([shares, 1 - shares])
    mask = rng.integers(0, 2, (20, 20)).astype(np.uint8)
    halves = [metrics.calibration_table(probabilities[:, :, s], mask[:, s]) for s in (slice(0, 7), slice(7, 20))]
    assert metrics.ece(halves[0] + halves[1]) == pytest.approx(
        metrics.ece(metrics.calibration_table(probabilities, mask))
    )
