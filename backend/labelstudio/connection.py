"""The wire to one Label Studio: tokens, retries, redirects, limits, and answers turned into our errors.

Knows no paths of the API but that of the token refresh. Tokens stay in here: no log line, error or repr carries them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from mpamatch.errors import BadInput, Conflict, MpamatchError, NotFound, Unavailable

_ACCESS_LIFE_S: Final = 240.0  # an access token lives 300 s
_BACK_OFF_S: Final = (0.3, 1.0)
_TRY_AGAIN: Final = frozenset({429, 502, 503, 504})
_MAX_REDIRECTS: Final = 3
_MAX_ANSWER_BYTES: Final = 512 << 20
_PROBLEM_LENGTH: Final = 400


class Connection:
    """Authenticated calls to one address.

    ``token``: a legacy token (sent as it is) or a personal access token (a JWT, exchanged for one of 300 s).
    """

    def __init__(
        self,
        url: str,
        token: str,
        timeout_s: float,
        *,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise BadInput("Label Studio's address", "is no plain http(s) URL", "give e.g. http://127.0.0.1:8080")
        self.url = url.rstrip("/")
        self._origin = _origin(url)
        self._base_path = parts.path.rstrip("/")
        self._token = token.strip()
        self._personal = self._token.count(".") == 2
        self._access: tuple[str, float] | None = None
        self._clock, self._sleep = clock, sleep
        # trust_env off: a proxy from the environment must not see the token of a server on this machine.
        self._http = httpx.Client(timeout=timeout_s, follow_redirects=False, transport=transport, trust_env=False)

    def __repr__(self) -> str:
        return f"Connection({self.url})"

    def close(self) -> None:
        self._http.close()

    def is_own(self, url: str) -> bool:
        """Whether an absolute URL lies below the connected address."""
        parts = urlsplit(url)
        inside = parts.path == self._base_path or parts.path.startswith(self._base_path + "/")
        straight = "\\" not in url and ".." not in unquote(parts.path).split("/")
        return inside and straight and not parts.username and _origin(url) == self._origin

    def call(self, method: str, path: str, *, params: dict[str, Any] | None = None, json: Any = None) -> Any:
        """One API call; the JSON answer, None for an empty one. ``path`` begins with ``/``."""
        name = f"{method} {path}"
        response = self._answered(name, method, self.url + path, params=params, json=json)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise Unavailable(name, "answered something that is no JSON", "is this a Label Studio?") from error

    def download(self, url: str, max_bytes: int) -> bytes:
        """The body of a GET below the connected address, at most ``max_bytes``."""
        name = f"GET {urlsplit(url).path}"
        response = self._answered(name, "GET", url, max_bytes=max_bytes)
        return response.content

    def _answered(
        self,
        name: str,
        method: str,
        url: str,
        *,
        params: dict[str, Any] | None = None,
        json: Any = None,
        max_bytes: int = _MAX_ANSWER_BYTES,
    ) -> httpx.Response:
        """Send until there is an answer to be had: refresh once, follow own redirects, retry GETs."""
        waits = list(_BACK_OFF_S) if method == "GET" else []
        refreshed, hops = False, 0
        while True:
            try:
                response = self._send(name, method, url, params, json, max_bytes)
            except httpx.TransportError as error:
                if not waits or isinstance(error, httpx.TimeoutException):  # a slow one is not helped by asking again
                    raise _unreachable(name, self.url, error) from error
                self._sleep(waits.pop(0))
                continue
            if response.status_code == 401 and self._personal and not refreshed:
                self._access, refreshed = None, True
            elif response.status_code in _TRY_AGAIN and waits:
                self._sleep(waits.pop(0))
            elif response.is_redirect and method == "GET" and hops < _MAX_REDIRECTS:
                url, params, hops = self._redirected(name, url, response), None, hops + 1
            elif response.is_success:
                return response
            else:
                raise _error(name, response)

    def _send(
        self, name: str, method: str, url: str, params: dict[str, Any] | None, json: Any, max_bytes: int
    ) -> httpx.Response:
        headers = {"Authorization": self._authorization()}
        request = self._http.build_request(method, url, params=params, json=json, headers=headers)
        response = self._http.send(request, stream=True)
        try:
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if len(body) > max_bytes:
                    raise BadInput(name, f"answers more than {max_bytes} bytes", "use a smaller file")
        finally:
            response.close()
        return httpx.Response(
            response.status_code,
            headers={k: v for k, v in response.headers.items() if k.lower() in ("content-type", "location")},
            content=bytes(body),
            request=request,
        )

    def _authorization(self) -> str:
        if not self._personal:
            return f"Token {self._token}"
        if self._access is None or self._clock() - self._access[1] > _ACCESS_LIFE_S:
            self._access = (self._refreshed(), self._clock())
        return f"Bearer {self._access[0]}"

    def _refreshed(self) -> str:
        name = "POST /api/token/refresh/"
        try:
            response = self._http.post(f"{self.url}/api/token/refresh/", json={"refresh": self._token})
        except httpx.TransportError as error:
            raise _unreachable(name, self.url, error) from error
        if response.status_code in (400, 401):
            problem = "the personal access token is not accepted"
            raise BadInput("Label Studio token", problem, "make a new one under Account & Settings")
        if not response.is_success:
            raise _error(name, response)
        try:
            return str(response.json()["access"])
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(name, "answered no access token", "is this address a Label Studio?") from error

    def _redirected(self, name: str, url: str, response: httpx.Response) -> str:
        target = urljoin(url, response.headers.get("location", ""))
        if not self.is_own(target):
            problem = f"sends on to another address ({urlsplit(target).netloc})"
            raise BadInput(name, problem, "connect to the address that Label Studio itself uses")
        return target


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, parts.hostname or "", port or (443 if parts.scheme == "https" else 80)


def _unreachable(name: str, url: str, error: Exception) -> Unavailable:
    return Unavailable(name, f"no answer from {url} ({type(error).__name__})", "is Label Studio running there?")


def _error(name: str, response: httpx.Response) -> MpamatchError:
    """What an answer that is no success means to the one who called."""
    status, problem = response.status_code, f"{response.status_code}: {_detail(response)}"
    if status == 401:
        return _token_error(problem)
    if status == 403:
        remedy = "check the user's rights"
        if "reserved network" in problem:
            remedy = "allow loopback and private addresses in Label Studio (SSRF_PROTECTION_ENABLED, ML_BLOCK_LOCAL_IP)"
        return BadInput(name, problem, remedy)
    if status == 404:
        return NotFound(name, problem, "it may have been deleted in Label Studio")
    if status == 409:
        return Conflict(name, problem, "it exists already")
    if status >= 500 or status == 429:
        return Unavailable(name, problem, "see Label Studio's log; it may answer later")
    if response.is_redirect:
        return BadInput(name, "is redirected", "connect to the address that Label Studio itself uses")
    return BadInput(name, problem, "mend the request")


def _token_error(problem: str) -> BadInput:
    if "legacy token" in problem:
        remedy = "enable legacy tokens in the organization's settings, or use a personal access token"
        return BadInput("Label Studio token", "legacy tokens are disabled there", remedy)
    return BadInput("Label Studio token", problem, "copy the access token from Account & Settings")


def _detail(response: httpx.Response) -> str:
    """The server's own words, short."""
    try:
        body = response.json()
    except ValueError:
        return "no details"
    if not isinstance(body, dict):
        return str(body)[:_PROBLEM_LENGTH]
    errors = body.get("validation_errors")
    if isinstance(errors, dict) and errors:
        texts = [str(text) for found in errors.values() for text in (found if isinstance(found, list) else [found])]
        return "; ".join(texts)[:_PROBLEM_LENGTH]
    return str(body.get("detail") or "no details")[:_PROBLEM_LENGTH]
