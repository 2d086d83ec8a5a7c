import io
import json

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from backend.commands.opened import show
from backend.commands.printed import print_table


def test_a_name_with_brackets_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"image": "case[/b] [red].png"}], ("image",), as_json=False, title="queue")
    assert "case[/b] [red].png" in capsys.readouterr().out


def test_json_is_alone_on_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"image": "a[/b].png"}], ("image",), as_json=True, title="queue")
    assert json.loads(capsys.readouterr().out) == [{"image": "a[/b].png"}]


def test_a_table_that_goes_to_no_terminal_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    row = {f"column {n}": f"{n}" * 60 for n in range(5)}
    show([row], tuple(row), as_json=False, title="queue")
    lines = capsys.readouterr().out.splitlines()
    assert any(all(value in line for value in row.values()) for line in lines)
    assert any(all(name in line for name in row) for line in lines)


def test_on_a_terminal_a_table_keeps_to_its_width() -> None:
    written = io.StringIO()
    table = Table("name", "text")
    table.add_row("a", "word " * 60)
    print_table(table, Console(file=written, force_terminal=True, width=70))
    assert max(len(Text.from_ansi(line)) for line in written.getvalue().splitlines()) <= 70


def test_a_console_has_its_width_back_after_a_table() -> None:
    written = io.StringIO()
    console = Console(file=written, width=80)
    table = Table("text")
    table.add_row("x" * 200)
    print_table(table, console)
    assert "x" * 200 in written.getvalue()
    assert console.width == 80
