"""Every route of the API's own schema is asked with whatever the schema allows, with and without credentials.

The schema is read from the running application, so a new route is asked without a change here. No answer is a server
error, every one is described in the schema and has the shape described there, and errors are problem documents.
"""

from __future__ import annotations

import base64
import importlib.util
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import text
from sqlalchemy.exc import DataError
from starlette.routing import Route
from starlette.testclient import TestClient

from backend.api.app import create_app
from backend.clock import utc_now
from backend.credentials import ensure_dashboard_token
from backend.settings import Settings
from backend.site import create_site
from backend.store import projects
from backend.store.tables import Task, Tile
from mpamatch.errors import BadInput
from tests.builders import Installation, installation, predict_all
from tests.reliability.fault_log import FaultLog

pytestmark = pytest.mark.database
BASE = "http://127.0.0.1"
PASSWORD, LS_PROJECT = "a-password", 56
EXAMPLES = 12  # a route and credentials
KNOWN_ADDRESS = {"key": "test-glands"}
BEYOND = 1 << 64
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """A connected project with predicted tiles, one of them a task."""
    made = installation(database_url, tmp_path / "state", train=3, audit=1)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        project.ls_project_id = LS_PROJECT
        project.ls_auth_password = made.keys.seal(PASSWORD)
        project.ls_model_version = projects.champion(session, project).version
        champion = projects.champion(session, project)
        session.add(Task(project_id=project.id, tile_id=made.tiles()[0].id, ls_task_id=1, origin="head"))
    predict_all(made, champion)
    return made


@pytest.fixture
def configured(made: Installation, database_url: str, redis_url: str) -> Settings:
    return Settings(
        state=made.folder,
        database_url=database_url,
        broker_url=redis_url,
        predict_wait_s=0.01,
        event_stream_s=0.01,
        public_url=BASE,
    )


def _credentials(made: Installation) -> list[dict[str, str]]:
    """None, wrong ones, and those of every door."""
    basic = base64.b64encode(f"label-studio:{PASSWORD}".encode()).decode()
    wrong = [{}, {"Authorization": "Basic %%%"}, {"Authorization": "Bearer x"}]
    return [*wrong, {"Authorization": f"Basic {basic}"}, *_bearers(made)]


def _bearers(made: Installation) -> list[dict[str, str]]:
    """The token of an operator, where the API has tokens."""
    if importlib.util.find_spec("backend.store.tokens") is None:
        return []
    tokens = importlib.import_module("backend.store.tokens")
    with made.database.transaction() as session:
        options = {"role": "operator", "project_id": None, "expires_at": None}
        new = tokens.create(session, name="every route", now=utc_now(), actor="test", **options)
    return [{"Authorization": f"Bearer {new.token}"}]


def test_no_route_breaks_whatever_it_is_asked(made: Installation, configured: Settings, log: FaultLog) -> None:
    app = create_app(configured)
    schema = schemathesis.openapi.from_dict(app.openapi())
    asked: set[str] = set()
    with TestClient(app, raise_server_exceptions=False, base_url=BASE) as client:
        for result in schema.get_all_operations():
            operation = result.ok()
            for headers in _credentials(made):
                _ask(operation, headers, client)
            asked.add(operation.path)
    assert asked == set(app.openapi()["paths"])
    assert {"/health", "/ml/{key}/webhook", "/ml/{key}/predict", "/tiles/{tile_id}.png"} <= asked
    seen = f"{len(asked)} addresses with each kind of credentials: no server error, every answer as the schema says"
    log.recovered(row=14, fault="requests of whatever the schema allows", seen=seen)


def _ask(operation: Any, headers: dict[str, str], client: TestClient) -> None:
    """Some requests as the schema allows them; every second one speaks of a project that exists."""
    turn = itertools.count()

    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: schemathesis.Case) -> None:
        if next(turn) % 2 and "key" in case.path_parameters:
            case.path_parameters |= KNOWN_ADDRESS
        sent = case.as_transport_kwargs(base_url=BASE, headers=headers)
        response = client.request(
            sent["method"],
            sent["url"],
            params=sent.get("params"),
            headers={**(sent.get("headers") or {}), **headers},
            json=sent.get("json"),
            content=sent.get("data"),
            follow_redirects=False,
        )
        case.validate_response(response, checks=CHECKS)

    ask()


def _put(path: str, value: str) -> str:
    """A path with every number in it set to a value, and the project's key kept."""
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda m: "test-glands" if m[1] == "key" else value, path)


@pytest.mark.parametrize("value", [str(BEYOND), str((1 << 63) - 1), "0", "%00", "1%00", "%F0%9F%92%A9", "..%2F..%2Fx"])
def test_an_address_that_no_row_can_have_is_refused_and_no_error(
    made: Installation, configured: Settings, value: str, log: FaultLog
) -> None:
    app = create_app(configured)
    asked = 0
    doors = [door for door in _credentials(made)[3:] if door]
    with TestClient(app, raise_server_exceptions=False, base_url=BASE) as client:
        for path, methods in app.openapi()["paths"].items():
            for method, door in itertools.product(methods, doors):
                for one in {_put(path, value), re.sub(r"\{[^}]*\}", value, path)}:
                    answer = client.request(method, one, headers=door, json={} if method == "post" else None)
                    asked += 1
                    assert answer.status_code < 500, (method, one, answer.text)
                    if answer.status_code >= 400:
                        assert answer.headers["content-type"] == "application/problem+json"
                        assert answer.json()["status"] == answer.status_code
    seen = f"{asked} requests: no server error, each refusal is a problem document"
    log.recovered(row=14, fault=f"addresses with {value} in them", seen=seen)


@pytest.mark.parametrize("value", [str(BEYOND), "0", "%00", "99999"])
def test_a_page_that_no_row_can_have_is_refused_and_no_error(
    made: Installation, configured: Settings, value: str, log: FaultLog
) -> None:
    site = create_site(configured)
    pages = [r for r in site.dashboard.app.routes if isinstance(r, Route)]  # type: ignore[attr-defined]
    with TestClient(site, raise_server_exceptions=False, base_url=BASE) as client:
        page = client.post("/login", data={"token": ensure_dashboard_token(made.folder)}, headers={"origin": BASE})
        assert page.status_code == 200, page.text
        asked = [r for r in pages if "GET" in (r.methods or ()) and "{" in r.path]
        assert len(asked) >= 8
        for route in asked:
            for path in {_put(route.path, value), re.sub(r"\{[^}]*\}", value, route.path)}:
                answer = client.get(path)
                assert answer.status_code < 500, (path, answer.text)
                if _put(route.path, value) == path and re.search(r":int", route.path):
                    assert answer.status_code in (404, 422), path
    seen = f"{len(asked)} pages: no server error, and no page for a number that no row has"
    log.recovered(row=14, fault=f"dashboard pages with {value} in their address", seen=seen)


def test_a_value_that_cannot_be_stored_is_refused_where_it_is_sent(made: Installation, log: FaultLog) -> None:
    with pytest.raises(BadInput, match="cannot be stored"), made.database.transaction() as session:
        session.get(Tile, BEYOND)
    with pytest.raises(BadInput, match="cannot be stored"), made.database.transaction() as session:
        projects.choose(session, "a\0b")
    with pytest.raises(DataError), made.database.transaction() as session:  # a mistake of the program stays one
        session.scalar(text("SELECT 1 / 0"))
    seen = "bad input in one line, and the next transaction goes on; a mistake of the program stays an error"
    log.recovered(row=14, fault="a number beyond bigint and a text with a zero character at the store", seen=seen)
