"""Each invariant can fail: a settled project holds, and every way of breaking it is named by its letter."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from backend.actions.collect_annotation import collect_task
from backend.actions.judge_candidate import judge_candidate
from backend.actions.open_run import open_run
from backend.actions.push_tasks import HeadReconciler
from backend.actions.rank_queue import rank_queue
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.results import scope_item
from backend.servers import EmbeddedPostgres
from backend.store import events, projects, runs, tasks
from backend.store.sessions import Database
from backend.store.tables import Model, Run
from mpamatch.domain.policy import Policy
from mpamatch.errors import NotFound
from mpamatch.files.starter import starter_archive, starter_classes
from tests.builders import Installation, add_images, add_model, installation, predict_all
from tests.invariants import BrokenInvariants, check_invariants

pytestmark = pytest.mark.database
LATER = datetime(2100, 1, 1, tzinfo=UTC)
LS_PROJECT, URL = 56, "http://127.0.0.1:9"
TEMPLATE = "settled_project"
_copies = itertools.count(1)


class Studio:
    """Label Studio as far as it is read here: tasks with predictions and annotations, and the project's version."""

    def __init__(self) -> None:
        self.held: dict[int, dict[str, Any]] = {}
        self.version: str | None = None
        self._numbers = itertools.count(1)

    def copied(self) -> Studio:
        other = Studio()
        other.held, other.version = copy.deepcopy(self.held), self.version
        other._numbers = itertools.count(1000)
        return other

    def project(self, project_id: int) -> dict[str, Any]:
        return {"model_version": self.version}

    def set_model_version(self, project_id: int, version: str) -> None:
        self.version = version

    def model_versions(self, project_id: int) -> dict[str, int]:
        return {p["model_version"]: 1 for t in self.held.values() for p in t["predictions"]}

    def tasks(self, project_id: int, **options: Any) -> list[dict[str, Any]]:
        rows = [{"id": n, "draft_exists": False, **t} for n, t in sorted(self.held.items())]
        return [r for r in rows if not (options.get("unlabelled_only") and r["annotations"])]

    def task(self, number: int) -> dict[str, Any]:
        if number not in self.held:
            raise NotFound(f"task {number}", "404")
        return {"id": number, **self.held[number]}

    def annotation_ids(self, project_id: int) -> dict[int, tuple[int, ...]]:
        return {n: tuple(a["id"] for a in t["annotations"]) for n, t in self.held.items() if t["annotations"]}

    def import_tasks(self, project_id: int, made: list[dict[str, Any]]) -> list[int]:
        ids = [next(self._numbers) for _ in made]
        self.held |= {
            number: {**task, "annotations": [], "predictions_model_versions": task["predictions"][0]["model_version"]}
            for number, task in zip(ids, made, strict=True)
        }
        return ids

    def import_predictions(self, project_id: int, made: list[dict[str, Any]]) -> int:
        for prediction in made:
            self.held[prediction["task"]]["predictions"].append(prediction)
        return len(made)

    def label(self, number: int) -> dict[str, Any]:
        label = {"id": 900 + number, "result": [scope_item("whole tile")], "updated_at": "2026-03-01T10:00:00Z"}
        self.held[number]["annotations"].append({**label, "completed_by": 3, "was_cancelled": False})
        return self.task(number)


