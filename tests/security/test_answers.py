"""What every answer of the API says to a browser, and under which names there is an answer at all.

DNS rebinding (CVE-2023-47116 is the outbound half of it), open defaults (CVAT#10306), pictures alone across origins.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient

from backend.actions.show_tile import link
from backend.host_names import asked_name, known_names
from backend.settings import Settings
from tests.backend.dashboard.conftest import BASE
from tests.builders import Installation
from tests.dashboard_project import KEY

pytestmark = pytest.mark.database
Visit = Callable[..., TestClient]
BASIC = {"Authorization": "Basic " + base64.b64encode(b"label-studio:pw").decode()}


def addresses(made: Installation) -> list[tuple[str, str]]:
    """One request to every corner of the API, good and bad."""
    picture = link(made.keys, BASE, made.tiles()[0].id, datetime.now(UTC) + timedelta(hours=1))
    return [
        ("GET", "/health"),
        ("GET", "/health/ready"),
        ("GET", "/openapi.json"),
        ("GET", "/nothing"),
        ("DELETE", "/health"),
        ("POST", f"/ml/{KEY}/setup"),
        ("POST", f"/ml/{KEY}/webhook"),
        ("GET", "/api/v1/projects"),
        ("POST", f"/api/v1/projects/{KEY}/runs"),
        ("GET", "/tiles/1.png?expires=1&key=k&signature=s"),
        ("GET", picture.removeprefix(BASE)),
    ]


def test_every_answer_is_data_for_its_asker_alone(visit: Visit, made: Installation) -> None:
    client = visit(made.folder, signed_in=False)
    for method, path in addresses(made):
        response = client.request(method, path, headers={"Origin": "https://evil.example"})
        headers = response.headers
        is_picture = headers.get("content-type") == "image/png"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'", path
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["x-frame-options"] == "DENY", path
        assert headers["referrer-policy"] == "no-referrer", path
        assert headers["cache-control"] == ("private, no-cache" if is_picture else "no-store"), path
        assert headers["cross-origin-resource-policy"] == ("cross-origin" if is_picture else "same-origin"), path
        assert headers.get("access-control-allow-origin") == ("*" if is_picture else None), path
        assert "access-control-allow-credentials" not in headers, path
        assert "server" not in headers, path
    assert client.get(addresses(made)[-1][1]).headers["content-type"] == "image/png"  # one of them is a picture


def test_no_other_site_is_allowed_to_ask(visit: Visit, made: Installation) -> None:
    """A browser asks first whether it may send what a form cannot; nobody may."""
    client = visit(made.folder, signed_in=False)
    for _, path in addresses(made):
        asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        response = client.options(path, headers=asked)
        assert response.status_code in (404, 405), path
        assert "access-control-allow-origin" not in response.headers


def test_an_unexpected_error_is_said_with_the_same_care(visit: Visit, made: Installation) -> None:
    client = visit(made.folder, signed_in=False)

    @client.app.api.get("/fails")  # type: ignore[attr-defined]
    def fails() -> None:
        raise RuntimeError("a secret in a traceback")

    response = client.get("/fails")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"


def test_the_api_answers_under_names_of_its_own_alone(visit: Visit, made: Installation) -> None:
    client = visit(made.folder, signed_in=False)
    for method, path in addresses(made):
        if path.startswith("/health"):
            continue  # probes ask for addresses, and are told nothing
        for host in (
            "evil.example",
            "127.0.0.1.evil.example:9090",
            "",
            "[",
            "0.0.0.0:9090",
            "evil.example\\@127.0.0.1",
        ):
            response = client.request(method, path, headers={"Host": host, **BASIC})
            assert response.status_code == 421, (host, path)
            assert response.headers["content-type"] == "application/problem+json"
            assert "MPAMATCH_HOSTS" in response.json()["remedy"]
            assert response.headers["x-content-type-options"] == "nosniff"
    for host in ("127.0.0.1:9090", "localhost", "[::1]:9090"):
        assert client.get("/nothing", headers={"Host": host}).status_code == 404


def test_label_studio_and_probes_still_reach_it_under_the_configured_names(
    visit: Visit,
    made: Installation,
) -> None:
    named = visit(
        made.folder, signed_in=False, public_url="http://api:9090", hosts="10.0.0.7, Pathology.example", api_host="::"
    )
    for host in ("api:9090", "10.0.0.7:9090", "pathology.example", "PATHOLOGY.EXAMPLE:443", "localhost:9090"):
        assert named.post(f"/ml/{KEY}/setup", json={}, headers={"Host": host}).status_code == 401, host
        assert named.get("/login", headers={"Host": host}).status_code == 200, host
    assert named.get("/nothing", headers={"Host": "[::]:9090"}).status_code == 421
    assert named.get("/health/ready", headers={"Host": "172.17.0.5:9090"}).status_code == 200


def test_names_are_read_as_they_are() -> None:
    assert known_names(api_host="0.0.0.0", public_url=None, backend_url=None, more="") == {
        "127.0.0.1",
        "localhost",
        "::1",
    }
    named = known_names(api_host="x", public_url="https://A.example:1/y", backend_url="http://Api:9090", more=" , ")
    assert {"a.example", "api"} <= named
    assert asked_name("[::1]:80") == "::1"
    for odd in ("evil@127.0.0.1:80", "127.0.0.1/x", "127.0.0.1:80:80", "127.0.0.1 ", "127.0.0.1\n", "\u0661", ":80"):
        assert asked_name(odd) == "", odd
    assert asked_name("a" * 10_000) == "a" * 10_000


def test_what_is_started_without_a_word_listens_on_this_machine_alone() -> None:
    settings = Settings()
    assert (settings.api_host, settings.label_studio_host) == ("127.0.0.1", "127.0.0.1")
    assert settings.database_url is None  # the embedded ones are on unix sockets, without any port
    assert settings.broker_url is None
