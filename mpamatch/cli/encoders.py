"""`mpamatch encoders`: what a recipe's ``encoder`` may be, and what its weights may be used for."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mpamatch.network.encoders import EncoderRecord


def encoders(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """List the encoders, those of installed packages included, with the licence of their weights and where they are.

    Choose one by `mpamatch train --set encoder=NAME`; its weights come from --weights-dir, unless the list says that
    they are installed or that there are none.
    """
    from rich.console import Console
    from rich.table import Table

    from mpamatch.network.encoders import ENCODERS, added_encoders

    added, problems = added_encoders()
    rows = [_row(record) for record in [*ENCODERS.values(), *added.values()]]
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("name", "patch", "width x depth", "licence", "access", "weights", box=None, pad_edge=False)
    for row in rows:
        shape = f"{row['width']} x {row['depth']}" if row["width"] else ""
        access = "gated" if row["gated"] else "open"
        patch = str(row["patch"] or "")
        table.add_row(row["name"], patch, shape, row["licence"] or "", access, row["weights"])
    # Never cut: a hub id that is not whole leads nowhere.
    Console(width=200).print(table)


def _row(record: EncoderRecord) -> dict[str, Any]:
    weights = record.weights.package.replace("_", "-") if record.weights else record.hub_id or "none: from scratch"
    return {
        "name": record.name,
        "family": record.family,
        "arch": record.arch,
        "patch": record.patch,
        "width": record.dim,
        "depth": record.depth,
        "licence": record.licence_text,
        "licence_verified": record.licence_verified,
        "gated": record.gated,
        "redistributable": record.redistributable,
        "hub_id": record.hub_id,
        "weights": weights,
        "native_px": record.native_px,
        "native_um_per_px": record.native_um_per_px,
    }
