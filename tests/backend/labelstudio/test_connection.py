from __future__ import annotations

import httpx
import pytest

from backend.labelstudio.connection import Connection
from mpamatch.errors import BadInput, Conflict, NotFound, Unavailable

URL = "http://label.example:8080"
LEGACY = "0123456789abcdef0123456789abcdef01234567"
PERSONAL = "header.payload.signature"


class Server:
    """Answers from a list, the last one for ever, and remembers what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.slept: list[float] = []
        self.now = 0.0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def connection(self, token: str = LEGACY, url: str = URL) -> Connection:
        return Connection(
            url, token, 5, transport=httpx.MockTransport(self), clock=lambda: self.now, sleep=self.slept.append
        )


def ok(value=None) -> httpx.Response:
    return httpx.Response(200, json={} if value is None else value)


def sign_in(request: httpx.Request) -> httpx.Response:
    """What a real server does with a personal access token."""
    if request.url.path == "/api/token/refresh/":
        return ok({"access": "short-lived"})
    return ok() if request.headers["authorization"] == "Bearer short-lived" else httpx.Response(401, json={})


def test_a_legacy_token_is_sent_as_it_is():
    server = Server(ok({"a": 1}))
    assert server.connection().call("GET", "/api/x") == {"a": 1}
    assert server.requests[0].headers["authorization"] == f"Token {LEGACY}"


def test_a_personal_token_is_exchanged_once_and_again_before_it_runs_out():
    server = Server(sign_in)
    connection = server.connection(PERSONAL)
    for moment in (0, 100, 239, 241, 480):
        server.now = moment
        connection.call("GET", "/api/x")
    assert [r.url.path for r in server.requests].count("/api/token/refresh/") == 2
    assert all(PERSONAL not in r.headers.get("authorization", "") for r in server.requests)


def test_an_access_token_that_ran_out_early_is_renewed_once():
    server = Server(ok({"access": "one"}), httpx.Response(401, json={}), ok({"access": "two"}), ok({"fine": True}))
    assert server.connection(PERSONAL).call("POST", "/api/x", json={}) == {"fine": True}
    assert server.requests[-1].headers["authorization"] == "Bearer two"
    refused = Server(
        ok({"access": "one"}), httpx.Response(401, json={}), ok({"access": "two"}), httpx.Response(401, json={})
    )
    with pytest.raises(BadInput, match="token"):
        refused.connection(PERSONAL).call("GET", "/api/x")


def test_a_personal_token_that_is_not_accepted_says_so():
    with pytest.raises(BadInput, match="personal access token"):
        Server(httpx.Response(401, json={})).connection(PERSONAL).call("GET", "/api/x")


@pytest.mark.shared
def test_a_server_without_legacy_tokens_is_told_apart(recorded):
    refused = recorded("auth")[0]
    server = Server(httpx.Response(refused["status"], json=refused["response"]))
    with pytest.raises(BadInput) as caught:
        server.connection().call("GET", "/api/projects")
    assert "legacy tokens are disabled" in caught.value.problem
    assert "personal access token" in caught.value.remedy


@pytest.mark.shared
def test_the_recorded_guard_against_private_addresses_is_explained(recorded):
    refused = recorded("auth")[-1]
    with pytest.raises(BadInput) as caught:
        Server(httpx.Response(403, json=refused["response"])).connection().call("POST", "/api/ml", json={})
    assert "SSRF_PROTECTION_ENABLED" in caught.value.remedy


@pytest.mark.shared
def test_recorded_errors_carry_the_servers_own_words(recorded):
    words = ("health check failed", "doesn't look like a valid ML backend", "authentication parameters")
    for failure, expected in zip(recorded("ml-errors"), words, strict=False):
        server = Server(httpx.Response(failure["status"], json=failure["response"]))
        with pytest.raises(BadInput, match=expected):
            server.connection().call("POST", "/api/ml", json={})


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, BadInput), (403, BadInput), (404, NotFound), (409, Conflict), (500, Unavailable), (429, Unavailable)],
)
def test_a_status_becomes_the_error_that_says_what_to_do_next(status, error):
    with pytest.raises(error, match=str(status)):
        Server(httpx.Response(status, json={"detail": "why"})).connection().call("POST", "/api/x", json={})


@pytest.mark.parametrize("failure", [httpx.ConnectError("no"), httpx.Response(503), httpx.Response(429)])
def test_a_get_is_tried_again_after_a_pause(failure):
    server = Server(failure, failure, ok({"late": True}))
    assert server.connection().call("GET", "/api/x") == {"late": True}
    assert len(server.slept) == 2
    with pytest.raises(Unavailable):
        Server(failure).connection().call("GET", "/api/x")


def test_a_server_that_is_too_slow_is_not_asked_again_at_once():
    server = Server(httpx.ReadTimeout("no"))
    with pytest.raises(Unavailable):
        server.connection().call("GET", "/api/x")
    assert len(server.requests) == 1


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("failure", [httpx.ReadTimeout("no"), httpx.Response(503)])
def test_a_write_is_never_repeated(method, failure):
    server = Server(failure)
    with pytest.raises(Unavailable):
        server.connection().call(method, "/api/x", json={})
    assert len(server.requests) == 1
    assert not server.slept


def test_a_get_that_is_wrong_is_not_tried_again():
    server = Server(httpx.Response(400, json={}))
    with pytest.raises(BadInput):
        server.connection().call("GET", "/api/x")
    assert len(server.requests) == 1


def moved(to: str) -> httpx.Response:
    return httpx.Response(302, headers={"location": to})


def test_a_redirect_on_the_same_server_is_followed_for_a_get():
    server = Server(moved("/api/y"), ok({"y": 1}))
    assert server.connection().call("GET", "/api/x") == {"y": 1}


@pytest.mark.parametrize(
    "to", ["http://evil.example/", "https://label.example:8080/", "//evil.example/x", "http://label.example/x"]
)
def test_a_redirect_to_another_host_port_or_scheme_is_refused_and_carries_no_token(to):
    server = Server(moved(to), ok())
    with pytest.raises(BadInput, match="another address"):
        server.connection().call("GET", "/api/x")
    assert len(server.requests) == 1


def test_endless_redirects_and_redirected_writes_are_refused():
    with pytest.raises(BadInput, match="redirected"):
        Server(moved("/again")).connection().call("GET", "/api/x")
    with pytest.raises(BadInput, match="redirected"):
        Server(moved("/api/y"), ok()).connection().call("POST", "/api/x", json={})


@pytest.mark.parametrize("token", [LEGACY, PERSONAL])
@pytest.mark.parametrize(
    "answer", [httpx.ConnectError("no"), httpx.Response(500), httpx.Response(401, json={"detail": "x"})]
)
def test_no_error_or_repr_carries_the_token(token, answer):
    connection = Server(answer).connection(token)
    with pytest.raises((BadInput, Unavailable)) as caught:
        connection.call("GET", "/api/x")
    assert token not in f"{caught.value} {caught.value!r} {connection!r}"


def test_an_answer_that_is_no_json_is_no_label_studio():
    with pytest.raises(Unavailable, match="Label Studio"):
        Server(httpx.Response(200, text="<html>")).connection().call("GET", "/api/x")


def test_a_download_stops_at_its_limit():
    connection = Server(httpx.Response(200, content=b"x" * 1000)).connection()
    assert connection.download(f"{URL}/data/a.png", 1000) == b"x" * 1000
    with pytest.raises(BadInput, match="999"):
        connection.download(f"{URL}/data/a.png", 999)


@pytest.mark.parametrize("url", ["", "label.example", "ftp://label.example", "http://", "http://user:pw@label.example"])
def test_an_address_that_is_no_plain_url_is_refused(url):
    with pytest.raises(BadInput, match="address"):
        Connection(url, LEGACY, 5)


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://label.example/ls/data/a.png", True),
        ("http://label.example:80/ls/data/a.png", True),
        ("http://LABEL.example/ls/data/a.png", True),
        ("http://label.example/lsx/a.png", False),
        ("http://label.example/a.png", False),
        ("http://label.example/ls/../admin", False),
        ("http://label.example/ls/%2e%2e/admin", False),
        ("https://label.example/ls/a.png", False),
        ("http://label.example:81/ls/a.png", False),
        ("http://label.example@evil.example/ls/a", False),
        ("http://evil.example/ls/a.png", False),
        ("http://label.example\\@evil.example/ls/a", False),
        ("http://label.example:x/ls/a", False),
        ("file:///ls/a.png", False),
    ],
)
def test_what_lies_below_the_connected_address(url, own):
    assert Connection("http://label.example/ls", LEGACY, 5).is_own(url) is own
