"""Who may import whom: the contracts of pyproject.toml hold, and each of them fails when it is broken on purpose."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mpamatch", "backend", "workers", "migrations")

# One line that breaks each contract: the contract's name, the module it is added to, the line.
BREAKS = {
    "workers above backend above mpamatch": ("mpamatch/files/folders.py", "import backend.clock"),
    "inside backend": ("backend/store/events.py", "import backend.labelstudio.rle"),
    "inside mpamatch": ("mpamatch/domain/splits.py", "import mpamatch.files.folders"),
    "no torch in the backend, the decisions and the files": ("backend/clock.py", "import timm"),
    "the library knows no database, broker or server": ("mpamatch/domain/draws.py", "import sqlalchemy"),
    "workers see neither the API nor the commands": ("workers/parts.py", "import backend.api.app"),
    "one importer of celery in the backend": ("backend/actions/open_run.py", "import celery"),
    "one importer of HumanSignal's packages": ("backend/actions/oracle.py", "import label_studio_sdk"),
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """`lint-imports` on a tree, reading that tree's packages and no cache."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def copied(folder: Path) -> Path:
    """The packages and their contracts in a folder of their own."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def contract_names() -> set[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {contract["name"] for contract in settings["tool"]["importlinter"]["contracts"]}


def test_every_import_contract_holds() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_import_contract_fails_when_it_is_broken(tmp_path: Path) -> None:
    tree = copied(tmp_path)
    for module, line in BREAKS.values():
        with (tree / module).open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
    done = lint(tree)
    assert done.returncode == 1, done.stdout + done.stderr
    assert {name for name in BREAKS if f"{name} BROKEN" in done.stdout} == set(BREAKS)


def test_no_contract_is_without_a_case_that_breaks_it() -> None:
    assert contract_names() == set(BREAKS)


def test_a_module_without_a_place_among_the_layers_is_noticed(tmp_path: Path) -> None:
    tree = copied(tmp_path)
    for package in ("backend", "mpamatch"):
        (tree / package / "stray.py").write_text('"""A module that no layer names."""\n', encoding="utf-8")
    done = lint(tree)
    assert "inside backend BROKEN" in done.stdout
    assert "inside mpamatch BROKEN" in done.stdout
