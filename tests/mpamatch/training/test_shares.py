"""A step's batch in shares: for several processes, and for a device that is short of memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mpamatch.domain.recipe import Recipe
from mpamatch.errors import Unavailable
from mpamatch.network.encoders import encoder_record
from mpamatch.network.model import build_segmenter
from mpamatch.training import objective as objective_module
from mpamatch.training.batches import Sample, Streams, TileReader
from mpamatch.training.loop import TrainingLoop
from mpamatch.training.shares import cut, most_slots, shares_of
from tests.mpamatch.tissue import quick_recipe, write_tile
from tests.mpamatch.training.frozen_norms import freeze_batch_norms

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small sums: threads that wait for each other would cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _streams(folder: Path, recipe: Recipe) -> Streams:
    record = encoder_record("tiny")
    labelled = [write_tile(folder, t) for t in range(4)]
    pool = [write_tile(folder, 1000 + n, seed=50 + n) for n in range(5)]
    return Streams(
        [Sample(r["tile"], r["group"], Path(r["image"]), Path(r["mask"])) for r in labelled],
        [Sample(r["tile"], r["group"], Path(r["image"])) for r in pool],
        recipe=recipe,
        reader=TileReader(1.0, 2),
        mean=record.mean,
        std=record.std,
        seed=0,
    )


def _loop(
    folder: Path, recipe: Recipe, before_share: Callable[[int, int], None] = lambda step, parts: None
) -> TrainingLoop:
    model = build_segmenter(encoder_record("tiny"), 2, seed=0)
    streams = _streams(folder, recipe)
    return TrainingLoop(model, streams, recipe, pool_tiles=5, warm=False, seed=0, before_share=before_share)


def short_of_memory(least_parts: int, from_step: int = 0) -> Callable[[int, int], None]:
    """A device that holds a batch only in so many parts."""

    def look(step: int, parts: int) -> None:
        if step >= from_step and parts < least_parts:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    return look


@pytest.mark.parametrize("labelled", [0, 1, 4, 7])
@pytest.mark.parametrize("pool", [1, 4])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_every_slot_is_in_one_share_of_one_process(labelled: int, pool: int, count: int, parts: int) -> None:
    shares = [s for rank in range(count) for s in shares_of(labelled, pool, rank=rank, count=count, parts=parts)]
    assert [slot for s in shares for slot in s.labelled] == list(range(labelled))
    assert [slot for s in shares for slot in s.pool] == list(range(pool))
    assert all(len(s.labelled) or len(s.pool) for s in shares)


def test_as_many_parts_as_the_most_slots_leave_one_in_each() -> None:
    for size, count in ((4, 1), (5, 2), (1, 3)):
        slots = most_slots(size, size, count=count)
        assert {len(run) for share in cut(range(size), count) for run in cut(share, slots)} <= {0, 1}


@pytest.mark.parametrize("knobs", [{}, {"strong_views": 2}, {"unlabelled_batch": 1}])
def test_a_slot_shows_the_same_in_a_share_as_in_the_whole(tmp_path: Path, knobs: dict[str, object]) -> None:
    recipe = quick_recipe(**{"labelled_batch": 4, "unlabelled_batch": 4, "cutmix_p": 1.0, **knobs})  # type: ignore[arg-type]
    streams = _streams(tmp_path, recipe)
    for step in range(4):
        whole = streams.pool_batch(step)
        whole_labelled = streams.labelled_batch(step)
        for slots in cut(range(recipe.unlabelled_batch), 2):
            if not len(slots):
                continue
            part = streams.pool_batch(step, slots)
            assert part.size == len(slots)
            assert torch.equal(part.weak[: part.size], whole.weak[list(slots)])
            for view, strong in enumerate(part.strong):
                assert torch.equal(strong, whole.strong[view][list(slots)])
                mixed = part.mixed(part.labels.float() + part.weak[:, 0], view)
                assert torch.equal(mixed, whole.mixed(whole.labels.float() + whole.weak[:, 0], view)[list(slots)])
        half = streams.labelled_batch(step, range(2, 4))
        assert torch.equal(half.images, whole_labelled.images[2:4])
        assert torch.equal(half.masks, whole_labelled.masks[2:4])


def test_parts_add_up_to_the_whole_batchs_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for Dice and batch norms, which see one share at a time and are taken out here."""
    real = objective_module.supervised_loss

    def without_dice(logits: Tensor, mask: Tensor, *counts: object) -> Tensor:
        monkeypatch.setattr("mpamatch.network.losses.dice_loss", lambda logits, mask, join: logits.new_zeros(()))
        return real(logits, mask, *counts)  # type: ignore[arg-type]

    monkeypatch.setattr(objective_module, "supervised_loss", without_dice)
    recipe = quick_recipe(tau=0.4, labelled_batch=4, unlabelled_batch=4, strong_views=2, steps_cold=4, ramp_start=0.0)
    found = []
    for least_parts in (1, 2, 4):
        loop = _loop(tmp_path, recipe, short_of_memory(least_parts))
        freeze_batch_norms(loop.model)
        reports = list(loop.run())
        assert {r.parts for r in reports} == {least_parts}
        weights = torch.cat([p.detach().flatten() for p in loop.model.parameters()])
        found.append(([(r.x, r.u, r.mask_ratio, r.gradient_norm) for r in reports], weights))
    for figures, _weights in found[1:]:
        for one, whole in zip(figures[:3], found[0][0][:3], strict=True):
            assert one == pytest.approx(whole, rel=2e-3, abs=1e-4)
        # AdamW's first steps move by the sign of a gradient: weights whose gradient is rounding noise may differ.
    assert any(u > 0 for _, u, _, _ in found[0][0])


