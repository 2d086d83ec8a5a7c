"""Tiles whose masks came with the images: every page says that they are reviewed whole, and none asks of regions."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from backend.actions import show_tile
from backend.actions.export_queue import begin_export, written
from backend.actions.rank_queue import rank_queue
from backend.store import projects
from tests.backend.dashboard.test_pages import PROJECT, Visit, plain
from tests.builders import Installation, installation, predict_all

pytestmark = pytest.mark.database
WHOLE = "Reviewed as a whole: its mask came with the images, so none of these has a box in Label Studio"


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """Masks for all, and a champion that is no blank one: its regions make the order."""
    made = installation(database_url, tmp_path / "state", train=4, audit=2, masked=True)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        champion.kind = "starter"
    predict_all(made, champion, region_count=2)
    assert rank_queue(made.database, made.project_id)
    return made


def test_ring_queue_tile_export_and_label_studio_agree_that_no_region_is_asked_about(
    visit: Visit, made: Installation
) -> None:
    tile_id = made.tiles("train")[0].id
    client = visit(made.folder)
    ring = plain(client.get(PROJECT).text)
    assert "region 0 below τ = 0.95, waiting; and 4 tiles to review whole queue 4" in ring
    queue = plain(client.get(f"{PROJECT}/queue").text)
    assert queue.count("reviewed as a whole") == 4
    assert "it comes now because of its most doubtful place: confidence 0.60" in queue
    assert ("the best:" in queue, " regions" in queue) == (False, False)
    page = plain(client.get(f"{PROJECT}/tiles/{tile_id}").text)
    assert WHOLE in page
    assert "for its best region" not in page
    document = b"".join(written(made.database, begin_export(made.database, made.project_id), "csv")).decode()
    assert [line["region_id"] for line in csv.DictReader(io.StringIO(document))] == [""] * 4
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        version = projects.champion(session, project).version
        assert show_tile.read_shown(session, project, version, [tile_id], every_region=True)[tile_id].regions == ()


def test_a_tile_that_nobody_has_masked_is_asked_about_by_its_regions(
    visit: Visit, database_url: str, tmp_path: Path
) -> None:
    made = installation(database_url, tmp_path / "state", train=2, audit=1)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        champion.kind = "starter"
    predict_all(made, champion)
    rank_queue(made.database, made.project_id)
    client = visit(made.folder)
    assert "whole" not in plain(client.get(f"{PROJECT}/queue?stratum=score").text)
    assert WHOLE not in plain(client.get(f"{PROJECT}/tiles/{made.tiles('train')[0].id}").text)
    assert "to review whole" not in plain(client.get(PROJECT).text)
