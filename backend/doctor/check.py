"""One check's outcome: what was looked at, how it stands, what is wrong in one line, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mpamatch.errors import MpamatchError

Result = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True)
class Check:
    """``item`` is a fixed name, after `project KEY: ` where it is about one project."""

    item: str
    result: Result
    says: str
    remedy: str = ""


def ok(item: str, says: str) -> Check:
    return Check(item, "ok", says)


def warn(item: str, says: str, remedy: str) -> Check:
    """It works, but not as it should or not for long."""
    return Check(item, "warn", says, remedy)


def fail(item: str, says: str, remedy: str) -> Check:
    return Check(item, "fail", says, remedy)


def skipped(item: str, why: str) -> Check:
    """Not looked at, since it does not apply or since something before it failed."""
    return Check(item, "skipped", why)


def failed_by(item: str, error: MpamatchError) -> Check:
    """An error of ours as a failed check."""
    return Check(item, "fail", error.problem, error.remedy)
