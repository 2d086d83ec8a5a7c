"""One look at one project: apply its inbox, judge, rank, mend the head, open a run. Whatever is due, in that order.

Level-triggered: every stage makes what its rows lack, so running it twice, late, or after a kill at any line is
harmless. Label Studio being away stops only the stages that need it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select

from backend.actions import show_tile
from backend.actions.adopt_task import adopt_task
from backend.actions.collect_annotation import collect_task, mark_removed
from backend.actions.judge_candidate import judge_candidate
from backend.actions.open_run import open_run
from backend.actions.push_tasks import HeadReconciler
from backend.actions.rank_queue import rank_queue
from backend.actions.take_in_uploads import take_in_uploads
from backend.actions.tally_labels import tally_labels
from backend.actions.watch_classes import watch_classes
from backend.labelstudio.client import LabelStudioClient
from backend.store import events, inbox, predictions, projects, runs, second_looks, tasks
from backend.store.annotations import ids_by_task
from backend.store.tables import Annotation, Inbox, Project
from mpamatch.errors import MpamatchError, NotFound, Unavailable
from workers.parts import Parts

LOG = logging.getLogger("mpamatch.sync")
SYNC_LOCK = 7_213_002
# Label Studio's clock and ours may differ, and rows may commit out of order: read a little further back each time.
CURSOR_OVERLAP = timedelta(minutes=2)
MAX_PASSES = 5
INBOX_BATCH, INBOX_BATCHES = 500, 20
TALLIES = 50


def sync_project(parts: Parts, project_id: int, *, full: bool) -> None:
    """Do everything that is due for a project, unless another worker is at it (the sweep comes again)."""
    with parts.database.advisory_lock(SYNC_LOCK, project_id) as free:
        if not free:
            return
        for _ in range(MAX_PASSES):
            if not _pass(parts, project_id, full=full):
                return
            full = False


def _pass(parts: Parts, project_id: int, *, full: bool) -> bool:
    """One round; True when something moved, so that another look is worth it."""
    with parts.database.transaction() as session:
        project = projects.get(session, project_id)
    client = None if parts.patience.resting(project_id, now=parts.now()) else parts.client(project)
    try:
        return _stages(parts, client, project, full=full)
    finally:
        if client is not None:
            client.close()


def _stages(parts: Parts, client: LabelStudioClient | None, project: Project, *, full: bool) -> bool:
    project_id = project.id
    moved = False
    failed: list[str] = []  # stages that Label Studio failed
    if client is not None:
        there = client
        moved |= _asking(parts, "labels", project_id, lambda: _labels_in(parts, there, project, full=full), failed)
    moved |= _stage("verdict", project_id, lambda: _judge(parts, project_id))
    moved |= _stage("second looks", project_id, lambda: _settle_second_looks(parts, project_id))
    moved |= _stage("ranking", project_id, lambda: rank_queue(parts.database, project_id, blobs=parts.blobs))
    answers = client is not None and not parts.patience.resting(project_id, now=parts.now())
    if client is not None and answers and (full or moved or _head_is_due(parts, project_id)):
        there = client
        moved |= _asking(parts, "head", project_id, lambda: _head_out(parts, there, project_id), failed)
    if failed:
        parts.signs.label_studio_failed(project_id)
    elif client is not None and full:
        parts.signs.synced(project_id, now=parts.now())
    _stage("run", project_id, lambda: _open_run(parts, project_id))
    _stage("tallies", project_id, lambda: _tally(parts, project_id))
    _stage("audit log", project_id, lambda: seal_events(parts, project_id))
    with parts.database.transaction() as session:
        project = projects.get(session, project_id)
        missing = project.champion_id and predictions.missing_for(
            session, project_id, project.champion_id, live_tasks_only=False
        )
        if missing or (moved and second_looks.any_due(session, now=parts.now())):
            parts.wakeups.predict()
    return moved


def _stage(name: str, project_id: int, work: Callable[[], bool], failed: list[str] | None = None) -> bool:
    """One stage; what is wrong with it is said (and its name noted in ``failed``), and the other stages go on."""
    try:
        return work()
    except MpamatchError as error:
        LOG.warning("project=%s %s: %s", project_id, name, error)
        if failed is not None:
            failed.append(name)
        return False


def _asking(parts: Parts, name: str, project_id: int, work: Callable[[], bool], failed: list[str]) -> bool:
    """A stage that asks Label Studio; one that is away or refuses us is left alone for a while, and for longer."""

    def asked() -> bool:
        try:
            moved = work()
        except MpamatchError as error:
            if not _is_of_label_studio(error):
                raise
            wait_s = parts.patience.failed(project_id, now=parts.now())
            raise type(error)(error.item, error.problem, f"{error.remedy}; asked again in {wait_s:.0f} s") from error
        parts.patience.answered(project_id)
        return moved

    return _stage(name, project_id, asked, failed)


def _is_of_label_studio(error: MpamatchError) -> bool:
    """Whether asking again at once would be in vain: it does not answer, or does not take our token."""
    if isinstance(error, Unavailable):
        return error.item.partition(" ")[0] in ("GET", "POST", "PATCH", "DELETE")
    return error.item == "Label Studio token"


def seal_events(parts: Parts, project_id: int | None) -> bool:
    """Chain what was recorded since the last look; here, since a chain inside each move would make all moves wait."""
    with parts.database.transaction() as session:
        events.seal(session, project_id)
    return False


def _tally(parts: Parts, project_id: int) -> bool:
    """A second or two of counting; what is left waits for the next look, so that labels need not wait for it."""
    tally_labels(parts.database, parts.blobs, project_id, limit=TALLIES)
    return False


def _open_run(parts: Parts, project_id: int) -> bool:
    """Rules, schedule and requests are asked here, at every look; the sweep looks at the latest every few seconds."""
    run, decision = open_run(parts.database, parts.blobs, project_id, now=parts.now())
    reasons = "; ".join(decision.reasons)
    if run is not None:
        LOG.info("project=%s run=%s queued: %s", project_id, run.number, reasons)
        parts.wakeups.train()
    elif decision.settles_due:
        LOG.info("project=%s schedule: %s", project_id, reasons)
    return run is not None


# -- labels ---------------------------------------------------------------------------------------------------------


def _labels_in(parts: Parts, client: LabelStudioClient, project: Project, *, full: bool) -> bool:
    changed = waiting = 0
    for _ in range(INBOX_BATCHES):  # then the other stages have their turn, also while a storm goes on
        batch = _next_batch(parts, project.id)
        if not batch:
            break
        waiting += len(batch)
        changed += _apply(parts, client, project, batch)
    if full:
        problem = watch_classes(parts.database, client, project.id)
        if problem is not None:
            LOG.warning("project=%s %s", project.id, problem)
        changed += _poll(parts, client, project)
        changed += _compare(parts, client, project)
    return bool(waiting or changed)


def _next_batch(parts: Parts, project_id: int) -> list[Inbox]:
    with parts.database.transaction() as session:
        return list(inbox.waiting(session, project_id, limit=INBOX_BATCH))


def _apply(parts: Parts, client: LabelStudioClient, project: Project, batch: Sequence[Inbox]) -> int:
    """Apply deliveries by reading the present state of the tasks that they name; their content is only a hint.

    Each task is read once however many deliveries name it, so a storm about few tasks costs few requests.
    """
    told: dict[int, str] = {}
    problems: dict[int, str] = {}
    named: dict[int, list[int]] = {}
    for delivery in batch:
        with _noting(problems, [delivery.id], project.id):
            told |= _shown_when_sent(delivery.payload)
            for ls_task_id in _tasks_named(parts, project.id, delivery.payload):
                named.setdefault(ls_task_id, []).append(delivery.id)
    changed = 0
    for ls_task_id, deliveries in sorted(named.items()):
        with _noting(problems, deliveries, project.id):
            changed += _read_task(parts, client, project, ls_task_id, told)
    with parts.database.transaction() as session:
        now = parts.now()
        inbox.applied(session, [d.id for d in batch if d.id not in problems], now=now)
        for number, problem in problems.items():
            inbox.applied(session, [number], now=now, problem=problem)
    return changed


@contextmanager
def _noting(problems: dict[int, str], deliveries: Sequence[int], project_id: int) -> Iterator[None]:
    """What is wrong is noted with the deliveries that brought it, and the others go on; the poll looks again."""
    try:
        yield
    except Unavailable:
        raise
    except MpamatchError as error:
        problems |= {number: str(error) for number in deliveries}
        LOG.warning("project=%s inbox=%s %s", project_id, _some(deliveries), error)
    except Exception as error:
        problems |= {number: f"unexpected {type(error).__name__}" for number in deliveries}
        LOG.exception("project=%s inbox=%s failed", project_id, _some(deliveries))


def _some(deliveries: Sequence[int]) -> str:
    return ",".join(map(str, deliveries[:5])) + (f" and {len(deliveries) - 5} more" if len(deliveries) > 5 else "")


def _tasks_named(parts: Parts, project_id: int, payload: dict[str, Any]) -> set[int]:
    """The Label Studio tasks that a delivery is about; deletions name only annotations, so our rows tell their task."""
    named = {
        int(t["id"]) for key in ("task", "tasks") for t in _dicts(payload.get(key)) if isinstance(t.get("id"), int)
    }
    annotations = [a for key in ("annotation", "annotations") for a in _dicts(payload.get(key))]
    named |= {int(a["task"]) for a in annotations if isinstance(a.get("task"), int)}
    ids = [int(a["id"]) for a in annotations if isinstance(a.get("id"), int)]
    with parts.database.transaction() as session:
        rows = session.scalars(
            select(Annotation.ls_task_id).where(
                Annotation.project_id == project_id, Annotation.ls_annotation_id.in_(ids)
            )
        )
        return named | {number for number in rows if number is not None}


def _dicts(value: Any) -> Iterable[dict[str, Any]]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, dict)]


def _shown_when_sent(payload: dict[str, Any]) -> dict[int, str]:
    """By annotation: the version of the prediction that its page showed; only deliveries tell it after a deletion."""
    told = {}
    for annotation in _dicts(payload.get("annotation")):
        shown = annotation.get("prediction")
        if isinstance(shown, dict) and isinstance(shown.get("model_version"), str):
            told[int(annotation["id"])] = str(shown["model_version"])
    return told


def _shown(client: LabelStudioClient, ls_task: dict[str, Any], told: dict[int, str]) -> dict[int, str]:
    """The same for every annotation of a task as far as it can be known: the prediction that it names, while it is."""
    shown = {}
    for annotation in ls_task.get("annotations") or []:
        number, named = int(annotation["id"]), annotation.get("parent_prediction")
        held = {int(p["id"]): p.get("model_version") for p in ls_task.get("predictions") or []}
        version = held.get(int(named)) if isinstance(named, int) else None
        if version is None and isinstance(named, int):
            try:
                version = client.prediction(named).get("model_version")
            except NotFound:
                version = None
        version = version or told.get(number)
        if version is not None:
            shown[number] = version
    return shown


def _read_task(parts: Parts, client: LabelStudioClient, project: Project, ls_task_id: int, told: dict[int, str]) -> int:
    try:
        ls_task = client.task(ls_task_id)
    except NotFound:
        mark_removed(parts.database, project.id, [ls_task_id])
        return 1
    if int(ls_task.get("project", -1)) != project.ls_project_id:
        return 0
    return _collect(parts, client, project, [ls_task], told)


def _collect(
    parts: Parts, client: LabelStudioClient, project: Project, ls_tasks: list[dict[str, Any]], told: dict[int, str]
) -> int:
    now = parts.now()
    foreign = [t for t in ls_tasks if show_tile.tile_of(t.get("data")) is None]
    for problem in take_in_uploads(parts.database, parts.blobs, client, project.id, foreign, now=now):
        LOG.warning("project=%s %s", project.id, problem)
    if foreign:
        parts.wakeups.predict()
    for ls_task in ls_tasks:
        adopt_task(parts.database, project.id, ls_task)
    return sum(
        collect_task(parts.database, parts.blobs, project.id, t, now=now, shown=_shown(client, t, told))
        for t in ls_tasks
    )


def _poll(parts: Parts, client: LabelStudioClient, project: Project) -> int:
    """Find what no webhook told: every task changed since the cursor. Label Studio sends once and never again."""
    with parts.database.transaction() as session:
        cursor = projects.get(session, project.id).ls_cursor
    since = None if cursor is None else cursor - CURSOR_OVERLAP
    changed, newest, held_back = 0, cursor, None
    assert project.ls_project_id is not None
    for ls_task in client.tasks(project.ls_project_id, changed_since=since):
        updated_at = datetime.fromisoformat(ls_task["updated_at"])
        try:
            changed += _collect(parts, client, project, [ls_task], {})
        except Unavailable:
            raise
        except Exception as error:  # the rest goes on, and the cursor waits: this one is read again
            held_back = updated_at if held_back is None else min(held_back, updated_at)
            known = isinstance(error, MpamatchError)
            LOG.warning("project=%s task=%s %s", project.id, ls_task["id"], error, exc_info=not known)
        newest = updated_at if newest is None else max(newest, updated_at)
    if held_back is not None and newest is not None:
        newest = min(newest, held_back)
    if newest != cursor:
        with parts.database.transaction() as session:
            projects.get(session, project.id).ls_cursor = newest
    return changed


def _compare(parts: Parts, client: LabelStudioClient, project: Project) -> int:
    """Find what no change of a task tells: a deletion whose webhook was lost shows only in the set of ids."""
    assert project.ls_project_id is not None
    now = parts.now()
    with parts.database.transaction() as session:
        compared_at = projects.get(session, project.id).ls_compared_at
        if compared_at is not None and now - compared_at < timedelta(seconds=parts.settings.compare_s):
            return 0
    there = client.annotation_ids(project.ls_project_id)
    with parts.database.transaction() as session:
        ours = ids_by_task(session, project.id)
        known = tasks.known_ids(session, project.id, list(there))
    differing = [t for t in sorted({*ours, *known}) if ours.get(t, set()) != set(there.get(t, ()))]
    changed = sum(_read_task(parts, client, project, ls_task_id, {}) for ls_task_id in differing)
    with parts.database.transaction() as session:
        projects.get(session, project.id).ls_compared_at = now
    return changed


# -- verdicts and the head --------------------------------------------------------------------------------------------


def _judge(parts: Parts, project_id: int) -> bool:
    with parts.database.transaction() as session:
        run = runs.open_run(session, project_id)
    if run is None or run.state != "judging":
        return False
    verdict = judge_candidate(parts.database, parts.blobs, run.id, now=parts.now())
    if verdict is None:
        parts.wakeups.predict()
        return False
    word = "promoted" if verdict.promote else "kept out"
    LOG.info("project=%s run=%s candidate %s: %s", project_id, run.number, word, "; ".join(verdict.reasons))
    parts.wakeups.predict()
    return True


def _settle_second_looks(parts: Parts, project_id: int) -> bool:
    """Before the ranking, which then takes them in: whoever syncs a project is the only one who ranks it."""
    with parts.database.transaction() as session:
        return second_looks.settle(session, project_id)


def _head_is_due(parts: Parts, project_id: int) -> bool:
    """Whether Label Studio lags behind the champion; a cheap look at rows that needs no call."""
    with parts.database.transaction() as session:
        project = projects.get(session, project_id)
        return project.ls_model_version != projects.champion(session, project).version


def _head_out(parts: Parts, client: LabelStudioClient, project_id: int) -> bool:
    with parts.database.transaction() as session:
        if projects.get(session, project_id).ls_problem is not None:
            return False  # its labels changed: what is shown stays as it is until somebody decides
    head = HeadReconciler(
        parts.database,
        parts.blobs,
        parts.keys,
        client,
        parts.settings.api_address,
        open_page_s=parts.settings.open_page_s,
        link_life=timedelta(days=parts.settings.image_url_days),
    )
    report = head.reconcile(project_id, now=parts.now())
    if report.changed:
        LOG.info(
            "project=%s head version=%s added=%s removed=%s refreshed=%s",
            project_id,
            report.version,
            report.added,
            report.removed,
            report.refreshed,
        )
    if report.waiting_for:
        parts.wakeups.predict()
    return False
