from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch

import mpamatch.cli as cli
from mpamatch.files.images import encode_png
from mpamatch.inference import Predictor
from mpamatch.network.branch import BranchShape
from mpamatch.network.encoders import encoder_record
from mpamatch.network.model import add_branch, build_segmenter
from mpamatch.network.weights import ModelConfig, WorkingScale, load_model, save_model
from tests.mpamatch.tissue import CLASSES, draw, quick_recipe

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_entries", lambda: {"adapt": EntryPoint("adapt", "mpamatch.cli.adapt:adapt", cli.GROUP)})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    module = build_segmenter(encoder_record("tiny"), 2, seed=0, pretrained=False)
    config = ModelConfig(
        "old", CLASSES, encoder_record("tiny"), WorkingScale(1.0), quick_recipe(), 1.5, {"dataset": "a"}, {"mdice": 0.9}
    )
    save_model(tmp_path / "old", module, config)
    return tmp_path / "old"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for n in range(4):
        (tmp_path / "in" / f"{n}.png").write_bytes(encode_png(draw(n)[0]))
    return tmp_path / "in"


def _adapt(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in ("adapt", *arguments, "--threads", 1)])
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out, captured.err


def test_a_new_model_says_where_it_comes_from_and_answers_otherwise(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    code, out, _ = _adapt(capsys, "--model", model, "--images", images, "--out", tmp_path / "new", "--json")
    assert code == 0
    assert json.loads(out) == {
        **{"version": "new", "model": str(tmp_path / "new"), "from": "old"},
        **{"images": 4, "batches": 2, "seed": 0, "rounds": 4},
    }
    old, new = load_model(model), load_model(tmp_path / "new")
    assert new.config.provenance == {
        "dataset": "a",
        "adapted": {"from": "old", "images": 4, "batches": 2, "seed": 0, "rounds": 4},
    }
    assert (new.config.version, new.config.metrics, new.config.temperature) == ("new", {}, 1.5)
    assert np.abs(Predictor(new).predict(draw(0)[0]) - Predictor(old).predict(draw(0)[0])).max() > 1e-3
    _adapt(capsys, "--model", model, "--images", images, "--out", tmp_path / "again")
    states = new.module.state_dict(), load_model(tmp_path / "again").module.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_what_the_texts_learnt_goes_along(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture) -> None:
    """A run that starts from the adapted model would else draw it anew, beside a projection made for the old one."""
    module = build_segmenter(encoder_record("tiny"), 2, seed=0, pretrained=False)
    shape = BranchShape(16, 3, 24)
    add_branch(module, shape, seed=0)
    config = ModelConfig(
        "old", CLASSES, encoder_record("tiny"), WorkingScale(1.0), quick_recipe("mpamatch"), branch=shape.to_json()
    )
    learnt = {"context": torch.arange(24.0).view(1, 1, 24)}
    save_model(tmp_path / "old", module, config, texts=learnt)
    code, _, _ = _adapt(capsys, "--model", tmp_path / "old", "--images", images, "--out", tmp_path / "new")
    assert code == 0
    kept = load_model(tmp_path / "new").texts
    assert kept.keys() == learnt.keys()
    assert torch.equal(kept["context"], learnt["context"])


def test_what_cannot_be_adapted_is_one_clear_line(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "empty").mkdir()
    for folder, out, said in (
        (images, tmp_path / "full", "is not empty; give another --out"),
        (tmp_path / "empty", tmp_path / "new", "holds no image"),
    ):
        code, _, err = _adapt(capsys, "--model", model, "--images", folder, "--out", out)
        assert (code, err.count("\n")) == (1, 1)
        assert said in err
    monkeypatch.setattr("mpamatch.training.statistics.batch_norms", lambda module: [])
    code, _, err = _adapt(capsys, "--model", model, "--images", images, "--out", tmp_path / "new")
    assert (code, err.count("\n")) == (1, 1)
    assert "model old: its encoder (tiny) has no batch norm" in err
    assert not (tmp_path / "new").exists()


def test_an_unreadable_image_is_named_and_the_others_are_taken(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (images / "torn.png").write_bytes(encode_png(draw(9)[0])[:200])
    code, out, err = _adapt(capsys, "--model", model, "--images", images, "--out", tmp_path / "new", "--json")
    assert code == 1
    assert json.loads(out)["images"] == 4
    assert err.count("torn.png") == 1
