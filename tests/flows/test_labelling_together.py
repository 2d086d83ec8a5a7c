"""Several people and models at once, through the browser: who gets which tile, what is left alone, what moves.

On models that are made up, so that nothing waits for a training.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from sqlalchemy import select

from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.config import labelling_config
from backend.labelstudio.results import paint
from backend.labelstudio.shapes import read_rectangle
from backend.store import predictions, projects, queue, tasks
from backend.store.tables import Annotation, Mask, Task, Tile
from mpamatch.datasets import phantom
from mpamatch.domain.classes import ClassSet
from mpamatch.files.embeddings import encode_embeddings
from mpamatch.files.rasters import decode_raster
from tests import label_studio_person as person
from tests.flows.browser import LabelStreamBrowser
from tests.flows.conftest import CLASSES
from tests.flows.drawn_predictions import store_predictions
from tests.flows.stack import Stack

pytestmark = [
    pytest.mark.processes,
    pytest.mark.labelstudio,
    pytest.mark.browser,
    pytest.mark.torch,
    pytest.mark.timeout(600),
]
KEY, SIDE, TILES = "shared-tissue", 192, 10
KNOWN = ClassSet.from_names(CLASSES.split(","))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "shared tissue"
    phantom.write_folder(folder, tiles=TILES, groups=5, size_px=SIDE, masked=0, seed=5)
    return folder


@pytest.fixture(scope="module")
def stack(drawn_stack: Stack, drawn: Path) -> Iterator[Stack]:
    """With a project of ten tiles whose champion has changed twice."""
    drawn_stack.cli("register", str(drawn), "--project", "shared tissue", "--classes", CLASSES)
    serve(drawn_stack, drawn, 1)
    serve(drawn_stack, drawn, 2)
    yield drawn_stack
    drawn_stack.stop(limit_s=60)


@pytest.fixture(scope="module")
def second(stack: Stack) -> person.Invited:
    """Another annotator."""
    return person.invite(stack.client, stack.status["label_studio"]["url"])


def serve(stack: Stack, drawn: Path, number: int) -> str:
    """The next champion, once Label Studio shows it in the order that was made from it; its version."""
    store_predictions(stack, KEY, drawn, number=number)
    version = f"{KEY}-m{number}"
    stack.wait(f"the head of {version}", lambda: settled(stack, version), 120)
    return version


def settled(stack: Stack, version: str) -> bool:
    with stack.database() as database, database.transaction() as session:
        project = projects.choose(session, KEY)
        champion = projects.champion(session, project)
        if (champion.version, project.ls_model_version) != (version, version) or project.ranked_model_id != champion.id:
            return False
        head = {e.tile_id for e in queue.head(session, project, 50)}
        return bool(head) and head <= {t.tile_id for t in tasks.live(session, project.id) if t.model_version == version}


def order(stack: Stack) -> list[int]:
    """Ours, as task ids in Label Studio."""
    listed = stack.cli("queue", "list", "--project", KEY, "--limit", "100")
    return [e["ls_task_id"] for e in listed if e["ls_task_id"] is not None]


def with_last(stack: Stack, ls_task_id: int) -> list[int] | None:
    """Our order, once a task is the last one that competes for its place; audit tiles do not."""
    listed = stack.cli("queue", "list", "--project", KEY, "--limit", "100")
    last = [e["ls_task_id"] for e in listed if e["stratum"] != "audit"][-1]
    return [e["ls_task_id"] for e in listed] if last == ls_task_id else None


def project_there(stack: Stack) -> int:
    row = next(row for row in stack.cli("projects", "list") if row["project"] == KEY)
    return int(row["link"].split("/")[-2])


def versions_shown(stack: Stack) -> dict[int, set[str]]:
    listed = stack.client.tasks(project_there(stack), unlabelled_only=True)
    return {t["id"]: {p["model_version"] for p in t["predictions"]} for t in listed}


def mask_of(stack: Stack, answer: dict[str, Any]) -> tuple[Mask, np.ndarray]:
    """What the product made of a submitted annotation."""

    def look() -> Mask | None:
        with stack.database() as database, database.transaction() as session:
            query = select(Mask).join(Annotation, Annotation.id == Mask.annotation_id)
            return session.scalars(query.where(Annotation.ls_annotation_id == int(answer["id"]))).one_or_none()

    mask = stack.wait("the mask", look, 60)
    return mask, decode_raster(stack.blobs.get(mask.blob))


def tile_of(stack: Stack, ls_task_id: int) -> Tile:
    with stack.database() as database, database.transaction() as session:
        project = projects.choose(session, KEY)
        query = select(Task).where(Task.project_id == project.id, Task.ls_task_id == ls_task_id)
        return session.get_one(Tile, session.scalars(query).one().tile_id)


def look_alike(stack: Stack, ls_task_ids: list[int]) -> None:
    """Let the champion have seen these tasks' tiles as nearly the same picture, and no other tile."""
    kept = stack.blobs.put(encode_embeddings(np.ones((1, 8))))
    tiles = [tile_of(stack, number).id for number in ls_task_ids]
    with stack.database() as database, database.transaction() as session:
        champion = projects.champion(session, projects.choose(session, KEY))
        for tile_id in tiles:
            prediction = predictions.of(session, tile_id, champion.id)
            assert prediction is not None
            prediction.embeddings_blob = kept


