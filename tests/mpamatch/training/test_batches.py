from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from mpamatch.domain.recipe import Photometry, Recipe
from mpamatch.errors import BadInput
from mpamatch.files.rasters import encode_raster
from mpamatch.training.batches import Sample, Streams, TileReader, _partner, read_class_ids
from tests.mpamatch.tissue import quick_recipe, write_tile

pytestmark = pytest.mark.torch
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _samples(folder: Path, tiles: range, *, masked: bool = True) -> list[Sample]:
    rows = [write_tile(folder, tile) for tile in tiles]
    return [Sample(r["tile"], r["group"], Path(r["image"]), Path(r["mask"]) if masked else None) for r in rows]


def _streams(labelled: list[Sample], pool: list[Sample], recipe: Recipe, seed: int = 0) -> Streams:
    return Streams(labelled, pool, recipe=recipe, reader=TileReader(1.0, 2), mean=MEAN, std=STD, seed=seed)


def test_a_batch_is_a_function_of_seed_and_step(tmp_path: Path) -> None:
    labelled, pool = _samples(tmp_path, range(3)), _samples(tmp_path, range(3, 8), masked=False)
    recipe = quick_recipe()
    first, again, other = (_streams(labelled, pool, recipe, seed) for seed in (0, 0, 1))
    for step in (7, 2):  # in any order
        assert torch.equal(first.labelled_batch(step).images, again.labelled_batch(step).images)
        assert torch.equal(first.pool_batch(step).strong[0], again.pool_batch(step).strong[0])
    assert not torch.equal(first.labelled_batch(2).images, other.labelled_batch(2).images)
    assert not torch.equal(first.pool_batch(2).weak, first.pool_batch(3).weak)


def test_the_order_in_which_tiles_are_given_does_not_matter(tmp_path: Path) -> None:
    labelled, pool = _samples(tmp_path, range(3)), _samples(tmp_path, range(3, 8), masked=False)
    recipe = quick_recipe()
    a, b = _streams(labelled, pool, recipe), _streams(labelled[::-1], pool[::-1], recipe)
    assert torch.equal(a.labelled_batch(1).images, b.labelled_batch(1).images)
    assert torch.equal(a.pool_batch(1).weak, b.pool_batch(1).weak)


def test_one_epoch_shows_every_pool_tile_once(tmp_path: Path) -> None:
    streams = _streams(_samples(tmp_path, range(1)), _samples(tmp_path, range(10, 16), masked=False), quick_recipe())
    assert [streams.pool_tiles(0, n) for n in (0, 1, 2, 3, 4)] == [0, 2, 4, 6, 6]
    assert streams.pool_tiles(5, 5) == 0


@pytest.mark.method_line(17)
def test_cutmix_takes_image_and_targets_from_the_partner_inside_the_box_alone(tmp_path: Path) -> None:
    recipe = quick_recipe(cutmix_p=1.0, unlabelled_photometry="none", unlabelled_batch=3)
    batch = _streams(_samples(tmp_path, range(1)), _samples(tmp_path, range(3, 8), masked=False), recipe).pool_batch(0)
    codes = torch.arange(3).view(3, 1, 1).expand(3, 64, 64)
    mixed = batch.mixed(codes, 0)
    for slot, mix in enumerate(batch.mixes[0]):
        assert mix is not None
        partner, box = mix
        inside = torch.zeros(64, 64, dtype=torch.bool)
        inside[box.top : box.bottom, box.left : box.right] = True
        assert bool((mixed[slot][inside] == partner).all())
        assert bool((mixed[slot][~inside] == slot).all())
        assert torch.equal(batch.strong[0][slot][:, inside], batch.weak[partner][:, inside])
        assert torch.equal(batch.strong[0][slot][:, ~inside], batch.weak[slot][:, ~inside])


