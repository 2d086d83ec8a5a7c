"""What this installation generates once: Label Studio's login and token, and the operator's token for the dashboard.

Kept in `STATE/secrets.json` and `STATE/dashboard-token`, readable by their owner alone.
Credentials of others are in the database, encrypted.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from backend.settings import write_private
from mpamatch.errors import BadInput

LOGIN = "annotator@example.com"
# A token that somebody wrote into the file must not be guessable either.
MIN_TOKEN_LENGTH = 16


@dataclass(frozen=True)
class Credentials:
    """Login, password and legacy token (40 hexadecimal digits) of the first user of our own Label Studio."""

    label_studio_login: str
    label_studio_password: str = field(repr=False)
    label_studio_token: str = field(repr=False)


def credentials_path(state: Path) -> Path:
    """Where they are kept."""
    return state / "secrets.json"


def load_credentials(state: Path) -> Credentials | None:
    """The credentials, or None when none were made yet. Raises `BadInput` on a file that is not ours."""
    path = credentials_path(state)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Credentials(**{part.name: str(found[part.name]) for part in fields(Credentials)})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(str(path), "cannot be read as this installation's credentials", "restore the file") from None


def dashboard_token_path(state: Path) -> Path:
    """Where the operator's token for the dashboard lies: this file and nothing else, so that it can be printed."""
    return state / "dashboard-token"


def load_dashboard_token(state: Path) -> str | None:
    """The operator's token, or None when none was made yet. Raises `BadInput` on a file that holds none."""
    path = dashboard_token_path(state)
    try:
        token = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        token = ""
    if len(token) < MIN_TOKEN_LENGTH:
        raise BadInput(str(path), "holds no token", "remove it and start again: a new one is made")
    return token


def ensure_dashboard_token(state: Path) -> str:
    """The operator's token, made at the first call; of two first calls at once, one wins."""
    known = load_dashboard_token(state)
    if known is not None:
        return known
    path = dashboard_token_path(state)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    write_private(fresh, secrets.token_urlsafe(24) + "\n")
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    made = load_dashboard_token(state)
    assert made is not None, "the token was removed while it was made"
    return made


def ensure_credentials(state: Path) -> Credentials:
    """The credentials, made at the first call."""
    known = load_credentials(state)
    if known is not None:
        return known
    made = Credentials(LOGIN, secrets.token_urlsafe(12), secrets.token_hex(20))
    write_private(credentials_path(state), json.dumps(asdict(made), indent=2))
    return made
