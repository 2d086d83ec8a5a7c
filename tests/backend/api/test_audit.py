"""What REST says of whether it works is what the actions say, figure by figure."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from backend.actions.advise_stopping import advise_stopping
from backend.actions.audit_tau import audit_tau
from backend.actions.fit_costs import see_costs
from backend.actions.see_agreement import see_agreement
from backend.settings import Settings
from backend.site import create_site
from backend.store import projects, tokens
from tests.audited_project import audited
from tests.backend.api.conftest import BASE
from tests.builders import Installation
from tests.dashboard_project import KEY, filled

pytestmark = pytest.mark.database
PROJECT = f"/api/v1/projects/{KEY}"


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    return audited(filled(database_url, tmp_path / "state"))


def test_rest_says_what_the_rows_say(made: Installation, database_url: str, redis_url: str) -> None:
    with made.database.transaction() as session:
        now = datetime.now(UTC)
        token = tokens.create(
            session, name="t", role="viewer", project_id=made.project_id, expires_at=None, now=now, actor="test"
        ).token
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        expected = {
            "audit": asdict(audit_tau(session, project)),
            "audit?precision=0.8": asdict(audit_tau(session, project, target=0.8)),
            "advice": asdict(advise_stopping(session, project)),
            "costs": asdict(see_costs(session, project)),
            "agreement": {"agreements": [asdict(one) for one in see_agreement(session, project)]},
        }
    site = create_site(Settings(state=made.folder, database_url=database_url, broker_url=redis_url))
    with TestClient(site, base_url=BASE, headers={"Authorization": f"Bearer {token}"}) as client:
        for path, document in expected.items():
            response = client.get(f"{PROJECT}/{path}")
            assert response.status_code == 200, response.text
            assert response.json() == json.loads(json.dumps(document)), path
        refused = [client.get(f"{PROJECT}/audit?{q}").status_code for q in ("precision=1", "precision=x", "tau=0.9")]
    assert refused == [422, 422, 422]
    assert expected["audit"]["held_tiles"] == 10
    assert expected["audit?precision=0.8"]["target"] == 0.8
    assert expected["costs"]["overall"]["why"] == ""
    assert expected["costs"]["ranked_by"]["seconds_per_click"] == 1.1
    assert len(expected["agreement"]["agreements"]) == 2