@pytest.mark.method_line(18)
def test_a_tile_is_never_its_own_partner() -> None:
    image = Path("x")
    for tiles in ([1, 1, 2], [5, 5], [3, 4, 3, 3]):
        samples = [Sample(t, "g", image) for t in tiles]
        for slot in range(len(tiles)):
            partner = _partner(samples, slot)
            assert partner is None or tiles[partner] != tiles[slot]
    assert _partner([Sample(1, "g", image)] * 2, 0) is None


@pytest.mark.method_line(18)
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_over_a_thousand_draws_no_partner_is_the_tile_itself(tmp_path: Path, batch: int) -> None:
    """Published code pairs a tile with itself: by one sampler seeded alike twice, or by flipping a batch of one."""
    pool = _samples(tmp_path, range(3, 8), masked=False)
    streams = _streams(_samples(tmp_path, range(1)), pool, quick_recipe(cutmix_p=1.0, unlabelled_batch=batch))
    drawn = 0
    for step in range(1200 // batch):
        chosen = streams._chosen(streams._pool, step, streams._pool_count, 1)
        for slot in range(batch):
            partner = _partner(chosen, slot)
            if partner is None:  # where two epochs meet, a small batch may show one tile twice: then it is not mixed
                assert len({s.tile for s in chosen}) == 1
                continue
            assert chosen[partner].tile != chosen[slot].tile
            drawn += 1
    assert drawn >= 1000
    one = torch.arange(1)
    assert torch.equal(one.flip(0), one)


@pytest.mark.method_line(16)
@pytest.mark.parametrize("level", [level for level in get_args(Photometry) if level != "none"])
def test_photometry_leaves_masks_as_they_are(tmp_path: Path, level: str) -> None:
    """Pool tiles that are labelled too show their labels, which are to stay as well."""
    labelled = _samples(tmp_path, range(2))
    plain, other = (
        _streams(labelled, _samples(tmp_path, range(3, 6)), quick_recipe(**knobs))
        for knobs in (
            {"labelled_photometry": "none", "unlabelled_photometry": "none"},
            {"labelled_photometry": level, "unlabelled_photometry": level},
        )
    )
    for step in range(5):
        ours, theirs = plain.labelled_batch(step), other.labelled_batch(step)
        assert torch.equal(ours.masks, theirs.masks)
        assert not torch.equal(ours.images, theirs.images)
        pool, changed = plain.pool_batch(step), other.pool_batch(step)
        assert torch.equal(pool.weak, changed.weak)
        assert torch.equal(pool.labels, changed.labels)
        assert torch.equal(pool.valid, changed.valid)
        assert pool.mixes == changed.mixes
        assert not torch.equal(pool.strong[0], changed.strong[0])


@pytest.mark.method_line(18)
def test_a_batch_of_one_still_finds_another_tile_to_mix_with(tmp_path: Path) -> None:
    recipe = quick_recipe(cutmix_p=1.0, unlabelled_batch=1)
    streams = _streams(_samples(tmp_path, range(1)), _samples(tmp_path, range(3, 6), masked=False), recipe)
    batch = streams.pool_batch(0)
    assert batch.size == 1
    assert len(batch.weak) == 2
    assert batch.mixes[0][0] is not None


def test_a_pool_of_one_tile_works_without_mixing(tmp_path: Path) -> None:
    recipe = quick_recipe(cutmix_p=1.0)
    batch = _streams(_samples(tmp_path, range(1)), _samples(tmp_path, range(3, 4)), recipe).pool_batch(4)
    assert batch.size == 2
    assert batch.mixes[0] == (None, None)


def test_two_strong_views_differ(tmp_path: Path) -> None:
    recipe = quick_recipe(strong_views=2)
    batch = _streams(_samples(tmp_path, range(1)), _samples(tmp_path, range(3, 8)), recipe).pool_batch(0)
    assert len(batch.strong) == 2
    assert not torch.equal(batch.strong[0], batch.strong[1])


def test_a_labelled_tile_shows_its_labels_in_the_pool_too(tmp_path: Path) -> None:
    labelled = _samples(tmp_path, range(2))
    pool = [Sample(s.tile, s.group, s.image) for s in labelled]
    known = _streams(labelled, pool, quick_recipe()).pool_batch(0)
    assert set(known.labels.unique().tolist()) <= {0, 1, 255}
    assert bool((known.labels[known.valid] != 255).all())
    unknown = _streams(labelled, pool, quick_recipe(labels_override=False)).pool_batch(0)
    assert bool((unknown.labels == 255).all())


def test_padding_is_invalid_and_zero_to_the_network(tmp_path: Path) -> None:
    recipe = quick_recipe(crop_px=128, cutmix_p=0.0)
    batch = _streams(_samples(tmp_path, range(1)), _samples(tmp_path, range(3, 6)), recipe).pool_batch(0)
    assert not bool(batch.valid.all())
    outside = ~batch.valid[: batch.size]
    assert bool((batch.strong[0].permute(0, 2, 3, 1)[outside] == 0).all())


def test_an_unreadable_pool_tile_is_passed_over_and_remembered(tmp_path: Path) -> None:
    pool = _samples(tmp_path, range(3, 7), masked=False)
    pool[1].image.write_bytes(b"no image")
    streams = _streams(_samples(tmp_path, range(1)), pool, quick_recipe())
    for step in range(4):
        assert streams.pool_batch(step).size == 2
    assert set(streams.unreadable) == {pool[1].tile}
    assert streams.pool_tiles(0, 100) == 3


def test_a_pool_of_nothing_readable_is_an_error(tmp_path: Path) -> None:
    pool = _samples(tmp_path, range(3, 5), masked=False)
    for sample in pool:
        sample.image.unlink()
    with pytest.raises(BadInput):
        _streams(_samples(tmp_path, range(1)), pool, quick_recipe()).pool_batch(0)


def test_masks_are_read_literally_so_that_unlabelled_stays_unlabelled(tmp_path: Path) -> None:
    """Only background and 255: a reader of 0/255 masks would take all that is unlabelled for foreground."""
    mask = np.full((8, 8), 255, np.uint8)
    mask[:4] = 0
    (tmp_path / "mask").write_bytes(encode_raster(mask))
    assert np.array_equal(read_class_ids(tmp_path / "mask", 2), mask)


def test_wrong_masks_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mask"
    with pytest.raises(BadInput, match="cannot be read"):
        read_class_ids(path, 2)
    path.write_bytes(encode_raster(np.full((4, 4), 2, np.uint8)))
    with pytest.raises(BadInput, match="class id 2"):
        read_class_ids(path, 2)
    path.write_bytes(b"\x89PNG")
    with pytest.raises(BadInput, match="mask"):
        read_class_ids(path, 2)


def test_the_reader_keeps_within_its_budget(tmp_path: Path) -> None:
    samples = _samples(tmp_path, range(6))
    reader = TileReader(1.0, 2, budget_bytes=2 * 80 * 80 * 4)
    for sample in samples:
        reader.read(sample)
    assert len(reader._kept) == 2
    assert reader._kept_bytes == 2 * 80 * 80 * 4


def test_image_and_mask_shrink_to_one_grid(tmp_path: Path) -> None:
    tile = TileReader(3.0, 2).read(_samples(tmp_path, range(1))[0])
    assert tile.image.shape == (27, 27, 3)
    assert tile.mask.shape == (27, 27)


def test_tiles_of_known_scale_are_brought_to_the_working_scale(tmp_path: Path) -> None:
    image = Path(write_tile(tmp_path, 0)["image"])
    side_px = TileReader(1.0, 2).read(Sample(0, "a", image)).mask.shape[0]

    def read(um_per_px: float | None, working: float | None) -> int:
        return TileReader(2.0, 2, um_per_px=working).read(Sample(0, "a", image, None, um_per_px)).mask.shape[0]

    assert [read(None, 1.0), read(0.25, 1.0), read(0.25, None)] == [side_px // 2, side_px // 4, side_px // 2]
