"""Who calls `/api/v1`: a bearer token, what its role allows, and which projects it may see.

A project that a token may not see answers as one that does not exist: the difference would tell that it is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.requests import Request

from backend.api.parts import parts_of
from backend.clock import utc_now
from backend.store import projects, tokens
from backend.store.tables import Project
from mpamatch.errors import NotFound

_SCHEME = HTTPBearer(auto_error=False, scheme_name="token", description="made by `mpamatch tokens create`")


@dataclass(frozen=True)
class Caller:
    """The holder of a valid token, as far as this request is concerned."""

    token_id: int
    key_id: str
    name: str
    role: tokens.Role
    project_id: int | None

    @property
    def actor(self) -> str:
        """How the log and leases name it."""
        return f"token:{self.key_id}"

    def sees(self, project: Project) -> bool:
        return self.project_id is None or self.project_id == project.id

    def project(self, session: Session, key: str) -> Project:
        """The project of that key, if this caller may see it. Raises NotFound in one and the same words."""
        project = projects.choose(session, key)
        if not self.sees(project):
            raise NotFound(f"project {key!r}", "does not exist", "see `mpamatch projects list`")
        return project


def _caller(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_SCHEME)]) -> Caller:
    refused = HTTPException(401, "no valid token", headers={"WWW-Authenticate": 'Bearer realm="mpamatch"'})
    if given is None:
        raise refused
    with parts_of(request).database.transaction() as session:
        row = tokens.authenticate(session, given.credentials, now=utc_now())
        if row is None:
            raise refused
        return Caller(row.id, row.key_id, row.name, row.role, row.project_id)  # type: ignore[arg-type]  # a closed set


def _at_least(role: tokens.Role) -> Callable[[Caller], Caller]:
    def allowed(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
        if tokens.ROLES.index(caller.role) < tokens.ROLES.index(role):
            raise HTTPException(403, f"needs the role {role}; this token has the role {caller.role}")
        return caller

    return allowed


Viewer = Annotated[Caller, Depends(_at_least("viewer"))]
Annotator = Annotated[Caller, Depends(_at_least("annotator"))]
Operator = Annotated[Caller, Depends(_at_least("operator"))]
