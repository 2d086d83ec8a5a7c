"""Tasks that people uploaded in Label Studio become images and tiles of the project, so that they are pre-annotated.

The picture is fetched only from the connected Label Studio, with its token. Uploads belong to the train split: their
uploader expects a suggestion on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from backend.labelstudio.client import LabelStudioClient
from backend.store import events, images, tasks
from backend.store.blobs import BlobFolder
from backend.store.sessions import Database
from backend.store.tables import Image, Task, Tile
from mpamatch.errors import BadInput, MpamatchError, NotFound
from mpamatch.files.images import encode_png, read_image


def take_in_uploads(
    database: Database,
    blobs: BlobFolder,
    client: LabelStudioClient,
    project_id: int,
    ls_tasks: Sequence[dict[str, Any]],
    *,
    now: datetime,
) -> list[str]:
    """Take in every task that we do not know; returns one line per task that could not be. The rest goes on."""
    with database.transaction() as session:
        known = tasks.known_ids(session, project_id, [int(t["id"]) for t in ls_tasks])
    problems: list[str] = []
    for ls_task in ls_tasks:
        if int(ls_task["id"]) in known:
            continue
        try:
            _take_in(database, blobs, client, project_id, ls_task, now=now)
        except (BadInput, NotFound) as error:
            problems.append(str(error))
    return problems


def _take_in(
    database: Database,
    blobs: BlobFolder,
    client: LabelStudioClient,
    project_id: int,
    ls_task: dict[str, Any],
    *,
    now: datetime,
) -> None:
    ls_task_id = int(ls_task["id"])
    item = f"Label Studio task {ls_task_id}"
    url = ls_task.get("data", {}).get("image")
    if not isinstance(url, str):
        raise BadInput(item, "has no image in its data", "give the picture under the key `image`")
    content = client.fetch_image(url)
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        pixels = read_image(content)
    except MpamatchError as error:
        raise BadInput(item, error.problem, error.remedy) from error
    png_blob = blobs.put(encode_png(pixels))
    height_px, width_px = pixels.shape[:2]
    with database.transaction() as session:
        images.lock_registration(session, project_id)
        image = images.by_hash(session, project_id, sha256)
        if image is None:
            image = Image(
                project_id=project_id,
                uri=f"label-studio:{url.rsplit('/', 1)[-1][:200]}",
                sha256=sha256,
                width_px=width_px,
                height_px=height_px,
                group_name=f"upload-{sha256[:12]}",
                split="train",
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
            )
            session.add(tile)
            session.flush()
        if tasks.of_tile(session, tile.id) is not None:
            raise BadInput(item, "shows a picture that is another task already", "delete one of the two")
        tile.wanted_at = now
        session.add(Task(project_id=project_id, tile_id=tile.id, ls_task_id=ls_task_id, origin="uploaded"))
        events.record(
            session, project_id=project_id, actor="label-studio", what="upload taken in", subject=f"tile:{tile.id}"
        )


def _whole_tile(tiles: Sequence[Tile], width_px: int, height_px: int) -> Tile | None:
    """The tile that covers the whole picture, as Label Studio shows it; a large image registered before has none."""
    for tile in tiles:
        if (tile.x_px, tile.y_px, tile.width_px, tile.height_px) == (0, 0, width_px, height_px):
            return tile
    return None
