import pytest

from mpamatch.domain.pyramid import (
    TileScale,
    choose_level,
    levels_of,
    plausible_um_per_px,
    same_picture,
    tile_scale,
    window_at,
)
from mpamatch.domain.tiling import Box, tile_boxes, tile_size
from mpamatch.errors import BadInput

APERIO = levels_of([(40000, 30000), (10000, 7500), (2500, 1875)])


@pytest.mark.parametrize(("scale", "level"), [(1.0, 0), (2.0, 0), (3.99, 1), (4.0, 1), (15.0, 1), (16.0, 2), (99.0, 2)])
def test_the_nearest_finer_level_is_read(scale: float, level: int) -> None:
    assert choose_level(APERIO, scale) == level


def test_an_odd_row_makes_no_other_level() -> None:
    assert choose_level(levels_of([(2220, 2967), (1110, 1483)]), 2.0) == 1


@pytest.mark.parametrize(
    ("um_per_px", "wanted", "scale"),
    [(0.25, 0.5, 2.0), (0.2527, 0.5, 2.0), (0.499, 0.5, 1.0), (0.5, 0.25, 1.0), (0.25, 0.4, 1.6), (None, 0.5, 1.0)],
)
def test_the_scale_follows_from_the_micrometres_and_never_enlarges(
    um_per_px: float | None, wanted: float, scale: float
) -> None:
    assert tile_scale(um_per_px, wanted) == pytest.approx(scale)


@pytest.mark.parametrize("um_per_px", [0.2222, 0.25, 0.31, 0.37, 0.499])
def test_tiles_of_any_scale_have_their_side_exactly(um_per_px: float) -> None:
    scale = TileScale().for_image(um_per_px)
    boxes = tile_boxes(20_000, 9_000, scale=scale)
    last_px = max(b.x_px for b in boxes), max(b.y_px for b in boxes)
    whole = [b for b in boxes if b.x_px < last_px[0] and b.y_px < last_px[1]]
    assert {tile_size(box, scale) for box in whole} == {(1024, 1024)}


@pytest.mark.parametrize("wish", [{"tile_px": 10}, {"tile_px": 10_000}, {"um_per_px": 0.0}, {"um_per_px": 50.0}])
def test_a_scale_that_no_tile_can_have_is_refused(wish: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        TileScale(**wish)  # type: ignore[arg-type]


def test_print_resolutions_are_not_plausible() -> None:
    assert [plausible_um_per_px(v) for v in (0.25, 84.7, 352.8, 0.0, float("nan"), None)] == [0.25, *[None] * 5]


@pytest.mark.parametrize(
    ("small", "same"), [((1110, 1483), True), ((277, 370), True), ((387, 463), False), ((1280, 431), False)]
)
def test_labels_and_macro_pictures_are_no_levels(small: tuple[int, int], same: bool) -> None:
    assert same_picture((2220, 2967), small) is same


def test_a_window_covers_its_box_and_says_where_it_lies() -> None:
    box, place = window_at(APERIO[1], Box(1002, 400, 401, 800))
    assert box == Box(250, 100, 101, 200)
    assert place == (0.5, 0.0, 100.75, 200.0)


def test_a_window_at_the_end_of_a_level_stays_inside() -> None:
    level = levels_of([(1000, 1001), (500, 500)])[1]
    box, place = window_at(level, Box(800, 801, 200, 200))
    assert box.y_px + box.height_px == 500
    assert place[3] == box.height_px
