from __future__ import annotations

import numpy as np
import pytest

from mpamatch.domain.tiling import Box
from mpamatch.experiments.simulation.boxes import boxes_by_chance, lattice, shares_in


def test_boxes_by_chance_lie_evenly_over_tissue_and_hardly_on_glass() -> None:
    tissue = np.ones((20, 40), bool)
    tissue[:, 20:] = False
    boxes = boxes_by_chance(tissue, (400, 200), 20, np.random.default_rng(0))
    assert {tuple(box[2:]) for box in boxes.tolist()} == {(20, 20)}
    x = boxes[:, 0]
    assert x.min() >= 0
    assert (x + 2 <= 200).all(), "at least a tenth on tissue"
    # Even: each quarter of the tissue has about as many corners as another, within what chance does.
    counts = np.histogram(x[x < 180], bins=4, range=(0, 180))[0]
    assert counts.min() > 0.75 * counts.max()
    assert np.array_equal(boxes, boxes_by_chance(tissue, (400, 200), 20, np.random.default_rng(0)))


def test_an_image_smaller_than_a_box_is_one_box() -> None:
    boxes = boxes_by_chance(np.ones((4, 4), bool), (30, 50), 64, np.random.default_rng(0))
    assert {tuple(box) for box in boxes.tolist()} == {(0, 0, 30, 50)}


def test_shares_are_those_of_the_pixels() -> None:
    rng = np.random.default_rng(3)
    raster = rng.random((37, 53)) < 0.3
    boxes = np.stack(
        [rng.integers(0, 40, 25), rng.integers(0, 20, 25), rng.integers(1, 13, 25), rng.integers(1, 17, 25)], 1
    )
    wanted = [raster[y : y + h, x : x + w].mean() for x, y, w, h in boxes]
    assert shares_in(raster, boxes) == pytest.approx(np.array(wanted))


def test_a_lattice_covers_every_pixel() -> None:
    covered = np.zeros((50, 70), int)
    for box in lattice(Box(0, 0, 70, 50), 32):
        covered[box.y_px : box.y_px + box.height_px, box.x_px : box.x_px + box.width_px] += 1
    assert covered.min() == 1
    assert len(lattice(Box(0, 0, 70, 50), 32)) == 6
