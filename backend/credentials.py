"""What this installation generates once for the servers it starts itself: Label Studio's login and token.

Kept in `STATE/secrets.json`, readable by its owner alone. Credentials of others are in the database, encrypted.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from backend.settings import write_private
from mpamatch.errors import BadInput

LOGIN = "annotator@example.com"


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


def ensure_credentials(state: Path) -> Credentials:
    """The credentials, made at the first call."""
    known = load_credentials(state)
    if known is not None:
        return known
    made = Credentials(LOGIN, secrets.token_urlsafe(12), secrets.token_hex(20))
    write_private(credentials_path(state), json.dumps(asdict(made), indent=2))
    return made
