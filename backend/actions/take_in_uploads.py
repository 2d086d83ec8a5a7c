"""Tasks that people made in Label Studio become images and tiles of the project, so that they are pre-annotated.

The picture is fetched only from the connected Label Studio, with its token. It is one tile whatever its size, because
Label Studio shows it whole. Uploads belong to the train split, since their uploader expects a suggestion on them; an
adopted project's go where their group goes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.controls import Controls
from backend.labelstudio.sources import group_of
from backend.store import events, images, projects, queue, tasks
from backend.store.blobs import BlobStore
from backend.store.sessions import Database
from backend.store.tables import Image, Task, Tile
from mpamatch.domain.likeness import look_hash
from mpamatch.errors import BadInput, MpamatchError, NotFound
from mpamatch.files.images import encode_png, read_image


@dataclass(frozen=True)
class Picture:
    """A task's picture as it was fetched: uint8 (H, W, 3), and the hash of its file."""

    url: str
    sha256: str
    pixels: np.ndarray


def take_in_uploads(
    database: Database,
    blobs: BlobStore,
    client: LabelStudioClient,
    project_id: int,
    ls_tasks: Sequence[dict[str, Any]],
    *,
    now: datetime,
) -> list[str]:
    """Take in every task that we do not know; returns one line per task that could not be. The rest goes on."""
    with database.transaction() as session:
        known = tasks.uploaded_numbers(session, project_id, [int(t["id"]) for t in ls_tasks])
        project = projects.get(session, project_id)
    adopted, key = project.ls_controls is not None, Controls.from_json(project.ls_controls).image_key
    problems: list[str] = []
    for ls_task in ls_tasks:
        if int(ls_task["id"]) in known:
            continue
        try:
            picture = fetch_picture(client, ls_task, image_key=key)
            group = group_of(picture.url, project.group_pattern) if adopted else f"upload-{picture.sha256[:12]}"
            take_in(database, blobs, project_id, int(ls_task["id"]), picture, group=group, now=now)
        except (BadInput, NotFound) as error:
            problems.append(str(error))
    return problems


def fetch_picture(client: LabelStudioClient, ls_task: dict[str, Any], *, image_key: str) -> Picture:
    """A task's picture, read. Raises BadInput naming the task."""
    item = f"Label Studio task {int(ls_task['id'])}"
    url = (ls_task.get("data") or {}).get(image_key)
    if not isinstance(url, str):
        raise BadInput(item, "has no image in its data", f"give the picture under the key `{image_key}`")
    try:
        content = client.fetch_image(url)
    except (BadInput, NotFound) as error:
        raise BadInput(item, f"{error.item} {error.problem}", error.remedy) from error
    try:
        pixels = read_image(content)
    except MpamatchError as error:
        raise BadInput(item, error.problem, error.remedy) from error
    return Picture(url, hashlib.sha256(content).hexdigest(), pixels)


def take_in(
    database: Database,
    blobs: BlobStore,
    project_id: int,
    ls_task_id: int,
    picture: Picture,
    *,
    group: str,
    splits: Mapping[str, str] | None = None,
    now: datetime,
) -> bool:
    """Rows for a task's picture; whether its image is new. A group that has a split keeps it, ``splits`` says that of
    new ones, and what neither knows is for training.

    Raises BadInput when the picture is another task's already.
    """
    item = f"Label Studio task {ls_task_id}"
    png_blob = blobs.put(encode_png(picture.pixels))
    height_px, width_px = picture.pixels.shape[:2]
    with database.transaction() as session:
        images.lock_registration(session, project_id)
        image = images.by_hash(session, project_id, picture.sha256)
        new = image is None
        if image is None:
            image = Image(
                project_id=project_id,
                uri=f"label-studio:{picture.url.rsplit('/', 1)[-1][:200]}",
                sha256=picture.sha256,
                width_px=width_px,
                height_px=height_px,
                group_name=group,
                split={**(splits or {}), **images.known_splits(session, project_id)}.get(group, "train"),
                state="ready",
            )
            session.add(image)
            session.flush()
        tile = _whole_tile(list(images.tiles_of(session, image.id)), width_px, height_px)
        if tile is None:
            tile = Tile(
                project_id=project_id,
                image_id=image.id,
                x_px=0,
                y_px=0,
                width_px=width_px,
                height_px=height_px,
                scale=1.0,
                tissue_share=1.0,
                png_blob=png_blob,
                look_hash=look_hash(picture.pixels),
            )
            session.add(tile)
            session.flush()
        if tasks.of_tile(session, tile.id) is not None:
            raise BadInput(item, "shows a picture that is another task already", "delete one of the two")
        tile.wanted_at = now
        row = tasks.by_ls_id(session, project_id, ls_task_id)
        if row is not None and row.tile_id == tile.id:  # taken for gone, and there again
            row.state = "live"
        else:
            waited = tasks.free_numbers(session, project_id, {ls_task_id: tile.id})
            queue.set_state(session, projects.get(session, project_id), waited, "open")
            session.add(Task(project_id=project_id, tile_id=tile.id, ls_task_id=ls_task_id, origin="uploaded"))
        events.record(
            session, project_id=project_id, actor="label-studio", what="upload taken in", subject=f"tile:{tile.id}"
        )
    return new


def _whole_tile(tiles: Sequence[Tile], width_px: int, height_px: int) -> Tile | None:
    """The tile that covers the whole picture, as Label Studio shows it; a large image registered before has none."""
    for tile in tiles:
        if (tile.x_px, tile.y_px, tile.width_px, tile.height_px) == (0, 0, width_px, height_px):
            return tile
    return None
