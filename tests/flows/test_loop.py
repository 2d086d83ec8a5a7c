"""The whole ring with real servers, Label Studio and browser: label, retrain, judge, re-order, go back."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from sqlalchemy import select

from backend.labelstudio.results import class_map_to_result, paint, scope_item
from backend.store import images, masks, projects, queue, runs, second_looks, tasks
from backend.store.tables import Annotation, Mask, Model, Run, Task
from mpamatch.datasets import phantom
from mpamatch.domain.classes import ClassSet
from mpamatch.files.images import encode_png
from mpamatch.files.rasters import decode_raster
from tests import label_studio_person as person
from tests.flows.browser import LabelStreamBrowser, find_chromium
from tests.flows.stack import Stack, running

pytestmark = [
    pytest.mark.profiles,
    pytest.mark.processes,
    pytest.mark.labelstudio,
    pytest.mark.torch,
    pytest.mark.timeout(900),
]
CLASSES = ClassSet.from_names(["background", "gland"])
AFTER = 10
HEAD = 20


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a newcomer has it: images in case folders, no masks."""
    folder = tmp_path_factory.mktemp("drawn tissue")
    phantom.write_folder(folder, tiles=36, groups=12, size_px=192, masked=0, seed=3)
    return folder


@pytest.fixture(scope="module")
def stack(drawn: Path) -> Iterator[Stack]:
    options = ["--images", str(drawn), "--classes", "background,gland", "--start", "blank"]
    settings = {
        "retrain_after_tiles": AFTER,
        "debounce_s": 2,
        "head_size": HEAD,
        "sweep_s": 5,
        "open_page_s": 15,
        "compare_s": 10,
    }
    with running(options, train_profile="quick", **settings) as up:
        up.wait("the first head", lambda: _settled(up))
        yield up


def _settled(stack: Stack) -> bool:
    """Label Studio shows the champion, in the order that was made from it, with a full head."""
    with stack.database() as database, database.transaction() as session:
        project = projects.choose(session, None)
        champion = projects.champion(session, project)
        if (project.ls_model_version, project.ranked_model_id) != (champion.version, champion.id):
            return False
        if second_looks.pending(session, project.id):
            return False  # its order changes once more
        head = queue.head(session, project, HEAD)
        shown = {t.tile_id: t for t in tasks.live(session, project.id) if t.model_version == champion.version}
        return bool(head) and all(e.tile_id in shown for e in head)


def _order(stack: Stack) -> list[int]:
    """Our order, as task ids in Label Studio."""
    listed = stack.cli("queue", "list", "--limit", "100")
    return [e["ls_task_id"] for e in listed if e["ls_task_id"] is not None]


def _agreed(stack: Stack) -> list[int] | None:
    """Our order, once Label Studio has its tasks and no others, in the same order.

    Tasks that fell out of the head are listed until they are removed there, after the new ones were added.
    """
    order = _order(stack)
    scores = {t: ps[0]["score"] for t, ps in _shown(stack).items() if ps}
    return order if 0 < len(order) <= HEAD and _ascending(scores) == order else None


def _ascending(scores: dict[int, float]) -> list[int] | None:
    """The tasks as Label Studio serves them, by ascending scores; None where two are equal."""
    return sorted(scores, key=scores.__getitem__) if len(set(scores.values())) == len(scores) else None


def _truth(stack: Stack, drawn: Path, ls_task_id: int) -> np.ndarray:
    """The exact mask of a drawn tile, by its picture."""
    with stack.database() as database, database.transaction() as session:
        task = session.scalars(select(Task).where(Task.ls_task_id == ls_task_id)).one()
        uri = session.get_one(images.Image, session.get_one(images.Tile, task.tile_id).image_id).uri
    data = phantom.open_phantom(drawn)
    item = next(i for i in data.items("all") if i.image == Path(uri))
    return data.read_mask(item)


def _label(stack: Stack, drawn: Path, ls_task_id: int) -> int:
    result = [*class_map_to_result(_truth(stack, drawn, ls_task_id), CLASSES), scope_item("whole tile")]
    return int(stack.client.create_annotation(ls_task_id, result, 5.0)["id"])


def _mask_of(stack: Stack, ls_annotation_id: int) -> Mask | None:
    with stack.database() as database, database.transaction() as session:
        return session.scalars(
            select(Mask)
            .join(Annotation, Annotation.id == Mask.annotation_id)
            .where(Annotation.ls_annotation_id == ls_annotation_id)
        ).one_or_none()


