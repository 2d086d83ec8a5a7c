"""The threat model names tests: each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_ID = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = _ID.findall((ROOT / "docs" / "security.md").read_text(encoding="utf-8"))
    assert len(named) > 25
    missing = []
    for path, name in named:
        file = ROOT / path
        found = set()
        if file.is_file():
            tree = ast.parse(file.read_text(encoding="utf-8"))
            found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        if name not in found:
            missing.append(f"{path}::{name}")
    assert missing == []


def test_every_defence_of_the_table_has_a_test() -> None:
    table = (ROOT / "docs" / "security.md").read_text(encoding="utf-8").split("## What is defended by what")[1]
    rows = [line for line in table.split("\n## ")[0].splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) > 15
    assert [row[:60] for row in rows if not _ID.search(row)] == []