def test_too_little_memory_halves_the_batch_and_training_goes_on(tmp_path: Path) -> None:
    recipe = quick_recipe(tau=0.4, labelled_batch=4, unlabelled_batch=4, steps_cold=6)
    plain, loop = _loop(tmp_path, recipe), _loop(tmp_path, recipe, short_of_memory(2, from_step=3))
    expected, reports = list(plain.run()), list(loop.run())
    assert [r.parts for r in reports] == [1, 1, 1, 2, 2, 2]
    assert reports[:3] == expected[:3]
    assert all(not r.skipped for r in reports)
    # The same tiles are seen: only Dice and the batch norms see fewer of them at once.
    assert reports[3].x == pytest.approx(expected[3].x, abs=0.1)


def test_a_failed_pass_leaves_no_trace(tmp_path: Path) -> None:
    recipe = quick_recipe("supervised", labelled_batch=4, steps_cold=2)
    passes = []

    def second_half_fails(step: int, parts: int) -> None:
        passes.append((step, parts))
        if passes == [(0, 1)] or passes[1:] == [(0, 2), (0, 2)]:
            raise MemoryError

    loop, clean = _loop(tmp_path, recipe, second_half_fails), _loop(tmp_path, recipe, short_of_memory(4))
    assert next(loop.run()) == next(clean.run())
    assert passes == [(0, 1), (0, 2), (0, 2), (0, 4), (0, 4), (0, 4), (0, 4)]
    for ours, theirs in zip(loop.model.state_dict().values(), clean.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_single_tile_that_does_not_fit_ends_the_run_in_one_line(tmp_path: Path) -> None:
    loop = _loop(tmp_path, quick_recipe(labelled_batch=4, unlabelled_batch=3), short_of_memory(100))
    with pytest.raises(Unavailable, match=r"a single tile of 64 px does not fit .*; .*lower recipe.crop_px") as caught:
        list(loop.run())
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path: Path) -> None:
    def wrong(step: int, parts: int) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    with pytest.raises(RuntimeError, match="launch failure"):
        next(_loop(tmp_path, quick_recipe(), wrong).run())


def test_a_run_resumed_after_halving_equals_an_unbroken_one(tmp_path: Path) -> None:
    recipe = quick_recipe(tau=0.4, steps_cold=6)
    unbroken = _loop(tmp_path, recipe, short_of_memory(2, from_step=2))
    reports = list(unbroken.run())
    first = _loop(tmp_path, recipe, short_of_memory(2, from_step=2))
    steps = first.run()
    head = [next(steps) for _ in range(4)]
    second = _loop(tmp_path, recipe)  # enough memory now, and yet the same sums
    second.restore(copy.deepcopy(first.state()))
    assert head + list(second.run()) == reports
    ours, theirs = second.model.state_dict(), unbroken.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
