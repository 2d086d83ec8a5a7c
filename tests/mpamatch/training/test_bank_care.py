"""Where image prototypes of a class come from that is labelled in one corner alone, which random crops often miss."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from mpamatch.files.images import encode_png
from mpamatch.files.rasters import encode_raster
from mpamatch.network.branch import BranchShape
from mpamatch.network.encoders import encoder_record
from mpamatch.network.model import add_branch, build_segmenter
from mpamatch.network.prototypes import PrototypeBank
from mpamatch.training import bank_care
from mpamatch.training.bank_care import bank_of, begin_bank
from mpamatch.training.batches import Sample, Streams, TileReader
from mpamatch.training.loop import TrainingLoop
from mpamatch.training.peers import Peers
from tests.mpamatch.tissue import draw, quick_recipe

pytestmark = pytest.mark.torch
SIDE_PX, CORNER_PX = 192, 56


def _loop(folder: Path, *, corner: bool = True, seed: int = 0) -> TrainingLoop:
    """Four tiles of two classes; a third one fills a corner of the first tile, where ``corner``."""
    folder.mkdir(exist_ok=True)
    labelled = []
    for tile in range(4):
        image, mask = draw(tile, SIDE_PX)
        if corner and tile == 0:
            mask[:CORNER_PX, :CORNER_PX] = 2
            image[:CORNER_PX, :CORNER_PX] = (40, 160, 60)
        paths = folder / f"image-{tile}", folder / f"mask-{tile}"
        paths[0].write_bytes(encode_png(image))
        paths[1].write_bytes(encode_raster(mask))
        labelled.append(Sample(tile, f"patient {tile}", *paths))
    recipe = quick_recipe("mpamatch-image", labelled_batch=4, steps_cold=24, prototype_start=0.0)
    record = encoder_record("tiny")
    streams = Streams(
        labelled, [], recipe=recipe, reader=TileReader(1.0, 3), mean=record.mean, std=record.std, seed=seed
    )
    model = build_segmenter(record, 3, seed=0)
    add_branch(model, BranchShape(recipe.embedding_channels, recipe.prototypes_per_class, 0), seed=0)
    return TrainingLoop(model, streams, recipe, pool_tiles=0, warm=False, seed=seed)


def _begun(loop: TrainingLoop) -> PrototypeBank:
    begin_bank(loop.model, loop._streams, loop.recipe, seed=0, peers=Peers())
    bank = bank_of(loop.model)
    assert bank is not None
    return bank


@pytest.mark.parametrize("seed", [4, 6, 11])
def test_crops_are_drawn_until_every_labelled_class_was_seen(tmp_path: Path, seed: int) -> None:
    first = _loop(tmp_path, seed=seed)
    assert not bool((first._streams.labelled_batch(0).masks == 2).any()), "one pass over the tiles misses it"
    assert _begun(first).ready.tolist() == [True, True, True]


def test_a_class_that_nobody_labelled_takes_no_more_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, steps = _loop(tmp_path, corner=False), []
    real = loop._streams.labelled_batch
    monkeypatch.setattr(loop._streams, "labelled_batch", lambda step: steps.append(step) or real(step))
    assert _begun(loop).ready.tolist() == [True, True, False]
    assert steps == [0]


def test_what_those_missed_begins_with_the_first_step_that_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_care, "_MOST_START_BATCHES", 1)
    unbroken = _loop(tmp_path, seed=3)
    bank = bank_of(unbroken.model)
    assert bank is not None
    ready = [bool(bank.ready[2]) for _ in unbroken.run()]
    begun = ready.index(True)
    assert begun > 0
    assert all(ready[begun:])
    assert bool((unbroken._streams.labelled_batch(begun).masks == 2).any())
    assert float(bank.rows[2][bank.active[2]].norm(dim=1).min()) == pytest.approx(1, abs=1e-5)
    for stop in (begun, begun + 1):  # before its rows are there, and behind
        head = _loop(tmp_path, seed=3)
        steps = head.run()
        for _ in range(stop):
            next(steps)
        resumed = _loop(tmp_path, seed=3)
        resumed.restore(copy.deepcopy(head.state()))
        list(resumed.run())
        ours, theirs = resumed.model.state_dict(), unbroken.model.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_class_in_a_corner_is_found_among_the_labels(tmp_path: Path) -> None:
    assert _loop(tmp_path)._streams.labelled_classes() == {0, 1, 2}
    assert _loop(tmp_path / "other", corner=False)._streams.labelled_classes() == {0, 1}
