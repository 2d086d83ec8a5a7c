"""A small experiment for real: two arms, two seeds, on drawn tissue; whole, interrupted, and with a broken cell."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mpamatch.datasets import open_dataset, phantom
from mpamatch.domain.classes import ClassSet
from mpamatch.experiments.catalogue import find_experiment
from mpamatch.experiments.cell import run_cell
from mpamatch.experiments.plans import CELL_PLAN
from mpamatch.experiments.protocol import Protocol, divide, plan_cells
from mpamatch.experiments.publish import placed, publish
from mpamatch.experiments.results import COSTS
from mpamatch.experiments.runner import threads_of
from mpamatch.files.whole_files import write_whole
from mpamatch.inference import Predictor
from mpamatch.network.weights import load_model
from mpamatch.training.evaluation import evaluate

pytestmark = [pytest.mark.torch, pytest.mark.processes]

PROGRAM = "import sys, mpamatch.cli; mpamatch.cli.main(['experiment', *sys.argv[1:]])"
KNOBS = {"steps_cold": 12, "crop_px": 64, "patch_px": 64, "labelled_batch": 2, "unlabelled_batch": 2, "tau": 0.4}
ARMS = ("supervised", "unimatch-ema")


def start(root: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    words = ["ladder", "--dataset", "phantom", "--root", str(root), "--out", str(out), "--profile", "quick"]
    words += ["--encoder", "tiny", "--seeds", "2", "--labelled", "3", "--json"]
    words += [part for arm in ARMS for part in ("--only", arm)]
    words += [part for name, value in KNOBS.items() for part in ("--set", f"{name}={value}")]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words, *more],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = child.communicate(timeout=200)
    return child.returncode, out, err


def without_costs(document: dict[str, Any]) -> dict[str, Any]:
    """The document without what depends on the day."""
    for row in (*document["cells"], *document["arms"], *document["methods"].values()):
        for name in set(COSTS) - {"steps"}:
            row.pop(name, None)
    return document


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tissue") / "drawn"
    phantom.write_folder(folder, tiles=10, groups=5, size_px=80)
    return folder


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An experiment that nothing disturbed, its cells run in this process: its folder and what it printed."""
    out = tmp_path_factory.mktemp("whole") / "ladder-phantom-quick"
    protocol = Protocol(
        "phantom", root, "quick", 2, encoder="tiny", labelled=3, knobs=KNOBS, threads=threads_of(2), keep_models=True
    )
    for cell in plan_cells(find_experiment("ladder", only=ARMS), protocol):
        write_whole(out / cell.place / CELL_PLAN, json.dumps(cell.to_json()).encode())
        run_cell(out / cell.place, clock=time.monotonic, stop=lambda: False)
    code, text, err = end(start(root, out))
    assert code == 0, err
    return out, json.loads(text)


def undone(whole: Path, out: Path, *cells: str) -> None:
    """A copy of the whole experiment in which some cells were never begun."""
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("model", "checkpoint"))
    for cell in cells:
        shutil.rmtree(out / "cells" / cell)


def test_it_says_what_ran_and_what_came_of_it(whole: tuple[Path, dict[str, Any]]) -> None:
    out, document = whole
    assert json.loads((out / "results.json").read_text()) == document
    assert [(c["arm"], c["seed"], c["state"]) for c in document["cells"]] == [
        (arm, seed, "done") for seed in (0, 1) for arm in ARMS
    ]
    for arm, figures in document["methods"].items():
        cells = [c for c in document["cells"] if c["arm"] == arm]
        assert figures["mdice"] == [c["val"]["mdice"] for c in cells]
        assert figures["seconds"] == [c["seconds"] for c in cells]
        assert figures["steps"] == cells[0]["steps"]
        # Of two classes: IoU is Dice / (2 - Dice) of each, so that its mean lies below the mean Dice.
        assert all(iou < dice < 1 for iou, dice in zip(figures["miou"], figures["mdice"], strict=True))
    for cell in document["cells"]:
        assert (cell["steps"], cell["labelled_images"]) == (12, 3)
        assert cell["seconds"] > 0
        assert cell["peak_memory_mib"] > 50
        assert 0 <= cell["val"]["mdice"] <= 1
        assert cell["pool"]["images"] == document["dataset"]["lists"][0]["train"]["images"] - 3
    for seed in (0, 1):
        first, second = (c for c in document["cells"] if c["seed"] == seed)
        assert first["labelled"] == second["labelled"]
        assert first["recipe_sha256"] != second["recipe_sha256"]
    values = {(c["arm"], c["seed"]): c["val"]["mdice"] for c in document["cells"]}
    (row,) = [d for d in document["differences"] if (d["set"], d["score"]) == ("val", "mdice")]
    assert (row["arm"], row["baseline"], row["at_equal"], row["n"]) == ("unimatch-ema", "supervised", "steps", 2)
    wanted = np.mean([values["unimatch-ema", seed] - values["supervised", seed] for seed in (0, 1)])
    assert row["mean"] == pytest.approx(float(wanted))
    assert str(out.parent) not in json.dumps(document)


