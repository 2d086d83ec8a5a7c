"""What must hold after every fault, read from the rows, the blobs and, where a client is given, Label Studio.

    A  every accepted label is in the store once and counted by exactly one later training set
    B  at most one run of a project is open, and a run hands in at most one model
    C  the model that serves is complete, hash-checked and scored (or the first of its project: blank or starter), and
       no adapted one serves or has served without a verdict by a bound
    D  what is shown carries the champion's version
    E  no tile is with two people, and none is lost
    F  the audit chain verifies

(G, recovery without a human within a stated time, is measured by the tests of ``tests/reliability``.)
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from sqlalchemy import text
from sqlalchemy.orm import Session

from backend.actions import show_tile
from backend.labelstudio.client import LabelStudioClient
from backend.store import events, masks, projects
from backend.store.blobs import BlobFolder
from backend.store.sessions import Database
from backend.store.tables import Model, Project
from mpamatch.errors import MpamatchError
from mpamatch.files.model_archive import TENSORS_NAME, unpack_model


class BrokenInvariants(AssertionError):
    """One line per thing that does not hold, each beginning with the invariant's letter."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def check_invariants(
    database: Database, blobs: BlobFolder, *, client: LabelStudioClient | None = None, settled: bool = True
) -> None:
    """Check A to F for every project of an installation. Raises BrokenInvariants with all that is broken.

    ``settled``: nothing is under way any more, so what must come about in the end must be there. Without it only what
    must hold at every moment is checked.
    """
    lines: list[str] = []
    with database.transaction() as session:
        for project in projects.all_of(session):
            for check in (_labels, _runs, _served, _shown, _queue):
                lines += check(session, blobs, project, settled)
        for project_id in (None, *(p.id for p in projects.all_of(session))):
            problem = events.verify_chain(session, project_id)
            lines += [f"F: {problem}"] if problem else []
        connected = [p for p in projects.all_of(session) if p.ls_project_id is not None]
        if client is not None and settled:
            for project in connected:
                lines += _label_studio(session, client, project)
    if lines:
        raise BrokenInvariants(lines)


def _rows(session: Session, query: str, **values: Any) -> Iterator[Any]:
    return iter(session.execute(text(query), values).all())


# -- A: labels --------------------------------------------------------------------------------


def _labels(session: Session, blobs: BlobFolder, project: Project, settled: bool) -> Iterator[str]:
    yield from _annotations(session, project)
    yield from _counted(session, blobs, project)
    for mask in masks.current(session, project.id):
        try:
            blobs.get(mask.blob)
        except MpamatchError as error:
            yield f"A: mask {mask.mask_id} of tile {mask.tile_id} cannot be read: {error}"
    kept = "SELECT count(*) n FROM inbox WHERE project_id = :p AND applied_at IS NULL"
    waiting = next(_rows(session, kept, p=project.id))
    if settled and waiting.n:
        yield f"A: {waiting.n} deliveries in the inbox were not applied"


def _annotations(session: Session, project: Project) -> Iterator[str]:
    """An accepted annotation has a mask that counts; one that is not accepted has none; none is there twice."""
    masks_of = """
        SELECT a.id, a.state, count(m.id) FILTER (WHERE m.withdrawn_at IS NULL) AS counting
        FROM annotation a LEFT JOIN mask m ON m.annotation_id = a.id
        WHERE a.project_id = :p GROUP BY a.id, a.state ORDER BY a.id
    """
    for row in _rows(session, masks_of, p=project.id):
        if row.state == "present" and not row.counting:
            yield f"A: annotation {row.id} was accepted and has no mask"
        if row.state != "present" and row.counting:
            yield f"A: annotation {row.id} is {row.state} and has {row.counting} masks that count"
    doubled = """
        SELECT ls_annotation_id, count(*) n FROM annotation
        WHERE project_id = :p GROUP BY ls_annotation_id HAVING count(*) > 1
    """
    for row in _rows(session, doubled, p=project.id):
        yield f"A: annotation {row.ls_annotation_id} of Label Studio is stored {row.n} times"
    twice = """
        SELECT m.id, m.tile_id, m.version FROM mask m JOIN tile t ON t.id = m.tile_id
        JOIN mask o ON o.tile_id = m.tile_id AND o.version = m.version - 1
        WHERE t.project_id = :p AND m.annotation_id = o.annotation_id AND m.blob = o.blob AND m.origin = o.origin
          AND m.said_blob IS NOT DISTINCT FROM o.said_blob
          AND o.withdrawn_at IS NULL
    """
    for row in _rows(session, twice, p=project.id):
        yield f"A: mask {row.id} of tile {row.tile_id} says again what version {row.version - 1} says"


