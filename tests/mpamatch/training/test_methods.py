"""Each method of the recipe is one pass of the same loop: what it shows, what it learns from, what it leaves alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from mpamatch.domain.classes import ABSTAIN, IGNORE
from mpamatch.domain.recipe import METHODS, Recipe
from mpamatch.errors import BadInput
from mpamatch.files.images import encode_png
from mpamatch.network.branch import BranchShape
from mpamatch.network.encoders import encoder_record
from mpamatch.network.losses import pseudo_label_loss, supervised_loss
from mpamatch.network.model import Segmenter, add_branch, build_segmenter, channel_dropout, channel_gains_pair
from mpamatch.network.prototype_losses import text_pull
from mpamatch.network.text import ClassTexts, build_class_texts
from mpamatch.training import batches
from mpamatch.training.bank_care import bank_of, begin_bank
from mpamatch.training.batches import LabelledBatch, PoolBatch, Sample, Streams, TileReader
from mpamatch.training.loop import LoopState, TrainingLoop
from mpamatch.training.peers import Peers
from mpamatch.training.pseudo_labels import pseudo_labels
from mpamatch.training.step_sums import StepSums
from tests.mpamatch.tissue import draw, quick_recipe, write_tile

pytestmark = pytest.mark.torch
TEXTS = [["stroma"], ["gland with lumen"]]
SHORT = {"tau": 0.4, "steps_cold": 8, "prototype_start": 0.2, "prototype_ramp_end": 0.4, "prototype_pool_start": 0.4}


def _texts(recipe: Recipe) -> ClassTexts | None:
    if not recipe.uses_text_prototypes:
        return None
    return build_class_texts(
        recipe.text, TEXTS, context_tokens=recipe.context_tokens, context_per_class=recipe.context_per_class, seed=0
    )


def _model(recipe: Recipe, texts: ClassTexts | None) -> Segmenter:
    model = build_segmenter(encoder_record("tiny"), 2, seed=0)
    if recipe.uses_image_prototypes or texts is not None:
        rows = recipe.prototypes_per_class if recipe.uses_image_prototypes else 0
        add_branch(model, BranchShape(recipe.embedding_channels, rows, 0 if texts is None else texts.width), seed=0)
    return model


def _loop(folder: Path, method: str, *, masks: list[np.ndarray] | None = None, warm: bool = False, **knobs: Any):  # type: ignore[no-untyped-def]
    recipe = quick_recipe(method, **{**SHORT, **knobs})
    texts = _texts(recipe)
    rows = [write_tile(folder, t, None if masks is None else masks[t]) for t in range(2)]
    labelled = [Sample(r["tile"], r["group"], Path(r["image"]), Path(r["mask"])) for r in rows]
    others = [write_tile(folder, 1000 + n, seed=50 + n) for n in range(3)]
    record = encoder_record("tiny")
    pool = [Sample(r["tile"], r["group"], Path(r["image"])) for r in others]
    streams = Streams(
        labelled, pool, recipe=recipe, reader=TileReader(1.0, 2), mean=record.mean, std=record.std, seed=0
    )
    model = _model(recipe, texts)
    return TrainingLoop(model, streams, recipe, pool_tiles=3, warm=warm, seed=0, texts=texts)


def _weights(loop: TrainingLoop) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in loop.model.parameters()])


@pytest.mark.method_line(33)
@pytest.mark.parametrize(
    ("method", "knobs"),
    [(m, {}) for m in METHODS if m not in ("supervised", "fixmatch", "unimatch-ema")]
    + [("mpamatch", {"text": "learned", "tau_mode": "class", "assignment": "sinkhorn", "text_every": 2})],
)
def test_every_method_resumed_equals_itself_unbroken(tmp_path: Path, method: str, knobs: dict[str, Any]) -> None:
    unbroken = _loop(tmp_path, method, **knobs)
    reports = list(unbroken.run())
    first = _loop(tmp_path, method, **knobs)
    steps = first.run()
    head = [next(steps) for _ in range(5)]
    second = _loop(tmp_path, method, **knobs)
    second.restore(copy.deepcopy(first.state()))
    assert head + list(second.run()) == reports
    ours, theirs = second.state(), unbroken.state()
    assert ours.values == theirs.values
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in theirs.tensors)
    assert any(r.u > 0 for r in reports)
    if method.startswith("mpamatch"):
        assert (reports[-1].image is not None) == (method != "mpamatch-text")
        assert (reports[-1].text is not None) == (method != "mpamatch-image")


@pytest.mark.method_line(30)
def test_without_prototypes_and_texts_mpamatch_is_unimatch_to_the_bit(tmp_path: Path) -> None:
    plain = _loop(tmp_path / "a", "unimatch-ema", strong_views=2)
    off = _loop(tmp_path / "b", "mpamatch", strong_views=2, alpha=0.0)
    assert list(plain.run()) == list(off.run())
    assert torch.equal(_weights(plain), _weights(off))


@pytest.mark.method_line(30)
def test_with_the_paper_s_streams_it_is_unimatch_of_the_first_version_to_the_bit(tmp_path: Path) -> None:
    plain = _loop(tmp_path / "a", "unimatch")
    off = _loop(tmp_path / "b", "mpamatch", streams="unimatch", alpha=0.0)
    assert list(plain.run()) == list(off.run())
    assert torch.equal(_weights(plain), _weights(off))


@pytest.mark.method_line(30)
def test_the_total_of_unimatch_is_the_sum_by_hand(tmp_path: Path) -> None:
    """Each term from its definition: two strong views, and the weak view with half of its channels dropped."""
    loop = _loop(tmp_path, "unimatch", ramp_start=0.0, ramp_end=0.0, cutmix_p=0.0)
    model, streams = copy.deepcopy(loop.model).train(), loop._streams
    labelled, pool = streams.labelled_batch(0), streams.pool_batch(0)
    x = torch.cat([labelled.images, pool.weak, *pool.strong]).to(memory_format=torch.channels_last)
    features = model.features(x)
    gains = channel_dropout(model.record, 2, torch.Generator().manual_seed(0))
    perturbed = [torch.cat([f, f[2:4] * g[:, :, None, None]]) for f, g in zip(features, gains, strict=True)]
    logits = model.segment(perturbed, 64).logits.detach()
    confidence, label = logits[2:4].softmax(dim=1).max(dim=1)
    passed = ((confidence >= 0.4) & pool.valid).float()
    valid = float(pool.valid.sum())

    def term(part: torch.Tensor) -> float:
        return float((functional.cross_entropy(part, label, reduction="none") * passed).sum()) / valid

    expected_x = float(supervised_loss(logits[:2], labelled.masks))
    expected_u = 0.25 * term(logits[4:6]) + 0.25 * term(logits[6:8]) + 0.5 * term(logits[8:])
    report = next(loop.run())
    assert report.x == pytest.approx(expected_x, rel=1e-5)
    assert report.u == pytest.approx(expected_u, rel=1e-5)
    assert report.total == pytest.approx(0.5 * expected_x + 0.5 * expected_u, rel=1e-5)


def test_mean_teacher_learns_probabilities_wherever_they_are_valid(tmp_path: Path) -> None:
    loop = _loop(tmp_path, "mean-teacher", ramp_start=0.0, ramp_end=0.0, cutmix_p=0.0, tau=1.0)
    model, pool = copy.deepcopy(loop.model), loop._streams.pool_batch(0)
    with torch.no_grad():
        taught = loop.teacher(pool.weak).softmax(dim=1)
        x = torch.cat([loop._streams.labelled_batch(0).images, *pool.strong]).to(memory_format=torch.channels_last)
        shares = model.train()(x)[2:].softmax(dim=1)
    expected = ((shares - taught) ** 2).mean(dim=1)[pool.valid].mean()
    assert next(loop.run()).u == pytest.approx(float(expected), rel=1e-4)


def test_the_two_networks_of_cps_differ_and_teach_each_other(tmp_path: Path) -> None:
    loop = _loop(tmp_path, "cps", ramp_start=0.0, ramp_end=0.0)
    assert loop._second is not None
    first = loop._second.head.weight.detach().clone()
    assert not torch.equal(first, loop.model.head.weight)
    alone = _loop(tmp_path, "cps", gamma=0.0)
    for each in (loop, alone):
        steps = each.run()
        for _ in range(3):
            next(steps)
    assert not torch.equal(loop._second.head.weight, first)
    assert not torch.equal(_weights(loop), _weights(alone))


def test_thresholds_by_class_follow_each_class_s_confidence(tmp_path: Path) -> None:
    loop = _loop(tmp_path, "unimatch-ema", tau_mode="class", tau=0.95)
    assert loop._taus.tolist() == pytest.approx([0.7, 0.7])
    list(loop.run())
    assert loop._taus[0] != loop._taus[1]
    assert all(0.69 < t < 0.71 for t in loop._taus.tolist())


@pytest.mark.method_line(9)
def test_nothing_confident_makes_l_u_exactly_zero(tmp_path: Path) -> None:
    reports = list(_loop(tmp_path, "mpamatch-image", tau=1.0, temperature_max=5.0).run())
    assert [r.u for r in reports] == [0.0] * 8
    assert all(not r.skipped for r in reports)
    assert any(r.image for r in reports)


@pytest.mark.method_line(10)
def test_a_batch_without_a_label_moves_nothing_and_is_no_error(tmp_path: Path) -> None:
    nothing = [np.full((80, 80), IGNORE, np.uint8)] * 2
    reports = list(_loop(tmp_path, "mpamatch-image", masks=nothing, gamma=0.0).run())
    assert [r.x for r in reports] == [0.0] * 8
    assert all(not r.skipped and np.isfinite(r.gradient_norm) for r in reports)
    assert {r.image for r in reports} <= {None, 0.0}


@pytest.mark.method_line(12)
def test_what_is_not_reviewed_reaches_the_pool_loss_alone(tmp_path: Path) -> None:
    """Another picture where nobody looked changes L_u; which values its labels might have had cannot be told."""
    half = [draw(t)[1] for t in range(2)]
    for mask in half:
        mask[:, 40:] = IGNORE
    plain = _pool_of_labelled(tmp_path / "a", half[0])
    image, _ = draw(0)
    image[:, 44:] = 255 - image[:, 44:]
    changed = _pool_of_labelled(tmp_path / "b", half[0])
    (tmp_path / "b" / "image-0").write_bytes(encode_png(image))
    same_labels = [one.labelled_batch(0).masks for one in (plain, changed)]
    assert torch.equal(*same_labels)
    assert not torch.equal(*(one.pool_batch(0).weak for one in (plain, changed)))
    assert bool((plain.pool_batch(0).labels == IGNORE).any()), "open to pseudo-labels"
    assert torch.equal(*(one.pool_batch(0).valid for one in (plain, changed)))
    assert _pool_loss(plain) == _pool_loss(_pool_of_labelled(tmp_path / "c", half[0]))
    assert _pool_loss(plain) != _pool_loss(changed)


def _pool_loss(streams: Streams) -> float:
    """L_u of the first step's first strong view, by one network as teacher and student."""
    model, pool = build_segmenter(encoder_record("tiny"), 2, seed=0).eval(), streams.pool_batch(0)
    with torch.no_grad():
        found = pseudo_labels(model(pool.weak).softmax(dim=1), pool)
        label, confidence, valid = (pool.mixed(t, 0) for t in (found.classes, found.confidence, pool.valid))
        return float(pseudo_label_loss(model(pool.strong[0]), label, confidence, valid, torch.zeros(2)))


