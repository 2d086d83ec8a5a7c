"""What `mpamatch train --prompts` does with a person's own texts for the classes."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import mpamatch.cli as cli
from mpamatch.training.first_model import texts_of
from mpamatch.training.run_spec import read_run
from tests.mpamatch.datasets.test_datasets import put
from tests.mpamatch.prompt_files import write_prompts
from tests.mpamatch.tissue import QUICK

pytestmark = pytest.mark.torch
KNOBS = [part for name, value in QUICK.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture(autouse=True)
def _commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_entries", lambda: {"train": EntryPoint("train", "mpamatch.cli.train:train", cli.GROUP)})
    monkeypatch.setattr("mpamatch.cli.lifetime.signal.signal", lambda number, handler: None)
    # What is written for the run is looked at; training it is another test's.
    monkeypatch.setattr("mpamatch.cli.train._train_folder", lambda *arguments, **more: None)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        put(tmp_path / "in" / f"{name}.png")
        put(tmp_path / "in" / f"{name}_mask.png", 1)
    return tmp_path / "in"


def _train(capsys: pytest.CaptureFixture, images: Path, out: Path, *arguments: object) -> tuple[int, str]:
    given = ("--images", images, "--classes", "background,gland", "--out", out, *arguments)
    with pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in ("train", *given, *KNOBS)])
    return int(left.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize("prompts", ["P-nonsim", "T-sim"])
def test_a_run_trains_on_a_persons_own_texts_of_the_set_that_its_recipe_names(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture, prompts: str
) -> None:
    mine = write_prompts(tmp_path / "mine.json", "background", "crypt", aliases=("gland",))
    chosen = ("--method", "mpamatch", "--set", f"prompts={prompts}", "--prompts", mine)
    assert _train(capsys, images, tmp_path / "out", *chosen) == (0, "")
    spec = read_run(tmp_path / "out")
    assert spec.classes.names == ("background", "gland")
    assert texts_of(spec) == ((f"my {prompts} background",), (f"my {prompts} crypt",))


def test_without_own_texts_a_run_keeps_none_and_uses_the_shipped_ones(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert _train(capsys, images, tmp_path / "out", "--method", "mpamatch") == (0, "")
    assert [c["prompts"] for c in json.loads((tmp_path / "out" / "run.json").read_text())["classes"]] == [[], []]


@pytest.mark.parametrize(
    ("names", "method", "said"),
    [
        (("background", "glnd"), "mpamatch", "class 'glnd': is unknown; the classes are background, gland"),
        (("gland",), "mpamatch", "class 'background': has no texts"),
        (("background", "gland"), "supervised", "--prompts: given, and a run of supervised with text minilm reads no"),
    ],
)
def test_texts_that_do_not_fit_are_one_line_and_nothing_is_written(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture, names: tuple[str, ...], method: str, said: str
) -> None:
    mine = write_prompts(tmp_path / "mine.json", *names)
    code, err = _train(capsys, images, tmp_path / "out", "--method", method, "--prompts", mine)
    assert (code, err.count("\n")) == (1, 1)
    assert said in err
    assert not (tmp_path / "out").exists()
