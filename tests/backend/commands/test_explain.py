"""`mpamatch explain`: what people and machines read of a tile, hostile names included."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from backend.actions.rank_queue import rank_queue
from backend.commands.explain import explain
from backend.store import predictions, projects, second_looks
from tests.builders import Installation
from tests.dashboard_project import HOSTILE, filled

pytestmark = pytest.mark.database


@pytest.fixture
def made(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    monkeypatch.setenv("MPAMATCH_STATE", str(tmp_path))
    monkeypatch.setenv("MPAMATCH_DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "200")
    return filled(database_url, tmp_path)


@pytest.fixture
def program() -> typer.Typer:
    app = typer.Typer()
    app.command()(explain)
    return app


def test_people_read_the_whole_story(made: Installation, program: typer.Typer) -> None:
    done = CliRunner().invoke(program, [str(made.tiles("train")[0].id)])
    assert done.exit_code == 0, done.output
    for word in ("predictions", "tasks in Label Studio", "annotations", "masks", "runs that saw it", "events"):
        assert word in done.output
    assert "case-0" in done.output
    assert "rank" in done.output


def test_people_read_what_a_score_is_made_of(made: Installation, program: typer.Typer) -> None:
    tile = made.tiles("train")[5]
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        found = predictions.of(session, tile.id, champion.id)
        assert found is not None
        second_looks.keep(session, found.id, [0.08])
        projects.get(session, made.project_id).ranked_model_id = None
    assert rank_queue(made.database, made.project_id)
    done = CliRunner().invoke(program, [str(tile.id)])
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert re.search(
        r"rank \d+ of \d+, by (class gland .*|score|exploration), (open|leased); order 2 of .* by test-glands-m2", words
    )
    assert "uncertainty bald 0.08 0.5 0.4" in words
    assert "expected to take 8 clicks, 11 s" in words
    assert "uncertainty 0.50, BALD 0.080" in words
    document = json.loads(CliRunner().invoke(program, [str(tile.id), "--json"]).output)
    assert [part["figure"] for part in document["tile"]["place"]["breakdown"]["parts"]] == [
        *("bald", "impurity", "disagreement", "distance"),
    ]


def test_machines_read_it_as_one_document_without_outlines(made: Installation, program: typer.Typer) -> None:
    done = CliRunner().invoke(program, [str(made.tiles("train")[4].id), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert set(found) == {
        *("project", "tile", "generation", "ranked_at", "predictions", "tasks", "runs", "runs_unread", "events"),
    }
    assert found["tile"]["regions"][0]["area_px"] == 400
    assert "rings" not in done.output


def test_names_are_text_and_never_markup(made: Installation, program: typer.Typer) -> None:
    done = CliRunner().invoke(program, [str(made.tiles("train")[3].id)])
    assert done.exit_code == 0, done.output
    assert HOSTILE in done.output.replace("\n", "")


def test_a_blind_audit_tile_says_why_it_says_nothing(made: Installation, program: typer.Typer) -> None:
    done = CliRunner().invoke(program, [str(made.tiles("audit")[1].id)])
    assert "bend the yardstick" in " ".join(done.output.split())
