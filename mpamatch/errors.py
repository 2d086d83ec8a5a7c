"""The error family: split by what the reader does next, so that one table can drive every edge.

    MpamatchError(item, problem, remedy)
    ├── BadInput      fix the item; HTTP 422, job: quarantine, command line: 1 (2 for usage)
    ├── NotFound      name something that exists; HTTP 404
    ├── Conflict      someone was first, or the state forbids it; HTTP 409
    ├── Unavailable   try later; HTTP 503, job: retried by the sweep
    │   └── NotWritten    the disk takes no more; a run waits for space
    └── Cancelled     stopped on request; nothing to mend

This module imports nothing of ours: everything may import it.
"""

from __future__ import annotations


class MpamatchError(Exception):
    """One clear line: which item, what is wrong with it, and what to do about it."""

    def __init__(self, item: str, problem: str, remedy: str = "") -> None:
        self.item = item
        self.problem = problem
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        line = f"{self.item}: {self.problem}"
        return f"{line}; {self.remedy}" if self.remedy else line


class BadInput(MpamatchError):
    """The item itself is wrong; the rest of a batch goes on."""


class NotFound(MpamatchError):
    """No such thing under that name."""


class Conflict(MpamatchError):
    """Someone was first, or the present state does not allow the move."""


class Unavailable(MpamatchError):
    """A part that is needed does not answer now; the same call may succeed later."""


class NotWritten(Unavailable):
    """The disk takes no more: what was to be kept is not, and nothing else is wrong."""


class Cancelled(MpamatchError):
    """Stopped on request."""
