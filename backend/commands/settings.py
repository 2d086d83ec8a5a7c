"""`mpamatch settings`: every setting with its value, where the value comes from, and what it means."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from backend.commands.printed import print_table
from backend.settings import load_settings, setting_rows


def settings(as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False) -> None:
    """List the settings of this installation; secrets are masked."""
    rows = setting_rows(load_settings())
    if as_json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
        return
    table = Table("name", "value", "source", "help", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row.name, row.value, row.source, row.help)
    print_table(table)
