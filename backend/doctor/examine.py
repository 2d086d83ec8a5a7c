"""All checks in the order of their needs: one that failed spares those behind it, so that one fault is named once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from hmac import compare_digest
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select

from backend.api_names import ML_PATH
from backend.doctor import machine, stores
from backend.doctor.check import Check, fail, ok, skipped, warn
from backend.doctor.label_studio import Tie, check_server, check_tie
from backend.processes import is_alive, load_book
from backend.settings import Settings, load_endpoints
from backend.store import projects
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Annotation, Inbox, Project, Task
from mpamatch.errors import Unavailable

# Leases, signed links and the order of events go by clocks; a second's difference is the network.
CLOCKS_APART_S = 5.0
LOOK_S = 10.0


def examine(settings: Settings, *, now: Callable[[], datetime], with_torch: bool = True) -> list[Check]:
    """Every check. Nothing is written, here or in Label Studio. ``with_torch``: also what takes seconds to load."""
    endpoints = load_endpoints(settings.state)
    embedded = endpoints is not None or settings.database_url is None
    own = runs_label_studio(settings.state) or settings.label_studio_url is None
    found = [
        *machine.check_state(settings.state),
        machine.check_disk(settings),
        machine.check_account(embedded=embedded),
        machine.check_label_studio_program(settings, own=own),
    ]
    if with_torch:
        found += machine.check_torch(settings)
    if settings.database_url is None and settings.broker_url is None:
        if not settings.state.is_dir():
            return [*found, machine.check_ports(settings), skipped("servers", "see state folder")]
        problem = f"nothing runs on {settings.state}"
        nothing = fail("servers", problem, "start `mpamatch up`, or set MPAMATCH_DATABASE_URL and MPAMATCH_BROKER_URL")
        return [*found, machine.check_ports(settings), nothing]
    return [*found, *_running(settings, now)]


def runs_label_studio(state: Path) -> bool:
    """Whether `mpamatch up` runs a Label Studio of its own on this state now."""
    book = load_book(state)
    return book is not None and any(part.role == "label-studio" and is_alive(part) for part in book.parts)


def _running(settings: Settings, now: Callable[[], datetime]) -> list[Check]:
    looked = stores.check_database(settings.database_url or "", now=now)
    found = [*looked.checks, *stores.check_broker(settings.broker_url or "")]
    database, clocks = looked.database, {"the database": looked.ahead_s}
    try:
        blobs = stores.check_blobs(settings, database)
        found += [blobs, stores.check_inbox(database, now=now())]
        api = check_api(settings, stores_well=database is not None and blobs.result == "ok")
        found += [api, *check_public(settings)]
        if database is None:
            found.append(skipped("label studio", "which one is used stands in the database"))
        else:
            found += _label_studio(settings, database, clocks, now, api_well=api.result != "fail")
    finally:
        if database is not None:
            database.close()
    return [*found, check_clocks(clocks)]


def check_api(settings: Settings, *, stores_well: bool) -> Check:
    """Whether our own API answers where Label Studio is told to reach it, and can work."""
    item, address = "api", settings.backend_address
    named = "MPAMATCH_BACKEND_URL" if settings.backend_url else "MPAMATCH_PUBLIC_URL or MPAMATCH_BACKEND_URL"
    remedy = f"start `mpamatch up` or `mpamatch serve`; if it runs elsewhere, set {named}"
    status, said, problem = _ask(address)
    if problem:
        return fail(item, problem, remedy)
    if status == 200:
        return ok(item, f"{address} answers and is ready")
    if not stores_well:
        return skipped(item, f"{address} answers, and is not ready either")
    problem = f"{address} answers, but is not ready: {said.get('item', '')} {said.get('detail', status)}"
    return fail(item, problem, said.get("remedy") or "see its log; it may use another database or blob folder")


def check_public(settings: Settings) -> list[Check]:
    """Where browsers have an address of their own, whether we answer there too. From here that may not be seen."""
    if settings.api_address == settings.backend_address:
        return []
    _, _, problem = _ask(settings.api_address)
    if problem:
        remedy = "correct MPAMATCH_PUBLIC_URL; if this machine just does not reach it, open it in a browser elsewhere"
        return [warn("public address", problem, remedy)]
    return [ok("public address", f"{settings.api_address} answers")]


def _ask(address: str) -> tuple[int, dict[str, Any], str]:
    """Status and answer of our API at an address, or in one line why it is none."""
    try:
        answer = httpx.get(f"{address}/health/ready", timeout=LOOK_S, trust_env=False)
        said = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return 0, {}, f"no answer from {address} ({type(error).__name__})"
    except ValueError:
        said = None
    # Label Studio, for one, answers 200 at many an address.
    if not isinstance(said, dict) or (said.get("status") != "READY" and "detail" not in said):
        return 0, {}, f"something else than our API answers at {address}"
    return answer.status_code, said, ""


def check_clocks(ahead_s: dict[str, float | None]) -> Check:
    """Whether the other machines' clocks agree with ours."""
    item = "clock"
    known = {name: seconds for name, seconds in ahead_s.items() if seconds is not None}
    if not known:
        return skipped(item, "no other clock was reached")
    apart = {name: seconds for name, seconds in known.items() if abs(seconds) > CLOCKS_APART_S}
    if apart:
        told = ", ".join(
            f"{name} is {abs(s):.0f} s {'ahead of' if s > 0 else 'behind'} us" for name, s in apart.items()
        )
        return fail(item, told, "set the clocks of all machines by NTP; leases and signed links go by them")
    return ok(item, f"agrees with {' and '.join(known)}")


