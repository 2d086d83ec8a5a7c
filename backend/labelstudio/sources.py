"""Where a task's picture lies, told from its address alone, and to which group its name assigns it. Fetches nothing."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from mpamatch.errors import BadInput

Source = Literal["upload", "local files", "cloud storage", "other address", "none"]

_UPLOAD: Final = "/data/upload/"
_LOCAL: Final = "/data/local-files/"
# Label Studio puts eight digits before the name of what was uploaded.
_UPLOAD_MARK: Final = re.compile(r"^[0-9a-f]{8}-")


def source_of(url: object, server: str) -> Source:
    """What kind of picture an address is, seen from the Label Studio at ``server``."""
    if not isinstance(url, str) or not url:
        return "none"
    path = url.removeprefix(server.rstrip("/"))
    if path.startswith(_UPLOAD):
        return "upload"
    if path.startswith(_LOCAL):
        return "local files"
    scheme = urlsplit(url).scheme
    return "cloud storage" if scheme in ("s3", "gs", "azure-blob", "azure_spi", "redis") else "other address"


def compiled(pattern: str | None) -> re.Pattern[str] | None:
    """Raises BadInput for a pattern that is none."""
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise BadInput(f"group pattern {pattern!r}", str(error), "give a regular expression") from error


def group_of(url: str, pattern: str | None) -> str:
    """The group of a picture: what the pattern finds in its path (its group 1, or the whole match), else its file name.

    >>> group_of("/data/upload/7/0a1b2c3d-case-5_x.png", r"case-\\d+")
    'case-5'
    >>> group_of("/data/local-files/?d=slides/a%20b.png", None)
    'a b.png'
    """
    path = picture_path(url)
    matcher = compiled(pattern)
    found = None if matcher is None else matcher.search(path)
    if matcher is None or found is None:
        return PurePosixPath(path).name or path
    return (found.group(1) if matcher.groups else found.group(0)) or path


def picture_path(url: str) -> str:
    """The path of a picture as people know it: below the storage, or the name that it was uploaded with."""
    parts = urlsplit(url)
    if parts.path.endswith(_LOCAL):
        return parse_qs(parts.query).get("d", [""])[0]
    path = unquote(parts.path)
    before, _, name = path.rpartition("/")
    return _UPLOAD_MARK.sub("", name) if _UPLOAD in f"{before}/" else path
