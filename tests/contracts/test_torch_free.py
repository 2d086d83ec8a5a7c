"""What the import contracts cannot see, since they do not look into other people's packages: fresh interpreters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TORCH = ("torch", "torchvision", "timm", "open_clip")
# Every module below these is imported; the programs that run by path import nothing of ours.
TORCH_FREE = ("backend", "migrations", "mpamatch.domain", "mpamatch.files", "mpamatch.datasets", "mpamatch.cli")

IMPORT_ALL = """
import importlib, pkgutil, sys
for name in {packages!r}:
    package = importlib.import_module(name)
    for found in pkgutil.walk_packages(package.__path__, name + "."):
        if found.name not in ("migrations.env", "backend.child", "backend.labelstudio.sdk_adapter"):
            importlib.import_module(found.name)
"""


def fresh(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter that has imported nothing yet."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def loaded_after(statement: str) -> set[str]:
    """Which of torch's kin an interpreter holds after a statement."""
    done = fresh(f"{statement}\nimport json, sys\nprint(json.dumps([n for n in {TORCH!r} if sys.modules.get(n)]))")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    [
        "import backend.api.app",
        "import backend.site",
        "import backend.commands.up",
        "import mpamatch.cli",
        "import workers.celery_app",
        "import workers.commands",
        "import workers.jobs.sync",
        "import workers.jobs.sweep",
        "import workers.jobs.train",
    ],
)
def test_neither_the_api_nor_the_workers_that_do_not_predict_load_torch(statement: str) -> None:
    assert loaded_after(statement) == set()


@pytest.mark.torch
def test_loading_torch_by_a_detour_is_noticed() -> None:
    assert "torch" in loaded_after("import mpamatch.inference")


def test_everything_that_promises_to_need_no_torch_imports_without_it() -> None:
    blocked = f"import sys\nfor name in {TORCH!r}: sys.modules[name] = None\n"
    done = fresh(blocked + IMPORT_ALL.format(packages=TORCH_FREE))
    assert done.returncode == 0, done.stderr


def test_the_command_line_lists_every_command_without_torch() -> None:
    blocked = f"import sys\nfor name in {TORCH!r}: sys.modules[name] = None\n"
    done = fresh(blocked + "from mpamatch.cli import main\nmain(['--help'])")
    assert done.returncode == 0, done.stderr
    assert "not available" not in done.stdout
    for command in ("up", "train", "runs", "worker"):
        assert f" {command} " in done.stdout


@pytest.mark.parametrize("command", ["serve", "train", "predict", "evaluate", "worker", "demo"])
def test_a_command_explains_itself_without_torch(command: str) -> None:
    blocked = f"import sys\nfor name in {TORCH!r}: sys.modules[name] = None\n"
    done = fresh(blocked + "from mpamatch.cli import main\nmain(sys.argv[1:])", command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: mpamatch " + command in " ".join(done.stdout.split())
