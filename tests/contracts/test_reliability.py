"""The page on reliability names tests that exist, that are never skipped, and every test that records a fault."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from tests.contracts.reference import RESULTS, ROOT, fault_tests

PAGE = ROOT / "docs" / "reliability.md"
_ID = re.compile(r"(tests/[\w/]+\.py)::(test_\w+)")
COLUMNS = 5
_NEVER = {"skip", "skipif", "xfail"}


def named(text: str) -> set[tuple[str, str]]:
    """The tests that a text names: file and function."""
    return set(_ID.findall(text))


def problem_of(path: str, function: str, root: Path = ROOT) -> str | None:
    """Why a test does not stand for what the page says, or None."""
    file = root / path
    if not file.is_file():
        return f"{path}: no such file"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function]
    if not found:
        return f"{path}: no test {function}"
    marks = {n.attr for d in found[0].decorator_list for n in ast.walk(d) if isinstance(n, ast.Attribute)}
    whole = {
        n.attr for s in tree.body if isinstance(s, ast.Assign) for n in ast.walk(s) if isinstance(n, ast.Attribute)
    }
    skipped = _NEVER & (marks | whole)
    return f"{path}::{function} is marked {', '.join(sorted(skipped))}" if skipped else None


def test_every_test_that_the_page_names_exists_and_is_not_skipped() -> None:
    problems = [problem_of(*one) for one in sorted(named(PAGE.read_text(encoding="utf-8")))]
    assert [p for p in problems if p] == []


def test_every_fault_that_is_tested_is_on_the_page() -> None:
    tests = {test for _, test in fault_tests()}
    assert tests
    assert tests - {f"{path}::{name}" for path, name in named(PAGE.read_text(encoding="utf-8"))} == set()


def rows_of(text: str) -> list[tuple[int, list[str]]]:
    """The table of faults: each line's row and its cells."""
    cells = [re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |")) for line in text.splitlines()]
    return [(int(line[0]), line) for line in cells if len(line) == COLUMNS and line[0].strip().isdigit()]


@pytest.mark.parametrize("row", sorted({*range(1, 20)} - {9}))
def test_every_row_of_faults_has_a_test_that_was_seen(row: int) -> None:
    found = [cells for number, cells in rows_of(PAGE.read_text(encoding="utf-8")) if number == row]
    assert found
    for cells in found:
        assert _ID.search(cells[2]), cells
        assert all(cell.strip() for cell in cells), f"record it: {cells}"
        assert re.fullmatch(r"\d+", cells[4].strip()), cells


def test_an_empty_cell_is_noticed() -> None:
    ((row, cells),) = rows_of("| row | a | b | c | d |\n| --- | --- | --- | --- | --- |\n| 3 |  | `x` | a \\| b | 5 |")
    assert row == 3
    assert cells[1].strip() == ""
    assert cells[3] == "a \\| b"


def test_every_test_of_faults_records_what_it_saw() -> None:
    recording = {test for _, test in fault_tests()}
    there = {
        f"{file.relative_to(ROOT).as_posix()}::{node.name}"
        for file in (ROOT / "tests" / "reliability").glob("test_*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert there
    assert there - recording == set()


def test_nothing_is_recorded_of_a_test_that_is_gone() -> None:
    recorded = json.loads((RESULTS / "reliability.json").read_text(encoding="utf-8"))
    assert {name.partition("[")[0] for name in recorded} - {test for _, test in fault_tests()} == set()


def test_a_test_that_does_not_exist_or_is_skipped_is_noticed(tmp_path: Path) -> None:
    here = "tests/contracts/test_reliability.py"
    assert problem_of("tests/nowhere.py", "test_x") == "tests/nowhere.py: no such file"
    assert problem_of(here, "test_x") == f"{here}: no test test_x"
    (tmp_path / "test_y.py").write_text("@pytest.mark.skipif(True, reason='')\ndef test_y(): ...\n")
    assert problem_of("test_y.py", "test_y", tmp_path) == "test_y.py::test_y is marked skipif"
    (tmp_path / "test_z.py").write_text("pytestmark = pytest.mark.skip\ndef test_z(): ...\n")
    assert problem_of("test_z.py", "test_z", tmp_path) == "test_z.py::test_z is marked skip"