def _model_rows(stack: Stack) -> dict[str, str]:
    with stack.database() as database, database.transaction() as session:
        return {m.version: m.state for m in session.scalars(select(Model))}


def _shown(stack: Stack) -> dict[int, list[dict[str, Any]]]:
    """Every waiting task's predictions, as Label Studio holds them."""
    return {t["id"]: t["predictions"] for t in stack.client.tasks(stack.ls_project_id, unlabelled_only=True)}


def _versions(stack: Stack) -> set[str]:
    """The versions of which Label Studio holds predictions."""
    return {version for version, count in stack.client.model_versions(stack.ls_project_id).items() if count}


def _done_runs(stack: Stack) -> int:
    with stack.database() as database, database.transaction() as session:
        return len(session.scalars(select(Run).where(Run.state == "done")).all())


@pytest.mark.browser
def test_a_person_labels_until_a_retrain_starts_by_itself_and_the_head_follows(
    stack: Stack, drawn: Path, tmp_path: Path
) -> None:
    if find_chromium() is None:
        if os.environ.get("CI") == "true":
            pytest.fail("Chromium is missing: apt-get install chromium")
        pytest.skip("Chromium is missing: apt-get install chromium")
    studio = stack.status["label_studio"]
    before = _order(stack)
    blank = {t: p[0] for t, p in _shown(stack).items() if p}
    assert set(blank) == set(before)
    assert all(p["result"] == [] and p["model_version"].endswith("-m0") for p in blank.values())

    with LabelStreamBrowser(studio["url"], studio["login"], studio["password"]) as browser:
        browser.login()
        browser.open_label_stream(stack.ls_project_id)
        for expected in before[:3]:
            assert browser.current_task_id() == expected
            browser.draw_brush_stroke("gland", _inside_a_gland(_truth(stack, drawn, expected)))
            browser.choose("only the boxes")
            answer = browser.submit()
            mask = stack.wait("the drawn mask", lambda a=answer: _mask_of(stack, int(a["id"])), 30)
            _check_drawn(stack, answer, mask)
    for expected in before[3:AFTER]:
        task = person.next_task_by_action(stack.client, stack.ls_project_id)
        assert task is not None
        assert task["id"] == expected  # an audit tile every fifth place included
        _label(stack, drawn, expected)

    stack.wait("the run that nobody asked for", lambda: _done_runs(stack) >= 1, 300)
    champion = next(v for v, state in _model_rows(stack).items() if state == "champion")
    assert champion.endswith("-m1")
    stack.wait("the new head", lambda: _settled(stack))
    shown = _shown(stack)
    assert shown
    assert all(champion in [p["model_version"] for p in predictions] for predictions in shown.values())
    assert stack.client.project(stack.ls_project_id)["model_version"] == champion
    stack.wait("the end of stale predictions", lambda: _versions(stack) == {champion})
    # After second looks the order changes once more, and Label Studio's follows it a moment later.
    after = stack.wait("one order here and there", lambda: _agreed(stack))
    assert after != before[AFTER:][: len(after)]

    with LabelStreamBrowser(studio["url"], studio["login"], studio["password"]) as browser:
        browser.login()
        browser.open_label_stream(stack.ls_project_id)
        assert browser.current_task_id() == after[0]
        kinds = {item["type"] for item in browser.current_task()["predictions"][0]["result"]}
        assert {"brushlabels", "rectanglelabels"} <= kinds
        assert "below 0.95" in browser.page.content()
        assert browser.screenshot(tmp_path / "stream.png").stat().st_size > 10_000
        browser.submit()
        assert browser.current_task_id() == after[1]


def _check_drawn(stack: Stack, answer: dict[str, Any], mask: Mask) -> None:
    """The stored mask is what the editor sent: its brush regions, thresholded; the rest was not looked at."""
    result = answer["result"]
    kept = decode_raster(stack.blobs.get(mask.blob))
    sent = paint(result, width=kept.shape[1], height=kept.shape[0], classes=CLASSES)
    assert sent.any()
    assert (kept == np.where(sent > 0, sent, 255)).all()