def _pool_of_labelled(folder: Path, mask: np.ndarray) -> Streams:
    row = write_tile(folder, 0, mask)
    other = write_tile(folder, 1)
    samples = [Sample(int(r["tile"]), str(r["group"]), Path(r["image"]), Path(r["mask"])) for r in (row, other)]
    record = encoder_record("tiny")
    recipe = quick_recipe("unimatch-ema", unlabelled_batch=4)
    return Streams(samples, samples, recipe=recipe, reader=TileReader(1.0, 2), mean=record.mean, std=record.std, seed=0)


@pytest.mark.method_line(13)
def test_reviewed_pixels_of_a_pool_tile_count_as_sure(tmp_path: Path) -> None:
    mask = np.full((80, 80), IGNORE, np.uint8)
    mask[:40] = 1
    streams = _pool_of_labelled(tmp_path, mask)
    pool = streams.pool_batch(0)
    shares = torch.full((len(pool.weak), 2, 64, 64), 0.5)
    shares[:, 0] += 0.1
    shares[:, 1] -= 0.1
    found = pseudo_labels(shares, pool)
    known = pool.labels != IGNORE
    assert bool(known.any())
    assert torch.equal(found.classes[known], pool.labels[known])
    assert bool((found.confidence[known] == 1).all())
    assert torch.equal(found.shares[known].argmax(dim=-1), pool.labels[known])
    assert bool((found.confidence[~known] == 0.6).all())
    assert bool((found.classes[~known] == 0).all())


