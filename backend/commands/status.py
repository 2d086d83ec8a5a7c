"""`mpamatch status`: what runs on the state folder, where it is reached, whether it is well, and how projects stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backend.clock import utc_now
from backend.commands.printed import print_table
from backend.commands.standing import read_standing
from backend.credentials import load_credentials, load_dashboard_token
from backend.processes import ProcessRecord, is_alive, load_book
from backend.servers import EmbeddedPostgres, EmbeddedRedis
from backend.settings import Endpoints, Settings, load_endpoints, load_settings, shown
from backend.signs import BEAT

LOOK_S = 3.0
_WORKER = "worker-"


def status(
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
    secrets: Annotated[bool, typer.Option(help="show passwords and tokens")] = False,
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
    """Every part that `up` runs, by name, and how the projects stand; `running` says whether anything does."""
    book = load_book(settings.state)
    started = load_endpoints(settings.state)
    # Where the servers are others', nobody supervises here, and the API answers for the whole.
    others = started is None and settings.database_url is not None
    endpoints = started or (_configured(settings) if others else Endpoints())
    alive = {part.role: part for part in (book.parts if book else ()) if is_alive(part)}
    supervisor = book.supervisor if book and is_alive(book.supervisor) else None
    api_well = _well(endpoints.api_url, "/health") or (others and _well(settings.backend_address, "/health"))
    workers = {role.removeprefix(_WORKER): part for role, part in alive.items() if role.startswith(_WORKER)}
    standing = read_standing(settings, now=utc_now())
    serving = (standing["serving"] or {}) if others else {}
    far = {name: {"pid": None, "healthy": count > 0} for name, count in serving.items() if name != BEAT}
    reached = {"postgres": others and standing["projects"] is not None, "redis": others and bool(serving)}
    return {
        "running": supervisor is not None or (others and api_well),
        "state": str(settings.state),
        "logs": str(settings.state / "logs"),
        "supervisor": _part(supervisor, healthy=supervisor is not None),
        "api": {"url": endpoints.api_url, **_part(alive.get("api"), healthy=api_well)},
        "dashboard": _dashboard(settings, endpoints, secrets=secrets),
        "label_studio": _label_studio(settings, endpoints, alive.get("label-studio"), secrets=secrets),
        "postgres": _server(settings, endpoints.database_url, alive.get("postgres"), reached=reached["postgres"]),
        "redis": _server(settings, endpoints.broker_url, alive.get("redis"), reached=reached["redis"]),
        "workers": far | {name: _part(part, healthy=True) for name, part in sorted(workers.items())},
        "beat": _part(alive.get("beat"), healthy="beat" in alive or serving.get(BEAT, 0) > 0),
        **standing,
    }


def _configured(settings: Settings) -> Endpoints:
    """The addresses of servers that others run."""
    return Endpoints(
        database_url=settings.database_url,
        broker_url=settings.broker_url,
        api_url=settings.api_address,
        label_studio_url=settings.label_studio_url,
    )


def _part(record: ProcessRecord | None, *, healthy: bool) -> dict[str, Any]:
    return {"pid": record.pid if record else None, "healthy": healthy}


def _dashboard(settings: Settings, endpoints: Endpoints, *, secrets: bool) -> dict[str, Any]:
    """The API serves it, so it is as well as the API; the token is the operator's."""
    found: dict[str, Any] = {"url": f"{endpoints.api_url.rstrip('/')}/" if endpoints.api_url else None}
    if secrets:
        found["token"] = load_dashboard_token(settings.state)
    return found


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


def _server(settings: Settings, url: str | None, record: ProcessRecord | None, *, reached: bool) -> dict[str, Any]:
    """A server of ours is asked on its socket; one that others run is well when it gave its figures."""
    if record is None:
        return {"url": shown(url) or None, "pid": None, "healthy": reached}
    ask = EmbeddedPostgres(settings.state).ready if record.role == "postgres" else EmbeddedRedis(settings.state).ready
    return {"url": shown(url), **_part(record, healthy=ask())}


def _well(url: str | None, path: str) -> bool:
    """Whether it answers 200, asked directly and never through a proxy."""
    if url is None:
        return False
    try:
        return httpx.get(f"{url.rstrip('/')}{path}", timeout=LOOK_S, trust_env=False).status_code == 200
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def _print_table(found: dict[str, Any]) -> None:
    table = Table("part", "well", "pid", "where", box=None, pad_edge=False)
    rows = {name: found[name] for name in ("api", "label_studio", "postgres", "redis", "beat")}
    rows |= {f"worker {name}": part for name, part in found["workers"].items()}
    for name, part in rows.items():
        well = "[green]yes[/]" if part["healthy"] else "[red]no[/]"
        table.add_row(name.replace("_", " "), well, str(part["pid"] or ""), part.get("url") or "")
    console = Console()
    print_table(table, console)
    if found["dashboard"]["url"]:
        token = found["dashboard"].get("token")
        console.print(f"dashboard: {found['dashboard']['url']}{f'   token {token}' if token else ''}", soft_wrap=True)
    if found["label_studio"]["project_url"]:
        console.print(f"project: {found['label_studio']['project_url']}", soft_wrap=True)
    _print_projects(console, found)
    _print_rest(console, found)
    console.print(f"logs: {Path(found['logs'])}", soft_wrap=True)


def _print_projects(console: Console, found: dict[str, Any]) -> None:
    columns = (
        "project",
        "champion",
        "Dice",
        "annotations",
        "queue",
        "head",
        "due",
        "inbox",
        "set aside",
        "run",
        "in step",
    )
    table = Table(*columns, box=None, pad_edge=False)
    for p in found["projects"] or ():
        aside, run, since = p["set_aside"], p["open_run"], p["label_studio"]["synced_s"]
        table.add_row(
            escape(p["project"]),
            escape(str(p["champion"]).removeprefix(f"{p['project']}-")),
            "" if p["audit_dice"] is None else f"{p['audit_dice']:.3f}",
            str(p["labels"]),
            str(p["queue"]),
            str(p["head"]),
            str(p["predictions_due"]),
            str(p["inbox"]["waiting"]),
            f"{aside['images']} images, {aside['annotations']} annotations" if any(aside.values()) else "",
            "" if run is None else f"{run['run']} {run['state']} {run['step'] or ''}".strip(),
            ("never" if p["label_studio"]["tied"] else "") if since is None else f"{since:.0f} s ago",
        )
    if table.row_count:
        console.print()
        print_table(table, console)
        console.print()


def _print_rest(console: Console, found: dict[str, Any]) -> None:
    if found["serving"] is not None:
        idle = [name for name, count in found["serving"].items() if not count]
        waiting = ", ".join(f"{name} {count}" for name, count in found["wakeups"].items())
        nobody = f"; [red]nobody serves {', '.join(idle)}[/]" if idle else ""
        console.print(f"wake-ups that wait: {waiting}{nobody}")
    disk = found["disk"]
    console.print(f"disk: {disk['free_gb']} GB free{' [red](low)[/]' if disk['low'] else ''}")
