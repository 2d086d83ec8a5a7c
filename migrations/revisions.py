"""Which migrations there are, read from their files' text.

Apart from `run.py`, because the API asks for it at every look at its readiness, and Alembic would stay in its memory.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path


@cache
def revisions() -> tuple[str, ...]:
    """Every revision of this version of the product, the newest first.

    Each file names its own revision and the one before it; they make one chain.
    """
    before: dict[str | None, str] = {}
    for path in (Path(__file__).parent / "versions").glob("[0-9]*.py"):
        own, earlier = _names(path.read_text(encoding="utf-8"))
        before[earlier] = own
    chain: list[str] = []
    while (following := before.get(chain[-1] if chain else None)) is not None:
        chain.append(following)
    return tuple(reversed(chain))


def _names(text: str) -> tuple[str, str | None]:
    found = dict(re.findall(r"^(revision|down_revision)(?:\s*:[^=]+)?\s*=\s*(.+?)\s*$", text, re.MULTILINE))
    return ast.literal_eval(found["revision"]), ast.literal_eval(found["down_revision"])
