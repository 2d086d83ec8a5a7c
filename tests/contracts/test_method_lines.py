"""The method's list of tests has fifty numbered lines; each is a test that can be found by its number."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
LINES = range(1, 51)


def _numbers() -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for number in re.findall(r"^@pytest\.mark\.method_line\((\d+)\)", path.read_text("utf-8"), re.MULTILINE):
            found.setdefault(int(number), []).append(path.name)
    return found


def test_every_line_of_the_method_has_a_test() -> None:
    assert [number for number in LINES if number not in _numbers()] == []


def test_no_test_names_a_line_that_is_not_there() -> None:
    assert set(_numbers()) <= set(LINES)
