"""What a stranger on the network can send to a running server, and what it writes into its log meanwhile."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest

from backend.actions.show_tile import link
from backend.credentials import ensure_dashboard_token
from backend.store import projects, tokens
from tests.builders import Installation, installation
from tests.security.served import Served, serving

pytestmark = [pytest.mark.database, pytest.mark.processes]
PASSWORD, HOOK_SECRET, LS_TOKEN = "recognisable-password-1", "recognisable-hook-secret-2", "recognisable-ls-token-3"


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    made = installation(database_url, tmp_path / "state", train=2, audit=0)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        project.ls_project_id, project.ls_url = 7, "http://127.0.0.1:9"
        project.ls_auth_password = made.keys.seal(PASSWORD)
        project.ls_webhook_secret = made.keys.seal(HOOK_SECRET)
        project.ls_token = made.keys.seal(LS_TOKEN)
    return made


@pytest.fixture
def served(made: Installation, database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Served]:
    with serving(made.folder, database_url, redis_url, tmp_path / "serve.log") as found:
        yield found


def test_a_stranger_gets_nowhere_and_a_flow_leaves_no_secret_in_the_log(served: Served, made: Installation) -> None:
    """One server for both: it takes seconds to start."""
    _large_heads_are_refused(served)
    _compressed_bodies_are_not_expanded(served)
    _paths_stay_inside(served, made)
    _odd_requests_are_answered_in_one_line(served)
    _loopback_alone_is_listened_on(served)
    secrets = _flow(served, made)
    assert len(secrets) >= 9
    log = served.log.read_text(encoding="utf-8", errors="replace")
    assert "Uvicorn running" in log  # it is the log, and debug is on
    assert {name for name, secret in secrets.items() if secret in log} == set()
    assert str(made.folder / "image-0.png") not in log


def _large_heads_are_refused(served: Served) -> None:
    head = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    for more in (
        b"X-Long: " + b"a" * 200_000,
        b"".join(b"X-%d: %s\r\n" % (n, b"a" * 100) for n in range(2000)),
        b"a" * 300_000,
    ):
        assert b" 200 " not in served.raw(head + more + b"\r\n\r\n").split(b"\r\n")[0]
    assert b" 200 " not in served.raw(b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")[:20]
    assert httpx.get(f"{served.url}/health", headers={"X-Short": "a" * 8000}, trust_env=False).status_code == 200


def _compressed_bodies_are_not_expanded(served: Served) -> None:
    """200 MB of zeros in 200 KB: read as the bytes that they are, which are no JSON."""
    bomb = gzip.compress(bytes(200 << 20), compresslevel=9)
    response = httpx.post(
        f"{served.url}/ml/test-glands/webhook",
        content=bomb,
        headers={"Content-Encoding": "gzip", "Content-Type": "application/json"},
        auth=("label-studio", PASSWORD),
        timeout=60,
        trust_env=False,
    )
    assert response.status_code == 400
    listening = [c.pid for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == served.port and c.pid]
    assert psutil.Process(listening[0]).memory_info().rss < 600 << 20


def _paths_stay_inside(served: Served, made: Installation) -> None:
    """GHSA-cpmr-mw4j-99r7: nothing beside the files that are meant to be served, however the path is written."""
    key = (made.folder / "key").read_bytes()
    digest = made.tiles()[0].png_blob
    for path in (
        "/assets/../access.py",
        "/assets/%2e%2e/access.py",
        "/assets/..%2faccess.py",
        "/assets/%252e%252e%252faccess.py",
        "/assets/....//access.py",
        "/assets//etc/passwd",
        "/assets/..\\access.py",
        "/assets/style.css%00.png",
        "/tiles/../key",
        "/tiles/..%2f..%2fkey.png?expires=1&key=k&signature=s",
        f"/blobs/{digest}",
        f"/tiles/{digest}.png?expires=9999999999&key=k&signature=s",
        "//etc/passwd",
        "/ml/..%2f..%2fkey/health",
        "/api/v1/projects/..%2f..%2fkey",
    ):
        answer = served.raw(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        status = answer.split(b" ", 2)[1]
        assert status in (b"303", b"400", b"401", b"403", b"404", b"421", b"422"), (path, answer[:200])
        for secret in (key, b"root:", b"Who may see the dashboard"):
            assert secret not in answer, path


def _odd_requests_are_answered_in_one_line(served: Served) -> None:
    for request in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"POST /ml/test-glands/webhook HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /ml/test-glands/webhook HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    ):
        answer = served.raw(request, patience_s=2)
        assert b" 200 " not in answer.split(b"\r\n")[0], request
        assert b"Traceback" not in answer


def _loopback_alone_is_listened_on(served: Served) -> None:
    addresses = {
        c.laddr.ip
        for c in psutil.net_connections("tcp")
        if c.status == psutil.CONN_LISTEN and c.laddr.port == served.port
    }
    assert addresses == {"127.0.0.1"}


def _flow(served: Served, made: Installation) -> dict[str, str]:
    """Everything that carries a secret, rightly and wrongly; returns those that must not be written down."""
    now = datetime.now(UTC)
    with made.database.transaction() as session:
        good = tokens.create(
            session, name="script", role="operator", project_id=None, expires_at=None, now=now, actor="test"
        )
    wrong = "mpa_0123456789ab_" + "recognisablewrong4".ljust(43, "x")
    door = ensure_dashboard_token(made.folder)
    picture = link(made.keys, served.url, made.tiles()[0].id, now + timedelta(hours=1))
    signature = picture.rsplit("=", 1)[1]
    with httpx.Client(base_url=served.url, trust_env=False, timeout=60) as client:
        for token in (good.token, wrong):
            client.get("/api/v1/projects", headers={"Authorization": f"Bearer {token}"})
            client.post("/api/v1/projects/test-glands/runs", headers={"Authorization": f"Bearer {token}"})
            client.get(f"/api/v1/projects?token={token}")
        for password in (PASSWORD, "recognisable-guess-5"):
            client.post("/ml/test-glands/setup", json={}, auth=("label-studio", password))
            hook = {"action": "ANNOTATION_CREATED", "project": {"id": 7}, "annotation": {"id": 1}, "task": {"id": 2}}
            client.post("/ml/test-glands/webhook", json=hook, headers={"X-Mpamatch-Secret": HOOK_SECRET})
            client.post("/ml/test-glands/webhook", json=hook, headers={"X-Mpamatch-Secret": password})
        client.post("/ml/test-glands/webhook", content=b"{" + PASSWORD.encode(), auth=("label-studio", PASSWORD))
        assert client.get(picture).status_code == 200
        client.get(picture.replace("expires=", "expires=1"))
        client.post("/login", data={"token": "recognisable-wrong-door-6"})
        assert client.post("/login", data={"token": door}).status_code == 303
        cookie = next(iter(client.cookies.values()))
        client.get("/projects/test-glands")
    basic = base64.b64encode(f"label-studio:{PASSWORD}".encode()).decode()
    return {
        "password": PASSWORD,
        "guess": "recognisable-guess-5",
        "basic": basic,
        "hook": HOOK_SECRET,
        "label studio": LS_TOKEN,
        "token": good.token,
        "token's secret half": good.token.split("_", 2)[2],
        "wrong token": "recognisablewrong4",
        "door": door,
        "wrong door": "recognisable-wrong-door-6",
        "cookie": cookie,
        "signature": signature,
        "key": (made.folder / "key").read_text(),
    }