class Settled:
    """A project after one run: a judged champion, a head in Label Studio, one label, a sealed audit log."""

    def __init__(self, made: Installation) -> None:
        self.made, self.studio = made, Studio()
        with made.database.transaction() as session:
            project = projects.get(session, made.project_id)
            project.ls_project_id = LS_PROJECT
            project.requested_run = "manual"
            champion = projects.champion(session, project)
        predict_all(made, champion)
        self.run, _ = self._run(champion)
        self._head()
        labelled = self.tasks()[0]
        collect_task(made.database, made.blobs, made.project_id, self.studio.label(labelled), now=LATER)
        with made.database.transaction() as session:
            events.seal(session, made.project_id)

    def _run(self, champion: Model) -> tuple[Run, Model]:
        made = self.made
        run, decision = open_run(made.database, made.blobs, made.project_id, now=LATER)
        assert run is not None, decision.reasons
        model = add_model(made, "m1", run_id=run.id)
        with made.database.transaction() as session:
            session.get_one(Model, model.id).blob = made.blobs.put(starter_archive(starter_classes()))
            row = session.get_one(Run, run.id)
            runs.move(session, row, "training", actor="test")
            runs.move(session, row, "judging", actor="test")
        predict_all(made, model)
        verdict = judge_candidate(made.database, made.blobs, run.id, now=LATER)
        assert verdict is not None
        assert verdict.promote
        return run, model

    def _head(self) -> None:
        made, client = self.made, self.client
        assert rank_queue(made.database, made.project_id)
        HeadReconciler(
            made.database, made.blobs, made.keys, client, URL, open_page_s=600, link_life=timedelta(days=7)
        ).reconcile(made.project_id, now=LATER)

    @property
    def client(self) -> LabelStudioClient:
        studio: Any = self.studio
        return studio

    def tasks(self) -> list[int]:
        """The tasks that wait, as Label Studio numbers them."""
        with self.made.database.transaction() as session:
            return [t.ls_task_id for t in tasks.live(session, self.made.project_id)]

    def sql(self, statement: str, **values: Any) -> None:
        with self.made.database.transaction() as session:
            for one in statement.split(";"):
                session.execute(text(one), {k: v for k, v in values.items() if f":{k}" in one})

    def broken(self) -> list[str]:
        try:
            check_invariants(self.made.database, self.made.blobs, client=self.client)
        except BrokenInvariants as error:
            return error.lines
        return []


@pytest.fixture(scope="module")
def settled(
    postgres: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settled]:
    """Made once; every test breaks a copy."""
    policy = Policy(debounce_s=0, retrain_after_tiles=2, gate_min_tiles=4, gate_min_groups=3, head_size=4)
    url = postgres.create_database(TEMPLATE, template=migrated_template)
    made = installation(url, tmp_path_factory.mktemp("settled"), train=4, audit=6, masked=True, policy=policy)
    add_images(made, train=8, audit=0, masked=False, first=20)
    project = Settled(made)
    made.database.close()  # a database with connections cannot be copied
    yield project
    postgres.drop_database(TEMPLATE)


@pytest.fixture
def project(settled: Settled, postgres: EmbeddedPostgres) -> Iterator[Settled]:
    name = f"{TEMPLATE}_{next(_copies)}"
    database = Database(postgres.create_database(name, template=TEMPLATE))
    copied = copy.copy(settled)
    copied.made, copied.studio = replace(settled.made, database=database), settled.studio.copied()
    yield copied
    database.close()
    postgres.drop_database(name)


def test_a_settled_project_breaks_nothing(project: Settled) -> None:
    assert project.broken() == []


