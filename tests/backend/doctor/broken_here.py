"""What is broken on our side on purpose, and mended again: machine, servers, blobs, our own API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import redis
from sqlalchemy import update

from backend.clock import utc_now
from backend.settings import Settings
from backend.signs import BEAT
from backend.store.secrets import KeyRing
from backend.store.tables import Inbox, Project
from migrations.run import upgrade
from tests.backend.doctor.complaints import KEY, Break
from tests.backend.doctor.conftest import Well


@contextmanager
def readable_key(well: Well) -> Iterator[Settings]:
    (well.settings.state / "key").chmod(0o644)
    yield well.settings
    (well.settings.state / "key").chmod(0o600)


@contextmanager
def open_state_folder(well: Well) -> Iterator[Settings]:
    well.settings.state.chmod(0o755)
    yield well.settings
    well.settings.state.chmod(0o700)


@contextmanager
def full_disk(well: Well) -> Iterator[Settings]:
    yield well.changed(disk_low_gb=1e9)


@contextmanager
def no_database(well: Well) -> Iterator[Settings]:
    yield well.changed(database_url=f"postgresql+psycopg://nobody@/nothing?host={well.settings.state}")


@contextmanager
def tables_behind(well: Well) -> Iterator[Settings]:
    url = well.postgres.create_database("doctor_behind")
    upgrade(url, "0001")
    yield well.changed(database_url=url)
    well.postgres.drop_database("doctor_behind")


@contextmanager
def superuser(well: Well) -> Iterator[Settings]:
    yield well.changed(database_url=well.postgres.url("doctor", role="postgres"))


@contextmanager
def no_broker(well: Well) -> Iterator[Settings]:
    yield well.changed(broker_url="redis://127.0.0.1:9/0")


@contextmanager
def forgetful_broker(well: Well) -> Iterator[Settings]:
    with redis.Redis.from_url(well.redis.plain_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        yield well.settings
        client.config_set("maxmemory-policy", "noeviction")


@contextmanager
def dead_workers(well: Well) -> Iterator[Settings]:
    """Nobody has told the broker of itself that would train or wake the sweep."""
    with redis.Redis.from_url(well.redis.plain_url) as client:
        words = {k: client.get(k) for k in client.scan_iter("mpamatch:alive:*")}
        gone = [k for k, word in words.items() if json.loads(word)["name"] in ("train", BEAT)]
        assert len(gone) == 2
        client.delete(*gone)
        yield well.settings
        for k in gone:
            client.set(k, words[k])


@contextmanager
def many_messages(well: Well) -> Iterator[Settings]:
    with redis.Redis.from_url(well.redis.plain_url) as client:
        client.rename("predict", "aside") if client.exists("predict") else None
        client.rpush("predict", *range(600))
        yield well.settings
        client.delete("predict")


@contextmanager
def torn_blob(well: Well) -> Iterator[Settings]:
    path = well.made.blobs.path(well.made.tiles()[-1].png_blob)
    content = path.read_bytes()
    path.write_bytes(content[:-7])
    yield well.settings
    path.write_bytes(content)


@contextmanager
def stuck_inbox(well: Well) -> Iterator[Settings]:
    with well.made.database.transaction() as session:
        long_ago = utc_now() - timedelta(hours=1)
        row = Inbox(project_id=well.made.project_id, dedupe_key="old", action="X", payload={}, received_at=long_ago)
        session.add(row)
    yield well.settings
    with well.made.database.transaction() as session:
        session.delete(session.get_one(Inbox, row.id))


@contextmanager
def no_api(well: Well) -> Iterator[Settings]:
    """Everyone is told of the right address, and nobody listens there: here, the port of another program."""
    wrong = well.changed(public_url=well.studio.url)
    with well.made.database.transaction() as session:
        session.execute(update(Project).values(ls_url=None))
    yield wrong
    with well.made.database.transaction() as session:
        session.execute(update(Project).values(ls_url=well.studio.url))


@contextmanager
def no_public_address(well: Well) -> Iterator[Settings]:
    """Label Studio reaches us by its own address; the one for browsers leads nowhere."""
    yield well.changed(public_url="http://127.0.0.1:9", backend_url=well.settings.public_url)


@contextmanager
def wrong_backend_url(well: Well) -> Iterator[Settings]:
    with well.made.database.transaction() as session:
        session.execute(update(Project).values(ls_url=None))
    yield well.changed(backend_url="http://127.0.0.1:9")
    with well.made.database.transaction() as session:
        session.execute(update(Project).values(ls_url=well.studio.url))


@contextmanager
def another_key(well: Well) -> Iterator[Settings]:
    path = well.settings.state / "key"
    path.rename(path.with_name("kept"))
    KeyRing.at(path)
    yield well.settings
    path.with_name("kept").replace(path)


BROKEN_HERE: list[tuple[Break, set[str], str]] = [
    (readable_key, {"private files"}, "chmod 600"),
    (open_state_folder, {"state folder"}, "chmod go-rw"),
    (full_disk, {"disk"}, "make room"),
    (no_database, {"database"}, "MPAMATCH_DATABASE_URL"),
    (tables_behind, {"tables"}, "mpamatch up"),
    (superuser, {"database role"}, "NOSUPERUSER"),
    (no_broker, {"broker"}, "MPAMATCH_BROKER_URL"),
    (forgetful_broker, {"broker memory"}, "noeviction"),
    (dead_workers, {"workers"}, "mpamatch worker --queues train"),
    (many_messages, {"queues"}, "worker of that queue"),
    (torn_blob, {"blobs"}, "backup"),
    (stuck_inbox, {"inbox"}, "worker `io`"),
    (no_api, {"api", KEY}, "mpamatch serve"),
    (no_public_address, {"public address"}, "MPAMATCH_PUBLIC_URL"),
    (wrong_backend_url, {"api", KEY}, "MPAMATCH_BACKEND_URL"),
    (another_key, {"key"}, "restore the key file"),
]
