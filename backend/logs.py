"""Log lines, one fact each: as text for people or as JSON for machines, with ids and never contents.

The one room for the lines of the API, the workers and the supervisor; other people's libraries (uvicorn, Celery) write
through it too. Whatever looks like a credential is struck out here, last of all, so that no caller can forget it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

LogFormat = Literal["text", "json"]
STRUCK_OUT = "***"

# Set for the time of one request; threads that work for it see it too.
REQUEST_ID: ContextVar[str | None] = ContextVar("mpamatch_request_id", default=None)

# Our own lines name rows as `project=3 run=7 tile=12 ...`: those become fields.
_IDS = re.compile(
    r"\b(project|run|tile|image|model|task|annotation|inbox|entry|attempt|version|kind|error)=([\w.:\-]+)"
)
_SECRETS = (
    # In addresses: signed picture links, tokens, account and password before the host.
    (re.compile(r"(?i)([?&](?:signature|token|access_token|password|secret)=)[^&\s\"'<>]+"), rf"\1{STRUCK_OUT}"),
    (re.compile(r"([a-z][a-z0-9+.\-]*://[^/\s:@\"']*):[^/\s@\"']+@"), rf"\1:{STRUCK_OUT}@"),
    # In headers and in fields.
    (re.compile(r"(?i)\b(basic|bearer|token)(\s+)[A-Za-z0-9._~+/=\-]{16,}"), rf"\1\2{STRUCK_OUT}"),
    (
        re.compile(r"(?i)((?:password|passwd|secret|token|api[_\-]?key)[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&)}]{6,}"),
        rf"\1{STRUCK_OUT}",
    ),
    # By their shape: tokens of Label Studio (40 digits, and JWT). Hashes of blobs have 64 digits.
    (re.compile(r"(?<![0-9a-fA-F])[0-9a-f]{40}(?![0-9a-fA-F])"), STRUCK_OUT),
    (re.compile(r"\beyJ[\w\-]{8,}\.[\w\-]+\.[\w\-]*"), STRUCK_OUT),
)
# What every record has; anything else was given by `extra=` and is a field.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message", "data"}
# These say a line per request of theirs, with addresses in it.
_CHATTY = ("httpx", "httpcore", "uvicorn.access", "botocore", "urllib3", "alembic.runtime.plugins")


def struck_out(text: str) -> str:
    """The text without anything that looks like a credential."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def ids_of(message: str) -> dict[str, int | str]:
    """The rows that a line names; numbers as numbers."""
    return {name: int(value) if value.isdigit() else value.rstrip(".:") for name, value in _IDS.findall(message)}


def given_fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave by `extra=`, plain values only: a container could hold contents."""
    plain = (str, int, float, bool)
    return {
        name: value
        for name, value in vars(record).items()
        if name not in _STANDARD and not name.startswith("_") and (value is None or isinstance(value, plain))
    }


class JsonLines(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, the ids, and `trace` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        message = struck_out(record.getMessage())
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            "process": record.process,
        }
        request_id = REQUEST_ID.get()
        if request_id is not None:
            line["request_id"] = request_id
        line |= ids_of(message)
        line |= {k: struck_out(v) if isinstance(v, str) else v for k, v in given_fields(record).items()}
        if record.exc_info:
            line["trace"] = struck_out(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


def plain_line(level: int, logger: str, message: str) -> str:
    """One such line outside of logging, e.g. from a signal's handler, where taking its locks could wait for ever."""
    return JsonLines().format(logging.LogRecord(logger, level, "", 0, message, None, None))


class TextLines(logging.Formatter):
    """The same for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return struck_out(super().format(record))


def set_up_logs(log_format: LogFormat, level: str, *, stream: TextIO | None = None) -> None:
    """Send every line of this process through one handler. Called once, at the entry of a program.

    ``level``: least severe line kept, in lower case. Lines of a library that set up handlers of its own come here too.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in list(logging.Logger.manager.loggerDict):
        logger = logging.getLogger(name)
        if logger.handlers and name.split(".")[0] in ("uvicorn", "celery", "mpamatch", "alembic"):
            logger.handlers.clear()
            logger.propagate = True
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
