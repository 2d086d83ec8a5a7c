import numpy as np
import pytest

from mpamatch.domain.likeness import Look, Seen, alike, groups_by_look

RNG = np.random.default_rng(1)
PICTURE = RNG.integers(60, 240, (16, 16, 3)).astype(np.uint8)
OTHER = RNG.integers(60, 240, (16, 16, 3)).astype(np.uint8)


def _noisy(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels.astype(int) + RNG.integers(-1, 2, pixels.shape), 0, 255).astype(np.uint8)


def _seen(name: str, pixels: np.ndarray, *, named: bool = False, group: str | None = None) -> Seen:
    return Seen(name, group or name, named, Look(pixels, 0.75))


def test_a_converted_slide_is_like_its_original_and_another_is_not() -> None:
    assert alike(Look(PICTURE, 0.75), Look(_noisy(PICTURE), 0.751))
    assert not alike(Look(PICTURE, 0.75), Look(OTHER, 0.75))
    assert not alike(Look(PICTURE, 0.75), Look(PICTURE, 1.33))


@pytest.mark.parametrize("grey", [0, 128, 244])
def test_slides_that_show_nothing_are_like_none(grey: int) -> None:
    empty = Look(np.full((16, 16, 3), grey, np.uint8), 1.0)
    assert not alike(empty, empty)


def test_the_first_keeps_its_group_and_named_ones_come_before() -> None:
    unnamed = [_seen("a", PICTURE), _seen("b", _noisy(PICTURE)), _seen("c", OTHER)]
    assert groups_by_look(unnamed) == {"b": ("a", "a")}
    named = _seen("z", _noisy(PICTURE), named=True, group="patient")
    assert groups_by_look([*unnamed, named]) == {"a": ("patient", "z"), "b": ("patient", "z")}
    assert groups_by_look([named, _seen("y", PICTURE, named=True, group="other")]) == {}