# By statement: what it does to the rows, and how the line that names it begins.
ROWS: dict[str, tuple[str, str]] = {
    "a label without its mask": ("DELETE FROM mask WHERE annotation_id IS NOT NULL", "A: annotation"),
    "a skipped label that still counts": ("UPDATE annotation SET state = 'skipped'", "A: annotation"),
    "a label stored twice": (
        """ALTER TABLE annotation DROP CONSTRAINT "uq_annotation_project_id_ls_annotation_id";
           INSERT INTO annotation
               (id, project_id, tile_id, ls_annotation_id, ls_task_id, result_blob, updated_at, state)
           SELECT id + 1000, project_id, tile_id, ls_annotation_id, ls_task_id, result_blob, updated_at, 'deleted'
           FROM annotation""",
        "A: annotation",
    ),
    "one label as two mask versions": (
        """INSERT INTO mask (id, tile_id, version, origin, blob, reviewed_share, annotation_id)
           SELECT id + 1000, tile_id, version + 1, origin, blob, reviewed_share, annotation_id
           FROM mask WHERE annotation_id IS NOT NULL""",
        "A: mask",
    ),
    "a mask that taught a run and is counted by none": (
        "UPDATE mask SET first_run_id = NULL WHERE tile_id IN (SELECT min(id) FROM tile)",
        "A: mask",
    ),
    "a mask counted by a run that never saw it": (
        "UPDATE mask SET first_run_id = :run WHERE annotation_id IS NOT NULL",
        "A: mask",
    ),
    "a mask counted by an older run": (
        "UPDATE mask SET created_at = now() + interval '1 hour' WHERE first_run_id IS NOT NULL",
        "A: mask",
    ),
    "a delivery that nobody applied": (
        """INSERT INTO inbox (id, project_id, dedupe_key, action, payload)
           SELECT 1, id, 'k', 'ANNOTATION_CREATED', '{}' FROM project""",
        "A: 1 deliveries",
    ),
    "two open runs": (
        """DROP INDEX uq_run_one_open;
           INSERT INTO run
               (id, project_id, number, trigger, reasons, recipe, recipe_hash, snapshot_blob, version, state)
           SELECT id + n, project_id, number + n, trigger, reasons, recipe, recipe_hash, snapshot_blob, 'x', 'queued'
           FROM run, generate_series(1, 2) n""",
        "B: 2 runs",
    ),
    "two models of one run": (
        """INSERT INTO model (id, project_id, version, kind, state, run_id)
           SELECT id + 1000, project_id, 'twin', kind, 'rejected', run_id FROM model WHERE version = 'm1'""",
        "B: run 1 handed in 2 models",
    ),
    "a done run without a model": (
        "UPDATE model SET run_id = NULL WHERE run_id IS NOT NULL",
        "B: run 1 is done and handed in no model",
    ),
    "a failed run whose model serves": ("UPDATE run SET state = 'failed'", "B: run 1 is failed"),
    "a candidate that nobody judges": (
        """INSERT INTO model (id, project_id, version, kind, state)
           SELECT id + 1000, project_id, 'forgotten', kind, 'candidate' FROM model WHERE version = 'm1'""",
        "B: model forgotten",
    ),
    "a champion that was never scored": ("UPDATE model SET verdict = NULL", "C: model m1 serves and was never"),
    "an adapted champion without a verdict": (
        """UPDATE model SET metrics = '{"adapted": {}}', verdict = NULL WHERE version = 'm1'""",
        "C: model m1 was adapted and is champion without",
    ),
    "an adapted champion that was let in for now": (
        """UPDATE model SET metrics = '{"adapted": {}}',
               verdict = jsonb_set(verdict, '{figures,rule}', '"point"') WHERE version = 'm1'""",
        "C: model m1 was adapted and is champion without",
    ),
    "an adapted model that served against its verdict": (
        """INSERT INTO model (id, project_id, version, kind, state, metrics, verdict)
           SELECT id + 1000, project_id, 'm9', kind, 'retired', '{"adapted": {}}',
                  '{"promote": false, "figures": {"rule": "bound"}}' FROM model WHERE version = 'm1'""",
        "C: model m9 was adapted and is retired without",
    ),
    "a champion without weights": ("UPDATE model SET blob = NULL", "C: model m1 serves and is not whole"),
    "a project served by another model": (
        "UPDATE project SET champion_id = (SELECT min(id) FROM model)",
        "C: test-glands is served by model",
    ),
    "no champion at all": ("UPDATE model SET state = 'retired'", "C: test-glands has 0 champions"),
    "a task that shows an earlier version": (
        "UPDATE task SET model_version = 'test-glands-m0' WHERE state = 'live'",
        "D: task",
    ),
    "a task that shows what never served": (
        """UPDATE task SET model_version = 'm9' WHERE state = 'live';
           INSERT INTO model (id, project_id, version, kind, state, run_id)
           SELECT id + 1000, project_id, 'm9', kind, 'rejected', NULL FROM model WHERE version = 'm1'""",
        "D: task",
    ),
    "a project that shows an earlier version": (
        "UPDATE project SET ls_model_version = 'test-glands-m0'",
        "D: test-glands shows test-glands-m0",
    ),
    "a tile with two tasks": (
        """DROP INDEX uq_task_live_tile;
           INSERT INTO task (id, project_id, tile_id, ls_task_id, origin, model_version)
           SELECT id + 1000, project_id, tile_id, ls_task_id + 1000, origin, model_version FROM task""",
        "E: tile",
    ),
    "a tile twice in the queue": (
        """ALTER TABLE queue_entry DROP CONSTRAINT "uq_queue_entry_project_id_generation_tile_id";
           INSERT INTO queue_entry
               (id, project_id, generation, ranking_id, rank, tile_id, region_ids, score, noise, stratum, propensity,
                round, config_hash, state)
           SELECT id + 1000, project_id, generation, ranking_id, rank + 1000, tile_id, region_ids, score, noise,
                  stratum, propensity, round, config_hash, state
           FROM queue_entry WHERE rank = (SELECT max(rank) FROM queue_entry)""",
        "E: tile",
    ),
    "a task's tile leased to somebody else": (
        "UPDATE queue_entry SET lease_holder = 'annotator:3' WHERE state = 'leased'",
        "E: tile",
    ),
    "a task's tile that is open": (
        "UPDATE queue_entry SET state = 'open', lease_holder = NULL WHERE state = 'leased'",
        "E: tile",
    ),
    "a tile held for Label Studio without a task": ("UPDATE task SET state = 'gone'", "E: tile"),
    "a tile held by nobody": (
        """UPDATE queue_entry SET state = 'leased', lease_holder = NULL
           WHERE rank = (SELECT max(rank) FROM queue_entry)""",
        "E: tile",
    ),
    "a tile closed without an answer": (
        "UPDATE queue_entry SET state = 'done' WHERE rank = (SELECT max(rank) FROM queue_entry)",
        "E: tile",
    ),
    "a tile that fell out of the queue": (
        "DELETE FROM queue_entry WHERE rank = (SELECT max(rank) FROM queue_entry)",
        "E: tile",
    ),
    "an altered event": ("UPDATE event SET actor = 'somebody else'", "F: event"),
}


