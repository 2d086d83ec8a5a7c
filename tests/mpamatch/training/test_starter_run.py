"""How the starter is made: what goes in, and that the same plan gives the same run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpamatch.datasets import open_dataset
from mpamatch.errors import BadInput
from mpamatch.files.images import encode_png
from mpamatch.files.rasters import encode_raster
from mpamatch.inference import Predictor
from mpamatch.network.weights import load_model
from mpamatch.training.starter_run import StarterPlan, left_out, prepare, read_plan, train_starter
from tests.mpamatch.tissue import draw, quick_recipe

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def ebhi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set in the layout of EBHI-Seg: ten cases, eight of them on the training list."""
    root = tmp_path_factory.mktemp("ebhi")
    names = []
    for case in range(10):
        name = f"Polyp/image/GT{2012000 + case}-1-400-001.png"
        image, mask = draw(case)
        for kind, content in (("image", encode_png(image)), ("label", encode_raster(mask * 255))):
            path = root / "EBHI-SEG" / name.replace("/image/", f"/{kind}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        names.append(name)
    (root / "splits").mkdir()
    (root / "splits" / "train.txt").write_text("\n".join(names[:8]))
    (root / "splits" / "val.txt").write_text("\n".join(names[8:]))
    return root


def plan(tiles: int = 4) -> StarterPlan:
    recipe = replace(quick_recipe(), method="supervised", steps_cold=3, holdout_share=0.2)
    return StarterPlan("starter-test", 3, recipe, {"tiles": tiles, "groups": 2, "size_px": 64, "seed": 1})


def test_the_training_list_and_drawn_tissue_go_in_and_no_validation_image(ebhi: Path, tmp_path: Path) -> None:
    spec = prepare(tmp_path, ebhi, plan(), threads=1)
    names = [sample.image.name for sample in spec.labelled]
    assert sum(name.startswith("GT") for name in names) == 8
    assert sum(name.startswith("tile-") for name in names) == 4
    held = {item.image.name for item in open_dataset("ebhi", ebhi).items("val")}
    assert not held & set(names)
    assert spec.pool == ()
    assert "CC BY 4.0" in spec.provenance["data"]


def test_cases_that_are_left_out_are_out_whole(ebhi: Path, tmp_path: Path) -> None:
    data = open_dataset("ebhi", ebhi)
    folds = [left_out(data, turn) for turn in range(5)]
    assert sorted(i.name for fold in folds for i in fold) == sorted(i.name for i in data.items("train"))
    turn = next(t for t, fold in enumerate(folds) if fold)
    spec = prepare(tmp_path, ebhi, plan(), threads=1, leave_out=turn)
    assert not {i.image.name for i in folds[turn]} & {s.image.name for s in spec.labelled}


def test_the_same_plan_gives_the_same_weights_and_a_model_that_finds_its_scale(ebhi: Path, tmp_path: Path) -> None:
    models = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        prepare(folder, ebhi, plan(), threads=1)
        models.append(train_starter(folder, clock=lambda: 0.0, stop=lambda: False, tell=lambda event: None))
    assert (models[0] / "model.safetensors").read_bytes() == (models[1] / "model.safetensors").read_bytes()
    loaded = load_model(models[0])
    predictor = Predictor(loaded)
    assert loaded.config.scale.reduction is None
    small, large = (np.zeros((8, side, 3), np.uint8) for side in (300, 900))
    assert [predictor.reduction(image) for image in (small, large)] == [1.0, 2.0]
    assert predictor.reduction(large, um_per_px=0.5) == 2.0


def test_the_shipped_plan_reads_and_a_broken_one_is_named(tmp_path: Path) -> None:
    assert read_plan().recipe.method == "supervised"
    broken = tmp_path / "plan.json"
    broken.write_text(json.dumps({"version": "x", "seed": 1, "drawn": {}}))
    with pytest.raises(BadInput, match="is no plan of a starter"):
        read_plan(broken)
