"""Who gets in, from where, and what leaves: over the whole site as `mpamatch serve` runs it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from backend.credentials import ensure_dashboard_token
from backend.store.tables import Event, Model, Project, Run
from tests.backend.dashboard.conftest import BASE
from tests.builders import Installation
from tests.dashboard_project import KEY, paths

pytestmark = pytest.mark.database
Visit = Callable[..., TestClient]
PROJECT = f"/projects/{KEY}"


def form_token(client: TestClient) -> str:
    text = client.get(PROJECT).text
    return text.split('name="form_token" value="')[1].split('"')[0]


def test_nothing_of_a_project_is_seen_without_signing_in(visit: Visit, made: Installation) -> None:
    client = visit(made.folder, signed_in=False)
    tile = made.tiles()[0].id
    pictures = [f"{PROJECT}/tiles/{tile}/{name}" for name in ("picture.png", "small.jpg", "prediction.png", "mask.png")]
    for path in ["/", "/projects", "/projects/unknown", *paths(made), *pictures]:
        response = client.get(path)
        assert response.status_code == 303, path
        assert response.headers["location"].startswith("/login"), path
    for path in (f"{PROJECT}/runs/start", f"{PROJECT}/runs/adapt", f"{PROJECT}/models/rollback"):
        assert client.post(path, data={}).headers["location"] == "/login"


def test_the_session_cookie_is_out_of_reach_for_scripts_and_other_sites(visit: Visit, made: Installation) -> None:
    client = visit(made.folder, signed_in=False)
    token = ensure_dashboard_token(made.folder)
    response = client.post("/login", data={"token": token, "next": f"{PROJECT}/queue"})
    assert response.headers["location"] == f"{PROJECT}/queue"
    cookie = response.headers["set-cookie"]
    flags = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/", "max-age=43200"} <= flags
    assert "secure" not in flags
    assert "domain" not in cookie.lower()
    assert token not in cookie
    secure = visit(
        made.folder, signed_in=False, base="https://pathology.example", public_url="https://pathology.example"
    )
    assert "; Secure" in secure.post("/login", data={"token": token}).headers["set-cookie"]


def test_a_wrong_token_is_refused_and_after_ten_the_right_one_waits_too(visit: Visit, made: Installation) -> None:
    client = visit(made.folder, signed_in=False)
    for _ in range(10):
        response = client.post("/login", data={"token": "wrong"})
        assert response.status_code == 403
        assert 'role="alert"' in response.text
        assert "set-cookie" not in response.headers
    assert client.post("/login", data={"token": ensure_dashboard_token(made.folder)}).status_code == 429


def test_signing_out_ends_the_session_on_both_sides(visit: Visit, made: Installation) -> None:
    client = visit(made.folder)
    stolen = dict(client.cookies)
    response = client.post("/logout", data={"form_token": form_token(client)})
    assert response.headers["location"] == "/login"
    assert client.get(PROJECT).status_code == 303
    client.cookies.update(stolen)
    assert client.get(PROJECT).status_code == 303


@pytest.mark.parametrize(
    "path",
    [
        f"{PROJECT}/runs/start",
        f"{PROJECT}/runs/adapt",
        f"{PROJECT}/runs/4/stop",
        f"{PROJECT}/models/rollback",
        "/logout",
    ],
)
def test_a_form_without_its_token_or_from_elsewhere_changes_nothing(
    visit: Visit, made: Installation, path: str
) -> None:
    client = visit(made.folder)
    token = form_token(client)
    before = _state(made)
    assert client.post(path).status_code == 403
    assert client.post(path, data={"form_token": "0" * 32}).status_code == 403
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:8080"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert client.post(path, data={"form_token": token}, headers=headers).status_code == 403, headers
    assert client.post(path, json={"form_token": token}).status_code == 415
    assert client.get(path).status_code in (404, 405)
    assert client.get(PROJECT).status_code == 200
    assert _state(made) == before


def test_a_form_of_another_session_is_refused(visit: Visit, made: Installation) -> None:
    client, other = visit(made.folder), visit(made.folder)
    assert client.post(f"{PROJECT}/runs/start", data={"form_token": form_token(other)}).status_code == 403


def test_a_run_is_asked_for_and_stopped_and_a_champion_rolled_back(visit: Visit, made: Installation) -> None:
    client = visit(made.folder)
    fields = {"form_token": form_token(client)}
    headers = {"Origin": BASE, "Sec-Fetch-Site": "same-origin"}
    assert client.post(f"{PROJECT}/runs/start", data=fields, headers=headers).headers["location"] == PROJECT
    assert made.project().requested_run == "manual"
    assert client.post(f"{PROJECT}/runs/4/stop", data=fields).headers["location"] == f"{PROJECT}/runs/4"
    again = client.post(f"{PROJECT}/runs/1/stop", data=fields)
    assert again.status_code == 409
    assert "already" in again.text
    assert client.post(f"{PROJECT}/models/rollback", data={**fields, "to": f"{KEY}-m1"}).status_code == 303
    with made.database.transaction() as session:
        assert session.scalars(select(Run.cancel_requested).where(Run.number == 4)).one() is True
        assert session.scalars(select(Model.version).where(Model.state == "champion")).one() == f"{KEY}-m1"
        assert "dashboard" in session.scalars(select(Event.actor)).all()


def test_an_adaptation_is_asked_for_where_the_gate_could_judge_it(visit: Visit, made: Installation) -> None:
    client = visit(made.folder)
    fields = {"form_token": form_token(client)}
    with made.database.transaction() as session:
        session.execute(update(Run).values(state="done"))
    button = f'action="{PROJECT}/runs/adapt"'
    assert button in client.get(PROJECT).text
    refused = client.post(f"{PROJECT}/runs/adapt", data=fields)
    assert refused.status_code == 409
    assert "has no weights" in refused.text
    assert made.project().requested_adaptation is False
    with made.database.transaction() as session:
        project = session.scalars(select(Project)).one()
        policy = {**project.policy, "gate_min_tiles": 1, "gate_min_groups": 1}
        project.policy = policy
        session.get_one(Model, project.champion_id).blob = "0" * 64
    assert client.post(f"{PROJECT}/runs/adapt", data=fields).headers["location"] == PROJECT
    assert made.project().requested_adaptation is True
    with made.database.transaction() as session:
        session.execute(update(Model).values(state="retired"))
        blank = Model(project_id=made.project_id, version="none", kind="blank", state="champion")
        session.add(blank)
        session.flush()
        session.scalars(select(Project)).one().champion_id = blank.id
    assert button not in client.get(PROJECT).text, "there is nothing to adapt"


def test_a_name_that_was_pointed_at_this_address_is_not_served(visit: Visit, made: Installation) -> None:
    client = visit(made.folder)
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:9090", "", "[", "0.0.0.0:9090"):
        response = client.get("/login", headers={"Host": host})
        assert response.status_code == 421, host
        assert "MPAMATCH_PUBLIC_URL" in response.text
    for host in ("127.0.0.1:9090", "localhost:9090", "[::1]:9090", "LOCALHOST"):
        assert client.get("/login", headers={"Host": host}).status_code in (200, 303), host
    named = visit(
        made.folder, signed_in=False, public_url="https://Pathology.example/", base="https://pathology.example"
    )
    assert named.get("/login").status_code == 200


def test_a_link_on_another_site_leads_here_by_a_page_of_ours(visit: Visit, made: Installation) -> None:
    client = visit(made.folder, signed_in=False)
    response = client.get(f"{PROJECT}/queue?page=2", headers={"Sec-Fetch-Site": "cross-site"})
    assert response.status_code == 200
    assert f'content="0; url={PROJECT}/queue?page=2"' in response.text
    response = client.get(f"{PROJECT}/queue?page=2", headers={"Sec-Fetch-Site": "same-origin"})
    assert response.headers["location"] == f"/login?next={PROJECT}/queue%3Fpage%3D2"


def test_every_answer_says_what_a_browser_may_do_with_it(visit: Visit, made: Installation) -> None:
    client = visit(made.folder)
    tile = made.tiles()[0].id
    style = client.get(PROJECT).text.split('rel="stylesheet" href="')[1].split('"')[0]
    addresses = [*paths(made), "/login", "/projects/none", f"{PROJECT}/tiles/{tile}/picture.png", style]
    for path in addresses:
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        kept = "private, no-cache" if path.endswith(".png") else "public, max-age" if path == style else "no-store"
        assert headers["cache-control"].startswith(kept), path
    refused = client.get(PROJECT, headers={"Host": "evil.example"})
    assert refused.headers["content-security-policy"].startswith("default-src 'none'")


def test_a_large_form_is_refused(visit: Visit, made: Installation) -> None:
    assert visit(made.folder, signed_in=False).post("/login", data={"token": "x" * 70_000}).status_code == 413


def test_the_api_is_where_it_was(visit: Visit, made: Installation) -> None:
    client = visit(made.folder, signed_in=False)
    assert client.get("/health").json() == {"status": "UP"}
    assert client.get("/health/ready").status_code == 200
    assert client.post(f"/ml/{KEY}/setup", json={}).status_code == 401
    missing = client.get("/nothing")
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/problem+json"
    assert client.get("/tiles/1.png", params={"expires": 1, "key": "k", "signature": "s"}).status_code == 403


def _state(made: Installation) -> tuple[object, ...]:
    with made.database.transaction() as session:
        project = session.scalars(select(Project)).one()
        cancelled = session.scalars(select(Run.cancel_requested).order_by(Run.id)).all()
        return (project.requested_run, project.requested_adaptation, project.champion_id, tuple(cancelled))
