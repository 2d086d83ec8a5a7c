import copy
from pathlib import Path

import pytest
import torch

from mpamatch.domain.recipe import Recipe
from mpamatch.errors import BadInput
from mpamatch.network.encoders import encoder_record
from mpamatch.network.model import build_segmenter
from mpamatch.training import objective as objective_module
from mpamatch.training.batches import Sample, Streams, TileReader
from mpamatch.training.loop import TrainingLoop
from mpamatch.training.moving_average import MovingAverage
from mpamatch.training.ramps import learning_rate_factor, ramp
from tests.mpamatch.tissue import quick_recipe, write_tile

pytestmark = pytest.mark.torch


def _loop(folder: Path, recipe: Recipe, *, pool: int = 3, pool_seed: int = 50, warm: bool = False) -> TrainingLoop:
    record = encoder_record("tiny")
    labelled = [write_tile(folder, t) for t in range(2)]
    others = [write_tile(folder, 1000 + n, seed=pool_seed + n) for n in range(pool)]
    streams = Streams(
        [Sample(r["tile"], r["group"], Path(r["image"]), Path(r["mask"])) for r in labelled],
        [Sample(r["tile"], r["group"], Path(r["image"])) for r in others],
        recipe=recipe,
        reader=TileReader(1.0, 2),
        mean=record.mean,
        std=record.std,
        seed=0,
    )
    return TrainingLoop(build_segmenter(record, 2, seed=0), streams, recipe, pool_tiles=pool, warm=warm, seed=0)


def _weights(loop: TrainingLoop) -> torch.Tensor:
    return torch.cat([p.flatten() for p in loop.teacher.parameters()])


@pytest.mark.method_line(33)
@pytest.mark.parametrize("knobs", [{}, {"method": "fixmatch"}, {"strong_views": 2}, {"teacher_flips": 4}])
def test_a_loop_resumed_anywhere_equals_an_unbroken_one(tmp_path: Path, knobs: dict[str, object]) -> None:
    recipe = quick_recipe(**{"tau": 0.4, "steps_cold": 6, **knobs})  # type: ignore[arg-type]
    unbroken = _loop(tmp_path / "a", recipe)
    reports = list(unbroken.run())
    first = _loop(tmp_path / "a", recipe)
    steps = first.run()
    head = [next(steps) for _ in range(4)]
    second = _loop(tmp_path / "a", recipe)
    second.restore(copy.deepcopy(first.state()))
    assert head + list(second.run()) == reports
    for part in ("model", "teacher"):
        ours, theirs = getattr(second, part).state_dict(), getattr(unbroken, part).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_changed_pool_alone_changes_the_weights(tmp_path: Path) -> None:
    recipe = quick_recipe(tau=0.4)
    weights = []
    for name, pool_seed in (("a", 50), ("b", 50), ("c", 70)):
        loop = _loop(tmp_path / name, recipe, pool_seed=pool_seed)
        assert any(r.mask_ratio for r in loop.run())
        weights.append(_weights(loop))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_without_a_pool_any_method_is_supervised(tmp_path: Path) -> None:
    semi = _loop(tmp_path / "a", quick_recipe("unimatch-ema"), pool=0)
    supervised = _loop(tmp_path / "b", quick_recipe("supervised"), pool=3)
    assert [r.total for r in semi.run()] == [r.x for r in supervised.run()]
    assert torch.equal(_weights(semi), _weights(supervised))
    assert semi.first_pool_step == semi.steps


def test_the_pool_is_not_read_before_the_ramp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = _loop(tmp_path, quick_recipe(steps_cold=10))
    read = []
    monkeypatch.setattr(
        loop._streams, "pool_batch", lambda step, _: read.append(step) or Streams.pool_batch(loop._streams, step)
    )
    list(loop.run())
    assert read == list(range(2, 10))
    assert loop.first_pool_step == 2


def test_a_warm_start_is_shorter_and_has_no_ramp(tmp_path: Path) -> None:
    loop = _loop(tmp_path, quick_recipe(), warm=True)
    reports = list(loop.run())
    assert len(reports) == 4
    assert {r.unlabelled_weight for r in reports} == {0.5}


def test_batches_of_one_train(tmp_path: Path) -> None:
    recipe = quick_recipe(labelled_batch=1, unlabelled_batch=1, strong_views=2, steps_cold=3, tau=0.4)
    assert all(not r.skipped for r in _loop(tmp_path, recipe).run())


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    reports = list(_loop(tmp_path, quick_recipe("supervised", steps_cold=30)).run())
    assert sum(r.x for r in reports[-5:]) < 0.7 * sum(r.x for r in reports[:5])


def test_a_loss_that_is_not_finite_moves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = _loop(tmp_path, quick_recipe("supervised"))
    before = copy.deepcopy(loop.state().tensors)
    monkeypatch.setattr(objective_module, "supervised_loss", lambda logits, mask, *_: logits.sum() * float("nan"))
    report = next(loop.run())
    assert report.skipped
    assert all(torch.equal(tensor, before[name]) for name, tensor in loop.state().tensors.items())
    monkeypatch.undo()
    assert not next(loop.run()).skipped


def test_too_many_of_them_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = quick_recipe("supervised", steps_cold=50, non_finite_limit=3, non_finite_window=10)
    loop = _loop(tmp_path, recipe)
    monkeypatch.setattr(objective_module, "supervised_loss", lambda logits, mask, *_: logits.sum() * float("nan"))
    with pytest.raises(BadInput, match="not finite in 3 of the last 10"):
        list(loop.run())
    assert loop.step == 2


def test_a_checkpoint_of_another_length_is_refused(tmp_path: Path) -> None:
    short, long = _loop(tmp_path, quick_recipe()), _loop(tmp_path, quick_recipe(steps_cold=9))
    with pytest.raises(BadInput):
        long.restore(short.state())


@pytest.mark.method_line(32)
def test_the_teacher_copies_first_and_then_follows_the_closed_form() -> None:
    student, teacher = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        student.weight.fill_(3.0)
        student.num_batches_tracked.fill_(7)
    average = MovingAverage(teacher, student)
    average.follow(0.0)
    assert torch.equal(teacher.weight, student.weight)
    assert int(teacher.num_batches_tracked) == 7
    with torch.no_grad():
        student.weight.fill_(1.0)
    for _ in range(5):
        average.follow(0.9)
    assert torch.allclose(teacher.weight, torch.full((2,), 1 + 2 * 0.9**5))


def test_the_ramp_is_zero_before_and_one_after_and_rises() -> None:
    values = [ramp(p / 100, 0.2, 0.4) for p in range(100)]
    assert set(values[:20]) == {0.0}
    assert set(values[40:]) == {1.0}
    assert values == sorted(values)
    assert values[20] == pytest.approx(0.0067, abs=1e-3)


def test_the_learning_rate_warms_up_and_decays_to_almost_nothing() -> None:
    factors = [learning_rate_factor(s, 100, Recipe()) for s in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5] == 1.0
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert 0 < factors[-1] < 0.05
    assert learning_rate_factor(0, 1, Recipe()) == 1.0


def test_norms_and_biases_do_not_decay(tmp_path: Path) -> None:
    loop = _loop(tmp_path, quick_recipe())
    for group in loop._optimiser.param_groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])
    count = sum(len(group["params"]) for group in loop._optimiser.param_groups)
    assert count == len(list(loop.model.parameters()))
