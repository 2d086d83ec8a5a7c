"""The adapter runs where nothing else of ours is installed: it may import the standard library and its two hosts."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ADAPTER = ROOT / "backend" / "labelstudio" / "sdk_adapter.py"
HOSTS = {"flask", "label_studio_ml"}


def imported(source: str) -> set[str]:
    """The first names of all that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or ".").partition(".")[0] if not node.level else ".")
    return found


def test_the_adapter_imports_nothing_of_ours() -> None:
    assert imported(ADAPTER.read_text(encoding="utf-8")) - sys.stdlib_module_names == HOSTS


def test_an_import_of_ours_would_be_noticed() -> None:
    assert imported("import json\nfrom backend.clock import utc_now\nfrom . import rle") == {"json", "backend", "."}


def test_its_hosts_are_pinned_apart_from_our_own_environment() -> None:
    text = (ROOT / "requirements" / "label-studio-ml.txt").read_text(encoding="utf-8").lower()
    pins = {line.partition("==")[0] for line in text.splitlines() if line and not line.startswith("#")}
    # redis and rq are imported by 1.0.9, which does not ask for them.
    assert {"label-studio-ml", "flask", "redis", "rq"} <= pins
    assert "torch" not in pins
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert not any("label-studio" in one for group in extras.values() for one in group)