def order_there(stack: Stack, version: str) -> list[int]:
    """Label Studio's, by the scores of a version; without what somebody skipped."""
    scores = {}
    for task in stack.client.tasks(project_there(stack), unlabelled_only=True):
        if not task["annotations"]:
            (scores[task["id"]],) = (p["score"] for p in task["predictions"] if p["model_version"] == version)
    return sorted(scores, key=lambda number: scores[number])


def opened(stack: Stack) -> set[int]:
    """The tasks of which a page was open, as far as we know."""
    with stack.database() as database, database.transaction() as session:
        project = projects.choose(session, KEY)
        query = select(Task.ls_task_id).where(Task.project_id == project.id, Task.opened_at.is_not(None))
        return set(session.scalars(query))


def painted(result: list[dict[str, Any]]) -> np.ndarray:
    return paint(result, width=SIDE, height=SIDE, classes=KNOWN)


def deep_inside(area: np.ndarray) -> list[tuple[float, float]]:
    """A short stroke around the place deepest inside an area, as fractions of the picture."""
    depth = ndimage.distance_transform_edt(np.pad(area, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return [((x + dx) / SIDE, y / SIDE) for dx in (-3, 0, 3)]


def test_two_people_share_the_stream_in_our_order_and_no_tile(
    stack: Stack, second: person.Invited, tmp_path: Path
) -> None:
    """After two champions. One accepts what is in the boxes, the other one skips an artefact, and its look-alike moves
    behind all others."""
    expected, studio = order(stack), stack.status["label_studio"]
    assert order_there(stack, f"{KEY}-m2") == expected
    look_alike(stack, [expected[1], expected[6]])
    with (
        LabelStreamBrowser(studio["url"], studio["login"], studio["password"]) as one,
        LabelStreamBrowser(studio["url"], second.email, second.password, beside=one) as two,
    ):
        for browser in (one, two):
            browser.login()
            browser.open_label_stream(project_there(stack))
        seen = [one.current_task_id(), two.current_task_id()]
        shown = one.current_task()["predictions"][0]["result"]
        assert one.chosen() == ["only the boxes"]
        assert one.screenshot(tmp_path / "one.png").stat().st_size > 10_000
        reviewed = one.submit()
        seen.append(one.current_task_id())
        two.choose("artefact")
        assert two.screenshot(tmp_path / "two.png").stat().st_size > 10_000
        two.skip()
        seen.append(two.current_task_id())
        for browser in (one, two):
            browser.submit()
            seen.append(browser.current_task_id())
        assert one.errors == two.errors == []
    assert len(expected) == TILES
    assert opened(stack) == set(seen), "a picture in the list of tasks is no page that shows it"
    assert seen == expected[: len(seen)]
    mask, kept = mask_of(stack, reviewed)
    inside = np.zeros((SIDE, SIDE), bool)
    for item in shown:
        if item["type"] == "rectanglelabels":
            inside |= read_rectangle(item["value"], SIDE, SIDE)
    assert 0 < inside.mean() < 1
    assert mask.origin == "confirmed"
    assert ((kept != 255) == inside).all()
    assert (kept[inside] == painted(shown)[inside]).all()
    stack.wait("the artefact", lambda: tile_of(stack, expected[1]).state == "artefact", 60)
    left = stack.wait("the look-alike's place", lambda: with_last(stack, expected[6]), 60)
    assert set(left) == set(expected[4:])
    stack.wait("the same order in Label Studio", lambda: order_there(stack, f"{KEY}-m2") == left, 60)
    artefact = tile_of(stack, expected[1]).id
    why = stack.client.task(expected[6])["data"]["why"]
    assert why.startswith(f"at the end: looks like tile {artefact}, which was marked as an artefact")


def test_what_somebody_has_begun_is_left_alone_by_a_new_champion_and_the_rest_is_refreshed(
    stack: Stack, drawn: Path
) -> None:
    studio = stack.status["label_studio"]
    with LabelStreamBrowser(studio["url"], studio["login"], studio["password"]) as browser:
        browser.login()
        browser.open_label_stream(project_there(stack))
        begun, before = browser.current_task_id(), browser.current_task()
        shown = before["predictions"][0]
        stroke = deep_inside(painted(shown["result"]) == 0)
        browser.draw_brush_stroke("stroma", stroke)
        browser.wait_for_draft()
        version = serve(stack, drawn, 3)

        def refreshed() -> bool:
            shown_now = versions_shown(stack)
            rest = [shown_now[t] for t in order(stack) if t != begun]
            return bool(rest) and all(versions == {version} for versions in rest)

        stack.wait("the others' new version alone", refreshed, 60)
        left = stack.client.task(begun)
        assert left["data"]["why"] == before["data"]["why"]
        assert shown["id"] in [p["id"] for p in left["predictions"]]
        answer = browser.submit()
    assert int(answer["task"]) == begun
    mask, kept = mask_of(stack, answer)
    x, y = stroke[1]
    assert kept[int(y * SIDE), int(x * SIDE)] == KNOWN.id_of("stroma"), "the draft is in it"
    with stack.database() as database, database.transaction() as session:
        assert mask.annotation_id is not None
        assert session.get_one(Annotation, mask.annotation_id).shown_version == shown["model_version"]


def test_two_who_ask_in_the_same_moment_get_different_tasks(stack: Stack, second: person.Invited) -> None:
    """In a project of Label Studio's own: without turns, every third pair got one task."""
    rounds = 10
    tasks_there = [
        {
            "data": {"image": "/none.png", "why": "x"},
            "predictions": [{"result": [], "score": (n + 1) / 100, "model_version": "m1"}],
        }
        for n in range(2 * rounds)
    ]
    with (
        stack.client as first,
        LabelStudioClient(first.url, second.token) as other,
        ThreadPoolExecutor(2) as people,
    ):
        settings = {"sampling": "Uncertainty sampling", "maximum_annotations": 1}
        project = int(first.create_project("at once", labelling_config(KNOWN), **settings)["id"])
        expected = first.import_tasks(project, tasks_there)
        gate, seen = Barrier(2), []

        def ask(client: LabelStudioClient) -> int:
            gate.wait(60)
            task = person.next_task_by_action(client, project)
            assert task is not None
            return int(task["id"])

        for number in range(rounds):
            pair = list(people.map(ask, (first, other)))
            assert sorted(pair) == expected[2 * number : 2 * number + 2]
            for client, task_id in zip((first, other), pair, strict=True):
                client.create_annotation(task_id, [], 1.0)
            seen += pair
        assert sorted(seen) == expected
