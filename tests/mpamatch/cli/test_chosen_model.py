"""Which model a name means."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpamatch.cli import chosen_model
from mpamatch.cli.chosen_model import choose_model
from mpamatch.errors import BadInput, NotFound
from mpamatch.files.model_archive import CONFIG_NAME, TENSORS_NAME
from mpamatch.files.starter import starter_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mine" / "model"
    made.mkdir(parents=True)
    for name in (CONFIG_NAME, TENSORS_NAME):
        (made / name).write_text("{}")
    return made


def sources(monkeypatch: pytest.MonkeyPatch, *entries: Any) -> None:
    monkeypatch.setattr(chosen_model, "entry_points", lambda group: list(entries))


def test_starter_is_the_packages_own_even_beside_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "starter").mkdir()
    monkeypatch.chdir(tmp_path)
    assert choose_model("starter") == starter_folder()


def test_a_folder_may_be_the_model_or_the_run_that_holds_it(folder: Path) -> None:
    assert choose_model(str(folder)) == choose_model(str(folder.parent)) == folder


def test_another_name_is_asked_of_whoever_registers_versions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = SimpleNamespace(name="a", load=lambda: {"demo-m3": folder}.get)
    absent = EntryPoint("b", "no_such_package.models:find", chosen_model.GROUP)
    sources(monkeypatch, absent, known)
    assert choose_model("demo-m3") == folder
    with pytest.raises(NotFound, match="demo-m4: no such model folder, and no version of that name"):
        choose_model("demo-m4")


def test_a_file_is_told_apart_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources(monkeypatch)
    file = tmp_path / "model.safetensors"
    file.write_text("x")
    with pytest.raises(BadInput, match="is a file; give the folder"):
        choose_model(str(file))
