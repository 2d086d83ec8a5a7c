"""Webhook bodies as received: parsed, keyed so that the same event counts once, and stripped of what must not be kept.

A body is a hint, never a record: it only says where to look. Label Studio sends no signature, delivery id or time.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from mpamatch.errors import BadInput

MAX_NUMBERS = 64
MAX_TEXT = 4000
MAX_BODY_BYTES: Final = 16 << 20
MAX_DEPTH: Final = 40
START_TRAINING: Final = "START_TRAINING"

_ACTION: Final = re.compile(r"[A-Z][A-Z_]{0,63}")
_SECRET_KEYS: Final = frozenset(
    {"token", "access_token", "refresh_token", "task_data_login", "task_data_password", "password", "login"}
    | {"basic_auth_user", "basic_auth_pass", "authorization", "email", "created_username"}
)


@dataclass(frozen=True)
class WebhookEvent:
    """Which rows of Label Studio an event is about. ``dedupe_key`` is equal for deliveries of the same event.

    ``updated_at``: as sent, the newest of the objects; None where objects carry none (deletions).
    """

    action: str
    project_id: int
    task_ids: tuple[int, ...]
    annotation_ids: tuple[int, ...]
    updated_at: str | None
    dedupe_key: str


def load_json(body: bytes, *, max_bytes: int = MAX_BODY_BYTES) -> Any:
    """A JSON body within limits of size and depth. Raises BadInput for anything that is not plain JSON (NaN too)."""
    if len(body) > max_bytes:
        raise BadInput("body", f"has {len(body)} bytes", f"send at most {max_bytes}")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadInput("body", f"is no JSON ({type(error).__name__})", "send UTF-8 JSON") from error
    _check_depth(value)
    return value


def parse_webhook(body: bytes | Mapping[str, Any], *, delivery: str = "") -> WebhookEvent:
    """What a webhook body is about.

    ``delivery`` tells two equal requests to train apart (their bodies are equal when nothing changed in between): give
    the time of receipt. Raises BadInput when action, project or an id is missing or no number.
    """
    value = load_json(body) if isinstance(body, bytes) else body
    if not isinstance(value, Mapping):
        raise BadInput("body", "is no JSON object", "send the webhook's body as Label Studio does")
    action = value.get("action")
    if not isinstance(action, str) or not _ACTION.fullmatch(action):
        raise BadInput("action", "is missing or no name", "send the webhook's body as Label Studio does")
    project = value.get("project")
    project_id = _id(project.get("id") if isinstance(project, Mapping) else project, "project.id")
    tasks = list(_objects(value, "task"))
    annotations = list(_objects(value, "annotation"))
    task_ids = [_id(t.get("id"), "task.id") for t in tasks]
    task_ids += [_id(a["task"], "annotation.task") for a in annotations if a.get("task") is not None]
    annotation_ids = tuple(sorted({_id(a.get("id"), "annotation.id") for a in annotations}))
    about = annotations or tasks or ([project] if isinstance(project, Mapping) and action == "PROJECT_UPDATED" else [])
    updated_at = max((u for o in about if isinstance(u := o.get("updated_at"), str)), default=None)
    ids = ",".join(map(str, annotation_ids or sorted(set(task_ids)) or [project_id]))
    if action == START_TRAINING:
        key = f"{action}:{project_id}:{_digest({'body': value, 'delivery': delivery})}"
    elif updated_at is not None and len(ids) + len(updated_at) <= 200:
        key = f"{action}:{ids}:{updated_at}"
    else:
        key = f"{action}:{_digest(value)}"
    return WebhookEvent(action, project_id, tuple(sorted(set(task_ids))), annotation_ids, updated_at, key)


def redact(body: Any) -> Any:
    """A copy that may be kept: secrets and names of people are None, text is storable (no NUL, no lone surrogates).

    Pixels are left out: a long list of numbers or text is replaced by its length. A webhook is a hint, the label itself
    is read from Label Studio. Nothing is modified.
    """
    if isinstance(body, Mapping):
        return {_storable(str(k)): None if str(k).lower() in _SECRET_KEYS else redact(v) for k, v in body.items()}
    if isinstance(body, list):
        if len(body) > MAX_NUMBERS and all(type(v) is int for v in body):
            return f"{len(body)} numbers"
        return [redact(v) for v in body]
    if isinstance(body, str):
        return _storable(body) if len(body) <= MAX_TEXT else f"text of {len(body)} characters"
    if isinstance(body, float) and not math.isfinite(body):  # 1e999 is plain JSON, and no number that can be stored
        return None
    return body


def _objects(value: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    """What stands under ``task`` or ``tasks``: one object, or a list of them under either key."""
    for key in (name, name + "s"):
        found = value.get(key)
        if found is None:
            continue
        for item in found if isinstance(found, list) else [found]:
            if not isinstance(item, Mapping):
                raise BadInput(key, "holds something that is no object", "send the body as Label Studio does")
            yield item


def _id(value: Any, field: str) -> int:
    # Label Studio writes ids as numbers, a few requests of its web page as text.
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:
        value = int(value)
    if type(value) is not int or not 0 < value < 1 << 63:
        raise BadInput(field, "is missing or no positive number", "send the webhook's body as Label Studio does")
    return value


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [v for item in level for v in _children(item) if isinstance(v, list | dict)]
        if not level:
            return
    raise BadInput("body", f"is nested more than {MAX_DEPTH} deep", "send a flatter body")


def _children(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _storable(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
