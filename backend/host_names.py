"""Under which names this installation answers, and which name a request asked for.

A page of another site can point a name of its own at this address (DNS rebinding); its browser then sends that name,
which is none of ours. Here and not in the API or the dashboard, since both ask and neither knows the other.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_HOST: Final = re.compile(r"(\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(:\d{1,5})?")
_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # addresses to listen on, no names


def known_names(*, api_host: str, public_url: str | None, backend_url: str | None, more: str) -> frozenset[str]:
    """Loopback, the address listened on, those of the two URLs, and the names in ``more`` (with commas)."""
    hosts = [urlsplit(url).hostname for url in (public_url, backend_url) if url]
    named = {api_host.lower(), *(host.lower() for host in hosts if host)}
    named |= {name.strip().lower() for name in more.split(",") if name.strip()}
    return LOOPBACK | (named - _EVERYWHERE)


def asked_name(host_header: str) -> str:
    """The name in a ``Host`` header, without its port; empty for none, and for what is no name and port."""
    found = _HOST.fullmatch(host_header)
    return "" if found is None else (found["v6"] or found["name"]).lower()
