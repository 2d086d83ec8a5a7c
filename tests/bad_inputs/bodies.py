"""Bodies of webhooks that something is wrong or odd with, as bytes on the wire with the right secret.

``line``: the problem document's detail with which it is refused; None where it is acknowledged.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LS_PROJECT = 56


@dataclass(frozen=True)
class BadBody:
    """One delivery; ``kept``: whether a row comes of it."""

    name: str
    make: Callable[[], bytes]
    status: int
    line: str | None = None
    kept: bool = False


def created(**changes: Any) -> dict[str, Any]:
    """The body of a new annotation, with some keys changed."""
    body: dict[str, Any] = {
        "action": "ANNOTATION_CREATED",
        "project": {"id": LS_PROJECT},
        "task": {"id": 1592},
        "annotation": {"id": 9, "task": 1592, "updated_at": "2026-03-01T10:00:00Z", "result": []},
    }
    return {**body, **changes}


def _sent(**changes: Any) -> Callable[[], bytes]:
    return lambda: json.dumps(created(**changes)).encode()


def _nested(depth: int) -> Callable[[], bytes]:
    return lambda: json.dumps(created()).encode()[:-1] + b', "x": ' + b"[" * depth + b"]" * depth + b"}"


def _with(text: bytes) -> Callable[[], bytes]:
    return lambda: json.dumps(created()).encode()[:-1] + b', "x": ' + text + b"}"


def _annotation(**changes: Any) -> dict[str, Any]:
    return {"id": 9, "task": 1592, "updated_at": "2026-03-01T10:00:00Z", "result": [], **changes}


NO_JSON = "the body is no JSON "
BODIES = (
    BadBody("nothing", lambda: b"", 400, NO_JSON + "(JSONDecodeError)"),
    BadBody("cut short", lambda: _sent()()[:60], 400, NO_JSON + "(JSONDecodeError)"),
    BadBody("no text", lambda: b"\xff\xfe\x00", 400, NO_JSON + "(UnicodeDecodeError)"),
    BadBody("a list", lambda: b"[]", 400, "the body is not a JSON object"),
    BadBody("a number that is none", _with(b"NaN"), 400, NO_JSON + "(ValueError)"),
    BadBody("a number of five thousand digits", _with(b"9" * 5000), 400, NO_JSON + "(ValueError)"),
    BadBody("nested 200 deep", _nested(200), 400, "the body is nested more than 40 deep"),
    BadBody("nested 900 deep", _nested(900), 400, "the body is nested more than 40 deep"),
    BadBody("nested 100000 deep", _nested(100_000), 400, NO_JSON + "(RecursionError)"),
    BadBody("17 MB", _with(b'"' + b"x" * (17 << 20) + b'"'), 413, "at most 16 MB are read"),
    BadBody("no action", _sent(action=None), 422, "is missing or no name"),
    BadBody("an action that is no name", _sent(action="'; DROP TABLE inbox"), 422, "is missing or no name"),
    BadBody("no project", _sent(project=None), 422, "is missing or no positive number"),
    BadBody("another project", _sent(project={"id": 1}), 422, "speaks of project 1"),
    BadBody("a task beyond bigint", _sent(task={"id": 1 << 63}), 422, "is missing or no positive number"),
    BadBody("a task that is a truth", _sent(task={"id": True}), 422, "is missing or no positive number"),
    BadBody("tasks that are texts", _sent(tasks=["1"]), 422, "holds something that is no object"),
    BadBody("a number too large for a float", _with(b"1e999"), 200, kept=True),
    BadBody("a NUL in a text", _with(b'"a\\u0000b"'), 200, kept=True),
    BadBody("half a character", _with(b'"\\ud800"'), 200, kept=True),
    BadBody("a key that is half a character", _with(b'{"\\udfff": 1}'), 200, kept=True),
    BadBody("a time of no kind", _sent(annotation=_annotation(updated_at="x" * 10_000)), 200, kept=True),
    BadBody("a million pixels", _sent(annotation=_annotation(result=[{"rle": [7] * 1_000_000}])), 200, kept=True),
)
