"""A PostgreSQL and a Redis that the product did not start: Debian's, on private ports of loopback, with passwords.

The programs of the packages are used in a folder of our own; the cluster and the service that the packages may run are
left alone. Made on the first use of a session, ended with it.
"""

from __future__ import annotations

import itertools
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
from psycopg import sql

from backend.processes import Account, end, record_of, start_tied, tied_command

ROLE = "mpamatch"
START_S = 60.0
_PACKAGES = "apt-get install postgresql redis-server"


@dataclass(frozen=True)
class Programs:
    """Where Debian keeps its servers."""

    postgres: Path
    redis: Path


def find_programs() -> Programs | None:
    """The newest PostgreSQL of Debian's layout and the Redis of the PATH; None where one is absent."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    redis = shutil.which("redis-server")
    return Programs(found[-1].parent, Path(redis)) if found and redis else None


def absent() -> NoReturn:
    """Skip with the reason; in CI a ring that cannot run is a failure."""
    reason = f"no PostgreSQL or no Redis of the system: {_PACKAGES}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class TeamPostgres:
    """PostgreSQL behind a password on a port of loopback, without any socket file."""

    def __init__(self, folder: Path, programs: Path, *, options: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.data = folder / "postgres"
        self.port = free_port()
        self.admin_password, self.password = secrets.token_hex(16), secrets.token_hex(16)
        self._programs = programs
        self._options = options or {}
        self._account = _postgres_account()
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, *, with_role: bool = True) -> None:
        """initdb at the first start; returns when connections are taken and the product's plain role is there."""
        if not self.data.exists():
            self._initialise()
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            **self._options,
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self._child = start_tied(
            [str(self._programs / "postgres"), "-D", str(self.data), *words],
            self.folder / "postgres.log",
            environment=_plain_environment(),
            die_with=signal.SIGINT,
            account=self._account,
        )
        _await(self._ready, self._child, self.folder / "postgres.log")
        if with_role:
            self._make_role()

    def _make_role(self) -> None:
        with self.connect() as connection:
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchone():
                made = sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {}")
                connection.execute(made.format(sql.Identifier(ROLE), sql.Literal(self.password)))

    def stop(self) -> None:
        _stop(self._child, signal.SIGINT)

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """A database that the product's role owns; answers its URL."""
        words = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} STRATEGY {}").format(
            sql.Identifier(name),
            sql.Identifier(ROLE),
            sql.Identifier(template or "template1"),
            sql.Identifier("file_copy" if template else "wal_log"),
        )
        with self.connect() as connection:
            connection.execute(words)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def url(self, database: str = "postgres", *, role: str = ROLE) -> str:
        """SQLAlchemy's URL, for the plain role (or the server's own superuser) with its password."""
        password = self.password if role == ROLE else self.admin_password
        return f"postgresql+psycopg://{role}:{password}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """As the server's own superuser."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            password=self.admin_password,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )

    def _ready(self) -> bool:
        try:
            with self.connect():
                return True
        except psycopg.OperationalError:
            return False

    def _initialise(self) -> None:
        self.data.mkdir(mode=0o700)
        given = self.folder / "password"
        given.write_text(self.admin_password)
        if self._account is not None:
            for path in (self.data, given):
                os.chown(path, self._account.uid, self._account.gid)
        command = [str(self._programs / "initdb"), "-D", str(self.data), "-U", "postgres", "--encoding=UTF8"]
        command += ["--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={given}", "--no-sync"]
        done = subprocess.run(
            tied_command(command, account=self._account),
            capture_output=True,
            text=True,
            env=_plain_environment(),
            cwd=self.folder,
            check=False,
        )
        given.unlink()
        assert done.returncode == 0, done.stderr


class TeamRedis:
    """Redis behind a password on a port of loopback, with 64 databases."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder = folder
        self.data = folder / "redis"
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self._program = program
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.data.mkdir(exist_ok=True)
        configuration = self.folder / "redis.conf"
        configuration.write_text(f"requirepass {self.password}\n")
        configuration.chmod(0o600)
        options = {"bind": "127.0.0.1", "port": str(self.port), "dir": str(self.data), "databases": "64"}
        options |= {"appendonly": "yes", "save": "", "daemonize": "no"}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._child = start_tied(
            [str(self._program), str(configuration), *words],
            self.folder / "redis.log",
            environment=_plain_environment(),
            die_with=signal.SIGTERM,
        )
        _await(self._ready, self._child, self.folder / "redis.log")

    def stop(self) -> None:
        _stop(self._child, signal.SIGTERM)

    @property
    def url(self) -> str:
        """Database 0, in Celery's words."""
        return self.url_of(0)

    @property
    def plain_url(self) -> str:
        """The same: on a port both clients speak alike."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{database}"

    def _ready(self) -> bool:
        import redis

        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@dataclass
class TeamServers:
    """Both, started, in a folder of their own."""

    folder: Path
    postgres: TeamPostgres
    redis: TeamRedis

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)

    @classmethod
    def start(cls, programs: Programs, *, options: dict[str, str] | None = None) -> TeamServers:
        folder = Path(tempfile.mkdtemp(prefix="mpamatch-team-"))
        folder.chmod(0o711)  # the server's own account must pass
        made = cls(folder, TeamPostgres(folder, programs.postgres, options=options), TeamRedis(folder, programs.redis))
        made.postgres.start()
        made.redis.start()
        return made

    def stop(self) -> None:
        self.redis.stop()
        self.postgres.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def take(self) -> tuple[str, str]:
        """A database without tables and a broker without keys, for one whole installation: their URLs."""
        number = next(self._numbers)
        return self.postgres.create_database(f"installation_{number}"), self.redis.url_of(number % 63 + 1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _postgres_account() -> Account | None:
    """PostgreSQL refuses root: then the account that Debian's package makes."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("postgres")
    except KeyError:
        absent()
    return Account(entry.pw_uid, entry.pw_gid)


def _plain_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not re.match(r"PG|MPAMATCH_", name)}
    return {**kept, "LC_ALL": "C.UTF-8"}


def _await(ready: Callable[[], bool], child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        said = log.read_text(errors="replace")[-2000:]
        assert child.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.05)


def _stop(child: subprocess.Popen[bytes] | None, stop_signal: signal.Signals) -> None:
    record = None if child is None else record_of("server", child.pid, stop_signal)
    if record is not None:
        end(record)
    if child is not None:
        child.wait()
