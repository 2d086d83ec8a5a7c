"""Two people submit the same task at a real Label Studio, one of them late: both labels are kept, the newest counts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from backend.actions.collect_annotation import collect_task
from backend.actions.rank_queue import rank_queue
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.config import labelling_config
from backend.labelstudio.results import class_map_to_result, scope_item
from backend.store import masks, projects
from backend.store.tables import Annotation, Mask, Task
from mpamatch.domain.classes import ClassSet
from mpamatch.files.rasters import decode_raster
from tests import label_studio_person as person
from tests.builders import Installation, disc, installation, predict_all
from tests.label_studio_server import RealLabelStudio
from tests.reliability.fault_log import FaultLog

pytestmark = [pytest.mark.labelstudio, pytest.mark.database, pytest.mark.timeout(600)]
CLASSES = ClassSet.from_names(["background", "gland"])


def label(x: int) -> list[dict[str, Any]]:
    return [*class_map_to_result(disc(x=x), CLASSES), scope_item("whole tile")]


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    made = installation(database_url, tmp_path, train=2, audit=1)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
    predict_all(made, champion)
    rank_queue(made.database, made.project_id)
    return made


def test_both_labels_of_one_task_are_kept_and_the_newest_counts(
    real_label_studio: RealLabelStudio, made: Installation, log: FaultLog
) -> None:
    """Row 19 of the faults through Label Studio's own door, which refuses nobody: nothing is lost or counted twice."""
    server = real_label_studio
    tile = made.tiles("train")[0]
    with LabelStudioClient(server.url, server.token) as first:
        project = int(first.create_project("two people", labelling_config(CLASSES), maximum_annotations=1)["id"])
        (task_id,) = first.import_tasks(project, [{"data": {"image": "/data/none.png", "why": "x"}}])
        with LabelStudioClient(server.url, person.invite(first, server.url).token) as second:
            one = first.create_annotation(task_id, label(20), lead_time_s=5.0)
            late = second.create_annotation(task_id, label(40), lead_time_s=500.0)
        with made.database.transaction() as session:
            session.add(Task(project_id=made.project_id, tile_id=tile.id, ls_task_id=task_id, origin="head"))
        for _ in range(2):  # each label's own webhook reads the whole task
            collect_task(made.database, made.blobs, made.project_id, first.task(task_id), now=datetime.now(UTC))
        with made.database.transaction() as session:
            kept = session.scalars(select(Annotation).order_by(Annotation.updated_at)).all()
            versions = session.scalars(select(Mask).order_by(Mask.version)).all()
            (counts,) = masks.current(session, made.project_id)
        assert [row.ls_annotation_id for row in kept] == [one["id"], late["id"]]
        assert len({row.annotator for row in kept}) == 2
        assert [row.state for row in kept] == ["present", "present"]
        assert [mask.version for mask in versions] == [1, 2]
        assert counts.mask_id == versions[1].id
        assert (decode_raster(made.blobs.get(counts.blob)) == disc(x=40)).all()
        # The second one takes the label back: the first one's work counts again.
        person.delete_annotation(first, int(late["id"]))
        collect_task(made.database, made.blobs, made.project_id, first.task(task_id), now=datetime.now(UTC))
        with made.database.transaction() as session:
            (counts,) = masks.current(session, made.project_id)
        assert (decode_raster(made.blobs.get(counts.blob)) == disc(x=20)).all()
    seen = "both are kept and the newest counts; when it was taken back, the first one's counted again"
    log.recovered(row=19, fault="two people submit one task in Label Studio, one of them late", seen=seen)