@pytest.mark.method_line(14)
def test_where_a_person_could_not_tell_nothing_is_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = draw(0)[1]
    mask[:40] = ABSTAIN
    streams = _pool_of_labelled(tmp_path, mask)
    seen, generator = 0, torch.Generator().manual_seed(0)
    for step in range(6):
        with monkeypatch.context() as patch:  # where 254 lies in the views of the step
            patch.setattr(batches, "as_labels", lambda mask: mask)
            left = [streams.labelled_batch(step).masks == ABSTAIN, streams.pool_batch(step).labels == ABSTAIN]
        labelled, pool = streams.labelled_batch(step), streams.pool_batch(step)
        assert int(labelled.masks[labelled.masks != IGNORE].max()) < ABSTAIN
        assert int(pool.labels[pool.labels != IGNORE].max()) < ABSTAIN
        assert bool((labelled.masks[left[0]] == IGNORE).all())
        assert not bool(pool.valid[left[1]].any())
        for where, loss in zip(left, (_loss_x(labelled), _loss_u(pool)), strict=True):
            logits = torch.randn(len(where), 2, 64, 64, generator=generator)
            other = logits.flip(1) * 3 + 1
            assert loss(torch.where(where[:, None], other, logits)) == loss(logits)
            assert loss(torch.where(where[:, None], logits, other)) != loss(logits)
            seen += int(where.sum())
    assert seen > 0


