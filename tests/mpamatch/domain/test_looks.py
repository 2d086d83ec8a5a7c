from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from mpamatch.domain.looks import Look, embeddings_of, regions_of

SIDE, STROMA, GLASS = 256, (215, 165, 200), (243, 241, 244)


def shares(classes: int, side: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).dirichlet(np.ones(classes), (side, side))
    return np.ascontiguousarray(np.moveaxis(drawn, -1, 0)).astype(np.float32)


def stroma() -> np.ndarray:
    return np.full((SIDE, SIDE, 3), STROMA, np.uint8)


def look(**more: np.ndarray) -> Look:
    """Sure of background everywhere but in a square of 40 px at (60, 60) and one of 60 px at (100, 180)."""
    probabilities = np.full((2, SIDE, SIDE), 0.01, np.float32)
    probabilities[0] = 0.99
    probabilities[:, 60:100, 60:100] = 0.5
    probabilities[:, 100:160, 180:240] = np.array([0.4, 0.6])[:, None, None]
    cells = probabilities.reshape(2, 32, 8, 32, 8).mean(axis=(2, 4))
    tokens = np.random.default_rng(0).standard_normal((6, 4, 4)).astype(np.float32)
    return Look(probabilities, tokens, cells, **more)


def test_disagreement_of_two_sources_is_scipy_s_and_of_one_is_none() -> None:
    head, by_image = shares(3, 5, 0), shares(3, 5, 1)
    tokens = np.ones((2, 1, 1), np.float32)
    seen = Look(head, tokens, head, image_posterior=by_image)
    assert seen.disagreement == pytest.approx(jensenshannon(head, by_image, axis=0) ** 2 / np.log(2), abs=1e-6)
    assert Look(head, tokens).disagreement is None
    assert Look(head, tokens, head).disagreement is None
    both = Look(head, tokens, head, image_posterior=head, text_posterior=head)
    assert both.disagreement == pytest.approx(0, abs=1e-6)


def test_regions_come_with_rows_beside_the_tile_s_own() -> None:
    embeddings = np.random.default_rng(1).standard_normal((3, 32, 32)).astype(np.float32)
    seen = look(embeddings=embeddings)
    regions = regions_of(seen, stroma(), 0.95, reduction=2.0)
    assert [r.box.x_px + r.box.width_px / 2 for r in regions] == pytest.approx([208, 80], abs=2)
    rows = embeddings_of(seen, regions)
    assert rows.shape == (3, 9)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(rows[1:], np.stack([r.embedding for r in regions]))
    tile = embeddings.reshape(3, -1).mean(axis=1)
    assert rows[0, :3] == pytest.approx(tile / np.linalg.norm(tile) / np.sqrt(2), abs=1e-5)
    assert embeddings_of(look(), ()).shape == (1, 6)


def test_prototypes_that_say_otherwise_make_a_region_where_the_head_is_sure() -> None:
    by_image = look().shares.copy()
    by_image[:, 2:10, 16:24] = np.array([0.0, 1.0])[:, None, None]
    plain = regions_of(look(), stroma(), 0.95, reduction=1.0)
    apart = regions_of(look(image_posterior=by_image), stroma(), 0.95, reduction=1.0)
    assert len(apart) == len(plain) + 1
    (new,) = [r for r in apart if r.disagreement > 0.5]
    assert (new.box.x_px + new.box.width_px / 2, new.box.y_px + new.box.height_px / 2) == (160, 48)


def test_a_band_as_wide_as_the_model_s_pixels_is_no_region() -> None:
    seen = look()
    seen.probabilities[:, 200:210, :] = 0.5
    assert len(regions_of(seen, stroma(), 0.95, reduction=2.0)) == 2
    assert len(regions_of(seen, stroma(), 0.95, reduction=1.0)) > 2


def test_nobody_is_asked_about_glass() -> None:
    image = stroma()
    image[:, 140:] = GLASS
    (region,) = regions_of(look(), image, 0.95, reduction=1.0)
    assert region.box.x_px < 100


def test_boxes_may_all_have_one_side_and_nothing_is_asked_where_it_was_reviewed() -> None:
    boxes = [r.box for r in regions_of(look(), stroma(), 0.95, reduction=1.0, box_side_px=48)]
    assert {(box.width_px, box.height_px) for box in boxes} == {(48, 48)}
    assert any(box.x_px <= 60 and box.x_px + 48 >= 100 for box in boxes)
    reviewed = np.zeros((SIDE, SIDE), bool)
    reviewed[:, :128] = True
    left = regions_of(look(), stroma(), 0.95, reduction=1.0, reviewed=reviewed)
    assert len(left) == 1
    assert min(x for x, _ in left[0].rings[0]) >= 128
