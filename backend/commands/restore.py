"""`mpamatch restore`: a backup into a state folder or database without any rows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from backend.actions.restore_backup import RestoreReport, restore_backup
from backend.commands.opened import JsonOption, progress_bar
from backend.commands.supervisor import end_leftovers, sole_owner
from backend.servers import EmbeddedPostgres
from backend.settings import Settings, load_settings
from backend.store.backup_source import open_source
from backend.store.open_blobs import open_blobs
from mpamatch.errors import Conflict

PATIENCE_S = 20.0


def restore(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="a folder of backups (the newest is taken), one of them, or a tar")
    ],
    label_studio: Annotated[bool, typer.Option(help="our own Label Studio's database and uploads")] = True,
    as_json: JsonOption = False,
) -> None:
    """Restore into an installation that has no rows and does not run: all of it, or nothing."""
    settings = load_settings(running=False)
    opened = open_source(source.absolute())
    try:
        with sole_owner(settings.state), _database(settings) as url, progress_bar("restoring") as bar:
            report = restore_backup(
                url,
                open_blobs(settings),
                settings.state,
                opened,
                label_studio=label_studio,
                progress=lambda stage, done, total: bar(done, total),
            )
    finally:
        opened.close()
    if as_json:
        print(json.dumps(_row(settings, opened.name, report), indent=2))
    else:
        _say(settings, opened.name, report)


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    """The configured database, else the state's own PostgreSQL, running for as long as this takes."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    end_leftovers(settings.state, print)
    server = EmbeddedPostgres(settings.state)
    _await_its_end(server)
    child = server.start()
    try:
        yield server.url()
    finally:
        server.stop(child)


def _await_its_end(server: EmbeddedPostgres) -> None:
    """The server of a restore that was killed stops by itself; give it the time."""
    deadline = time.monotonic() + PATIENCE_S
    while server.running() is not None:
        if time.monotonic() > deadline:
            raise Conflict(str(server.data), "is in use by a server that does not stop", "stop it and repeat")
        time.sleep(0.1)


def _row(settings: Settings, name: str, report: RestoreReport) -> dict[str, object]:
    manifest = report.manifest
    return {
        "source": name,
        "state": str(settings.state),
        "made_at": manifest.made_at,
        "tables": {table: rows.rows for table, rows in manifest.tables.items()},
        "blobs": manifest.blobs,
        "missing": list(manifest.missing),
        "label_studio": report.label_studio,
        "secrets": report.secrets,
        "set_aside": list(report.set_aside),
        "finished": report.finished,
    }


def _say(settings: Settings, name: str, report: RestoreReport) -> None:
    manifest = report.manifest
    rows = sum(one.rows for one in manifest.tables.values())
    word = "the restore that was cut is finished" if report.finished else "restored"
    print(f"{word}: {rows} rows and {manifest.blobs} blobs from {name} (made {manifest.made_at}) into {settings.state}")
    if report.set_aside:
        print(f"set aside in {settings.state / 'before-restore'}: {', '.join(report.set_aside)}")
    if not report.secrets:
        print("the key was left out: run `mpamatch connect URL --token TOKEN` once all runs")
    if manifest.label_studio == "external":
        print("Label Studio has a backup of its own; what differs there is mended by itself once all runs")
    elif not report.label_studio and manifest.label_studio != "none":
        print("Label Studio did not come along: its tasks are made anew at the next start, the labels stay")
    print("start it with `mpamatch up`")
