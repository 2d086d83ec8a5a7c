"""The examples of docs/queue.md say what the code says."""

from __future__ import annotations

import contextlib
import io
import re

import pytest

from mpamatch.domain.strategies import STRATEGIES
from tests.contracts.reference import ROOT

PAGE = (ROOT / "docs" / "queue.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\s+```text\n(.*?)```", PAGE, re.DOTALL)


def _printed(code: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/queue.md", "exec"), {})
    return printed.getvalue()


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_prints_what_stands_below_it(number: int) -> None:
    code, expected = EXAMPLES[number]
    assert _printed(code) == expected


def test_both_examples_are_found() -> None:
    assert len(EXAMPLES) == 2 == PAGE.count("```python")


def test_every_strategy_has_its_line() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \|", PAGE.split("## Strategies")[1], re.MULTILINE)
    assert sorted(listed) == sorted(STRATEGIES)
