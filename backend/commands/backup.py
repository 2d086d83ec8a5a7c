"""`mpamatch backup`: everything of this installation into one folder or file, while it runs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from backend.actions.back_up import BackupReport, back_up
from backend.clock import utc_now
from backend.commands.opened import JsonOption, opened, progress_bar
from backend.settings import Settings
from backend.store.backup_manifest import LABEL_STUDIO, LabelStudioPart

SECRETS = "it holds the key file, credentials{studio}: whoever can read it can read them; keep it where only you can"


def backup(
    destination: Annotated[
        Path, typer.Argument(metavar="DEST", help="a folder, which keeps many backups; or one file NAME.tar")
    ],
    secrets: Annotated[
        bool, typer.Option(help="the key file and credentials; without them nobody is connected after a restore")
    ] = True,
    label_studio: Annotated[bool, typer.Option(help="our own Label Studio's database and uploads")] = True,
    skip_damaged: Annotated[bool, typer.Option("--skip-damaged", help="go on where a blob is gone or damaged")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a backup that is whole or not there, while labels come in. To a folder, only new blobs are copied."""
    with opened() as here, progress_bar("backing up") as bar:
        report = back_up(
            here.database,
            here.blobs,
            here.settings.state,
            destination.absolute(),
            now=utc_now(),
            secrets=secrets,
            label_studio=label_studio_part(here.settings, wanted=label_studio and secrets),
            skip_damaged=skip_damaged,
            progress=bar,
        )
    if as_json:
        print(json.dumps(as_row(report), indent=2))
    else:
        _say(report)


def label_studio_part(settings: Settings, *, wanted: bool) -> LabelStudioPart:
    """What of Label Studio a backup has. Our own one holds tokens, so it comes along with the secrets only."""
    if (settings.state / LABEL_STUDIO).is_dir():
        return "included" if wanted else "left out"
    return "none" if settings.label_studio_url is None else "external"


def as_row(report: BackupReport) -> dict[str, object]:
    """For machines."""
    manifest = report.manifest
    return {
        "path": str(report.path),
        "product": manifest.product,
        "schema": manifest.schema,
        "made_at": manifest.made_at,
        "tables": {name: rows.rows for name, rows in manifest.tables.items()},
        "projects": [asdict(project) for project in manifest.projects],
        "blobs": manifest.blobs,
        "blob_bytes": manifest.blob_bytes,
        "copied": report.copied,
        "missing": list(manifest.missing),
        "secrets": manifest.secrets,
        "label_studio": manifest.label_studio,
    }


def _say(report: BackupReport) -> None:
    manifest = report.manifest
    rows = sum(one.rows for one in manifest.tables.values())
    print(f"{report.path}: {rows} rows, {manifest.blobs} blobs ({report.copied} new), schema {manifest.schema}")
    for digest in manifest.missing:
        print(f"blob {digest[:12]}: gone or damaged, not in the backup", file=sys.stderr)
    studio = manifest.label_studio
    if studio == "external":
        print("Label Studio is a server of its own: back it up too; after a restore the head is mended by itself")
    if studio == "left out":
        print("Label Studio is left out: after a restore its tasks are made anew, the labels stay")
    if manifest.secrets:
        print(f"KEEP IT SAFE: {SECRETS.format(studio=' and Label Studio' if studio == 'included' else '')}")
    else:
        print("without the key file: after a restore run `mpamatch connect URL --token TOKEN`")