def _label_studio(
    settings: Settings,
    database: Database,
    clocks: dict[str, float | None],
    now: Callable[[], datetime],
    *,
    api_well: bool,
) -> list[Check]:
    found: list[Check] = []
    key_file = settings.state / "key"
    with database.transaction() as session:
        rows = projects.all_of(session)
        tied = [row for row in rows if row.ls_url and row.ls_project_id is not None and row.ls_token is not None]
    for row in rows:
        if row not in tied:
            found.append(warn(f"project {row.key}", "is not tied to a Label Studio", "`mpamatch connect`"))
    ties: list[Tie] = []
    if tied:
        if not key_file.exists():
            problem = f"{key_file} is missing, and with it the stored credentials"
            return [*found, fail("key", problem, "restore it from a backup, or run `mpamatch connect` anew")]
        try:
            keys = KeyRing.at(key_file)
            ties = [_tie(settings, database, keys, row) for row in tied]
        except (ValueError, Unavailable):
            problem = f"{key_file} does not open the stored credentials"
            return [*found, fail("key", problem, "restore the key file, or run `mpamatch connect` anew")]
        found.append(ok("key", "opens the stored credentials"))
    return [*found, *_servers(settings, ties, clocks, now, api_well=api_well)]


def _servers(
    settings: Settings,
    ties: list[Tie],
    clocks: dict[str, float | None],
    now: Callable[[], datetime],
    *,
    api_well: bool,
) -> list[Check]:
    """Each Label Studio that is in use, then the projects on it."""
    tokens: dict[str, dict[str, str]] = {}
    if settings.label_studio_url and settings.label_studio_token:
        tokens[settings.label_studio_url] = {"label studio token": settings.label_studio_token.get_secret_value()}
    for tie in ties:
        known = tokens.setdefault(tie.url, {})
        if tie.token not in known.values():
            known[f"project {tie.key}: token"] = tie.token
    if not tokens:
        return [skipped("label studio", "none is in use")]
    own = runs_label_studio(settings.state)
    found: list[Check] = []
    for url, given in tokens.items():
        name = "label studio" if len(tokens) == 1 else f"label studio {url}"
        looked = check_server(url, given, name=name, now=now)
        found += looked.checks
        clocks[name] = looked.ahead_s
        broken = {check.item for check in looked.checks if check.result == "fail"}
        for tie in (tie for tie in ties if tie.url == url):
            needed = {name} | {
                item for item, token in given.items() if compare_digest(token.encode(), tie.token.encode())
            }
            if broken & needed:
                found.append(skipped(f"project {tie.key}", f"see {', '.join(sorted(broken & needed))}"))
            else:
                found += check_tie(tie, ours=own and url == settings.label_studio_url, api_well=api_well)
    return found


def _tie(settings: Settings, database: Database, keys: KeyRing, row: Project) -> Tie:
    """Raises Unavailable when the key file is another one."""
    assert row.ls_url is not None
    assert row.ls_project_id is not None
    assert row.ls_token is not None
    with database.transaction() as session:
        champion = projects.champion(session, row).version

        def count(table: type[Task] | type[Annotation] | type[Inbox], *where: object) -> int:
            return session.scalar(select(func.count()).where(table.project_id == row.id, *where)) or 0  # type: ignore[arg-type]

        return Tie(
            key=row.key,
            url=row.ls_url,
            ls_project_id=row.ls_project_id,
            token=keys.open(row.ls_token),
            secret=None if row.ls_webhook_secret is None else keys.open(row.ls_webhook_secret),
            address=f"{settings.backend_address}{ML_PATH}/{row.key}",
            classes=projects.classes_of(row),
            label_type=row.label_type,
            shown_version=row.ls_model_version,
            champion=champion,
            live_tasks=count(Task, Task.state == "live"),
            annotations=count(Annotation),
            deliveries=count(Inbox),
            adopted=row.ls_controls is not None,
        )


def failed(checks: list[Check]) -> bool:
    """Whether anything does not work."""
    return any(check.result == "fail" for check in checks)
