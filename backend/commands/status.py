"""`mpamatch status`: what runs on the state folder, where it is reached and whether it is well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Table

from backend.credentials import load_credentials
from backend.label_studio_server import answers
from backend.processes import ProcessRecord, is_alive, load_book
from backend.servers import EmbeddedPostgres, EmbeddedRedis
from backend.settings import Endpoints, Settings, load_endpoints, load_settings, shown

_WORKER = "worker-"


def status(
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
    secrets: Annotated[bool, typer.Option(help="show password and token of Label Studio")] = False,
) -> None:
    """Say what runs; exit code 1 when nothing does."""
    settings = load_settings()
    found = collect_status(settings, secrets=secrets)
    if as_json:
        print(json.dumps(found, indent=2))
    elif found["running"]:
        _print_table(found)
    else:
        print(f"nothing runs on {settings.state}; start it with `mpamatch up`")
    if not found["running"]:
        raise typer.Exit(1)


def collect_status(settings: Settings, *, secrets: bool = False) -> dict[str, Any]:
    """Every part that `up` runs, by name; `running` says whether its supervisor lives."""
    book = load_book(settings.state)
    endpoints = load_endpoints(settings.state) or Endpoints()
    alive = {part.role: part for part in (book.parts if book else ()) if is_alive(part)}
    supervisor = book.supervisor if book and is_alive(book.supervisor) else None
    workers = {role.removeprefix(_WORKER): part for role, part in alive.items() if role.startswith(_WORKER)}
    return {
        "running": supervisor is not None,
        "state": str(settings.state),
        "logs": str(settings.state / "logs"),
        "supervisor": _part(supervisor, healthy=supervisor is not None),
        "api": {"url": endpoints.api_url, **_part(alive.get("api"), healthy=_well(endpoints.api_url, "/health"))},
        "label_studio": _label_studio(settings, endpoints, alive.get("label-studio"), secrets=secrets),
        "postgres": _server(settings, endpoints.database_url, alive.get("postgres")),
        "redis": _server(settings, endpoints.broker_url, alive.get("redis")),
        "workers": {name: _part(part, healthy=True) for name, part in sorted(workers.items())},
        "beat": _part(alive.get("beat"), healthy="beat" in alive),
    }


def _part(record: ProcessRecord | None, *, healthy: bool) -> dict[str, Any]:
    return {"pid": record.pid if record else None, "healthy": healthy}


def _label_studio(
    settings: Settings, endpoints: Endpoints, record: ProcessRecord | None, *, secrets: bool
) -> dict[str, Any]:
    url = endpoints.label_studio_url
    found: dict[str, Any] = {
        "url": url,
        "project": endpoints.label_studio_project,
        "project_url": endpoints.project_url,
        **_part(record, healthy=_well(url, "/health/")),
    }
    credentials = load_credentials(settings.state) if url and record else None
    if credentials is not None:
        found["login"] = credentials.label_studio_login
    if secrets:
        token = settings.label_studio_token
        found["password"] = credentials.label_studio_password if credentials else None
        found["token"] = token.get_secret_value() if token else None
    return found


def _server(settings: Settings, url: str | None, record: ProcessRecord | None) -> dict[str, Any]:
    """A server of ours is asked on its socket; one that others run is only named."""
    if record is None:
        return {"url": shown(url) or None, "pid": None, "healthy": False}
    ask = EmbeddedPostgres(settings.state).ready if record.role == "postgres" else EmbeddedRedis(settings.state).ready
    return {"url": shown(url), **_part(record, healthy=ask())}


def _well(url: str | None, path: str) -> bool:
    if url is None:
        return False
    parts = urlsplit(url)
    return answers(parts.hostname or "", parts.port or 80, path)


def _print_table(found: dict[str, Any]) -> None:
    table = Table("part", "well", "pid", "where", box=None, pad_edge=False)
    rows = {name: found[name] for name in ("api", "label_studio", "postgres", "redis", "beat")}
    rows |= {f"worker {name}": part for name, part in found["workers"].items()}
    for name, part in rows.items():
        well = "[green]yes[/]" if part["healthy"] else "[red]no[/]"
        table.add_row(name.replace("_", " "), well, str(part["pid"] or ""), part.get("url") or "")
    console = Console()
    console.print(table)
    if found["label_studio"]["project_url"]:
        console.print(f"project: {found['label_studio']['project_url']}", soft_wrap=True)
    console.print(f"logs: {Path(found['logs'])}", soft_wrap=True)
