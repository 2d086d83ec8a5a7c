"""Stylesheet, script and icon from this package, under addresses that change with their content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

KINDS = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
NAMES = ("style.css", "live.js", "icon.svg")


@dataclass(frozen=True)
class Asset:
    """One file as it is served."""

    content: bytes
    kind: str


class Assets:
    """Read once; served by an address that holds a hash, so that browsers may keep them for good."""

    def __init__(self) -> None:
        self._by_name: dict[str, Asset] = {}
        self._addresses: dict[str, str] = {}
        for name in NAMES:
            content = files("backend.dashboard").joinpath("assets", name).read_bytes()
            stem, _, ending = name.rpartition(".")
            served = f"{stem}-{hashlib.sha256(content).hexdigest()[:12]}.{ending}"
            self._by_name[served] = Asset(content, KINDS[ending])
            self._addresses[name] = f"/assets/{served}"

    def address(self, name: str) -> str:
        return self._addresses[name]

    def serve(self, request: Request) -> Response:
        """The route's handler."""
        asset = self._by_name.get(request.path_params["name"])
        if asset is None:
            raise HTTPException(404, "no such file")
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(asset.content, media_type=asset.kind, headers=headers)
