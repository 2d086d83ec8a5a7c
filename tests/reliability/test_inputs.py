"""Poisoned pictures and labels on their way through: what is taken is predicted, what is not is set aside and seen."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from backend.actions import show_tile
from backend.actions.first_project import register_folder
from backend.actions.rank_queue import rank_queue
from backend.clock import utc_now
from backend.credentials import ensure_dashboard_token
from backend.labelstudio.payloads import parse_webhook
from backend.labelstudio.results import class_map_to_result, scope_item
from backend.settings import Settings
from backend.site import create_site
from backend.store import inbox, masks, projects
from backend.store.tables import Annotation, Image, Inbox, Model, Prediction, Task, Tile
from backend.wakeups import Wakeups
from mpamatch.domain.classes import ClassSet
from mpamatch.files.images import encode_png
from mpamatch.files.starter import starter_archive, starter_classes
from tests.bad_inputs.pictures import PICTURES, png_of_header, tissue
from tests.bad_inputs.results import RESULTS
from tests.builders import Installation, disc, installation
from tests.invariants import check_invariants
from tests.reliability.fault_log import FaultLog
from workers.champion import LoadedModels
from workers.device import set_threads
from workers.jobs import sync
from workers.jobs.predict import predict_due
from workers.parts import Parts

pytestmark = [pytest.mark.database, pytest.mark.torch, pytest.mark.timeout(600)]
BASE, LS_PROJECT = "http://127.0.0.1", 5
CLASSES = ClassSet.from_names(["background", "gland"])


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """A project whose champion is the starter, without pictures."""
    (tmp_path / "state").mkdir()
    made = installation(database_url, tmp_path / "state", train=0, audit=0)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        project.ls_project_id = LS_PROJECT
        champion = session.get_one(Model, project.champion_id)
        champion.kind, champion.blob = "starter", made.blobs.put(starter_archive(starter_classes()))
    return made


@pytest.fixture
def parts(made: Installation, database_url: str, redis_url: str) -> Parts:
    settings = Settings(state=made.folder, database_url=database_url, broker_url=redis_url, threads=1)
    set_threads(settings)
    return Parts(settings, made.database, made.blobs, made.keys, Wakeups(redis_url), "host:1:1.0")


@pytest.fixture
def page(parts: Parts) -> Callable[[], str]:
    """The ring's page as the operator reads it."""

    def read() -> str:
        with TestClient(create_site(parts.settings), base_url=BASE) as client:
            token = ensure_dashboard_token(parts.settings.state)
            client.post("/login", data={"token": token}, headers={"origin": BASE})
            return html.unescape(client.get("/projects/test-glands").text)

    return read


