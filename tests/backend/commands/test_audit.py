"""`mpamatch audit`: what people and machines read, and that it counts what the workers have not come to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select
from typer.testing import CliRunner

from backend.commands.audit import app
from backend.store.tables import Tally
from tests.audited_project import audited
from tests.builders import Installation
from tests.dashboard_project import HOSTILE, filled

pytestmark = pytest.mark.database


@pytest.fixture
def made(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    monkeypatch.setenv("MPAMATCH_STATE", str(tmp_path))
    monkeypatch.setenv("MPAMATCH_DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "200")
    return filled(database_url, tmp_path)


def said(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_people_and_machines_read_the_same(made: Installation) -> None:
    audited(made)
    with made.database.transaction() as session:
        before = session.scalar(select(func.count()).select_from(Tally))
        session.execute(delete(Tally))
    document = json.loads(said("tau", "--json"))
    with made.database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Tally)) == before
    assert document["waiting"] == 0
    text = said("tau")
    assert document["drift"]["says"] in " ".join(text.split())
    assert f"{document['audit'][0]['at_tau']['acceptance']:.3f}" in text
    assert f"{document['advice'][0]['tau']:.3f}" in text
    assert f"gland {HOSTILE}" in text
    assert json.loads(said("tau", "--precision", "0.8", "--json"))["target"] == 0.8
    advice = json.loads(said("advice", "--json"))
    assert advice["advice"]["says"] in " ".join(said("advice").split())
    assert [v["version"] for v in advice["verdicts"]] == ["test-glands-m1", "test-glands-m2", "test-glands-m3"]
    costs = json.loads(said("costs", "--json"))
    assert f"{costs['overall']['model']['seconds_per_click']:.3f}" in said("costs")
    assert "the live order was ranked by 3.0 s + 1.10 s per click" in said("costs")
    assert set(costs["by_person"]) == {"annotator 1", "annotator 2"}
    agreement = json.loads(said("agreement", "--json"))
    assert f"{agreement[0]['dice']:.3f}" in said("agreement")


def test_a_project_without_figures_says_so(made: Installation) -> None:
    assert "Too early to say" in said("tau")
    assert "Too early to say" in said("advice")
    assert "the defaults hold" in said("costs")
    assert said("agreement").strip() == "agreement: none"
