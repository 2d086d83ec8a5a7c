"""Tables for people. On a terminal they fit its width; into a file or a pipe they go whole."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

# Rich takes 80 columns where there is no terminal, and folds or cuts what is wider.
_WIDEST = 100_000


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table, as wide as its content where nobody's screen limits it."""
    console = console or Console()
    if console.is_terminal:
        console.print(table)
        return
    before = console.width
    whole = Measurement.get(console, console.options.update(width=_WIDEST), table).maximum
    console.width = max(before, whole)
    console.print(table)
    console.width = before
