"""`mpamatch tokens`: who may use the REST API, as what, and until when."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated, Any

import typer

from backend.clock import utc_now
from backend.commands.opened import JsonOption, opened, show
from backend.store import projects, tokens
from backend.store.tables import Project, Token

app = typer.Typer(help="Tokens of the REST API.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="for whom or what it is made")],
    role: Annotated[
        tokens.Role, typer.Option(help="viewer: look; annotator: also the queue; operator: also runs and models")
    ],
    project: Annotated[
        str | None, typer.Option(help="key of the only project that it may see; unset: every project")
    ] = None,
    days: Annotated[float | None, typer.Option(min=0.001, help="how long it is valid; unset: until revoked")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and show it, this once: only a digest of it is kept."""
    now = utc_now()
    with opened() as here, here.database.transaction() as session:
        row = None if project is None else projects.choose(session, project)
        made = tokens.create(
            session,
            name=name,
            role=role,
            project_id=None if row is None else row.id,
            expires_at=None if days is None else now + timedelta(days=days),
            now=now,
            actor="operator",
        )
        found = {**_brief(made.row, {} if row is None else {row.id: row.key}), "token": made.token}
    if as_json:
        print(json.dumps(found, default=str))
        return
    print(made.token)
    typer.echo("It is shown this once. Send it as `Authorization: Bearer ...`.", err=True)


@app.command("list")
def list_tokens(as_json: JsonOption = False) -> None:
    """Every token that was made: for whom, as what, last used when. Not the tokens themselves: nobody has them."""
    with opened() as here, here.database.transaction() as session:
        keys = {p.id: p.key for p in session.query(Project)}
        rows = [_brief(row, keys) for row in tokens.all_of(session)]
    columns = ("key_id", "name", "role", "project", "state", "expires_at", "last_used_at")
    show(rows, columns, as_json=as_json, title="tokens")


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="the id that `tokens list` shows; it follows `mpa_` in the token")],
    as_json: JsonOption = False,
) -> None:
    """End a token now: the next request with it is refused, and sessions that it opened are over."""
    with opened() as here, here.database.transaction() as session:
        row = tokens.revoke(session, key_id, now=utc_now(), actor="operator")
    print(json.dumps({"key_id": row.key_id, "state": "revoked"}) if as_json else f"revoked: {row.key_id} ({row.name})")


def _brief(row: Token, keys: dict[int, str]) -> dict[str, Any]:
    usable = tokens.usable(row, now=utc_now())
    return {
        "key_id": row.key_id,
        "name": row.name,
        "role": row.role,
        "project": None if row.project_id is None else keys.get(row.project_id),
        "state": "usable" if usable else "revoked" if row.revoked_at is not None else "expired",
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "last_used_at": row.last_used_at,
        "revoked_at": row.revoked_at,
    }