def _loss_x(labelled: LabelledBatch) -> Callable[[torch.Tensor], float]:
    return lambda logits: float(supervised_loss(logits, labelled.masks))


def _loss_u(pool: PoolBatch) -> Callable[[torch.Tensor], float]:
    """L_u on the weak views as they are, whatever the confidence."""
    shares = torch.rand(len(pool.weak), 2, 64, 64, generator=torch.Generator().manual_seed(1))
    found = pseudo_labels(shares, pool)
    return lambda logits: float(pseudo_label_loss(logits, found.classes, found.confidence, pool.valid, torch.zeros(2)))


@pytest.mark.method_line(31)
def test_the_two_masks_of_a_pair_sum_to_two() -> None:
    first, second = channel_gains_pair(encoder_record("light"), 3, torch.Generator().manual_seed(0))
    assert all(bool((a + b == 2).all()) for a, b in zip(first, second, strict=True))


@pytest.mark.method_line(31)
@pytest.mark.parametrize(("batch", "left"), [(1, 0), (4, 2), (5, 2)])
def test_a_pair_is_left_whole_at_every_level_or_at_none(batch: int, left: int) -> None:
    for seed in range(5):
        pair = channel_gains_pair(encoder_record("light"), batch, torch.Generator().manual_seed(seed))
        for levels in pair:
            assert len(levels) > 1
            whole = torch.stack([(gains == 1).all(dim=1) for gains in levels])
            dropped = torch.stack([((gains == 0) | (gains == 2)).all(dim=1) for gains in levels])
            assert bool((whole ^ dropped).all())
            assert bool((whole == whole[0]).all())
            assert int(whole[0].sum()) == left


