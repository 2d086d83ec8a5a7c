"""The allowed moves of runs, models, entries and images, as tables.

Nothing else decides whether a move is allowed; the store refuses what these tables do not list. A move to the
state already held is not a move: the one who asks must know whether it was first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from mpamatch.errors import BadInput, Conflict

Kind = Literal["run", "model", "entry", "image"]
Moves = Mapping[str, frozenset[str]]

# A run whose worker died goes back to the queue; what is done, failed or cancelled stays so.
RUN: Final[Moves] = {
    "queued": frozenset({"training", "cancelled", "failed"}),
    "training": frozenset({"judging", "queued", "failed", "cancelled"}),
    "judging": frozenset({"done", "queued", "failed", "cancelled"}),
    "done": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}

# A retired champion may return (rollback), unless its weights are lost; a rejected model never serves.
MODEL: Final[Moves] = {
    "candidate": frozenset({"champion", "rejected"}),
    "champion": frozenset({"retired"}),
    "retired": frozenset({"champion", "rejected"}),
    "rejected": frozenset(),
}

# A lease that expires or is given back opens the entry again. An open entry may close without a lease of ours:
# someone labelled or skipped its tile through another door. A withdrawn annotation or skip re-opens it.
ENTRY: Final[Moves] = {
    "open": frozenset({"leased", "done", "skipped"}),
    "leased": frozenset({"done", "skipped", "open"}),
    "done": frozenset({"open"}),
    "skipped": frozenset({"open", "done"}),
}

# A quarantined image can be mended; a ready one can vanish or turn out broken later.
IMAGE: Final[Moves] = {
    "registered": frozenset({"ready", "quarantined"}),
    "ready": frozenset({"quarantined"}),
    "quarantined": frozenset({"registered", "ready"}),
}

_TABLES: Final[Mapping[str, Moves]] = {"run": RUN, "model": MODEL, "entry": ENTRY, "image": IMAGE}


def allowed_moves(kind: Kind, before: str) -> frozenset[str]:
    """The states that ``before`` may move to. Raises BadInput for a kind or state that does not exist."""
    table = _TABLES.get(kind)
    if table is None:
        raise BadInput(f"kind {kind!r}", "has no table of moves", f"known kinds: {', '.join(_TABLES)}")
    if before not in table:
        raise BadInput(f"{kind} state {before!r}", "unknown", f"known states: {', '.join(table)}")
    return table[before]


def check_move(kind: Kind, before: str, after: str) -> None:
    """Pass silently when the move is allowed.

    Raises Conflict when it is not (the state may have moved on meanwhile), BadInput for unknown names.

    >>> check_move("run", "queued", "training")
    """
    moves = allowed_moves(kind, before)
    allowed_moves(kind, after)
    if after not in moves:
        possible = ", ".join(sorted(moves)) or "nothing: it is final"
        raise Conflict(kind, f"may not go from {before} to {after}", f"from {before} it may go to: {possible}")
