from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from backend.actions.change_champion import promote, rollback
from backend.store import projects
from backend.store.tables import Event, Model
from mpamatch.errors import Conflict
from tests.builders import Installation, add_model, installation

pytestmark = pytest.mark.database
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    return installation(database_url, tmp_path, train=0, audit=0)


def _promote(made: Installation, version: str) -> None:
    model = add_model(made, version)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        promote(
            session, project, session.get_one(Model, model.id), actor="gate", now=NOW, provisional=False, why="better"
        )


def _champion(made: Installation) -> str:
    with made.database.transaction() as session:
        return projects.champion(session, projects.get(session, made.project_id)).version


def _roll_back(made: Installation, to: str | None = None) -> None:
    with made.database.transaction() as session:
        rollback(session, projects.get(session, made.project_id), to_version=to, actor="operator", now=NOW)


def test_an_adapted_model_never_serves_before_its_verdict_not_even_by_hand(made: Installation) -> None:
    model = add_model(made, "adapted")
    with made.database.transaction() as session:
        session.get_one(Model, model.id).metrics = {"adapted": {"from": "test-glands-m0", "images": 4}}
    before = made.project().champion_id
    with pytest.raises(Conflict, match="was adapted and not judged yet"), made.database.transaction() as session:
        rollback(session, projects.get(session, made.project_id), to_version="adapted", actor="test", now=NOW)
    assert made.project().champion_id == before


def test_a_promoted_model_serves_and_the_one_before_retires(made: Installation) -> None:
    _promote(made, "m1")
    _promote(made, "m2")
    assert _champion(made) == "m2"
    with made.database.transaction() as session:
        states = {row.version: row.state for row in session.execute(select(Model.version, Model.state))}
        told = session.scalars(select(Event).where(Event.what == "champion changed").order_by(Event.id)).all()
    assert states == {"test-glands-m0": "retired", "m1": "retired", "m2": "champion"}
    assert [e.after["champion"] for e in told if e.after] == ["m1", "m2"]


def test_rolling_back_goes_further_back_each_time_and_ends_at_the_first(made: Installation) -> None:
    _promote(made, "m1")
    _promote(made, "m2")
    _roll_back(made)
    assert _champion(made) == "m1"
    _roll_back(made)
    assert _champion(made) == "test-glands-m0"
    with pytest.raises(Conflict, match="no champion before"):
        _roll_back(made)


def test_a_named_earlier_champion_may_return_but_a_rejected_one_never(made: Installation) -> None:
    _promote(made, "m1")
    _promote(made, "m2")
    _roll_back(made, to="m1")
    assert _champion(made) == "m1"
    add_model(made, "m3", state="rejected")
    with pytest.raises(Conflict, match="rejected"):
        _roll_back(made, to="m3")
    assert _champion(made) == "m1"
