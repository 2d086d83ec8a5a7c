"""Who may speak for a project's Label Studio: basic auth of the backend, or the secret header of our webhook."""

from __future__ import annotations

import base64
import binascii
import hmac

from starlette.exceptions import HTTPException
from starlette.requests import Request

from backend.api_names import SECRET_HEADER, USER
from backend.store.secrets import KeyRing
from backend.store.tables import Project

_REFUSED = HTTPException(401, "not authorised", headers={"WWW-Authenticate": 'Basic realm="mpamatch"'})


def require_basic(request: Request, project: Project, keys: KeyRing) -> None:
    """Raises 401 unless the request carries this project's user and password."""
    if not _basic_matches(request, project, keys):
        raise _REFUSED


def require_webhook(request: Request, project: Project, keys: KeyRing) -> None:
    """Raises 401 unless the request carries the webhook's secret or the backend's basic auth."""
    secret = request.headers.get(SECRET_HEADER)
    if secret is not None and project.ls_webhook_secret is not None:
        if hmac.compare_digest(secret.encode(), keys.open(project.ls_webhook_secret).encode()):
            return
        raise _REFUSED
    require_basic(request, project, keys)


def _basic_matches(request: Request, project: Project, keys: KeyRing) -> bool:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic" or project.ls_auth_password is None:
        return False
    try:
        given = base64.b64decode(value, validate=True)
    except binascii.Error:
        return False
    expected = f"{USER}:{keys.open(project.ls_auth_password)}".encode()
    return hmac.compare_digest(given, expected)
