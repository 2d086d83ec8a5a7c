"""What everything rests on: database, broker with the workers behind it, and blobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from backend.doctor.check import Check, fail, failed_by, ok, skipped, warn
from backend.settings import Settings
from backend.signs import BEAT, Broker, look_at_broker
from backend.store.open_blobs import open_blobs
from backend.store.schema import ITEM as TABLES
from backend.store.schema import check_schema
from backend.store.sessions import Database
from backend.store.tables import Inbox, Model, Project, Tile
from mpamatch.errors import BadInput, MpamatchError, NotFound, Unavailable

# Tried: 15 and 18; older ones lack nothing that is known of, and were never tried.
OLDEST_POSTGRES = 15
OLDEST_REDIS = (6, 2)
# Wake-ups end by themselves after 15 minutes; this many waiting means that nobody takes them.
MANY_MESSAGES = 500
INBOX_LATE = timedelta(minutes=5)
SAMPLE_TILES = 5


@dataclass(frozen=True)
class LookedAtDatabase:
    """The checks, and what the next ones need: the open database (None when it is of no use) and its clock's lead."""

    checks: list[Check]
    database: Database | None
    ahead_s: float | None


def check_database(url: str, *, now: Callable[[], datetime]) -> LookedAtDatabase:
    """Reachable, version, role, tables."""
    rest = ("database version", "database role", TABLES)
    remedy = "start `mpamatch up`, or check MPAMATCH_DATABASE_URL and that the server runs"
    try:
        database = Database(url)
        with database.engine.connect() as connection:
            before = now()
            clock = connection.scalar(text("SELECT clock_timestamp()"))
            ahead_s = (clock - before - (now() - before) / 2).total_seconds()
            number = int(connection.scalar(text("SHOW server_version_num")) or 0)
            words = text("SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user")
            role, superuser = connection.execute(words).one()
    except (ArgumentError, DBAPIError) as error:
        said = str(getattr(error, "orig", None) or error).strip().splitlines()
        because = said[0] if isinstance(error, OperationalError) and said else type(error).__name__
        checks = [fail("database", f"cannot be used: {because}", remedy)]
        return LookedAtDatabase([*checks, *(skipped(item, "the database is not reached") for item in rest)], None, None)
    checks = [ok("database", "answers"), judge_postgres(number), _role(role, superuser)]
    try:
        with database.transaction() as session:
            checks.append(ok(TABLES, f"at revision {check_schema(session)}, the newest"))
    except Unavailable as error:
        database.close()
        return LookedAtDatabase([*checks, failed_by(TABLES, error)], None, ahead_s)
    return LookedAtDatabase(checks, database, ahead_s)


def judge_postgres(number: int) -> Check:
    """By the server's version number, as in 180004."""
    item, major = "database version", number // 10_000
    if major < OLDEST_POSTGRES:
        return warn(item, f"PostgreSQL {major} was never tried", f"use PostgreSQL {OLDEST_POSTGRES} or newer")
    return ok(item, f"PostgreSQL {major}")


def _role(role: str, superuser: bool) -> Check:
    item = "database role"
    if superuser:
        remedy = "connect as a role that is NOSUPERUSER and owns the database: see MPAMATCH_DATABASE_URL"
        return fail(item, f"{role} is a superuser: a mistake or an intruder could read the server's files", remedy)
    return ok(item, f"{role} is no superuser")


def check_broker(url: str) -> list[Check]:
    """Reachable, version, memory policy, who serves the queues, what waits in them."""
    try:
        broker = look_at_broker(url)
    except Unavailable as error:
        rest = ("broker version", "broker memory", "workers", "queues")
        return [failed_by("broker", error), *(skipped(item, "the broker is not reached") for item in rest)]
    return [
        ok("broker", "answers"),
        judge_redis(broker.version),
        _memory(broker),
        _workers(broker),
        _queues(broker),
    ]