def _counted(session: Session, blobs: BlobFolder, project: Project) -> Iterator[str]:
    """The run that counted a mask holds it, is later than the mask, and no earlier run that hands in a model does."""
    runs = list(
        _rows(
            session,
            "SELECT id, number, state, snapshot_blob, created_at FROM run WHERE project_id = :p ORDER BY id",
            p=project.id,
        )
    )
    held: dict[int, set[int]] = {}
    for run in runs:
        try:
            held[run.id] = {row["mask"] for row in json.loads(blobs.get(run.snapshot_blob))["labelled"]}
        except MpamatchError as error:
            yield f"A: the snapshot of run {run.number} cannot be read: {error}"
            held[run.id] = set()
    by_id = {run.id: run for run in runs}
    query = """
        SELECT m.id, m.first_run_id, m.created_at, i.split FROM mask m
        JOIN tile t ON t.id = m.tile_id JOIN image i ON i.id = t.image_id WHERE t.project_id = :p ORDER BY m.id
    """
    for mask in _rows(session, query, p=project.id):
        teaching = [r.id for r in runs if mask.id in held[r.id] and r.state not in masks.WITHOUT_MODEL]
        if mask.first_run_id is None:
            if teaching:
                yield f"A: mask {mask.id} was trained on by run {by_id[teaching[0]].number} and counted by none"
            continue
        run = by_id.get(mask.first_run_id)
        if run is None:
            yield f"A: mask {mask.id} is counted by run {mask.first_run_id}, which is not of its project"
            continue
        if run.created_at < mask.created_at:
            yield f"A: mask {mask.id} is counted by run {run.number}, which is older"
        if mask.split == "train" and mask.id not in held[run.id]:
            yield f"A: mask {mask.id} is counted by run {run.number} and is not in its training set"
        if run.state not in masks.WITHOUT_MODEL and teaching and teaching[0] < run.id:
            yield f"A: mask {mask.id} is counted by run {run.number} and taught run {by_id[teaching[0]].number} before"


# -- B: runs ----------------------------------------------------------------------------------


def _runs(session: Session, blobs: BlobFolder, project: Project, settled: bool) -> Iterator[str]:
    query = """
        SELECT count(*) n FROM run WHERE project_id = :p AND state IN ('queued', 'training', 'judging')
    """
    still = next(_rows(session, query, p=project.id)).n
    if still > 1:
        yield f"B: {still} runs of {project.key} are open"
    models = """
        SELECT r.number, r.state, count(m.id) n,
               count(m.id) FILTER (WHERE m.state IN ('candidate', 'champion', 'retired')) AS alive
        FROM run r LEFT JOIN model m ON m.run_id = r.id WHERE r.project_id = :p GROUP BY r.id ORDER BY r.id
    """
    for run in _rows(session, models, p=project.id):
        if run.n > 1:
            yield f"B: run {run.number} handed in {run.n} models"
        if run.state in ("done", "judging") and not run.n:
            yield f"B: run {run.number} is {run.state} and handed in no model"
        if run.state in ("failed", "cancelled", "queued", "training") and run.alive:
            yield f"B: run {run.number} is {run.state} and its model is in use"
    left = """
        SELECT version FROM model WHERE project_id = :p AND state = 'candidate'
          AND (run_id IS NULL OR run_id NOT IN (SELECT id FROM run WHERE state = 'judging'))
    """
    for model in _rows(session, left, p=project.id):
        yield f"B: model {model.version} is a candidate that nobody judges"


# -- C: the model that serves -----------------------------------------------------------------


def _served(session: Session, blobs: BlobFolder, project: Project, settled: bool) -> Iterator[str]:
    yield from _adapted(session, project)
    champions = list(
        _rows(session, "SELECT id, version FROM model WHERE project_id = :p AND state = 'champion'", p=project.id)
    )
    if len(champions) != 1:
        yield f"C: {project.key} has {len(champions)} champions"
    if project.champion_id not in {c.id for c in champions}:
        yield f"C: {project.key} is served by model {project.champion_id}, which is no champion"
        return
    model = session.get_one(Model, project.champion_id)
    by_hand = """
        SELECT 1 FROM event WHERE project_id = :p AND what = 'champion changed' AND subject = 'model:' || :m
          AND after ->> 'why' = 'by hand'
    """
    scored = (model.verdict or {}).get("figures") is not None
    if model.kind == "trained" and not scored and not list(_rows(session, by_hand, p=project.id, m=str(model.id))):
        yield f"C: model {model.version} serves and was never scored"
    if model.kind != "blank":
        problem = _weights_problem(blobs, model)
        if problem is not None:
            yield f"C: model {model.version} serves and is not whole: {problem}"


