"""Dice, IoU and Hausdorff distance against torchmetrics, which counts in its own way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index
from torchmetrics.functional.segmentation import hausdorff_distance

from mpamatch.domain import metrics
from mpamatch.domain.classes import IGNORE
from mpamatch.domain.objects import hausdorff
from tests.mpamatch.domain.test_objects import blobs

pytestmark = pytest.mark.torch


@pytest.mark.method_line(44)
@pytest.mark.parametrize("seed", range(4))
def test_dice_and_iou_are_those_of_torchmetrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction = rng.integers(0, 4, (40, 40)).astype(np.uint8)
    mask = np.where(rng.random((40, 40)) < 0.5, prediction, rng.integers(0, 4, (40, 40))).astype(np.uint8)
    mask[rng.random((40, 40)) < 0.1] = IGNORE
    matrix = metrics.confusion(prediction, mask, 4)
    pair = torch.from_numpy(prediction).long(), torch.from_numpy(mask).long()
    wanted = {"num_classes": 4, "average": "none", "ignore_index": IGNORE}
    assert metrics.dice_per_class(matrix) == pytest.approx(multiclass_f1_score(*pair, **wanted).numpy(), abs=1e-6)
    assert metrics.iou_per_class(matrix) == pytest.approx(multiclass_jaccard_index(*pair, **wanted).numpy(), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_full_hausdorff_distance_is_that_of_torchmetrics(seed: int) -> None:
    # It leaves out what lies on the image's edge: compared where nothing does.
    a, b = np.pad(blobs(seed), 2), np.pad(blobs(seed + 50), 2)
    pair = [torch.from_numpy(m)[None, None].long() for m in (a, b)]
    theirs = hausdorff_distance(*pair, num_classes=1, include_background=True, input_format="one-hot")
    assert hausdorff(a, b, 100) == pytest.approx(float(theirs), abs=1e-5)