def judge_redis(version: str) -> Check:
    """By the version that the server tells."""
    item = "broker version"
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST_REDIS:
        wanted = ".".join(map(str, OLDEST_REDIS))
        return warn(item, f"version {version} was never tried", f"use Redis or Valkey {wanted} or newer")
    return ok(item, f"version {version}")


def _memory(broker: Broker) -> Check:
    item = "broker memory"
    if broker.policy != "noeviction":
        problem = f"policy {broker.policy}: when its memory is full, it drops messages without a word"
        return fail(item, problem, "set `maxmemory-policy noeviction` in its configuration")
    limit = f" of {broker.memory_limit_bytes / 1e6:.0f} MB" if broker.memory_limit_bytes else ""
    return ok(item, f"policy noeviction, {broker.memory_bytes / 1e6:.1f} MB{limit} used")


def _workers(broker: Broker) -> Check:
    item, serving = "workers", broker.serving()
    missing = [name for name, count in serving.items() if not count]
    if missing:
        idle = [name for name in missing if name != BEAT]
        parts = [f"nobody serves {', '.join(idle)}"] if idle else []
        parts += ["nobody wakes the sweep"] if BEAT in missing else []
        how = [f"`mpamatch worker --queues {','.join(idle)}`"] if idle else []
        how += ["`mpamatch worker --beat`"] if BEAT in missing else []
        remedy = f"see the logs in the state folder; `mpamatch up` starts all, or start {' and '.join(how)}"
        return fail(item, "; ".join(parts), remedy)
    return ok(item, ", ".join(f"{name} {count}" for name, count in serving.items()))


def _queues(broker: Broker) -> Check:
    item = "queues"
    long = {name: count for name, count in broker.waiting.items() if count > MANY_MESSAGES}
    if long:
        told = ", ".join(f"{count} in {name}" for name, count in long.items())
        return warn(
            item, f"wake-ups pile up: {told}", "look at the worker of that queue: its log says what it waits for"
        )
    return ok(item, ", ".join(f"{name} {count}" for name, count in broker.waiting.items()) + " wake-ups wait")


def check_blobs(settings: Settings, database: Database | None) -> Check:
    """Readable and writable, and some of those that rows name are what their names say: pictures and the champions."""
    item = "blobs"
    if database is None:
        return skipped(item, "the database is not reached")
    blobs = open_blobs(settings)
    with database.transaction() as session:
        tiles = session.scalars(select(Tile.png_blob).order_by(Tile.id.desc()).limit(SAMPLE_TILES)).all()
        models = session.scalars(select(Model.blob).where(Model.state == "champion", Model.blob.is_not(None))).all()
    named: Sequence[str] = [*tiles, *(blob for blob in models if blob)]
    try:
        blobs.check(filled=bool(tiles))
        for digest in named:
            blobs.get(digest)
    except (NotFound, BadInput) as error:
        return fail(item, f"{error.item} {error.problem}", error.remedy)
    except MpamatchError as error:
        return failed_by(item, error)
    except OSError as error:
        remedy = "give this user the permission, or mount the disk again"
        return fail(item, f"cannot be read ({error.strerror})", remedy)
    return ok(item, f"writable; {len(named)} read, and each is what its name says")


def check_inbox(database: Database | None, *, now: datetime) -> Check:
    """Whether webhooks are applied soon after they came."""
    item = "inbox"
    if database is None:
        return skipped(item, "the database is not reached")
    with database.transaction() as session:
        waiting, oldest = session.execute(
            select(func.count(), func.min(Inbox.received_at))
            .join(Project, Project.id == Inbox.project_id)
            .where(Inbox.applied_at.is_(None))
        ).one()
    if oldest is not None and now - oldest > INBOX_LATE:
        minutes = (now - oldest).total_seconds() / 60
        problem = f"{waiting} webhooks wait, the oldest for {minutes:.0f} min"
        return warn(item, problem, "they are kept: look at the worker `io` and at Label Studio")
    return ok(item, f"{waiting} webhooks wait")