@pytest.mark.method_line(32)
def test_the_average_copies_prototypes_and_follows_everything_else(tmp_path: Path) -> None:
    loop = _loop(tmp_path, "mpamatch")
    list(loop.run())
    mine, average = loop.model.branch, loop.teacher.branch
    assert mine is not None
    assert average is not None
    assert mine.bank is not None
    assert average.bank is not None
    assert torch.equal(mine.bank.rows, average.bank.rows)
    assert torch.allclose(average.bank.rows[average.bank.active].norm(dim=1), torch.ones(6), atol=1e-5)
    assert torch.equal(mine.text_vectors, average.text_vectors)
    assert not torch.equal(mine.head[0].weight, average.head[0].weight)


def test_texts_are_encoded_anew_every_so_many_steps_and_their_context_learns(tmp_path: Path) -> None:
    loop = _loop(tmp_path, "mpamatch-text", text_every=3, steps_cold=9)
    assert loop.texts is not None
    before = {n: t.clone() for n, t in loop.text_state().items()}
    calls = []
    real = loop.texts.forward
    loop.texts.forward = lambda: calls.append(loop.step) or real()  # type: ignore[method-assign,func-returns-value]
    list(loop.run())
    assert calls == [2, 3, 6]  # the first step with the loss, then every third
    assert any(not torch.equal(t, before[n]) for n, t in loop.text_state().items())


def test_context_projection_and_scale_of_texts_learn_at_their_own_rate_times_the_schedule(tmp_path: Path) -> None:
    """Without its decay the first step of AdamW moves a value by the rate of the moment, whatever its gradient."""
    knobs = {"prototype_start": 0.0, "warmup": 0.25, "text_every": 1, "lr": 1e-8, "weight_decay": 1.0}
    loop = _loop(tmp_path, "mpamatch-text", **knobs)
    branch = loop.model.branch
    assert loop.texts is not None
    assert branch is not None
    learning = [*(p for p in loop.texts.parameters() if p.requires_grad), *branch.text_parameters()]
    assert len(learning) == 3
    before, decoder = [p.detach().clone() for p in learning], copy.deepcopy(loop.model.decoder.state_dict())
    next(loop.run())
    for parameter, was in zip(learning, before, strict=True):
        # A warm-up of two steps: half of the rate.
        assert float((parameter.detach() - was).abs().max()) == pytest.approx(0.5e-3, rel=0.01)
    assert all(torch.allclose(t, decoder[n], atol=1e-6) for n, t in loop.model.decoder.state_dict().items())


def test_a_checkpoint_whose_moments_fit_other_parameters_is_refused(tmp_path: Path) -> None:
    loop = _loop(tmp_path, "mpamatch-text")
    next(loop.run())
    state = loop.state()
    tensors = {**state.tensors, "optimiser.0.exp_avg": torch.zeros(3)}
    with pytest.raises(BadInput, match="another version"):
        _loop(tmp_path, "mpamatch-text").restore(LoopState(tensors, state.values))


@pytest.mark.method_line(2)
@pytest.mark.parametrize(("steps", "kept"), [(4999, 0.99), (5000, 0.999)])
def test_rows_of_a_long_run_move_ten_times_more_slowly(tmp_path: Path, steps: int, kept: float) -> None:
    loop = _loop(tmp_path, "mpamatch-image", prototype_start=0.0, steps_cold=steps, ramp_start=0.5, ramp_end=0.5)
    bank = bank_of(loop.model)
    assert bank is not None
    next(loop.run())
    bank.updates.fill_(1_000_000)  # long behind the start, where every row still follows fast
    before = bank.rows.clone()
    sums = torch.zeros(*bank.rows.shape[:2], bank.rows.shape[2] + 1)
    sums[..., 0] = sums[..., -1] = 1.0  # every cell of the step lies along the first axis
    loop._follow(StepSums(bank=sums))
    one = torch.zeros_like(before)
    one[..., 0] = 1.0
    wanted = functional.normalize(kept * before + (1 - kept) * one, dim=-1)
    assert torch.allclose(bank.rows, wanted, atol=1e-6)
    assert not torch.allclose(bank.rows, before, atol=1e-6)


