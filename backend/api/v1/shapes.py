"""What the routes have in common: ids and texts that the database can hold, filters, and pages with a cursor.

A filter is a named parameter with a closed set of values or one text that is compared for equality; a parameter that
is not listed is refused. Nothing of a request ever names a column.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.orm import InstrumentedAttribute, Session

from mpamatch.errors import BadInput

Item = TypeVar("Item")

MAX_ID = 2**63 - 1
Id = Annotated[int, Field(ge=1, le=MAX_ID)]
PathId = Annotated[int, Path(ge=1, le=MAX_ID)]
ProjectKey = Annotated[str, Path(pattern=r"^[a-z0-9-]{1,60}$", description="key of the project")]
# No control character: PostgreSQL takes no NUL, and a reason is one line for people.
_LINE = r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$"
Line = Annotated[str, StringConstraints(pattern=_LINE, max_length=500)]


class Shape(BaseModel):
    """A value of this API."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


class Body(Shape):
    """What a write carries: values as they are, none made of another kind of value."""

    model_config = ConfigDict(strict=True)


class Page(Shape, Generic[Item]):
    """Some items, and where the next ones begin; without ``next_cursor`` these are the last."""

    items: list[Item]
    next_cursor: str | None = None


class Paging(Shape):
    """How much of a list, and from where."""

    limit: int = Field(100, ge=1, le=500, description="items of one page")
    cursor: str | None = Field(None, max_length=100, description="next_cursor of the page before")

    def after(self, kind: str, parts: int = 1) -> tuple[int, ...] | None:
        """Where the cursor says that this page begins. Raises BadInput for one that is not of such a list."""
        return None if self.cursor is None else read_cursor(self.cursor, kind, parts)


def cursor_of(kind: str, *numbers: int) -> str:
    """Opaque to callers; it holds places only, and what may be seen there is asked anew each time."""
    return base64.urlsafe_b64encode(".".join([kind, *map(str, numbers)]).encode()).decode().rstrip("=")


def read_cursor(cursor: str, kind: str, parts: int) -> tuple[int, ...]:
    """Raises BadInput."""
    try:
        found = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeError, ValueError):
        found = ""
    name, *numbers = found.split(".")
    fine = name == kind and len(numbers) == parts and all(n.isdigit() and len(n) < 19 for n in numbers)
    if not fine:
        raise BadInput("cursor", "is not one of this list", "send the next_cursor of the page before, or none")
    return tuple(int(n) for n in numbers)


def page_by_id(
    session: Session, query: Any, column: InstrumentedAttribute[int], paging: Paging, kind: str
) -> tuple[Sequence[Any], str | None]:
    """One page of a query in the order of an id, and the cursor of the next one."""
    after = paging.after(kind)
    if after is not None:
        query = query.where(column > after[0])
    rows = session.execute(query.order_by(column).limit(paging.limit + 1)).all()
    more = len(rows) > paging.limit
    rows = rows[: paging.limit]
    return rows, cursor_of(kind, getattr(rows[-1][0], column.key)) if more else None