def test_the_text_and_the_picture_show_every_arm(whole: tuple[Path, dict[str, Any]]) -> None:
    out, document = whole
    text = (out / "results.md").read_text()
    for arm in document["arms"]:
        assert f"| {arm['arm']} | 2 | {arm['val']['mdice']['mean']:.4f} ± " in text
    assert "| unimatch-ema - supervised | val | mean | 2 |" in text
    with Image.open(out / "results.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("RGB").getcolors(2**20) or []) > 10


def test_a_cell_is_scored_on_the_validation_list_by_its_own_model(
    whole: tuple[Path, dict[str, Any]], root: Path
) -> None:
    out, document = whole
    data = open_dataset("phantom", root)
    items = divide(data, None, 0).scored
    model = load_model(out / "cells" / "supervised" / "seed-1" / "model")
    # At reduction 1 the working scale is the masks' own.
    pairs = ((i.name, np.asarray(Image.open(i.image)), data.read_mask(i)) for i in items)
    done = evaluate(Predictor(model), ClassSet.from_names(data.class_names), pairs, tau=KNOBS["tau"]).to_json()
    (cell,) = [c for c in document["cells"] if (c["arm"], c["seed"]) == ("supervised", 1)]
    assert cell["reduction"] == 1
    for name in ("mdice", "foreground_dice", "ece", "confident_share", "confident_accuracy"):
        assert cell["val"][name] == pytest.approx(done[name])


def test_interrupted_and_called_again_it_comes_to_the_same_figures(
    whole: tuple[Path, dict[str, Any]], root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    undone(whole[0], out, "unimatch-ema/seed-0")
    child = start(root, out)
    seen = out / "cells" / "unimatch-ema" / "seed-0" / "progress.jsonl"
    until = time.monotonic() + 100
    while not (seen.is_file() and '"step"' in seen.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    code, text, err = end(child)
    assert code == 75, err
    assert text == ""
    assert "3 of 4 cells are done; the same command goes on from there" in err
    assert not list(out.glob("cells/*/seed-*/error.json"))
    assert len(list(out.glob("cells/*/seed-*/cell.json"))) == 3
    code, text, err = end(start(root, out))
    assert code == 0, err
    assert without_costs(json.loads(text)) == without_costs(whole[1])
    assert not [
        path for name in ("model", "checkpoint", "masks") for path in out.glob(f"cells/unimatch-ema/seed-0/{name}")
    ]


def test_a_cell_with_a_broken_list_of_images_fails_alone(
    whole: tuple[Path, dict[str, Any]], root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    undone(whole[0], out)
    broken = out / "cells" / "unimatch-ema" / "seed-1"
    run = json.loads((broken / "run.json").read_text())
    for row in run["labelled"]:
        row["image"] = str(root / "gone.png")
    (broken / "run.json").write_text(json.dumps(run))
    for name in ("cell.json", "result.json"):
        (broken / name).unlink()
    code, text, err = end(start(root, out))
    assert code == 1
    assert "failed: unimatch-ema seed 1: " in err
    document = json.loads(text)
    states = {(c["arm"], c["seed"]): c["state"] for c in document["cells"]}
    assert [key for key, state in states.items() if state != "done"] == [("unimatch-ema", 1)]
    assert str(tmp_path) not in text
    page = (out / "results.md").read_text()
    assert "| unimatch-ema | 1, 1 failed |" in page
    assert "gone.png" in page.split("Failed or not run:")[1]
    (row,) = [d for d in document["differences"] if (d["set"], d["score"]) == ("val", "mdice")]
    assert (row["n"], row["low"]) == (1, None)


def test_results_are_put_into_the_docs_between_their_marks(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = whole
    page = tmp_path / "results.md"
    page.write_text("# Results\n\n<!-- other -->\nkept\n<!-- end -->\n")
    publish(out, tmp_path)
    first = page.read_text()
    assert first.count("<!-- ladder-phantom-quick -->") == 1
    assert "<!-- other -->\nkept\n<!-- end -->" in first
    assert "| supervised | 2 |" in first
    for path in ("results/ladder-phantom-quick.json", "images/ladder-phantom-quick.png"):
        assert (tmp_path / path).is_file()
    publish(out, tmp_path)
    assert page.read_text() == first
    assert placed(first, "ladder-phantom-quick", "new").count("| supervised | 2 |") == 0


def test_what_cannot_be_run_is_refused_in_one_line(root: Path, tmp_path: Path) -> None:
    code, _, err = end(start(root, tmp_path / "a", "--regime", "plenty"))
    assert (code, err.count("\n")) == (1, 1)
    assert "one of few, sparse, shift, many" in err
