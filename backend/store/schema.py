"""Whether the tables are those that this version of the product expects."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from migrations.revisions import revisions
from mpamatch.errors import Unavailable

ITEM = "tables"


def check_schema(session: Session) -> str:
    """The revision of the tables. Raises Unavailable when they are missing, behind, or of a newer version."""
    known = revisions()
    try:
        found = session.scalar(text("SELECT version_num FROM alembic_version"))
    except ProgrammingError:
        found = None
    if found is None:
        raise Unavailable(ITEM, "are not there", "start `mpamatch up`, which makes them")
    if found not in known:
        problem = f"are of a version that this one does not know ({found})"
        raise Unavailable(ITEM, problem, "install the newer mpamatch again, or restore an older backup")
    if found != known[0]:
        problem = f"are {known.index(found)} steps behind ({found}, not {known[0]})"
        raise Unavailable(ITEM, problem, "start `mpamatch up`, which brings them to the newest")
    return str(found)
