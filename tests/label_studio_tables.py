"""Label Studio's tables, made once: an empty SQLite that is copied wherever a test starts one of its own.

Its migrations take most of a first start, half a minute and more of one core, and every stack of tests would pay that.
One stack does without (`first_of_all`), so that a first start is seen as well.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

ENVIRONMENT = Path(__file__).resolve().parents[1] / ".venv-label-studio"
PROGRAM = ENVIRONMENT / "bin" / "label-studio"
_TABLES = ENVIRONMENT / "tables-for-tests.sqlite3"
_MIGRATE = """
import os, sys
import label_studio
sys.path.insert(0, os.path.dirname(label_studio.__file__))
os.environ["DJANGO_SETTINGS_MODULE"] = "core.settings.label_studio"
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "migrate", "--verbosity", "0"])
"""
_MIGRATE_S = 600


def lay_tables(database: Path) -> None:
    """Put a database with all tables and no row of ours at ``database``, unless there is one or no Label Studio."""
    if database.exists() or not PROGRAM.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copyfile(_tables(), database)


def _tables() -> Path:
    """The file to copy, made by the first who asks; both passes of the tests ask at about the same time."""
    with open(ENVIRONMENT / "tables-for-tests.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _TABLES.exists() or _TABLES.stat().st_mtime < PROGRAM.stat().st_mtime:
            with tempfile.TemporaryDirectory() as folder:
                _migrate(Path(folder))
                made = _TABLES.with_suffix(f".{os.getpid()}")
                shutil.copyfile(Path(folder) / "tables.sqlite3", made)
                os.replace(made, _TABLES)
    return _TABLES


def _migrate(folder: Path) -> None:
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_DJANGO_DB": "sqlite",
        "LABEL_STUDIO_DATABASE_NAME": str(folder / "tables.sqlite3"),
        "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
        "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
        "LABEL_STUDIO_SENTRY_DSN": "",
        "LABEL_STUDIO_FRONTEND_SENTRY_DSN": "",
    }
    done = subprocess.run(
        [ENVIRONMENT / "bin" / "python", "-c", _MIGRATE],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_MIGRATE_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"Label Studio's migrations failed:\n{done.stderr[-3000:]}")
