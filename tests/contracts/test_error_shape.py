"""The one shape of every error that the API answers: RFC 9457 problem details.

    content-type: application/problem+json
    {"type": "about:blank", "title": str, "status": the HTTP status, "detail": str}

and for errors of ours also `item` and `remedy`. Nothing of an unexpected error but a number that the log has too.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from backend.api.app import create_app
from backend.api.errors import STATUS
from backend.settings import Settings
from mpamatch.errors import BadInput, Cancelled, Conflict, MpamatchError, NotFound, Unavailable

KEYS = {"type", "title", "status", "detail"}


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    """The real application over a database and a broker that do not answer, with routes that fail."""
    made = create_app(
        Settings(
            state=tmp_path,
            database_url=f"postgresql+psycopg://nobody@/nothing?host={tmp_path}",
            broker_url=f"redis+socket://{tmp_path}/nobody.sock",
        )
    )

    @made.get("/fails/{name}")
    def fails(name: str) -> None:
        if name == "Unknown":
            raise RuntimeError("a secret in a traceback")
        kind = next(one for one in STATUS if one.__name__ == name)
        raise kind("tile 7", "is wrong", "mend it")

    return made


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


def check(response: Any, status: int) -> dict[str, Any]:
    """Assert the shape and return the document."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document.keys() >= KEYS
    assert document["status"] == status
    assert document["type"] == "about:blank"
    assert document["title"]
    assert isinstance(document["detail"], str)
    return dict(document)


@pytest.mark.parametrize(
    ("kind", "status"), [(BadInput, 422), (NotFound, 404), (Conflict, 409), (Unavailable, 503), (Cancelled, 409)]
)
def test_each_error_of_ours_has_its_status_and_says_item_and_remedy(
    client: TestClient, kind: type[MpamatchError], status: int
) -> None:
    document = check(client.get(f"/fails/{kind.__name__}"), status)
    assert (document["item"], document["detail"], document["remedy"]) == ("tile 7", "is wrong", "mend it")
    assert set(document) == KEYS | {"item", "remedy"}


def test_no_error_of_ours_is_without_a_status() -> None:
    assert set(MpamatchError.__subclasses__()) == set(STATUS)


def test_a_database_that_does_not_answer_is_a_503(client: TestClient) -> None:
    check(client.get("/health/ready"), 503)
    check(client.post("/ml/any/setup", json={}), 503)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("DELETE", "/health", 405)])
def test_what_no_route_answers_has_the_shape_too(client: TestClient, method: str, path: str, status: int) -> None:
    assert set(check(client.request(method, path), status)) == KEYS


def test_a_body_that_is_no_json_or_too_large_has_the_shape_too(client: TestClient) -> None:
    check(client.post("/ml/any/webhook", content=b"{"), 400)
    check(client.post("/ml/any/webhook", headers={"content-length": str(1 << 30)}, content=b"{}"), 413)


def test_a_picture_link_that_is_not_ours_has_the_shape_too(client: TestClient) -> None:
    check(client.get("/tiles/1.png", params={"expires": 1, "key": "k", "signature": "s"}), 403)


@pytest.mark.parametrize("path", ["/tiles/1.png", "/tiles/x.png?expires=1&key=k&signature=s"])
def test_a_request_without_its_parameters_has_the_shape_too(client: TestClient, path: str) -> None:
    check(client.get(path), 422)


def test_an_unexpected_error_tells_nothing_but_a_number_that_is_in_the_log(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="mpamatch.api"):
        response = client.get("/fails/Unknown")
    document = check(response, 500)
    number = document["detail"].rsplit(" ", 1)[-1]
    assert "secret" not in response.text
    assert any(number in record.getMessage() for record in caplog.records)