def _inside_a_gland(truth: np.ndarray) -> list[tuple[float, float]]:
    """A short stroke around the place deepest inside a gland, as fractions of the picture."""
    depth = ndimage.distance_transform_edt(np.pad(truth, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    height, width = truth.shape
    return [((x + dx) / width, y / height) for dx in (-3, 0, 3)]


def test_the_run_tells_what_it_used(stack: Stack) -> None:
    stack.wait("the first run", lambda: _done_runs(stack) >= 1, 300)
    shown = stack.cli("runs", "show", "1")
    assert shown["state"] == "done"
    assert set(shown["losses"]) >= {"x", "u", "total"}
    assert shown["pool_tiles"] > 0
    assert shown["mask_ratio"] > 0
    assert shown["step"] == shown["steps"]
    assert shown["verdict"]["promote"] is True


def test_a_worse_candidate_is_kept_out_and_nothing_moves(stack: Stack) -> None:
    stack.wait(
        "the first champion",
        lambda: any(v.endswith("-m1") and s == "champion" for v, s in _model_rows(stack).items()),
        300,
    )
    stack.wait("the head", lambda: _settled(stack))
    order = stack.wait("one order here and there", lambda: _agreed(stack))
    shown = {t: [p["id"] for p in ps] for t, ps in _shown(stack).items()}
    version = _inject_untrained(stack)
    stack.wait("the verdict", lambda: _model_rows(stack).get(version) == "rejected", 120)
    listed = {m["version"]: m for m in stack.cli("models", "list")}
    assert listed[version]["audit_dice"] < listed[version]["champion_dice"]
    assert listed[version]["verdict"]
    assert _order(stack) == order
    assert {t: [p["id"] for p in ps] for t, ps in _shown(stack).items()} == shown


def _inject_untrained(stack: Stack) -> str:
    """A run that ended with weights nobody trained, as if its training had gone wrong."""
    from tests.flows.untrained import untrained_model

    blob = stack.blobs.put(untrained_model(CLASSES))
    with stack.database() as database, database.transaction() as session:
        project = projects.choose(session, None)
        latest = runs.latest(session, project.id)
        assert latest is not None
        version = f"{project.key}-untrained"
        run = Run(
            project_id=project.id,
            number=900,
            trigger="manual",
            reasons=["injected"],
            recipe=latest.recipe,
            recipe_hash=latest.recipe_hash,
            snapshot_blob=latest.snapshot_blob,
            version=version,
            state="judging",
        )
        session.add(run)
        session.flush()
        session.add(
            Model(project_id=project.id, version=version, kind="trained", state="candidate", blob=blob, run_id=run.id)
        )
    return version


def test_rolling_back_and_forth_moves_what_people_see(stack: Stack) -> None:
    stack.wait("the first champion", lambda: _settled(stack) and len(_model_rows(stack)) > 1, 300)
    champion = next(v for v, s in _model_rows(stack).items() if s == "champion")
    previous = stack.cli("models", "rollback")["champion"]
    assert previous != champion
    stack.wait(
        "the earlier head",
        lambda: _settled(stack) and _versions(stack) == {previous},
    )
    assert all(p["model_version"] == previous for ps in _shown(stack).values() for p in ps)
    assert stack.cli("models", "rollback", "--to", champion)["champion"] == champion
    stack.wait(
        "the newer head",
        lambda: _settled(stack) and _versions(stack) == {champion},
    )
    assert _order(stack)[0] == person.next_task_by_action(stack.client, stack.ls_project_id)["id"]


def test_an_upload_in_label_studio_is_pre_annotated_within_thirty_seconds(stack: Stack) -> None:
    import httpx

    image, _ = phantom.draw_tile(4242, size_px=192)
    content = encode_png(image)
    studio = stack.status["label_studio"]
    answer = httpx.post(
        f"{studio['url']}/api/projects/{stack.ls_project_id}/import",
        headers={"Authorization": f"Token {studio['token']}"},
        files={"file": ("a person's upload.png", io.BytesIO(content), "image/png")},
        timeout=60,
    )
    assert answer.status_code == 201, answer.text
    sha256 = hashlib.sha256(content).hexdigest()

    def predicted() -> list[dict[str, Any]] | None:
        with stack.database() as database, database.transaction() as session:
            image_row = images.by_hash(session, projects.choose(session, None).id, sha256)
            task = None if image_row is None else tasks.of_tile(session, images.tiles_of(session, image_row.id)[0].id)
        if task is None:
            return None
        return [p for p in stack.client.task(task.ls_task_id)["predictions"] if p["result"]] or None

    predictions = stack.wait("the upload's prediction", predicted, 30)
    assert {p["model_version"] for p in predictions} == {stack.client.project(stack.ls_project_id)["model_version"]}


def test_start_training_in_label_studio_opens_one_run(stack: Stack, drawn: Path) -> None:
    stack.wait("quiet", lambda: _no_open_run(stack), 300)
    before = _run_count(stack)
    backend = stack.client.ml_backends(stack.ls_project_id)[0]
    person.start_training(stack.client, int(backend["id"]))
    person.start_training(stack.client, int(backend["id"]))
    stack.wait("the run", lambda: _run_count(stack) > before, 60)
    stack.wait("its end", lambda: _no_open_run(stack), 300)
    with stack.database() as database, database.transaction() as session:
        started = session.scalars(select(Run).where(Run.number > 0, Run.number != 900).order_by(Run.id.desc())).first()
        assert started is not None
        assert (started.trigger, started.state) == ("label-studio", "done"), started.problem


@pytest.mark.browser
def test_a_page_that_was_open_while_the_model_changed_can_still_be_submitted(stack: Stack) -> None:
    if find_chromium() is None:
        pytest.skip("Chromium is missing: apt-get install chromium")
    stack.wait("the first champion", lambda: _settled(stack) and len(_model_rows(stack)) > 1, 300)
    champion = next(v for v, s in _model_rows(stack).items() if s == "champion")
    studio = stack.status["label_studio"]
    with LabelStreamBrowser(studio["url"], studio["login"], studio["password"]) as browser:
        browser.login()
        browser.open_label_stream(stack.ls_project_id)
        opened = browser.current_task_id()
        stack.cli("models", "rollback")
        stack.wait(
            "the other version", lambda: stack.client.project(stack.ls_project_id)["model_version"] != champion, 60
        )
        answer = browser.submit()
    assert int(answer["task"]) == opened
    mask = stack.wait("its mask", lambda: _mask_of(stack, int(answer["id"])), 30)
    with stack.database() as database, database.transaction() as session:
        assert mask.annotation_id is not None
        assert session.get_one(Annotation, mask.annotation_id).shown_version == champion
    stack.cli("models", "rollback", "--to", champion)
    stack.wait("the champion again", lambda: _settled(stack) and _versions(stack) == {champion})


def _no_open_run(stack: Stack) -> bool:
    with stack.database() as database, database.transaction() as session:
        return runs.open_run(session, projects.choose(session, None).id) is None


def _run_count(stack: Stack) -> int:
    with stack.database() as database, database.transaction() as session:
        return len(session.scalars(select(Run)).all())


def test_a_label_deleted_while_no_webhook_told_is_withdrawn(stack: Stack) -> None:
    stack.wait("quiet", lambda: _no_open_run(stack), 300)
    with stack.database() as database, database.transaction() as session:
        row = session.scalars(
            select(Annotation).where(Annotation.state == "present").order_by(Annotation.id.desc())
        ).first()
    assert row is not None
    for hook in stack.client.webhooks(stack.ls_project_id):
        stack.client.delete_webhook(int(hook["id"]))
    person.delete_annotation(stack.client, row.ls_annotation_id)

    def withdrawn() -> bool:
        mask = _mask_of(stack, row.ls_annotation_id)
        return mask is not None and mask.withdrawn_at is not None

    stack.wait("the withdrawal", withdrawn, 60)


def test_every_label_is_in_the_store_once_and_counted_by_one_run(stack: Stack) -> None:
    """Read last: what the whole module submitted, compared with what Label Studio holds."""
    stack.wait("quiet", lambda: _no_open_run(stack), 300)
    there = {a for ids in stack.client.annotation_ids(stack.ls_project_id).values() for a in ids}
    with stack.database() as database, database.transaction() as session:
        project = projects.choose(session, None)
        rows = list(session.scalars(select(Annotation).where(Annotation.state != "deleted")))
        assert {a.ls_annotation_id for a in rows} == there
        assert len(rows) == len(there)
        counted = [m for m in masks.current(session, project.id) if m.first_run_id is not None]
        lists = [json.loads(stack.blobs.get(r.snapshot_blob)) for r in session.scalars(select(Run)) if r.number != 900]
    used = [row["mask"] for snapshot in lists for row in snapshot["labelled"]]
    first_use = {mask: used.index(mask) for mask in used}
    assert all(m.mask_id in first_use for m in counted if m.split == "train")
