"""Projects that people made in a real Label Studio without us are taken over with all their work, and told of first."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image as Picture
from pydantic import SecretStr
from sqlalchemy import func, select

from backend.actions.adopt_project import Adoption, AdoptReport, AdoptRequest
from backend.actions.first_project import connect_all
from backend.actions.push_tasks import HeadReconciler
from backend.actions.rank_queue import rank_queue
from backend.actions.watch_classes import watch_classes
from backend.api_names import SECRET_HEADER
from backend.clock import utc_now
from backend.commands.connect import as_row, say_adopted
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.results import class_map_to_result
from backend.settings import Settings
from backend.store import images, masks, projects, queue
from backend.store.blobs import BlobFolder
from backend.store.load_rows import forget_credentials
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Annotation, Base, Event, Image, Project, Task, Tile
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy
from mpamatch.errors import BadInput, Conflict, Unavailable
from mpamatch.files.rasters import decode_raster
from tests import label_studio_person as person
from tests.builders import Installation, disc, picture, predict_all
from tests.label_studio_server import RealLabelStudio, real_label_studio

__all__ = ["real_label_studio"]
pytestmark = [pytest.mark.labelstudio, pytest.mark.database, pytest.mark.timeout(600)]

CLASSES = ClassSet.from_names(["background", "Gland", "Stroma"])
FOREIGN = """<View>
  <Choices name="quality" toName="photo"><Choice value="good"/><Choice value="bad"/></Choices>
  <{control} name="tissue" toName="photo"><Label value="Gland"/><Label value="Stroma"/></{control}>
  <Image name="photo" value="$picture"/>
