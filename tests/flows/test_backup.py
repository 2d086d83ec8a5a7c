"""A rehearsal: back up a running installation while labels come in, restore it elsewhere, and serve the same head."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from backend.labelstudio.results import class_map_to_result, scope_item
from backend.store import masks, projects, queue, second_looks, tasks
from backend.store.backup_manifest import read_manifest
from backend.store.tables import Annotation, Mask
from mpamatch.datasets import phantom
from mpamatch.domain.classes import ClassSet
from tests import label_studio_person as person
from tests.builders import disc
from tests.flows.stack import Stack, running

pytestmark = [pytest.mark.processes, pytest.mark.labelstudio, pytest.mark.torch, pytest.mark.timeout(900)]
CLASSES = ClassSet.from_names(["background", "gland"])
HEAD = 8
SETTINGS = {"retrain_after_tiles": 1000, "head_size": HEAD, "sweep_s": 5, "open_page_s": 5, "compare_s": 10}


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    folder = tmp_path / "drawn"
    phantom.write_folder(folder, tiles=16, groups=8, size_px=128, masked=2, seed=5)
    return folder


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A short folder that the database's own user may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="mpamatch-backup-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _at_rest(stack: Stack) -> bool:
    """Every place of the head is a task of the champion, and every label of Label Studio is a mask."""
    with stack.database() as database, database.transaction() as session:
        project = projects.choose(session, None)
        champion = projects.champion(session, project)
        if (project.ls_model_version, project.ranked_model_id) != (champion.version, champion.id):
            return False
        if second_looks.pending(session, project.id):
            return False  # its order changes once more
        shown = {t.tile_id for t in tasks.live(session, project.id) if t.model_version == champion.version}
        held = set(session.scalars(select(Annotation.ls_annotation_id).where(Annotation.state == "present")))
        head = [e.tile_id for e in queue.head(session, project, HEAD)]
    there = {a for ids in stack.client.annotation_ids(stack.ls_project_id).values() for a in ids}
    return bool(head) and set(head) <= shown and held == there


def _facts(stack: Stack) -> dict[str, Any]:
    """What a restore must bring back: the order with its tasks, the labels by hash, the champion."""
    listed = stack.cli("queue", "list", "--limit", "100")
    with stack.database() as database, database.transaction() as session:
        project = projects.choose(session, None)
        current = masks.current(session, project.id)
        found = {
            "masks": [(m.tile_id, m.version, m.blob) for m in current],
            "origins": [tuple(row) for row in session.execute(select(Mask.id, Mask.origin).order_by(Mask.id))],
            "champion": projects.champion(session, project).version,
        }
    for mask in current:
        stack.blobs.get(mask.blob)
    return found | {"queue": [(e["rank"], e["tile_id"], e["ls_task_id"], e["state"]) for e in listed]}


def _label(stack: Stack, ls_task_id: int) -> None:
    result = [*class_map_to_result(disc(128, 60, 60, 30), CLASSES), scope_item("whole tile")]
    stack.client.create_annotation(ls_task_id, result, 5.0)


def test_a_restore_on_a_second_state_folder_serves_the_same_head(drawn: Path, elsewhere: Path) -> None:
    options = ["--images", str(drawn), "--classes", "background,gland"]
    with running(options, **SETTINGS) as first:
        first.wait("the first head", lambda: _at_rest(first))
        order = [e["ls_task_id"] for e in first.cli("queue", "list") if e["ls_task_id"]]
        labels = threading.Thread(target=lambda: [_label(first, number) for number in order[:4]])
        labels.start()
        under_load = first.cli("backup", str(elsewhere / "backups"))
        labels.join()
        first.wait("the labels", lambda: _at_rest(first))
        at_rest = first.cli("backup", str(elsewhere / "backups"))
        assert at_rest["copied"] < under_load["copied"]
        assert at_rest["label_studio"] == "included"
        facts = _facts(first)
        next_task = person.next_task(first.client, first.ls_project_id)
        first.stop()
    assert len([o for _, o in facts["origins"] if o == "annotated"]) == 4

    state = Path(tempfile.mkdtemp(prefix="mpamatch-second-"))
    Stack(state, [], first.environment | {"MPAMATCH_STATE": str(state)}).cli("restore", str(elsewhere / "backups"))
    with running([], state=state, **SETTINGS) as second:
        assert second.ls_project_id == first.ls_project_id
        second.wait("the head", lambda: _at_rest(second))
        assert _facts(second) == facts
        served = person.next_task(second.client, second.ls_project_id)
        assert next_task is not None
        assert served is not None
        assert served["id"] == next_task["id"]
        assert served["data"]["image"].startswith(second.status["api"]["url"])
        second.stop()

    # The one that was made while labels came in is a moment of its own, and comes back as that.
    Path(at_rest["path"], "manifest.json").rename(elsewhere / "later.json")
    third = Stack(elsewhere / "third", [], {**first.environment, "MPAMATCH_STATE": str(elsewhere / "third")})
    third.state.mkdir(mode=0o755)
    restored = third.cli("restore", under_load["path"])
    manifest = read_manifest(Path(under_load["path"], "manifest.json").read_bytes(), "manifest")
    assert restored["tables"] == {name: rows.rows for name, rows in manifest.tables.items()}
