"""What a backup says of itself: versions, counts, hashes, chain heads. Read from others' files, so checked like input.

A backup is a folder (or a tar) of parts: rows by table, the list of blobs, the state's own files, Label Studio's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Final, Literal, get_args

from mpamatch.errors import BadInput, Conflict

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
BLOB_LIST: Final = "blobs.txt.gz"
ROWS: Final = "rows"
STATE: Final = "state"
LABEL_STUDIO: Final = "label-studio"
# What the state folder holds besides databases and blobs, and what nothing can be read without.
SECRET_FILES: Final = ("key", "secrets.json", "dashboard-token")
MAX_MANIFEST_BYTES: Final = 64 << 20

# Ours and in the backup; ours and left out; somebody else's server, which has a backup of its own; none connected.
LabelStudioPart = Literal["included", "left out", "external", "none"]

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Part:
    """One file. ``raw_bytes``: its size unpacked, where it is packed."""

    sha256: str
    bytes: int
    raw_bytes: int | None = None


@dataclass(frozen=True)
class TableRows:
    """One table: its columns in the order of the rows, their number, and the last id that was given out."""

    columns: tuple[str, ...]
    rows: int
    last_id: int


@dataclass(frozen=True)
class ProjectHead:
    """What a project was at that moment."""

    key: str
    champion: str | None
    chain_head: str | None


@dataclass(frozen=True)
class Manifest:
    """A whole backup. ``blobs``: how many, ``missing``: those that were damaged or gone when it was made."""

    product: str
    schema: str
    made_at: str
    tables: Mapping[str, TableRows]
    parts: Mapping[str, Part]
    projects: tuple[ProjectHead, ...]
    chain_head: str | None
    blobs: int
    blob_bytes: int
    missing: tuple[str, ...]
    secrets: bool
    label_studio: LabelStudioPart
    format: int = field(default=FORMAT)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()


def read_manifest(content: bytes, item: str) -> Manifest:
    """Raises BadInput for what is no manifest, Conflict for one of a newer format."""
    try:
        value = json.loads(content)
        number = value["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _broken(item, "is no manifest") from error
    if type(number) is not int or number > FORMAT:
        raise Conflict(item, f"has format {number!r}, newer than {FORMAT}", "restore it with the version that made it")
    try:
        found = Manifest(
            product=str(value["product"]),
            schema=str(value["schema"]),
            made_at=datetime.fromisoformat(value["made_at"]).isoformat(),
            tables={_table(k): _rows(v) for k, v in value["tables"].items()},
            parts={check_part_name(k, item): _part(v) for k, v in value["parts"].items()},
            projects=tuple(ProjectHead(str(p["key"]), p["champion"], p["chain_head"]) for p in value["projects"]),
            chain_head=value["chain_head"],
            blobs=_count(value["blobs"]),
            blob_bytes=_count(value["blob_bytes"]),
            missing=tuple(_digest(d) for d in value["missing"]),
            secrets=bool(value["secrets"]),
            label_studio=_studio(value["label_studio"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _broken(item, f"cannot be read ({error})") from error
    wanted = {BLOB_LIST, *(rows_part(name) for name in found.tables)}
    if not wanted <= set(found.parts):
        raise _broken(item, f"does not name {', '.join(sorted(wanted - set(found.parts))[:3])}")
    return found


def rows_part(table: str) -> str:
    return f"{ROWS}/{table}.copy.gz"


def check_part_name(name: str, item: str) -> str:
    """The name of a part, when it stays inside and is of a kind that a backup has. Raises BadInput."""
    path = PurePosixPath(name)
    plain = not path.is_absolute() and str(path) == name and "\\" not in name and "\0" not in name
    inside = plain and all(part not in ("", ".", "..") for part in path.parts)
    known = (
        name == BLOB_LIST
        or (len(path.parts) == 2 and path.parts[0] == ROWS and name.endswith(".copy.gz"))
        or (len(path.parts) == 2 and path.parts[0] == STATE and path.name in SECRET_FILES)
        or (len(path.parts) >= 2 and path.parts[0] == LABEL_STUDIO)
    )
    if not (inside and known):
        raise BadInput(item, f"holds {name[:80]!r}, which is no part of a backup", "take a backup that was not changed")
    return name


def _broken(item: str, problem: str) -> BadInput:
    return BadInput(item, problem, "take another backup")


def _table(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"table {name[:40]!r}")
    return name


def _rows(value: Any) -> TableRows:
    columns = tuple(_table(c) for c in value["columns"])
    if not columns or len(set(columns)) != len(columns):
        raise ValueError("columns")
    return TableRows(columns, _count(value["rows"]), _count(value["last_id"]))


def _part(value: Any) -> Part:
    raw = value["raw_bytes"]
    return Part(_digest(value["sha256"]), _count(value["bytes"]), None if raw is None else _count(raw))


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{value!r} is no count")
    return value


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError("a hash")
    return value


def _studio(value: Any) -> LabelStudioPart:
    if value not in get_args(LabelStudioPart):
        raise ValueError(f"label_studio {value!r}")
    return value  # type: ignore[no-any-return]