@pytest.mark.parametrize("what", ROWS)
def test_a_broken_row_is_named(project: Settled, what: str) -> None:
    statement, begins = ROWS[what]
    project.sql(statement, run=project.run.id)
    assert any(line.startswith(begins) for line in project.broken()), project.broken()


@contextmanager
def _flipped(project: Settled, column: str, table: str, where: str) -> Iterator[None]:
    with project.made.database.transaction() as session:
        digest = session.scalar(text(f"SELECT {column} FROM {table} WHERE {where}"))
    path = project.made.blobs.path(str(digest))
    whole = path.read_bytes()
    content = bytearray(whole)
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    yield
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("column", "table", "where", "begins"),
    [
        ("blob", "mask", "annotation_id IS NOT NULL", "A: mask"),
        ("snapshot_blob", "run", "true", "A: the snapshot of run 1"),
        ("blob", "model", "state = 'champion'", "C: model m1 serves and is not whole"),
    ],
)
def test_a_damaged_blob_is_named(project: Settled, column: str, table: str, where: str, begins: str) -> None:
    with _flipped(project, column, table, where):
        assert any(line.startswith(begins) for line in project.broken()), project.broken()


def _earlier_version(studio: Studio, task: dict[str, Any]) -> None:
    studio.version = "test-glands-m0"


def _unknown_label(studio: Studio, task: dict[str, Any]) -> None:
    task["annotations"].append({"id": 77})


def _pushed_twice(studio: Studio, task: dict[str, Any]) -> None:
    studio.import_tasks(LS_PROJECT, [task])


def _two_predictions(studio: Studio, task: dict[str, Any]) -> None:
    task["predictions"] *= 2


def _never_served(studio: Studio, task: dict[str, Any]) -> None:
    task["predictions"].append({"model_version": "m9"})


def _lost_label(studio: Studio, task: dict[str, Any]) -> None:
    for held in studio.held.values():
        held["annotations"] = []


@pytest.mark.parametrize(
    ("change", "begins"),
    [
        (_earlier_version, "D: Label Studio serves test-glands-m0, not m1"),
        (_unknown_label, "A: annotation 77 of Label Studio is not in the store"),
        (_lost_label, "A: annotation"),
        (_pushed_twice, "E: tile"),
        (_two_predictions, "D: task"),
        (_never_served, "D: task"),
    ],
)
def test_what_is_wrong_in_label_studio_alone_is_named(
    project: Settled, change: Callable[[Studio, dict[str, Any]], None], begins: str
) -> None:
    change(project.studio, project.studio.held[project.tasks()[0]])
    assert any(line.startswith(begins) for line in project.broken()), project.broken()


def test_what_must_come_about_in_the_end_may_be_missing_while_work_is_under_way(project: Settled) -> None:
    project.sql("UPDATE task SET model_version = 'test-glands-m0' WHERE state = 'live'")
    project.sql("DELETE FROM queue_entry WHERE rank = (SELECT max(rank) FROM queue_entry)")
    check_invariants(project.made.database, project.made.blobs, settled=False)
    assert len(project.broken()) >= 2
