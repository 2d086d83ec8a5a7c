"""Who may see the dashboard: a token at the door, then a signed session in a cookie, and a token in every form.

The door opens for the token of the state folder, and for an operator's token of the API that is not limited to one
project. A cookie says when its session began and a random number, under a signature that no stranger can make; that the
session is still open is a row, so that who signed out, or whose token was revoked, stays out whatever is started anew.
Replacing the state folder's token ends every session.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import datetime, timedelta

from backend.store import browsers, tokens
from backend.store.secrets import KeyRing
from backend.store.sessions import Database

# Wrong tokens from one address before it has to wait, and for how long it is remembered.
TRIES = 10
TRIES_FORGOTTEN_AFTER = timedelta(minutes=1)
_REMEMBERED = 10_000


@dataclass(frozen=True)
class Session:
    """One signed-in browser."""

    opened_at: int
    nonce: str
    role: str = "operator"


class Access:
    """Opens, reads and ends sessions. Holds a digest of the token, never the token."""

    def __init__(self, keys: KeyRing, token: str, *, database: Database, hours: float) -> None:
        self._keys = keys
        self._database = database
        self._digest = _digest(token)
        self._life = timedelta(hours=hours)
        self._failures: OrderedDict[str, deque[datetime]] = OrderedDict()
        self._lock = threading.Lock()
        # Browsers share cookies among the ports of a host: two installations must not take each other's.
        self.cookie = f"mpamatch-{keys.key_id}"

    @property
    def seconds(self) -> int:
        """How long a session lasts."""
        return int(self._life.total_seconds())

    def sign_in(self, token: str, *, address: str, now: datetime) -> str | None:
        """The cookie's value for a new session; None for a wrong token. Ask `must_wait` first."""
        given = token.strip()
        of_the_folder = hmac.compare_digest(_digest(given), self._digest)
        with self._database.transaction() as rows:
            row = None if of_the_folder else tokens.authenticate(rows, given, now=now)
            if row is not None and (row.role != "operator" or row.project_id is not None):
                row = None  # the pages show every project, and what may be changed from them is an operator's
            if not of_the_folder and row is None:
                self._failed(address, now)
                return None
            session = Session(int(now.timestamp()), secrets.token_hex(16))
            browsers.begin(rows, session.nonce, token_id=None if row is None else row.id, now=now)
        with self._lock:
            self._failures.pop(address, None)
        return f"{session.opened_at}.{session.nonce}.{self._signature(session)}"

    def _failed(self, address: str, now: datetime) -> None:
        with self._lock:
            self._failures.setdefault(address, deque(maxlen=TRIES)).append(now)
            while len(self._failures) > _REMEMBERED:
                self._failures.popitem(last=False)

    def must_wait(self, address: str, *, now: datetime) -> bool:
        """Whether this address gave too many wrong tokens lately."""
        with self._lock:
            failures = self._failures.get(address)
            return failures is not None and len(failures) == TRIES and now - failures[0] < TRIES_FORGOTTEN_AFTER

    def read(self, cookie: str | None, *, now: datetime) -> Session | None:
        """The session of a cookie's value; None when it is not ours, too old, or signed out."""
        began, _, rest = (cookie or "").partition(".")
        nonce, _, signature = rest.partition(".")
        if not (began.isascii() and began.isdigit() and len(began) < 13):
            return None
        session = Session(int(began), nonce)
        if not hmac.compare_digest(self._signature(session).encode(), signature.encode("utf-8", "replace")):
            return None
        age_s = now.timestamp() - session.opened_at
        if not 0 <= age_s + 1 <= self._life.total_seconds():
            return None
        with self._database.transaction() as rows:
            return session if browsers.is_open(rows, nonce, now=now) else None

    def sign_out(self, session: Session, *, now: datetime) -> None:
        """Refuse this session from now on, also to one who copied its cookie, and after every restart."""
        with self._database.transaction() as rows:
            browsers.end(rows, session.nonce, now=now)

    def form_token(self, session: Session) -> str:
        """What every form of this session carries, and no other site can know."""
        return self._keys.sign(f"dashboard-form:{self._digest.hex()}:{session.opened_at}:{session.nonce}")

    def is_form_token(self, session: Session, given: str) -> bool:
        return hmac.compare_digest(self.form_token(session).encode(), given.encode("utf-8", "replace"))

    def _signature(self, session: Session) -> str:
        return self._keys.sign(f"dashboard-session:{self._digest.hex()}:{session.opened_at}:{session.nonce}")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