def test_a_bank_begins_with_the_first_process_s_rows(tmp_path: Path) -> None:
    """A device that rounds otherwise may find other clusters, and banks that differ would drift apart."""
    loop = _loop(tmp_path, "mpamatch-image", prototype_start=0.0)
    bank = bank_of(loop.model)
    assert bank is not None
    first = functional.normalize(torch.randn(bank.rows.shape, generator=torch.Generator().manual_seed(3)), dim=-1)

    class Second(Peers):
        def total(self, values: torch.Tensor) -> torch.Tensor:
            return values + first

    begin_bank(loop.model, loop._streams, loop.recipe, seed=0, peers=Second(rank=1, count=2))
    assert torch.equal(bank.rows, first)
    assert bool(bank.active.all())


@pytest.mark.parametrize("parts", [1, 2])
def test_the_pull_of_texts_is_added_once_in_however_many_parts(tmp_path: Path, parts: int) -> None:
    figures = []
    for weight in (0.0, 0.5):
        loop = _loop(tmp_path, "mpamatch", text_pull=weight, prototype_start=0.0, prototype_ramp_end=0.0)
        loop._parts = parts
        figures.append(next(loop.run()).text)
    fresh = _loop(tmp_path, "mpamatch", prototype_start=0.0, prototype_ramp_end=0.0)
    begin_bank(fresh.model, fresh._streams, fresh.recipe, seed=0, peers=Peers())
    bank, words = bank_of(fresh.model), fresh._encode_texts()
    assert bank is not None
    assert fresh.model.branch is not None
    distance = float(text_pull(bank, fresh.model.branch.text_prototypes(words)).detach())
    assert distance > 0
    assert figures[1] - figures[0] == pytest.approx(0.5 * distance, rel=1e-4)


@pytest.mark.method_line(36)
def test_a_warm_start_that_brings_its_prototypes_has_them_from_the_first_step(tmp_path: Path) -> None:
    cold = _loop(tmp_path, "mpamatch")
    first = list(cold.run())
    assert first[0].image is None
    warm = _loop(tmp_path, "mpamatch", warm=True)
    warm.model.load_state_dict(cold.model.state_dict())
    again = TrainingLoop(
        warm.model, warm._streams, warm.recipe, pool_tiles=3, warm=True, seed=0, texts=_texts(warm.recipe)
    )
    report = next(again.run())
    assert report.image is not None
    assert report.prototype_weight == 0.25
    assert report.unlabelled_weight == 0.25
    assert again.prototype_steps == again.steps


@pytest.mark.method_line(50)
def test_swapped_prompts_or_rows_change_the_loss(tmp_path: Path) -> None:
    """Else the branch would be dead."""
    figures = []
    for swap in ("nothing", "prompts", "rows"):
        loop = _loop(tmp_path, "mpamatch", steps_cold=20)
        steps = loop.run()
        for _ in range(16):
            next(steps)
        branch = loop.model.branch
        assert branch is not None
        assert branch.bank is not None
        if swap == "rows":
            branch.bank.rows.copy_(branch.bank.rows.flip(0))
        if swap == "prompts":
            branch.text_vectors.copy_(branch.text_vectors.flip(0))
            loop.recipe = copy.copy(loop.recipe)
            object.__setattr__(loop.recipe, "text_every", 1000)
        report = next(loop.run())
        figures.append((report.image, report.text))
    assert figures[1][0] == figures[0][0]
    assert figures[1][1] > 1.2 * figures[0][1]
    assert figures[2][0] > 1.2 * figures[0][0]
    assert figures[2][1] == figures[0][1]


@pytest.mark.parametrize("method", METHODS)
def test_one_image_in_batches_of_one_trains_by_every_method(tmp_path: Path, method: str) -> None:
    loop = _loop(tmp_path, method, labelled_batch=1, unlabelled_batch=1, steps_cold=6)
    assert all(not r.skipped for r in loop.run())


@pytest.mark.parametrize("method", ["supervised", "unimatch", "mpamatch"])
def test_a_single_class_trains(tmp_path: Path, method: str) -> None:
    only = [np.ones((80, 80), np.uint8)] * 2
    loop = _loop(tmp_path, method, masks=only)
    assert all(not r.skipped for r in loop.run())
    if method == "mpamatch":
        assert bank_of(loop.model) is not None
        assert bank_of(loop.model).ready.tolist() == [False, True]
