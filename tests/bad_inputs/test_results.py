from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from backend.actions.collect_annotation import collect_task
from backend.actions.open_run import open_run, request_run
from backend.labelstudio.results import class_map_to_result
from backend.store import masks, projects
from backend.store.tables import Annotation, Mask, Task
from mpamatch.domain.classes import ClassSet
from mpamatch.files.rasters import decode_raster
from tests.bad_inputs.results import RESULTS, BadResult
from tests.builders import Installation, disc, installation

pytestmark = pytest.mark.database
NOW = datetime(2026, 3, 1, tzinfo=UTC)
CLASSES = ClassSet.from_names(["background", "gland"])


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """Three tiles, tasks 1 to 3."""
    made = installation(database_url, tmp_path, train=3, audit=0)
    with made.database.transaction() as session:
        for number, tile in enumerate(made.tiles(), start=1):
            session.add(Task(project_id=made.project_id, tile_id=tile.id, ls_task_id=number, origin="head"))
    return made


def _collect(made: Installation, ls_task_id: int, result: Any) -> None:
    annotation = {"id": 10 + ls_task_id, "updated_at": "2026-03-01T10:00:00Z", "result": result, "completed_by": 3}
    task = {"id": ls_task_id, "annotations": [annotation]}
    for _ in range(2):  # read twice, counted once
        collect_task(made.database, made.blobs, made.project_id, task, now=NOW)


@pytest.mark.parametrize("case", RESULTS, ids=[c.name for c in RESULTS])
def test_each_is_set_aside_with_its_reason_or_read_as_its_mask_and_the_next_label_counts(
    made: Installation, case: BadResult
) -> None:
    _collect(made, 1, case.make())
    _collect(made, 2, class_map_to_result(disc(x=20), CLASSES))
    with made.database.transaction() as session:
        first, second = session.scalars(select(Annotation).order_by(Annotation.ls_annotation_id))
        kept = {m.annotation_id: decode_raster(made.blobs.get(m.blob)) for m in session.scalars(select(Mask))}
        trained = {m.tile_id for m in masks.current(session, made.project_id)}
    assert (second.state, second.problem) == ("present", None)
    assert (kept[second.id] == disc(x=20)).all()
    if case.mask is None:
        assert first.state == "quarantined"
        assert first.problem == case.line
        assert first.problem.isprintable()
        assert first.id not in kept
        assert trained == {second.tile_id}
    else:
        assert (first.state, first.problem) == ("present", None)
        assert (kept[first.id] == case.mask()).all()


def test_no_run_is_shown_what_was_set_aside(made: Installation) -> None:
    refused = next(c for c in RESULTS if c.line is not None)
    _collect(made, 1, refused.make())
    for ls_task_id in (2, 3):
        _collect(made, ls_task_id, class_map_to_result(disc(), CLASSES))
    with made.database.transaction() as session:
        request_run(session, projects.get(session, made.project_id), by="manual")
    run, decision = open_run(made.database, made.blobs, made.project_id, now=NOW)
    assert run is not None, decision.reasons
    snapshot = made.blobs.get(run.snapshot_blob).decode()
    tile = made.tiles()[0]
    assert f'"tile": {tile.id}' not in snapshot.partition('"pool"')[0]
    with made.database.transaction() as session:
        seen = np.array([m.first_run_id for m in session.scalars(select(Mask))])
    assert (seen == run.id).all()
