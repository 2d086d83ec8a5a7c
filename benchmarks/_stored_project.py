"""A connected project with one 1024 px tile, its stored prediction and task, and bodies as Label Studio sends them.

Not a benchmark itself. Bodies follow recorded ones where these are at hand, else the same keys by hand; the result in
them is that of the stored prediction, so that they have the size of real ones.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from backend.actions import show_tile
from backend.actions.rank_queue import rank_queue
from backend.actions.register_images import RegisterItem, register
from backend.api_names import ML_PATH, SECRET_HEADER, USER
from backend.settings import Settings
from backend.store import projects
from backend.store.open_blobs import open_blobs
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Task, Tile
from benchmarks._served_project import add_project, keep_answer
from mpamatch.files.images import encode_png

TILE_PX = 1024
CLASSES = ("background", "gland", "stroma")
VERSION = "bench-m1"
LS_PROJECT, LS_TASK = 56, 1592
RECORDED = Path(__file__).resolve().parents[2] / "shared" / "fixtures" / "label-studio"


@dataclass(frozen=True)
class StoredProject:
    """What a client of the API needs: the address below which the project answers, headers and bodies."""

    path: str
    basic: dict[str, str]
    secret: dict[str, str]
    predict_body: bytes
    webhook_body: dict[str, Any]

    def webhook(self, number: int) -> bytes:
        """The body of one more annotation: another id, another time."""
        body = json.loads(json.dumps(self.webhook_body))
        body["annotation"]["id"] = 10_000 + number
        body["annotation"]["updated_at"] = f"2026-01-01T00:{number // 60 % 60:02}:{number % 60:02}.{number:06}Z"
        return json.dumps(body).encode()


def store_project(settings: Settings, database: Database) -> StoredProject:
    """Make the rows and blobs, and put the password and the webhook's secret in place."""
    blobs, keys = open_blobs(settings), KeyRing.at(settings.state / "key")
    project_id, model_id = _project(database, keys)
    picture = settings.state / "tissue.png"
    picture.write_bytes(encode_png(_tissue()))
    report = register(database, blobs, project_id, [RegisterItem(path=picture, group="case-1", split="train")])
    assert not report.problems, report.problems
    probabilities = ragged_probabilities()
    with database.transaction() as session:
        tile_id = session.query(Tile.id).filter(Tile.project_id == project_id).scalar()
        session.add(Task(project_id=project_id, tile_id=tile_id, ls_task_id=LS_TASK, origin="head"))
    keep_answer(database, blobs, tile_id, model_id, probabilities)
    rank_queue(database, project_id)
    with database.transaction() as session:
        project = projects.get(session, project_id)
        shown = show_tile.read_shown(session, project, VERSION, [tile_id])[tile_id]
        result = show_tile.result_of(blobs, shown, projects.classes_of(project), project.label_type)
        path = f"{ML_PATH}/{project.key}"
    password = base64.b64encode(f"{USER}:password".encode()).decode()
    return StoredProject(
        path=path,
        basic={"Authorization": f"Basic {password}"},
        secret={SECRET_HEADER: "secret"},
        predict_body=json.dumps(_predict_body()).encode(),
        webhook_body=_webhook_body(result),
    )


def ragged_probabilities(seed: int = 0) -> npt.NDArray[np.float32]:
    """Float32 (3, 1024, 1024): a few large areas whose boundaries are frayed, as a young model draws them."""
    rng = np.random.default_rng(seed)
    planes = np.zeros((len(CLASSES), TILE_PX, TILE_PX))
    for blob_px, weight in ((40.0, 1.0), (5.0, 0.25)):
        noise = np.stack([ndimage.gaussian_filter(rng.standard_normal(p.shape), blob_px) for p in planes])
        planes += weight * noise / noise.std()
    weights = np.exp(6.0 * planes)
    return (weights / weights.sum(axis=0)).astype(np.float32)


def _tissue() -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(1)
    shade = ndimage.gaussian_filter(rng.standard_normal((TILE_PX, TILE_PX)), 3.0)
    shade = (shade / shade.std()).clip(-3, 3)[..., None] * (12, 20, 10)
    return np.clip(np.array([200, 140, 190]) + shade, 0, 255).astype(np.uint8)


def _project(database: Database, keys: KeyRing) -> tuple[int, int]:
    with database.transaction() as session:
        project, model = add_project(session, CLASSES, VERSION)
        project.ls_model_version = VERSION
        project.ls_project_id = LS_PROJECT
        project.ls_auth_password = keys.seal("password")
        project.ls_webhook_secret = keys.seal("secret")
        return project.id, model.id


def _recorded(name: str, key: str) -> dict[str, Any] | None:
    """The first recorded body that has a key; None where nothing is at hand."""
    file = RECORDED / f"{name}.json"
    if not file.is_file():
        return None
    bodies = (one.get("body") for one in json.loads(file.read_text(encoding="utf-8"))["data"])
    return next((body for body in bodies if isinstance(body, dict) and key in body), None)


def _predict_body() -> dict[str, Any]:
    body = _recorded("ml-predict-next", "tasks") or {
        "tasks": [{"data": {"image": "picture.png", "why": ""}, "annotations": [], "predictions": []}],
        "project": f"{LS_PROJECT}.1",
        "label_config": "<View/>",
        "params": {"login": None, "password": None, "context": None},
    }
    return {**body, "tasks": [{**body["tasks"][0], "id": LS_TASK}]}


def _webhook_body(result: list[dict[str, Any]]) -> dict[str, Any]:
    body = _recorded("webhook-ANNOTATION_CREATED", "annotation") or {
        "action": "ANNOTATION_CREATED",
        "annotation": {"was_cancelled": False, "lead_time": 3.5, "completed_by": 1, "task": LS_TASK},
        "task": {"data": {"image": "picture.png"}},
        "project": {"title": "Bench"},
    }
    return {
        **body,
        "annotation": {**body["annotation"], "result": result, "task": LS_TASK},
        "task": {**body["task"], "id": LS_TASK},
        "project": {**body["project"], "id": LS_PROJECT},
    }