def _adapted(session: Session, project: Project) -> Iterator[str]:
    unjudged = """
        SELECT version, state FROM model
        WHERE project_id = :p AND state IN ('champion', 'retired') AND jsonb_exists(metrics, 'adapted')
          AND (verdict -> 'promote' = 'true' AND verdict -> 'figures' ->> 'rule' = 'bound') IS NOT TRUE
        ORDER BY id
    """
    for model in _rows(session, unjudged, p=project.id):
        yield f"C: model {model.version} was adapted and is {model.state} without a verdict by a bound"


def _weights_problem(blobs: BlobFolder, model: Model) -> str | None:
    if model.blob is None:
        return "it has no weights"
    try:
        blobs.get(model.blob)
        with tempfile.TemporaryDirectory() as folder:
            unpack_model(blobs.path(model.blob), Path(folder) / "model")
            with safe_open(Path(folder) / "model" / TENSORS_NAME, framework="np") as tensors:
                return None if tensors.keys() else "it has no tensors"
    except (MpamatchError, SafetensorError) as error:
        return str(error)


# -- D: what is shown -------------------------------------------------------------------------


def _shown(session: Session, blobs: BlobFolder, project: Project, settled: bool) -> Iterator[str]:
    query = """
        SELECT k.ls_task_id, k.tile_id, k.model_version, m.state FROM task k
        LEFT JOIN model m ON m.project_id = k.project_id AND m.version = k.model_version
        WHERE k.project_id = :p AND k.state = 'live' ORDER BY k.ls_task_id
    """
    champion = session.get(Model, project.champion_id) if project.champion_id is not None else None
    version = None if champion is None else champion.version
    for task in _rows(session, query, p=project.id):
        if task.model_version is not None and task.state not in ("champion", "retired"):
            yield f"D: task {task.ls_task_id} shows {task.model_version}, which never served"
        if settled and task.model_version != version:
            yield f"D: task {task.ls_task_id} shows {task.model_version}, not {version}"
    if settled and project.ls_project_id is not None and project.ls_model_version != version:
        yield f"D: {project.key} shows {project.ls_model_version} in Label Studio, not {version}"


def _label_studio(session: Session, client: LabelStudioClient, project: Project) -> Iterator[str]:
    """The same from Label Studio's side, and that nothing was pushed there twice."""
    assert project.ls_project_id is not None
    champion = projects.champion(session, project).version
    setting = client.project(project.ls_project_id).get("model_version")
    ours = {
        row.ls_task_id: row.state
        for row in _rows(session, "SELECT ls_task_id, state FROM task WHERE project_id = :p", p=project.id)
    }
    models = _rows(session, "SELECT version, state FROM model WHERE project_id = :p", p=project.id)
    served = {m.version for m in models if m.state in ("champion", "retired")}
    tiles: Counter[int] = Counter()
    waiting = 0
    for task in client.tasks(project.ls_project_id):
        tile_id, state = show_tile.tile_of(task.get("data")), ours.get(task["id"])
        if tile_id is not None and state != "labelled":  # one that was labelled in part may be asked for once more
            tiles[tile_id] += 1
        if state is None:
            yield f"D: task {task['id']} of Label Studio has no row"
        if state == "gone":
            yield f"D: task {task['id']} is in Label Studio and gone in our rows"
        if state != "live":
            continue
        waiting += 1
        versions = Counter(p.get("model_version") for p in task.get("predictions") or [])
        if versions[champion] != 1:
            yield f"D: task {task['id']} carries {versions[champion]} predictions of {champion} in Label Studio"
        for version in sorted(str(v) for v in versions if v not in served):
            yield f"D: task {task['id']} carries a prediction of {version}, which never served"
    if waiting and setting != champion:
        yield f"D: Label Studio serves {setting}, not {champion}"
    for tile_id, count in tiles.items():
        if count > 1:
            yield f"E: tile {tile_id} is {count} tasks that wait in Label Studio"
    yield from _labels_there(session, client, project)