</View>"""


@dataclass
class Api:
    """What stands in for our own API: it answers the protocol's questions."""

    url: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            told.asked.append(self.path)
            answer = json.dumps({"model_version": "m0", "status": "UP", "versions": []}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told = Api(f"http://127.0.0.1:{server.server_address[1]}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield told
    server.shutdown()


@pytest.fixture(scope="module")
def client(real_label_studio: RealLabelStudio) -> Iterator[LabelStudioClient]:
    with LabelStudioClient(real_label_studio.url, real_label_studio.token) as made:
        yield made


@pytest.fixture
def here(database_url: str, tmp_path: Path, api: Api) -> Iterator[Installation]:
    database = Database(database_url)
    yield Installation(database, BlobFolder(tmp_path / "blobs"), KeyRing.at(tmp_path / "key"), tmp_path)
    database.close()


def _settings(here: Installation, api: Api) -> Settings:
    return Settings(state=here.folder, public_url=api.url, head_size=50)


def _adopt(
    here: Installation, api: Api, client: LabelStudioClient, server: RealLabelStudio, number: int, **options: Any
) -> AdoptReport:
    dry_run = options.pop("dry_run", False)
    request = AdoptRequest(number, server.url, server.token, start="blank", **options)
    adoption = Adoption(_settings(here, api), here.database, here.blobs, client, request, now=utc_now())
    return adoption.run(dry_run=dry_run)


def _png(pixels: np.ndarray) -> bytes:
    target = io.BytesIO()
    Picture.fromarray(pixels).save(target, "PNG")
    return target.getvalue()


def _worded(class_map: np.ndarray, label_type: Any = "brush") -> list[dict[str, Any]]:
    """A result in the words of the foreign configuration."""
    made = class_map_to_result(class_map, CLASSES, label_type=label_type)
    return [{**item, "from_name": "tissue", "to_name": "photo", "origin": "manual"} for item in made]


def _project(client: LabelStudioClient, title: str, control: str = "BrushLabels") -> int:
    return int(client.create_project(title, FOREIGN.format(control=control))["id"])


def _upload(server: RealLabelStudio, number: int, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        answer = httpx.post(
            f"{server.url}/api/projects/{number}/import",
            files={"file": (name, content, "image/png")},
            headers={"Authorization": f"Token {server.token}"},
            trust_env=False,
            timeout=60,
        )
        assert answer.status_code == 201, answer.text


def _second_person(client: LabelStudioClient) -> int:
    for user in client._list("GET", "/api/users/"):
        if user["email"] == "second@example.com":
            return int(user["id"])
    person = {"email": "second@example.com", "username": "second", "first_name": "A", "last_name": "Person"}
    return int(client._object("POST", "/api/users/", json=person)["id"])


@dataclass
class Lived:
    """A project that two people have worked in: uploads, local files, mishaps, labels, somebody else's model."""

    number: int
    tasks: list[int]
    labelled: list[int]


def _lived_in(client: LabelStudioClient, server: RealLabelStudio, title: str) -> Lived:
    number = _project(client, title)
    _upload(server, number, {"case-1_a.png": _png(picture(1)), "case-2_b.png": _png(picture(2))})
    folder = server.pictures / title.replace(" ", "-")
    folder.mkdir()
    wide = np.random.default_rng(9).integers(0, 255, (40, 1700, 3), dtype=np.uint8)
    for name, content in {
        "case-3_c.png": _png(picture(3)),
        "case-4_wide.png": _png(wide),
        "case-5_broken.png": _png(picture(5))[:200],
        "case-3_again.png": _png(picture(3)),
    }.items():
        (folder / name).write_bytes(content)
    storage = {"project": number, "path": str(folder), "use_blob_urls": True}
    client._call("POST", "/api/storages/localfiles", json=storage)
    names = ["case-3_c.png", "case-4_wide.png", "case-5_broken.png", "case-3_again.png", "case-6_none.png"]
    addresses = [f"/data/local-files/?d=tiles/{folder.name}/{name}" for name in names]
    addresses += ["http://127.0.0.1:9/elsewhere.png", "s3://bucket/case-7.png"]
    client.import_tasks(number, [{"data": {"picture": address}} for address in addresses])
    ids = sorted(int(t["id"]) for t in client.tasks(number, fields_all=False))
    client.create_annotation(ids[0], _worded(disc()), 30.0)
    client.create_annotation(ids[0], _worded(disc(x=20)), 10.0, completed_by=_second_person(client))
    client.create_annotation(ids[2], _worded(disc() * np.uint8(2)), 20.0)
    unknown = [{**item, "value": {**item["value"], "brushlabels": ["Tumour"]}} for item in _worded(disc())]
    client.create_annotation(ids[1], unknown, 5.0)
    client.create_annotation(ids[3], [], 1.0, was_cancelled=True)
    others = {"task": ids[1], "result": _worded(disc()), "score": 0.5, "model_version": "other-v1"}
    client.import_predictions(number, [others])
    return Lived(number, ids, [ids[0], ids[1], ids[2]])


def _there(client: LabelStudioClient, number: int) -> dict[str, Any]:
    """Everything of a project in Label Studio that a person could notice; it notes itself when it asked a backend."""
    return {
        "project": client.project(number),
        "tasks": list(client.tasks(number)),
        "backends": [{k: v for k, v in b.items() if k != "updated_at"} for b in client.ml_backends(number)],
        "webhooks": client.webhooks(number),
        "storages": client._list("GET", "/api/storages/localfiles", params={"project": number}),
    }


def _rows(database: Database) -> dict[str, int]:
    with database.transaction() as session:
        return {
            name: session.scalar(select(func.count()).select_from(table)) or 0
            for name, table in Base.metadata.tables.items()
        }


def test_a_rehearsal_tells_everything_and_changes_nothing_on_either_side(
    here: Installation,
    api: Api,
    client: LabelStudioClient,
    real_label_studio: RealLabelStudio,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lived = _lived_in(client, real_label_studio, "rehearsal")
    before, rows = _there(client, lived.number), _rows(here.database)
    blobs = list(here.folder.rglob("*"))
    told = _adopt(here, api, client, real_label_studio, lived.number, dry_run=True)
    report = as_row(told)
    assert _there(client, lived.number) == before
    assert _rows(here.database) == rows
    assert list(here.folder.rglob("*")) == blobs

    assert report["project"] is None
    assert report["found"] == {
        "tasks": 9,
        "pictures": {"upload": 2, "local files": 5, "other address": 1, "cloud storage": 1},
        "annotations": 4,
        "labelled_tasks": 3,
        "annotators": 2,
        "skipped": 1,
        "label_type": "brush",
        "classes": ["background", "Gland", "Stroma"],
        "predictions": {"other-v1": 1},
        "backends": [],
        "webhooks": [],
    }
    changes = "\n".join(report["changes"])
    for words in ("sampling: 'Sequential sampling' becomes", "backend", "webhook with a secret", "model_version"):
        assert words in changes
    kept = "\n".join(report["kept"])
    for words in (
        "configuration stays",
        "lacks the Review boxes",
        "quality",
        "predictions of others stay (other-v1: 1)",
    ):
        assert words in kept
    imports = report["imports"]
    assert (imports["images"], imports["masks"], imports["larger_than_a_tile"]) == (4, 3, 1)
    problems = "\n".join(imports["problems"])
    for words in (
        f"of task {lived.tasks[1]}: result[0].class 'Tumour': unknown",
        f"task {lived.tasks[4]}: ",
        f"task {lived.tasks[5]}: shows the same picture as task {lived.tasks[2]}",
        f"task {lived.tasks[6]}: ",
        f"task {lived.tasks[7]}: picture at '127.0.0.1:9' is not below the connected Label Studio",
        f"task {lived.tasks[8]}: picture at 'bucket' is not below the connected Label Studio",
    ):
        assert words in problems
    assert len(imports["problems"]) == 6
    say_adopted(told, as_json=False)
    said = " ".join(capsys.readouterr().out.split())
    for words in ("a rehearsal, nothing was changed", "would change there", "larger than a tile: 1 of them"):
        assert words in said


def test_what_people_did_becomes_ours_and_repeating_it_changes_nothing(
    here: Installation, api: Api, client: LabelStudioClient, real_label_studio: RealLabelStudio
) -> None:
    lived = _lived_in(client, real_label_studio, "adopted")
    told = as_row(_adopt(here, api, client, real_label_studio, lived.number, dry_run=True, group_pattern=r"case-\d+"))
    done = as_row(_adopt(here, api, client, real_label_studio, lived.number, group_pattern=r"case-\d+"))
    for name in ("found", "changes", "kept"):
        assert done[name] == told[name]
    assert {**done["imports"], "changed_labels": 0} == told["imports"]
    assert done["imports"]["changed_labels"] == 5

    with here.database.transaction() as session:
        project = projects.choose(session, done["project"])
        here.project_id = project.id
        tasks = {t.ls_task_id: t for t in session.scalars(select(Task))}
        assert {t.origin for t in tasks.values()} == {"uploaded"}
        assert {n: t.state for n, t in tasks.items()} == dict.fromkeys(lived.tasks[:4], "labelled")
        current = {m.tile_id: m for m in masks.current(session, project.id)}
        gland = decode_raster(here.blobs.get(current[tasks[lived.tasks[0]].tile_id].blob))
        stroma = decode_raster(here.blobs.get(current[tasks[lived.tasks[2]].tile_id].blob))
        assert (gland == disc(x=20)).all()  # the newer of two people's
        assert (stroma == disc() * 2).all()
        people = set(session.scalars(select(Annotation.annotator).where(Annotation.state == "present")))
        assert len(people) == 2
        (aside,) = session.scalars(select(Annotation).where(Annotation.state == "quarantined"))
        assert "class 'Tumour': unknown" in str(aside.problem)
        groups = {i.group_name: i.split for i in session.scalars(select(Image))}
        assert set(groups) == {"case-1", "case-2", "case-3", "case-4"}
        assert set(groups.values()) == {"train", "audit"}
        wide = session.scalars(select(Tile).where(Tile.width_px == 1700)).one()
        assert wide.height_px == 40
        assert session.scalar(select(func.count()).select_from(Event).where(Event.what == "project adopted")) == 1
    there = _there(client, lived.number)
    assert there["project"]["sampling"] == "Uncertainty sampling"
    assert there["project"]["label_config"] == FOREIGN.format(control="BrushLabels")
    (backend,) = there["backends"]
    assert backend["state"] == "CO"
    (hook,) = there["webhooks"]
    assert SECRET_HEADER in hook["headers"]
    assert hook["url"] == f"{backend['url']}/webhook"

    rows = _rows(here.database)
    again = as_row(_adopt(here, api, client, real_label_studio, lived.number))
    assert again["imports"]["changed_labels"] == again["imports"]["images"] == again["imports"]["masks"] == 0
    assert again["imports"]["known_tasks"] == 4
    assert [line for line in again["changes"] if not line.startswith("model_version")] == []
    assert _rows(here.database) == rows
    assert _there(client, lived.number) == there


def test_the_head_follows_in_the_projects_own_words_and_others_predictions_stay(
    here: Installation, api: Api, client: LabelStudioClient, real_label_studio: RealLabelStudio
) -> None:
    number = _project(client, "waiting")
    _upload(real_label_studio, number, {f"w{k}.png": _png(picture(40 + k)) for k in range(5)})
    ids = sorted(int(t["id"]) for t in client.tasks(number, fields_all=False))
    others = [{"task": i, "result": _worded(disc()), "score": 0.5, "model_version": "other-v1"} for i in ids]
    client.import_predictions(number, others)
    client.create_annotation(ids[0], _worded(disc()), 3.0)
    report = _adopt(here, api, client, real_label_studio, number)
    assert report.project_id is not None
    here.project_id = report.project_id
    with here.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, here.project_id))
        champion.kind = "trained"  # one that has something to say
    predict_all(here, champion)
    assert rank_queue(here.database, here.project_id)
    HeadReconciler(
        here.database, here.blobs, here.keys, client, api.url, open_page_s=0, link_life=timedelta(days=1)
    ).reconcile(here.project_id, now=utc_now())

    with here.database.transaction() as session:
        project = projects.get(session, here.project_id)
        order = [e.tile_id for e in queue.head(session, project, 50)]
        tasks = {t.tile_id: t.ls_task_id for t in session.scalars(select(Task).where(Task.state == "live"))}
        audit = images.audit_tiles(session, order)
        version = projects.champion(session, project).version
    assert sorted(tasks[t] for t in order) == ids[1:]
    assert client.project(number)["model_version"] == version
    assert client.model_versions(number) == {"other-v1": 5, version: 4}
    waiting = {t["id"]: t for t in client.tasks(number, unlabelled_only=True)}
    ours = {n: next(p for p in t["predictions"] if p["model_version"] == version) for n, t in waiting.items()}
    assert sorted(ours, key=lambda n: ours[n]["score"]) == [tasks[t] for t in order]
    names = {(i["from_name"], i["to_name"]) for p in ours.values() for i in p["result"]}
    assert names == {("tissue", "photo")}
    assert {n for n, p in ours.items() if not p["result"]} == {tasks[t] for t in audit}
    assert all(set(t["data"]) == {"picture"} for t in waiting.values())
    first = person.next_task(client, number)
    assert first is not None
    assert first["id"] == tasks[order[0]]


def test_a_polygon_project_is_adopted_and_its_outlines_are_read(
    here: Installation, api: Api, client: LabelStudioClient, real_label_studio: RealLabelStudio
) -> None:
    number = _project(client, "outlines", "PolygonLabels")
    _upload(real_label_studio, number, {"p1.png": _png(picture(21)), "p2.png": _png(picture(22))})
    first, _ = sorted(int(t["id"]) for t in client.tasks(number, fields_all=False))
    client.create_annotation(first, _worded(disc(), "polygon"), 3.0)
    report = _adopt(here, api, client, real_label_studio, number)
    assert (report.found.label_type, report.tally.masks, report.tally.problems) == ("polygon", 1, [])
    with here.database.transaction() as session:
        (mask,) = masks.current(session, int(report.project_id or 0))
    drawn = decode_raster(here.blobs.get(mask.blob))
    assert float((drawn == disc()).mean()) > 0.98


def test_a_label_that_is_renamed_waits_for_a_decision_and_nothing_is_guessed(
    here: Installation, api: Api, client: LabelStudioClient, real_label_studio: RealLabelStudio
) -> None:
    number = _project(client, "renamed")
    _upload(real_label_studio, number, {"r1.png": _png(picture(31))})
    report = _adopt(here, api, client, real_label_studio, number)
    project_id = int(report.project_id or 0)
    assert watch_classes(here.database, client, project_id) is None
    config = client.project(number)["label_config"]
    client.update_project(number, label_config=config.replace('"Stroma"', '"stroma"'))
    line = "labels in Label Studio: unknown here: stroma; missing there: Stroma"
    with pytest.raises(Conflict, match=line):
        _adopt(here, api, client, real_label_studio, number)
    assert str(watch_classes(here.database, client, project_id)).startswith(line)
    settings = _settings(here, api)
    assert connect_all(settings, here.database) == {project_id: number}  # its addresses are mended all the same
    with here.database.transaction() as session:
        project = session.get_one(Project, project_id)
        assert str(project.ls_problem).startswith(line)
        project.ls_cursor = utc_now()
    client.update_project(number, label_config=config)
    assert watch_classes(here.database, client, project_id) is None
    with here.database.transaction() as session:
        project = session.get_one(Project, project_id)
        assert (project.ls_problem, project.ls_cursor) == (None, None)  # all is read again
        told = session.scalars(select(Event.what).where(Event.what.like("labels %")).order_by(Event.id)).all()
    assert told == ["labels differ", "labels agree again"]


def test_what_cannot_be_adopted_is_refused_before_anything_is_made(
    here: Installation, api: Api, client: LabelStudioClient, real_label_studio: RealLabelStudio
) -> None:
    server = real_label_studio
    text = client.create_project("words", '<View><Text name="t" value="$t"/></View>')["id"]
    with pytest.raises(BadInput, match="has no control for segmentation"):
        _adopt(here, api, client, server, int(text))
    number = _project(client, "other classes")
    with pytest.raises(Conflict, match="unknown here: Gland, Stroma"):
        _adopt(here, api, client, server, number, classes=("background", "tumour"))
    with pytest.raises(BadInput, match="group pattern"):
        _adopt(here, api, client, server, number, group_pattern="(")
    client.import_tasks(number, [{"data": {"picture": "x", "image": "http://a/tiles/5.png?key=1", "tile_id": 5}}])
    with pytest.raises(Conflict, match="made by another installation"):
        _adopt(here, api, client, server, number)
    assert sum(_rows(here.database).values()) == 0


def test_a_backend_that_label_studio_does_not_reach_is_said(
    here: Installation, api: Api, client: LabelStudioClient, real_label_studio: RealLabelStudio
) -> None:
    number = _project(client, "unreachable")
    nowhere = Api("http://127.0.0.1:9")
    with pytest.raises((Unavailable, BadInput)):
        _adopt(here, nowhere, client, real_label_studio, number)
    assert _adopt(here, api, client, real_label_studio, number).key == "unreachable"


def test_an_adopted_project_of_another_server_is_never_tied_to_our_own(
    here: Installation, api: Api, client: LabelStudioClient, real_label_studio: RealLabelStudio
) -> None:
    number = _project(client, "elsewhere")
    report = _adopt(here, api, client, real_label_studio, number)
    own = _settings(here, api).model_copy(
        update={"label_studio_url": "http://127.0.0.1:9", "label_studio_token": SecretStr("x")}
    )
    assert connect_all(own, here.database) == {report.project_id: number}
    with here.database.transaction() as session:
        assert session.get_one(Project, int(report.project_id or 0)).ls_url == real_label_studio.url


def test_a_restore_without_secrets_is_mended_by_a_new_token_and_moves_no_other_project(
    here: Installation, api: Api, client: LabelStudioClient, real_label_studio: RealLabelStudio
) -> None:
    number = _project(client, "without secrets")
    report = _adopt(here, api, client, real_label_studio, number)
    (before,) = client.ml_backends(number)
    with here.database.transaction() as session:
        forget_credentials(session.connection())
        classes = ClassSet.from_names(["background", "gland"])
        ours = projects.create(session, title="Ours", classes=classes, policy=Policy(), seed=0).id
    own = _settings(here, api).model_copy(update={"label_studio_url": None})
    assert connect_all(own, here.database) == {}, "nobody knows a token"
    given = own.model_copy(
        update={"label_studio_url": real_label_studio.url, "label_studio_token": SecretStr(real_label_studio.token)}
    )
    connected = connect_all(given, here.database, elsewhere=real_label_studio.url)
    assert connected == {report.project_id: number}
    (after,) = client.ml_backends(number)
    assert after["state"] == "CO"
    assert after["id"] != before["id"], "the one that was there has a password that nobody knows any more"
    with here.database.transaction() as session:
        assert session.get_one(Project, ours).ls_project_id is None
