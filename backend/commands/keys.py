"""`mpamatch keys`: the key file that encrypts credentials and signs links of pictures."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from backend.actions.rotate_keys import rotate_keys
from backend.clock import utc_now
from backend.commands.opened import JsonOption, opened
from backend.store.secrets import KeyRing

app = typer.Typer(help="The key file.", no_args_is_help=True)


@app.command("rotate")
def rotate(
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="end links that the old key signed at once: for a key that leaked")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a new key and seal every credential with it; running processes follow by themselves.

    Signs everybody out of the dashboard. Back up the state folder afterwards: older copies of its key do not fit.
    """
    with opened() as here:
        keys = KeyRing.at(here.settings.state / "key")
        projects = rotate_keys(here.database, keys, drop_old=drop_old, now=utc_now(), actor="operator")
    done = {"key_id": keys.key_id, "projects": projects, "dropped_old": drop_old}
    print(json.dumps(done) if as_json else f"the key is now {keys.key_id}; credentials of {projects} projects resealed")


@app.callback()
def _group() -> None:
    """Keep `rotate` a word of its own even while it is the only command."""
