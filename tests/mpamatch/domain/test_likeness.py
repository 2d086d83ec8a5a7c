import numpy as np
import pytest

from mpamatch.domain.likeness import Look, Seen, alike, groups_by_look, look_hash

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


def _bits_apart(one: np.ndarray, other: np.ndarray) -> int:
    return ((look_hash(one) ^ look_hash(other)) & (2**64 - 1)).bit_count()


def _tile(seed: int) -> np.ndarray:
    """A drawn tile of 256 px with structures of some 30 px."""
    grey = np.kron(np.random.default_rng(seed).integers(40, 220, (9, 9)), np.ones((29, 29)))[:256, :256]
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def test_a_tile_that_was_converted_shrunk_or_stained_paler_keeps_its_hash_but_for_a_few_bits() -> None:
    tile = _tile(0)
    for other in (_noisy(tile), tile[::2, ::2], (tile * 0.8 + 40).astype(np.uint8)):
        assert _bits_apart(tile, other) <= 4
    assert min(_bits_apart(tile, _tile(seed)) for seed in range(1, 40)) > 4


def test_a_hash_fits_a_signed_64_bit_column_and_is_its_bits() -> None:
    falling = np.repeat(np.arange(256)[None, ::-1, None], 256, axis=0).repeat(3, axis=2).astype(np.uint8)
    assert look_hash(falling) == 0
    assert look_hash(falling[:, ::-1]) == -1  # all 64 bits
    assert all(-(2**63) <= look_hash(_tile(seed)) < 2**63 for seed in range(20))


def test_a_picture_of_a_few_pixels_has_a_hash_too() -> None:
    assert isinstance(look_hash(np.zeros((1, 3, 3), np.uint8)), int)
