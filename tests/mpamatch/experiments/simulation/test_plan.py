from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpamatch.errors import BadInput
from mpamatch.experiments.plans import CELL_RESULT
from mpamatch.experiments.protocol import Division
from mpamatch.experiments.simulation.estimate import Extent, core_seconds
from mpamatch.experiments.simulation.oracle import clicks_for
from mpamatch.experiments.simulation.plan import (
    ALL_LABELS,
    START,
    START_MODEL,
    SimulatedCell,
    Simulation,
    after_start,
    forget_lost_starts,
    plan_cells,
    start_tiles,
)
from tests.mpamatch.experiments.simulation.pools import division_at


@pytest.fixture(scope="module")
def division(tmp_path_factory: pytest.TempPathFactory) -> Division:
    return division_at(tmp_path_factory.mktemp("tissue") / "drawn")


def asked(*strategies: str, **more: Any) -> Simulation:
    values = {"profile": "small", "rounds": 4, "seeds": 2, **more}
    return Simulation("phantom", Path("drawn"), strategies=strategies or ("random", "mpamatch"), **values)


def test_every_seed_has_a_start_a_reference_and_each_strategy(division: Division) -> None:
    cells = plan_cells(asked(), division)
    names = [START, ALL_LABELS, "random", "mpamatch"]
    assert [(one.seed, one.strategy) for one in cells] == [(seed, name) for seed in (0, 1) for name in names]
    start, reference, *others = cells[:4]
    assert (start.steps, {one.steps for one in others}, reference.steps) == (600, {800}, 1400)
    assert len({one.place for one in cells}) == len(cells)
    for one in cells:
        assert SimulatedCell.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_rounds_that_train_anew_take_the_whole_schedule(division: Division) -> None:
    start, reference, one, _ = plan_cells(asked(cold_rounds=True, seeds=1), division)
    assert (start.steps, one.steps, reference.steps) == (600, 2400, 600)


def test_a_round_s_budget_is_a_share_of_what_all_images_take(division: Division) -> None:
    everything = sum(clicks_for(division.data.read_mask(item), None) for item in division.train)
    (budget,) = {one.budget_clicks for one in plan_cells(asked(), division)}
    assert budget == pytest.approx(0.04 * everything, abs=0.05)
    assert plan_cells(asked(budget_clicks=77.0), division)[0].budget_clicks == 77


def test_the_side_of_a_box_is_given_at_the_working_scale(division: Division) -> None:
    assert plan_cells(asked(), division)[0].box_side_px == 64, "half the size at profile small"
    assert plan_cells(asked(profile="demo", box_px=40), division)[0].box_side_px == 40


def test_all_strategies_of_a_seed_begin_with_the_same_images(division: Division) -> None:
    cells = plan_cells(asked(labelled=2), division)
    starts = {seed: {start_tiles(one, division) for one in cells if one.seed == seed} for seed in (0, 1)}
    assert all(len(found) == 1 for found in starts.values())
    assert starts[0] != starts[1]
    with pytest.raises(BadInput, match="leave some"):
        plan_cells(asked(labelled=len(division.train)), division)


def test_a_strategy_waits_for_its_start(division: Division) -> None:
    start, reference, one, _ = cells = plan_cells(asked(seeds=1), division)
    assert after_start(start, [], []) == start
    assert after_start(reference, [], []) == reference
    assert after_start(one, [], []) is None
    assert after_start(one, [replace(start, seed=1), reference], []) is None
    assert after_start(one, [start], []) == one
    assert "start of seed 0 failed" in str(after_start(one, [], [start]))
    assert len(cells) == 4


def test_a_start_without_its_model_is_trained_again_where_it_is_needed(division: Division, tmp_path: Path) -> None:
    cells = plan_cells(asked(), division)
    for one in cells:
        (tmp_path / one.place).mkdir(parents=True)
        if one.strategy != "mpamatch" or one.seed == 1:
            (tmp_path / one.place / CELL_RESULT).write_text("{}")
    forget_lost_starts(cells, tmp_path)
    there = {one.seed: (tmp_path / one.place / CELL_RESULT).is_file() for one in cells if one.strategy == START}
    assert there == {0: False, 1: True}
    start = tmp_path / cells[0].place
    (start / CELL_RESULT).write_text("{}")
    (start / START_MODEL).mkdir(parents=True)
    forget_lost_starts(cells, tmp_path)
    assert (start / CELL_RESULT).is_file()


def test_what_a_folder_was_begun_with_tells_cells_apart_and_where_things_lie_does_not(division: Division) -> None:
    (one, *_), (other, *_) = (plan_cells(asked(), division), plan_cells(asked(budget_clicks=9.0), division))
    assert one.comparable() != other.comparable()
    moved = replace(one, root=Path("elsewhere"), keep_models=True, weights_dir=Path("weights"))
    assert one.comparable() == moved.comparable()


def test_unknown_and_repeated_strategies_are_refused(division: Division) -> None:
    with pytest.raises(BadInput, match="is unknown"):
        plan_cells(asked("best"), division)
    with pytest.raises(BadInput, match="named twice"):
        plan_cells(asked("random", "random"), division)


def test_the_estimate_grows_with_steps_looks_and_methods(division: Division) -> None:
    def seconds(*strategies: str, **more: Any) -> float:
        return core_seconds(plan_cells(asked(*strategies, **more), division), Extent(1.0, 0.3))

    assert seconds("random") < seconds("entropy") < seconds("mpamatch") < seconds("mpamatch", cold_rounds=True)
    assert seconds("random") < seconds("random", method="unimatch-ema") < seconds("random", method="mpamatch")
    steps = 0.21 * (600 + 1400 + 800)
    assert steps < seconds("random", seeds=1) < steps + 120
