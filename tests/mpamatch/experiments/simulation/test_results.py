"""The document of a simulation, from the folders of cells that say what a training might have found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mpamatch.experiments.plans import CELL_ERROR, CELL_RESULT
from mpamatch.experiments.protocol import Division
from mpamatch.experiments.publish import publish
from mpamatch.experiments.simulation.picture import draw, looks
from mpamatch.experiments.simulation.plan import ALL_LABELS, START, Simulation, plan_cells
from mpamatch.experiments.simulation.results import collect, compared
from mpamatch.experiments.simulation.strategies import NAMES
from mpamatch.experiments.simulation.tables import as_markdown, block
from tests.mpamatch.experiments.simulation.pools import division_at

STRATEGIES = ("random", "foreground-random", "entropy", "mpamatch", "whole-tile-random")
# Of 100 pixels, half of them foreground, so many of the foreground are found after each round.
FOUND = {
    START: [20],
    ALL_LABELS: [20, 40, 45],
    "random": [26, 32],
    "foreground-random": [28, 33],
    "entropy": [24, 44],
    "mpamatch": [32, 36],
    "whole-tile-random": [22, 24],
}


@pytest.fixture(scope="module")
def division(tmp_path_factory: pytest.TempPathFactory) -> Division:
    return division_at(tmp_path_factory.mktemp("tissue") / "drawn")


def dice(found: float) -> float:
    return (100 / (150 - found) + 2 * found / (50 + found)) / 2


def scored(found: int, seed: int) -> dict[str, Any]:
    confusions = [[[50, 0], [50 - found - at, found + at]] for at in (0, seed)]
    return {
        "mdice": dice(found + seed / 2),
        "images": 2,
        "per_image": [{"image": f"i{at}", "confusion": one} for at, one in enumerate(confusions)],
    }


def round_row(number: int, found: int, seed: int, clicks: float) -> dict[str, Any]:
    return {
        "round": number,
        "boxes": 3 * number,
        "images": 2 * number,
        "clicks": clicks,
        "seconds": 9.0 * number + 1.1 * clicks,
        "area_share": 0.01 * number,
        "val": scored(found, seed),
        "pool": scored(found - 4, seed),
        "reduction": 1.0,
    }


def written(division: Division, out: Path, *, without: tuple[str, int] | None = None, seeds: int = 3) -> Simulation:
    simulation = Simulation(
        "phantom", out / "drawn", "quick", STRATEGIES, rounds=2, seeds=seeds, budget_clicks=50.0, labelled=2
    )
    for cell in plan_cells(simulation, division):
        folder = out / cell.place
        folder.mkdir(parents=True)
        if (cell.strategy, cell.seed) == without:
            error = {"kind": "BadInput", "item": str(out / "a.png"), "problem": "unreadable", "remedy": ""}
            (folder / CELL_ERROR).write_text(json.dumps(error))
            continue
        first = cell.round_numbers[0]
        # Whole tiles leave more in the purse.
        each = 40.0 if cell.strategy == "whole-tile-random" else 49.0
        paid = 0.0 if cell.strategy in (START, ALL_LABELS) else each
        rows = [
            round_row(first + at, found, cell.seed, paid * (first + at))
            for at, found in enumerate(FOUND[cell.strategy])
        ]
        one = {"wrong_share": 0.25, "stratum": "score"}
        bought = [] if paid == 0 else [one] * 6
        done = {"strategy": cell.strategy, "seed": cell.seed, "start_clicks": 12.0, "start_area_share": 0.2}
        (folder / CELL_RESULT).write_text(json.dumps({**done, "rounds": rows, "bought": bought}))
    return simulation


def collected(division: Division, out: Path, **more: Any) -> dict[str, Any]:
    simulation = written(division, out, **more)
    return collect(simulation, plan_cells(simulation, division), division, out)


def test_areas_are_means_over_the_range_that_every_cell_reached(division: Division, tmp_path: Path) -> None:
    document = collected(division, tmp_path)
    assert document["protocol"]["common_clicks"] == 80
    for name in STRATEGIES:
        row = document["strategies"][name]
        assert len(row["aubc_clicks"]) == 3
        each = 40.0 if name == "whole-tile-random" else 49.0
        for seed, area in enumerate(row["aubc_clicks"]):
            values = [dice(n + seed / 2) for n in (FOUND[START][0], *FOUND[name])]
            dense = np.linspace(0, 80, 100_001)
            assert area == pytest.approx(np.interp(dense, [0, each, 2 * each], values).mean(), abs=1e-5)
        assert [point["round"] for point in row["curve"]] == [0, 1, 2]
        assert row["curve"][2]["val"]["mean"] == pytest.approx(np.mean(row["mdice"]))
    assert document["strategies"]["mpamatch"]["bought"]["strata"] == {"score": 18}
    assert document["all_labels"]["val"] == [pytest.approx(dice(45 + seed / 2)) for seed in range(3)]


def test_differences_are_paired_by_seed(division: Division, tmp_path: Path) -> None:
    document = collected(division, tmp_path)
    areas = {name: row["aubc_clicks"] for name, row in document["strategies"].items()}
    (row,) = [
        one
        for one in document["differences"]
        if (one["strategy"], one["baseline"], one["set"]) == ("mpamatch", "foreground-random", "val")
    ]
    each = [a - b for a, b in zip(areas["mpamatch"], areas["foreground-random"], strict=True)]
    assert [one["difference"] for one in row["pairs"]] == pytest.approx(each)
    assert row["mean"] == pytest.approx(np.mean(each))
    assert (row["n"], row["up"], row["down"]) == (3, 3, 0)
    assert row["low"] < row["mean"] < row["high"]
    assert row["bootstrap"][0] <= row["mean"] <= row["bootstrap"][1]


def test_clicks_to_the_target_are_read_off_each_seed_s_own_curve(division: Division, tmp_path: Path) -> None:
    document = collected(division, tmp_path)
    reached = document["strategies"]["entropy"]["clicks_to_target"]
    for seed, clicks in enumerate(reached):
        target = 0.95 * dice(45 + seed / 2)
        values = [dice(n + seed / 2) for n in (20, 24, 44)]
        assert np.interp(clicks, [0, 49, 98], values) == pytest.approx(target)
    assert document["strategies"]["whole-tile-random"]["clicks_to_target"] == [None, None, None]


def test_one_sentence_says_how_it_stands(division: Division, tmp_path: Path) -> None:
    document = collected(division, tmp_path / "a")
    areas = {name: np.mean(row["aubc_clicks"]) for name, row in document["strategies"].items()}
    assert document["verdict"].startswith("Over the first 80 clicks and 3 seeds, `mpamatch` has a mean Dice of")
    assert f"`foreground-random` {areas['foreground-random']:.4f}" in document["verdict"]
    assert document["verdict"].endswith("3 up and 0 down, which is a gain.")
    one = collected(division, tmp_path / "b", seeds=1)
    assert one["verdict"].endswith("1 up and 0 down, which one seed cannot judge.")


def test_a_failed_cell_is_said_and_its_strategy_counts_the_others(division: Division, tmp_path: Path) -> None:
    document = collected(division, tmp_path, without=("mpamatch", 1))
    row = document["strategies"]["mpamatch"]
    assert (row["seeds"], row["failed"], len(row["aubc_clicks"])) == ([0, 2], 1, 2)
    assert row["reasons"] == ["OUT/a.png: unreadable"]
    assert str(tmp_path) not in json.dumps(document)
    text = as_markdown(document)
    assert "- mpamatch seed 1: OUT/a.png: unreadable" in text
    assert "| mpamatch | 2, 1 failed |" in text


def test_nothing_that_has_run_is_no_error(division: Division, tmp_path: Path) -> None:
    simulation = Simulation("phantom", tmp_path, "quick", ("random",), rounds=2, seeds=1, budget_clicks=9.0, labelled=1)
    document = collect(simulation, plan_cells(simulation, division), division, tmp_path)
    assert {row["state"] for row in document["cells"]} == {"not run"}
    assert document["verdict"].startswith("Nothing to compare")
    assert "| random | 1 not run |" in block(document)


def test_which_strategies_are_compared() -> None:
    pairs = compared(("random", "mpamatch", "mpamatch-without-noise", "whole-tile-random"))
    assert pairs == [
        ("random", "whole-tile-random"),
        ("mpamatch", "random"),
        ("mpamatch", "whole-tile-random"),
        ("mpamatch-without-noise", "random"),
        ("mpamatch-without-noise", "whole-tile-random"),
        ("mpamatch-without-noise", "mpamatch"),
    ]


def test_it_is_put_into_the_docs_with_its_picture(division: Division, tmp_path: Path) -> None:
    out, docs = tmp_path / "simulate-phantom-quick", tmp_path / "docs"
    document = collected(division, out)
    (out / "results.json").write_text(json.dumps(document))
    draw(document, out / "results.png")
    with Image.open(out / "results.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("RGB").getcolors(2**20) or []) > 50
    docs.mkdir()
    page = docs / "results.md"
    page.write_text("# Results\n\n<!-- simulate-phantom-quick -->\nNot run.\n<!-- end -->\n\nAfter.\n")
    publish(out, docs)
    text = page.read_text()
    assert "Not run." not in text
    assert document["verdict"] in text
    assert text.count("(images/simulate-phantom-quick.png)") == 1
    assert text.endswith("<!-- end -->\n\nAfter.\n")
    publish(out, docs)
    assert page.read_text() == text
    assert json.loads((docs / "results" / "simulate-phantom-quick.json").read_text()) == document
    assert (docs / "images" / "simulate-phantom-quick.png").is_file()


def test_every_strategy_has_a_line_of_its_own() -> None:
    drawn = looks(len(NAMES))
    assert len({(look["color"], look["linestyle"]) for look in drawn}) == len(NAMES)
