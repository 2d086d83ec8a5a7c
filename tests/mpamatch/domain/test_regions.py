from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.stats import entropy as scipy_entropy
from shapely import contains_xy
from shapely.geometry import Polygon, box
from shapely.validation import explain_validity

from mpamatch.domain.region_outlines import MAX_VERTICES
from mpamatch.domain.regions import Region, find_regions
from mpamatch.domain.tiling import Box

TAU = 0.95
# Boxes as small as their regions, which then all have one: for what is not about boxes.
TIGHT = {"min_side_px": 0, "most_overlap": 1.0}


def sure(height: int = 128, width: int = 128, classes: int = 2) -> np.ndarray:
    """Background everywhere, at confidence 0.99."""
    field = np.full((classes, height, width), 0.01 / (classes - 1), np.float32)
    field[0] = 0.99
    return field


def unsure_square(field: np.ndarray, y: int, x: int, side: int, first: float = 0.5) -> np.ndarray:
    field = field.copy()
    field[:, y : y + side, x : x + side] = 0.0
    field[0, y : y + side, x : x + side] = first
    field[1, y : y + side, x : x + side] = 1.0 - first
    return field


def smooth_field(seed: int, side: int, sigma: float, classes: int, sharpness: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    planes = np.stack([ndimage.gaussian_filter(rng.standard_normal((side, side)), sigma) for _ in range(classes)])
    weights = np.exp(sharpness * planes / planes.std())
    return (weights / weights.sum(axis=0)).astype(np.float32)


def polygon(region: Region) -> Polygon:
    return Polygon(region.rings[0], region.rings[1:])


FIELDS = st.builds(
    smooth_field,
    seed=st.integers(0, 10_000),
    side=st.sampled_from([48, 96, 160]),
    sigma=st.sampled_from([1.5, 4.0, 10.0]),
    classes=st.integers(2, 5),
    sharpness=st.sampled_from([1.0, 6.0, 15.0]),
)


def test_a_sure_tile_has_no_region() -> None:
    assert find_regions(sure(), TAU) == ()


def test_a_square_of_doubt_is_one_region_with_its_factors() -> None:
    (region,) = find_regions(unsure_square(sure(), 30, 20, 40, first=0.4), TAU, **TIGHT)
    assert region.box == Box(20, 30, 40, 40)
    assert region.area_px == 1600
    assert polygon(region).area == pytest.approx(1600, rel=0.01)
    assert region.mean_confidence == pytest.approx(0.6)
    assert region.margin == pytest.approx(0.2)
    assert region.uncertainty == pytest.approx(-(0.4 * np.log(0.4) + 0.6 * np.log(0.6)) / np.log(2), abs=1e-5)
    assert region.predicted_class == 1
    assert region.impurity == 0.0
    assert region.disagreement == 0.0


@pytest.mark.method_line(40)
def test_two_predicted_classes_in_the_box_make_it_impure() -> None:
    field = unsure_square(unsure_square(sure(), 30, 20, 40, first=0.6), 30, 40, 20, first=0.4)
    field = unsure_square(field, 50, 40, 20, first=0.4)
    (region,) = find_regions(field, TAU, **TIGHT)
    assert region.impurity == pytest.approx(1.0)
    assert region.class_shares == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("width", [1, 3, 6])
def test_a_thin_rim_along_a_boundary_is_no_region_and_a_core_on_it_is(width: int) -> None:
    y, x = np.mgrid[0:128, 0:128]
    distance = np.hypot(y - 64, x - 64) - 40
    field = np.where(distance < 0, np.float32(0.01), np.float32(0.99))
    field[np.abs(distance) < width / 2] = 0.5
    rim_only = np.stack([field, 1 - field]).astype(np.float32)
    assert find_regions(rim_only, TAU) == ()
    with_core = unsure_square(rim_only, 58, 96, 20)
    (region,) = find_regions(with_core, TAU)
    assert region.area_px < 20 * 20 * 1.2


def test_what_touches_the_border_of_the_tile_is_kept_whole() -> None:
    (region,) = find_regions(unsure_square(sure(), 0, 0, 30), TAU)
    assert region.area_px == 900


def test_small_specks_are_dropped_and_pinholes_closed() -> None:
    field = unsure_square(unsure_square(sure(), 10, 10, 7), 60, 60, 40)
    field[:, 80, 80] = sure()[:, 80, 80]
    (region,) = find_regions(field, TAU)
    assert region.area_px == 1600
    assert len(region.rings) == 1


def test_a_large_hole_stays_a_hole() -> None:
    field = unsure_square(sure(), 20, 20, 80)
    field[:, 45:75, 45:75] = sure()[:, 45:75, 45:75]
    (region,) = find_regions(field, TAU)
    assert len(region.rings) == 2
    assert polygon(region).area == pytest.approx(6400 - 900, rel=0.02)


def test_outside_the_valid_area_nothing_is_asked() -> None:
    valid = np.zeros((128, 128), bool)
    valid[:, :40] = True
    (region,) = find_regions(unsure_square(sure(), 30, 20, 40), TAU, valid=valid, **TIGHT)
    assert (region.box.x_px, region.box.width_px) == (20, 20)


def test_a_tile_that_is_doubtful_everywhere_is_cut_into_parts_for_people() -> None:
    field = np.full((2, 1000, 700), 0.5, np.float32)
    regions = find_regions(field, TAU)
    assert len(regions) == 12
    assert sum(region.area_px for region in regions) == 700_000
    assert max(max(r.box.width_px, r.box.height_px) for r in regions) <= 256


def test_of_doubt_all_over_the_cores_are_asked_about() -> None:
    y, x = np.mgrid[0:256, 0:256]
    doubt = 0.1 + 0.4 * np.maximum(
        np.exp(-((y - 60) ** 2 + (x - 60) ** 2) / 1500.0), np.exp(-((y - 180) ** 2 + (x - 190) ** 2) / 1500.0)
    )
    regions = find_regions(np.stack([1 - doubt, doubt]).astype(np.float32), TAU)
    assert len(regions) == 2
    for region, centre in zip(sorted(regions, key=lambda r: r.box.x_px), (60, 190), strict=True):
        assert max(region.box.width_px, region.box.height_px) <= 96
        assert region.box.x_px + region.box.width_px / 2 == pytest.approx(centre, abs=3)
        assert region.mean_confidence < 0.8


@settings(max_examples=30, deadline=None)
@given(FIELDS, st.sampled_from([20.0, 50.0, 1000.0]))
def test_no_region_is_longer_than_asked(field: np.ndarray, max_side_px: float) -> None:
    for region in find_regions(field, 0.999, max_side_px=max_side_px):
        assert max(region.box.width_px, region.box.height_px) <= max_side_px


def test_each_class_has_its_own_tau_where_it_is_predicted() -> None:
    field = unsure_square(unsure_square(sure(), 5, 5, 30, first=0.8), 60, 60, 30, first=0.2)
    assert len(find_regions(field, (0.9, 0.9), **TIGHT)) == 2
    (of_first,) = find_regions(field, (0.9, 0.7), **TIGHT)
    assert of_first.predicted_class == 0
    (of_second,) = find_regions(field, (0.7, 0.9), **TIGHT)
    assert of_second.predicted_class == 1
    assert find_regions(field, [0.9, 0.9], **TIGHT) == find_regions(field, 0.9, **TIGHT)
    with pytest.raises(ValueError, match="one tau or one for each of 2"):
        find_regions(field, (0.9, 0.9, 0.9))


def test_where_head_and_prototypes_disagree_a_sure_place_is_asked_about() -> None:
    apart = np.zeros((32, 32), np.float32)  # cells of 4 pixels
    apart[10:20, 5:12] = 0.8
    (region,) = find_regions(sure(), TAU, disagreement=apart, **TIGHT)
    inside = box(20, 40, 48, 80)
    assert polygon(region).symmetric_difference(inside).area < 0.15 * inside.area
    assert region.disagreement > 0.7
    assert region.mean_confidence == pytest.approx(0.99)
    assert find_regions(sure(), TAU, disagreement=apart, disagreement_gate=0.9) == ()
    assert find_regions(sure(), TAU, disagreement=np.full((32, 32), 0.5, np.float32)) == ()


def test_what_they_disagree_on_counts_beside_doubt_in_the_order() -> None:
    field = unsure_square(unsure_square(sure(), 5, 5, 30, first=0.5), 60, 60, 30, first=0.5)
    apart = np.zeros((32, 32), np.float32)
    apart[15:23, 15:23] = 0.4
    first, second = find_regions(field, TAU, disagreement=apart, **TIGHT)
    assert (first.box.x_px, second.box.x_px) == (60, 5)
    assert first.disagreement == pytest.approx(0.4, abs=0.02)
    assert second.disagreement == 0


@settings(max_examples=30, deadline=None)
@given(FIELDS)
def test_entropy_and_margin_are_means_over_the_region_of_scipy_s_and_of_a_sort(field: np.ndarray) -> None:
    entropy = scipy_entropy(field, axis=0) / np.log(len(field))
    top = np.sort(field, axis=0)
    for region in find_regions(field, TAU, simplify_px=0.0):
        inside = shapely_contains(polygon(region), field.shape[1])
        assert region.uncertainty == pytest.approx(entropy[inside].mean(), abs=1e-4)
        assert region.margin == pytest.approx((top[-1] - top[-2])[inside].mean(), abs=1e-4)


@pytest.mark.method_line(40)
@settings(max_examples=30, deadline=None)
@given(FIELDS)
def test_impurity_counts_the_predicted_classes_of_a_box_that_ends_at_the_border(field: np.ndarray) -> None:
    predicted = field.argmax(axis=0)
    for region in find_regions(field, TAU):
        b = region.box
        shown = predicted[b.y_px : b.y_px + b.height_px, b.x_px : b.x_px + b.width_px]
        assert shown.size == b.area_px
        shares = np.bincount(shown.ravel(), minlength=len(field)) / shown.size
        assert region.class_shares == pytest.approx(shares)
        assert region.impurity == pytest.approx(scipy_entropy(shares) / np.log(len(field)), abs=1e-6)


def test_class_scores_are_the_mean_of_entropy_times_probability() -> None:
    field = smooth_field(3, 96, 4.0, 3, 6.0)
    for region in find_regions(field, TAU, simplify_px=0.0, **TIGHT):
        inside = shapely_contains(polygon(region), 96)
        entropy = -(field * np.log(field)).sum(axis=0) / np.log(3)
        expected = [(entropy * p)[inside].mean() for p in field]
        assert region.class_scores == pytest.approx(expected, abs=1e-4)
        assert sum(region.class_scores) == pytest.approx(region.uncertainty, abs=1e-4)


def shapely_contains(shape: Polygon, side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side] + 0.5
    return contains_xy(shape, x, y)


def test_a_region_looks_like_the_mean_of_what_lies_in_it() -> None:
    field = unsure_square(sure(), 32, 16, 48)
    vectors = np.random.default_rng(0).standard_normal((5, 32, 32)).astype(np.float32)
    (region,) = find_regions(field, TAU, vectors=(vectors,))
    mean = vectors[:, 8:20, 4:16].reshape(5, -1).mean(axis=1)
    assert region.embedding == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
    assert find_regions(field, TAU) == (region,)
    assert find_regions(field, TAU)[0].embedding is None


def test_a_region_over_glass_is_not_asked_and_of_one_that_reaches_into_tissue_only_that_part_is() -> None:
    field = unsure_square(unsure_square(sure(), 20, 10, 30), 70, 60, 40)
    tissue = np.ones((16, 16), bool)  # cells of 8 pixels
    tissue[:, :8] = False
    (region,) = find_regions(field, TAU, tissue=tissue)
    assert polygon(region).bounds == (64, 70, 100, 110)
    assert region.area_px == 36 * 40
    tissue[:, :12] = False
    assert find_regions(field, TAU, tissue=tissue) == ()  # four pixels beside glass are a band


def test_doubt_that_runs_out_over_glass_is_asked_about_where_the_tissue_is() -> None:
    field = sure(128, 256)
    field[:, 30:90, 20:220] = 0.5
    tissue = np.zeros((128, 256), bool)
    tissue[:, :45] = True
    (region,) = find_regions(field, TAU, tissue=tissue)
    assert polygon(region).bounds == (20, 30, 45, 90)
    assert region.area_px == 25 * 60
    assert region.box == Box(0, 12, 96, 96)


def test_on_tissue_and_valid_both_count() -> None:
    tissue, valid = np.zeros((16, 16), bool), np.zeros((128, 128), bool)
    tissue[:, :6], valid[40:] = True, True
    (region,) = find_regions(unsure_square(sure(), 30, 20, 40), TAU, tissue=tissue, valid=valid)
    assert polygon(region).bounds == (20, 40, 48, 70)


def test_a_small_region_is_asked_with_what_lies_around_it() -> None:
    x = np.arange(128) + np.zeros((128, 1))
    field = np.stack([np.where(x < 64, 0.99, 0.01), np.where(x < 64, 0.01, 0.99)]).astype(np.float32)
    (region,) = find_regions(unsure_square(field, 60, 60, 20, first=0.4), TAU)
    assert region.box == Box(22, 22, 96, 96)
    assert region.area_px == 400
    left = (96 * 42 - 20 * 4) / 96**2  # predicted background: left of the middle, but for what the square took
    assert region.class_shares == pytest.approx((left, 1 - left))
    assert region.impurity == pytest.approx(-(left * np.log(left) + (1 - left) * np.log(1 - left)) / np.log(2))


def test_of_regions_whose_boxes_lie_on_each_other_the_one_with_more_doubt_stays() -> None:
    field = unsure_square(unsure_square(sure(256, 256), 50, 50, 12), 70, 70, 30)
    field = unsure_square(field, 180, 180, 12)
    first, second = find_regions(field, TAU)
    assert (first.area_px, second.area_px) == (900, 144)
    assert second.box.x_px > 128
    assert len(find_regions(field, TAU, most_overlap=1.0)) == 3


@settings(max_examples=30, deadline=None)
@given(FIELDS, st.integers(0, 10_000))
def test_boxes_hold_their_regions_and_hardly_overlap_and_regions_lie_on_tissue(field: np.ndarray, seed: int) -> None:
    side = field.shape[1]
    tissue = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((12, 12)), 2.0) > 0
    apart = np.random.default_rng(seed).random((side // 4, side // 4)).astype(np.float32)
    found = find_regions(field, TAU, disagreement=apart, tissue=tissue, simplify_px=0.0)
    boxes = []
    for region in found:
        b = region.box
        assert min(b.width_px, b.height_px) >= min(96, side)
        assert max(b.width_px, b.height_px) <= max(256, 96)
        frame = box(b.x_px, b.y_px, b.x_px + b.width_px, b.y_px + b.height_px)
        assert frame.covers(polygon(region))
        inside = shapely_contains(polygon(region), side)
        y, x = np.nonzero(inside)
        assert len(y) == region.area_px
        assert tissue[y * 12 // side, x * 12 // side].all()
        assert all(frame.intersection(o).area <= 0.3 * frame.union(o).area + 1e-6 for o in boxes)
        boxes.append(frame)
        assert 0 <= region.disagreement <= 1


def test_the_most_uncertain_area_comes_first_and_the_number_is_capped() -> None:
    field = unsure_square(unsure_square(sure(), 5, 5, 30, first=0.9), 60, 60, 40, first=0.5)
    first, second = find_regions(field, TAU, **TIGHT)
    assert first.area_px * first.uncertainty > second.area_px * second.uncertainty
    assert find_regions(field, TAU, max_regions=1, **TIGHT) == (first,)
    assert find_regions(field, TAU, max_regions=0, **TIGHT) == ()


def test_on_a_half_grid_the_same_region_comes_out_in_tile_pixels() -> None:
    field = unsure_square(sure(), 32, 16, 48)
    (fine,), (coarse,) = find_regions(field, TAU, **TIGHT), find_regions(field[:, ::2, ::2], TAU, scale=2.0, **TIGHT)
    assert coarse.box == fine.box
    assert coarse.area_px == fine.area_px
    assert polygon(coarse).symmetric_difference(polygon(fine)).area < 10


def test_a_coarse_grid_never_reaches_beyond_a_tile_of_odd_size() -> None:
    field = unsure_square(sure(), 80, 60, 60)[:, :97, :99]
    (region,) = find_regions(field[:, ::4, ::4], TAU, scale=4.0, size_px=(99, 97))
    assert (region.box.x_px + region.box.width_px, region.box.y_px + region.box.height_px) == (99, 97)
    assert box(0, 0, 99, 97).covers(polygon(region))
    (beyond,) = find_regions(field[:, ::4, ::4], TAU, scale=4.0)
    assert beyond.box.x_px + beyond.box.width_px == 100


def test_a_wrong_shape_is_refused() -> None:
    for shape in ((4, 4), (1, 4, 4), (2, 0, 4)):
        with pytest.raises(ValueError, match="probabilities"):
            find_regions(np.zeros(shape, np.float32), TAU)


@settings(max_examples=40, deadline=None)
@given(FIELDS, st.sampled_from([0.6, 0.95]))
def test_regions_lie_in_the_tile_are_valid_and_few_enough_points(field: np.ndarray, tau: float) -> None:
    frame = box(0, 0, field.shape[2], field.shape[1])
    for region in find_regions(field, tau):
        shape = polygon(region)
        assert shape.is_valid, explain_validity(shape)
        assert frame.contains(shape)
        assert sum(len(ring) for ring in region.rings) <= MAX_VERTICES
        assert all(ring[0] == ring[-1] and len(ring) >= 4 for ring in region.rings)
        for value in (region.uncertainty, region.margin, region.impurity, region.mean_confidence):
            assert 0.0 <= value <= 1.0
        assert sum(region.class_shares) == pytest.approx(1.0)


@settings(max_examples=40, deadline=None)
@given(FIELDS)
def test_along_pixel_edges_areas_are_exact_and_regions_do_not_overlap(field: np.ndarray) -> None:
    shapes = []
    for region in find_regions(field, TAU, simplify_px=0.0, **TIGHT):
        shape = polygon(region)
        assert shape.area == region.area_px
        assert shape.length == pytest.approx(region.perimeter_px)
        assert shape.bounds == (
            region.box.x_px,
            region.box.y_px,
            region.box.x_px + region.box.width_px,
            region.box.y_px + region.box.height_px,
        )
        shapes.append(shape)
    for index, shape in enumerate(shapes):
        assert all(shape.intersection(other).area == 0 for other in shapes[:index])


@settings(max_examples=40, deadline=None)
@given(FIELDS, st.integers(0, 1), st.integers(0, 1))
def test_on_a_coarse_grid_areas_are_exact_disjoint_and_inside_a_tile_of_any_size(
    field: np.ndarray, odd_columns: int, odd_rows: int
) -> None:
    """Areas are whole grid cells, in tile pixels; at the last row and column the tile may end within a cell."""
    width, height = 2 * field.shape[2] - odd_columns, 2 * field.shape[1] - odd_rows
    frame = box(0, 0, width, height)
    found = find_regions(
        field, TAU, scale=2.0, size_px=(width, height), min_area_px=16, rim_px=2.0, simplify_px=0.0, **TIGHT
    )
    shapes = [polygon(region) for region in found]
    for region, shape in zip(found, shapes, strict=True):
        assert shape.is_valid, explain_validity(shape)
        assert frame.contains(shape)
        over = region.area_px - shape.area  # what of its cells lies beyond the tile
        assert 0 <= over <= 2 * (field.shape[1] * odd_columns + field.shape[2] * odd_rows)
        assert over == 0 or not (odd_columns == odd_rows == 0)
    for index, shape in enumerate(shapes):
        assert all(shape.intersection(other).area == 0 for other in shapes[:index])


@settings(max_examples=40, deadline=None)
@given(FIELDS)
def test_simplified_outlines_stay_close_to_the_pixels(field: np.ndarray) -> None:
    exact = find_regions(field, TAU, simplify_px=0.0, **TIGHT)
    drawn = find_regions(field, TAU, **TIGHT)
    assert [region.box for region in drawn] == [region.box for region in exact]
    for true, shown in zip(exact, drawn, strict=True):
        filled = Polygon(true.rings[0], [ring for ring in true.rings[1:] if Polygon(ring).area >= 64])
        difference = filled.symmetric_difference(polygon(shown)).area
        assert difference <= 0.1 * filled.area + filled.length


@settings(max_examples=20, deadline=None)
@given(FIELDS)
def test_the_same_field_gives_the_same_regions_and_is_left_alone(field: np.ndarray) -> None:
    before = field.copy()
    assert find_regions(field, TAU) == find_regions(np.asfortranarray(field), TAU)
    assert np.array_equal(field, before)
