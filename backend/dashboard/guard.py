"""What stands before every page: the host that was asked for, the session, the form's token, and the headers.

Pages behind it hold no code about any of these; a page that forgets is guarded all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.clock import utc_now
from backend.dashboard.access import Access, Session
from backend.host_names import asked_name
from mpamatch.errors import Unavailable

FORM_LIMIT_BYTES = 64 * 1024
# Nothing from elsewhere, no inline script or style, no framing; forms go home only.
POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not `no-referrer`: with it browsers send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
OPEN_TO_ALL = ("/login", "/assets/")


@dataclass(frozen=True)
class Refusal(Exception):
    """A request that goes no further, in words for the person who made it."""

    status: int
    title: str
    text: str
    remedy: str = ""


class Guard:
    """Lets requests through to the pages, or answers them itself."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: Access,
        public_url: str | None,
        hosts: frozenset[str],
        refuse: Callable[[Request, Refusal], Response],
        come_again: Callable[[Request], Response],
    ) -> None:
        self.app = app
        self._access = access
        public = urlsplit(public_url) if public_url else None
        self._public_origin = None if public is None else f"{public.scheme}://{public.netloc}".lower()
        self._hosts = hosts
        self._refuse, self._come_again = refuse, come_again

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the dashboard answers http, not {scope['type']}")
        request = Request(scope, receive)
        scope.setdefault("state", {}).update(session=None, form={})
        try:
            answer = await self._answer(request)
        except Refusal as refusal:
            answer = self._refuse(request, refusal)
        except Unavailable as error:
            answer = self._refuse(request, Refusal(503, "Not available now", str(error.problem), error.remedy))
        await (self.app if answer is None else answer)(scope, receive, self._with_headers(scope, send))

    async def _answer(self, request: Request) -> Response | None:
        """Our own answer, or None where the page may be made."""
        self._check_host(request)
        cookie = request.cookies.get(self._access.cookie)
        # A look at the database: not in the loop that all requests share.
        session = None if cookie is None else await run_in_threadpool(self._access.read, cookie, now=utc_now())
        request.scope["state"]["session"] = session
        is_open = request.url.path.startswith(OPEN_TO_ALL)
        if request.method == "POST":
            self._check_origin(request)
            form = await _form(request)
            request.scope["state"]["form"] = form
            if not is_open and session is not None:
                self._check_form(session, form)
        if session is not None or is_open:
            return None
        if request.headers.get("sec-fetch-site") == "cross-site" and request.method == "GET":
            # A strict cookie stays at home when a link on another site is followed: ask again from here.
            return self._come_again(request)
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        wanted = "" if request.method != "GET" or here == "/" else f"?next={quote(here, safe='/')}"
        return RedirectResponse(f"/login{wanted}", status_code=303)

    def _check_host(self, request: Request) -> None:
        """A page of another name that was pointed at this address must not read ours (DNS rebinding)."""
        if asked_name(request.headers.get("host", "")) not in self._hosts:
            raise Refusal(
                421,
                "Not served under this name",
                "This dashboard answers under the names it was told only.",
                "Open it under the address that mpamatch status prints, or set MPAMATCH_PUBLIC_URL to this one.",
            )

    def _check_origin(self, request: Request) -> None:
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        ours = {f"http://{request.headers['host']}".lower(), f"https://{request.headers['host']}".lower()}
        fine = origin is None or origin.lower() in ours or origin.lower() == self._public_origin
        if not fine or site not in (None, "same-origin"):
            raise Refusal(403, "Not from this page", "The form came from another site.", "Open the page and try again.")

    def _check_form(self, session: Session, form: dict[str, str]) -> None:
        if not self._access.is_form_token(session, form.get("form_token", "")):
            raise Refusal(
                403, "Form out of date", "The form does not belong to this session.", "Go back, reload, try again."
            )

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        return sending


async def _form(request: Request) -> dict[str, str]:
    """The fields of a plain form; the last one of a name counts."""
    kind = request.headers.get("content-type", "application/x-www-form-urlencoded").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refusal(415, "No form", "Only plain forms are read here.")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > FORM_LIMIT_BYTES:
            raise Refusal(413, "Form too large", f"At most {FORM_LIMIT_BYTES // 1024} KB are read.")
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=50)
    except ValueError:
        raise Refusal(400, "No form", "The form cannot be read.") from None
    return {name: values[-1] for name, values in fields.items()}


def local_path(wanted: str | None) -> str:
    """Where to go after signing in: a path of ours, else the first page."""
    if not wanted or not wanted.startswith("/") or wanted.startswith("//") or "\\" in wanted:
        return "/"
    return wanted if wanted.isprintable() and not urlsplit(wanted).netloc else "/"
