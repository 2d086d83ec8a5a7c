"""`mpamatch doctor`: look at every link of this installation and say what to do about what is wrong."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backend.clock import utc_now
from backend.commands.opened import JsonOption
from backend.commands.printed import print_table
from backend.doctor.check import Check
from backend.doctor.examine import examine, failed
from backend.settings import load_settings

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="leave out torch and its device, which take seconds")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check machine, servers, workers and both directions to Label Studio; changes nothing. Exit code 1 on a fault."""
    checks = examine(load_settings(), now=utc_now, with_torch=not quick)
    if as_json:
        print(json.dumps({"well": not failed(checks), "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _print(checks)
    if failed(checks):
        raise typer.Exit(1)


def _print(checks: list[Check]) -> None:
    table = Table("", "check", "what was found, and what to do", box=None, pad_edge=False)
    for check in checks:
        remedy = f"\n[bold]->[/] {escape(check.remedy)}" if check.remedy else ""
        colour = _COLOURS[check.result]
        table.add_row(f"[{colour}]{check.result}[/]", escape(check.item), escape(check.says) + remedy)
    console = Console()
    print_table(table, console)
    counts: Counter[str] = Counter(check.result for check in checks)
    console.print(", ".join(f"{counts[word]} {word}" for word in _COLOURS if counts[word]))