def test_odd_pictures_are_predicted_and_broken_ones_are_set_aside_by_name(
    made: Installation, parts: Parts, page: Callable[[], str], tmp_path: Path, log: FaultLog
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    broken = [c for c in PICTURES if c.line is not None and c.file in ("zero.png", "cut.jpg", "huge.png", "float.tif")]
    odd = [c for c in PICTURES if c.taken]
    for case in (*broken, *odd):
        case.make(folder / case.file)
    report = register_folder(made.database, made.blobs, made.project(), folder)
    assert len(report.problems) == len(broken) == 4
    predict_due(parts, LoadedModels(made.blobs, made.folder / "cache", "cpu"), stop=lambda: False)
    assert rank_queue(made.database, made.project_id)
    with made.database.transaction() as session:
        tiles, predicted = session.scalars(select(Tile.id)).all(), session.scalars(select(Prediction.tile_id)).all()
        aside = session.scalars(select(Image.problem).where(Image.state == "quarantined")).all()
    assert sorted(predicted) == sorted(tiles)
    # The row names the file alone: its folder may name a patient.
    assert sorted(aside) == sorted(problem.replace(f"{folder}/", "") for problem in report.problems)
    assert all(line in page() for line in aside if line)
    check_invariants(made.database, made.blobs, settled=False)
    seen = f"{len(odd)} odd pictures were predicted; {len(broken)} broken ones are set aside, said on the dashboard"
    fault = "truncated, empty, bomb, float, 16-bit, CMYK, alpha, turned pictures, at ingest"
    log.recovered(row=13, fault=fault, seen=seen)


def test_a_picture_poisoned_after_it_was_registered_is_set_aside_and_the_next_is_predicted(
    made: Installation, parts: Parts, page: Callable[[], str], tmp_path: Path, log: FaultLog
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(encode_png(tissue(seed)))
    register_folder(made.database, made.blobs, made.project(), folder)
    poisoned, *others = made.tiles()
    bomb = made.blobs.put(png_of_header(200_000, 200_000))  # whole by its hash, and no picture anybody may unpack
    with made.database.transaction() as session:
        session.get_one(Tile, poisoned.id).png_blob = bomb
    predict_due(parts, LoadedModels(made.blobs, made.folder / "cache", "cpu"), stop=lambda: False)
    with made.database.transaction() as session:
        assert set(session.scalars(select(Prediction.tile_id))) == {tile.id for tile in others}
        image = session.get_one(Image, poisoned.image_id)
    assert image.state == "quarantined"
    assert image.problem is not None
    assert "40,000,000,000 pixels" in image.problem
    assert image.problem in page()
    check_invariants(made.database, made.blobs, settled=False)
    seen = "its image is set aside with the reason, the others are predicted"
    log.recovered(row=13, fault="a picture that became a bomb after ingest, at predict", seen=seen)


class Studio:
    """Tasks as Label Studio would answer them."""

    def __init__(self, tasks: dict[int, dict[str, Any]]) -> None:
        self._tasks = tasks

    def task(self, task_id: int) -> dict[str, Any]:
        return self._tasks[task_id]


def test_poisoned_labels_in_the_inbox_are_set_aside_by_name_and_never_trained_on(
    made: Installation, parts: Parts, page: Callable[[], str], tmp_path: Path, log: FaultLog
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    refused = [c for c in RESULTS if c.line is not None]
    for seed in range(len(refused) + 1):
        (folder / f"{seed:02}.png").write_bytes(encode_png(tissue(seed, side=64)))
    register_folder(made.database, made.blobs, made.project(), folder)
    held: dict[int, dict[str, Any]] = {}
    whole = [*class_map_to_result(disc(), CLASSES), scope_item("whole tile")]
    for number, tile in enumerate(made.tiles(), start=1):
        result = refused[number - 1].make() if number <= len(refused) else whole
        annotation = {"id": 100 + number, "result": result, "updated_at": "2026-03-01T10:00:00Z"}
        data = {"image": show_tile.link(made.keys, "http://127.0.0.1:1", tile.id, utc_now()), "tile_id": tile.id}
        held[number] = {"id": number, "project": LS_PROJECT, "data": data, "annotations": [annotation]}
        with made.database.transaction() as session:
            session.add(Task(project_id=made.project_id, tile_id=tile.id, ls_task_id=number, origin="head"))
            body = {"action": "ANNOTATION_CREATED", "project": {"id": LS_PROJECT}, "task": {"id": number}}
            key = parse_webhook(body).dedupe_key
            inbox.keep(session, project_id=made.project_id, dedupe_key=key, action=body["action"], payload=body)
    studio: Any = Studio(held)
    sync._labels_in(parts, studio, made.project(), full=False)
    with made.database.transaction() as session:
        assert session.scalars(select(Inbox).where(Inbox.applied_at.is_(None))).all() == []
        assert set(session.scalars(select(Inbox.problem))) == {None}  # the delivery was fine; its label was not
        states = session.scalars(select(Annotation.state).order_by(Annotation.ls_annotation_id)).all()
        counting = masks.current(session, made.project_id)
        said = session.scalars(select(Annotation.problem).where(Annotation.state == "quarantined")).all()
    assert states == ["quarantined"] * len(refused) + ["present"]
    assert [m.tile_id for m in counting] == [made.tiles()[-1].id]
    assert sorted(said) == sorted(str(c.line) for c in refused)
    shown = page()
    assert any(str(c.line) in shown for c in refused)
    assert f"{len(refused)}" in shown
    check_invariants(made.database, made.blobs, settled=False)
    seen = f"{len(refused)} are set aside with their reason, the good one beside them is the only one that trains"
    log.recovered(row=14, fault="labels of wrong length, class, size, outline or kind in the inbox", seen=seen)
