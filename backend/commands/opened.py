"""What every command on a running installation begins with: settings, database, blobs, wake-ups; closed at its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from backend.commands.printed import print_table
from backend.settings import Settings, load_settings
from backend.store.blobs import BlobStore
from backend.store.open_blobs import open_blobs
from backend.store.sessions import Database
from backend.wakeups import Wakeups

ProjectOption = Annotated[str | None, typer.Option(help="key of the project; needed where there are several")]
JsonOption = Annotated[bool, typer.Option("--json", help="for machines")]


@dataclass(frozen=True)
class Opened:
    """An installation, open for one command."""

    settings: Settings
    database: Database
    blobs: BlobStore

    @property
    def wakeups(self) -> Wakeups:
        return Wakeups(self.settings.require_broker_url())


@contextmanager
def opened() -> Iterator[Opened]:
    """Raises Unavailable when nothing runs on the state folder."""
    settings = load_settings()
    database = Database(settings.require_database_url())
    try:
        yield Opened(settings, database, open_blobs(settings))
    finally:
        database.close()


def show(rows: Sequence[dict[str, Any]], columns: Sequence[str], *, as_json: bool, title: str) -> None:
    """A table for people, or the rows as JSON for machines."""
    if as_json:
        print(json.dumps(list(rows), indent=2, default=str))
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(escape(_word(row.get(c))) for c in columns))
    print_table(table)


def _word(value: Any) -> str:
    """A value as people read it: three decimals are enough for a share, and nothing stands for none."""
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return "" if value is None else str(value)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time that remains, on stderr; yields ``(done, total) -> None``."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