def _labels_there(session: Session, client: LabelStudioClient, project: Project) -> Iterator[str]:
    """Every label in Label Studio is in the store; of tasks that were removed there, ours may be more."""
    assert project.ls_project_id is not None
    there = {i for ids in client.annotation_ids(project.ls_project_id).values() for i in ids}
    query = """
        SELECT a.ls_annotation_id, k.state FROM annotation a
        LEFT JOIN task k ON k.project_id = a.project_id AND k.ls_task_id = a.ls_task_id
        WHERE a.project_id = :p AND a.state <> 'deleted'
    """
    ours = {row.ls_annotation_id: row.state for row in _rows(session, query, p=project.id)}
    for number in sorted(there - set(ours)):
        yield f"A: annotation {number} of Label Studio is not in the store"
    for number in sorted(n for n in set(ours) - there if ours[n] != "gone"):
        yield f"A: annotation {number} is in the store and not in Label Studio"


# -- E: the queue -----------------------------------------------------------------------------


def _queue(session: Session, blobs: BlobFolder, project: Project, settled: bool) -> Iterator[str]:
    values = {"p": project.id, "g": project.queue_generation, "c": project.champion_id}
    twice = """
        SELECT tile_id, count(*) n FROM task WHERE project_id = :p AND state = 'live'
        GROUP BY tile_id HAVING count(*) > 1
    """
    for row in _rows(session, twice, p=project.id):
        yield f"E: tile {row.tile_id} has {row.n} tasks that wait"
    doubled = """
        SELECT tile_id, count(*) n FROM queue_entry WHERE project_id = :p AND generation = :g
        GROUP BY tile_id HAVING count(*) > 1
    """
    for row in _rows(session, doubled, p=project.id, g=project.queue_generation):
        yield f"E: tile {row.tile_id} stands {row.n} times in the queue"
    yield from _held(session, project)
    if settled:
        yield from _lost(session, values)


def _held(session: Session, project: Project) -> Iterator[str]:
    """An entry that is with Label Studio has its task there, and a tile with a waiting task is with nobody else."""
    query = """
        SELECT e.tile_id, e.state, e.lease_holder, k.ls_task_id,
               EXISTS (SELECT 1 FROM annotation a WHERE a.tile_id = e.tile_id AND a.state <> 'deleted') AS answered
        FROM queue_entry e LEFT JOIN task k ON k.tile_id = e.tile_id AND k.state = 'live'
        WHERE e.project_id = :p AND e.generation = :g ORDER BY e.tile_id
    """
    for entry in _rows(session, query, p=project.id, g=project.queue_generation):
        there = entry.lease_holder == "label-studio"
        if entry.ls_task_id is not None and entry.state == "leased" and not there:
            yield f"E: tile {entry.tile_id} is task {entry.ls_task_id} and with {entry.lease_holder}"
        if entry.ls_task_id is not None and entry.state == "open":
            yield f"E: tile {entry.tile_id} is task {entry.ls_task_id} and may be handed out once more"
        if entry.state == "leased" and there and entry.ls_task_id is None:
            yield f"E: tile {entry.tile_id} is held for Label Studio and has no task there"
        if entry.state == "leased" and entry.lease_holder is None:
            yield f"E: tile {entry.tile_id} is held by nobody"
        if entry.state in ("done", "skipped") and not entry.answered:
            yield f"E: tile {entry.tile_id} is {entry.state} in the queue and nobody answered"


def _lost(session: Session, values: dict[str, Any]) -> Iterator[str]:
    """A ready tile of the train split is in the live order, or somebody answered, or it has a mask."""
    query = """
        SELECT t.id, EXISTS (SELECT 1 FROM prediction q WHERE q.tile_id = t.id AND q.model_id = :c) AS predicted
        FROM tile t JOIN image i ON i.id = t.image_id
        WHERE t.project_id = :p AND t.state = 'ready' AND i.state = 'ready' AND i.split = 'train'
          AND NOT EXISTS (SELECT 1 FROM queue_entry e
                          WHERE e.tile_id = t.id AND e.project_id = :p AND e.generation = :g)
          AND NOT EXISTS (SELECT 1 FROM annotation a WHERE a.tile_id = t.id AND a.state <> 'deleted')
          AND NOT EXISTS (SELECT 1 FROM mask m WHERE m.tile_id = t.id AND m.withdrawn_at IS NULL)
        ORDER BY t.id
    """
    for tile in _rows(session, query, **values):
        why = "" if tile.predicted else ", and the champion has not seen it"
        yield f"E: tile {tile.id} is lost: neither in the queue nor answered{why}"
