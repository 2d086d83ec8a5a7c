"""Write the live order out for other programs: CSV, or GeoJSON in level-0 pixels, piece by piece.

What was answered in earlier orders follows where it is asked for. Each piece is one short transaction, so that a slow
reader holds nothing. All pieces are of one generation; it is kept for a while after a newer one came, and a reader who
is slower than that is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.store import projects
from backend.store.masked_images import names_of
from backend.store.queue import WAITING
from backend.store.queued import answered_before, images_waiting, of_entries, queued
from backend.store.sessions import Database
from backend.store.tables import Image, QueueEntry
from mpamatch.domain.queue_export import QueuedTile, csv_lines, features
from mpamatch.errors import Conflict, NotFound

Form = Literal["csv", "geojson"]
EVERY_STATE = (*WAITING, "done", "skipped")
_PIECE = 500


@dataclass(frozen=True)
class Export:
    """One generation of a project's order, and what of it is wanted."""

    project_id: int
    generation: int
    states: tuple[str, ...]
    names: dict[int, str]
    classes: tuple[str, ...]
    image_id: int | None = None
    image_sha256: str | None = None
    # What was answered in earlier orders: (entry, image), in the order in which it follows the live one.
    answered: tuple[tuple[int, int], ...] = ()


def begin_export(
    database: Database, project_id: int, *, image_id: int | None = None, every_state: bool = False
) -> Export:
    """What is to be written. Raises NotFound for an image of another project."""
    with database.transaction() as session:
        project = projects.get(session, project_id)
        image = None if image_id is None else session.get(Image, image_id)
        if image_id is not None and (image is None or image.project_id != project_id):
            raise NotFound(f"image {image_id}", "does not exist", "see the images of this project")
        return Export(
            project_id=project_id,
            generation=project.queue_generation,
            states=EVERY_STATE if every_state else WAITING,
            names=names_of(session, project_id),
            classes=tuple(projects.classes_of(project).names),
            image_id=image_id,
            image_sha256=None if image is None else image.sha256,
            answered=tuple(answered_before(session, project_id, generation=project.queue_generation))
            if every_state
            else (),
        )


def written(database: Database, export: Export, form: Form) -> Iterator[bytes]:
    """The document in pieces; the whole of them is one CSV or one FeatureCollection. Raises Conflict midway when the
    generation is not kept any more."""
    if form == "csv":
        yield csv_lines(()).encode()
        for tiles in _pieces(database, export):
            yield csv_lines(tiles, header=False).encode()
        return
    yield b'{"type": "FeatureCollection", '
    if export.image_id is not None:
        image = {"name": export.names[export.image_id], "sha256": export.image_sha256}
        yield f'"image": {json.dumps(image)}, '.encode()
    yield b'"features": ['
    first = True
    for tiles in _pieces(database, export):
        for feature in (one for tile in tiles for one in features(tile)):
            yield (b"" if first else b",\n") + json.dumps(feature).encode()
            first = False
    yield b"]}\n"


def image_exports(database: Database, export: Export) -> Iterator[tuple[str, Export]]:
    """One export for each image that has an entry, under the image's name: QuPath reads one image at a time."""
    with database.transaction() as session:
        found = images_waiting(session, export.project_id, generation=export.generation, states=export.states)
    for image_id in sorted({*found, *(image_id for _, image_id in export.answered)}):
        with database.transaction() as session:
            sha256 = session.get_one(Image, image_id).sha256
        yield export.names[image_id], replace(export, image_id=image_id, image_sha256=sha256)


def _pieces(database: Database, export: Export) -> Iterator[list[QueuedTile]]:
    after = 0
    while True:
        with database.transaction() as session:
            tiles = queued(
                session,
                export.project_id,
                generation=export.generation,
                states=export.states,
                after_rank=after,
                limit=_PIECE,
                names=export.names,
                classes=export.classes,
                image_id=export.image_id,
            )
            kept = _kept(session, export)
        if not kept:
            raise Conflict("queue", "was ranked anew while it was written", "export it again")
        if not tiles:
            break
        yield tiles
        after = tiles[-1].rank
    of_image = [entry for entry, image in export.answered if export.image_id in (None, image)]
    for start in range(0, len(of_image), _PIECE):
        with database.transaction() as session:
            tiles = of_entries(session, of_image[start : start + _PIECE], export.names, export.classes)
        yield tiles


def _kept(session: Session, export: Export) -> bool:
    """Whether what waits in the generation is there still: all of it goes at once, some time after a newer one came."""
    if projects.get(session, export.project_id).queue_generation == export.generation:
        return True
    query = select(QueueEntry.id).where(
        QueueEntry.project_id == export.project_id,
        QueueEntry.generation == export.generation,
        QueueEntry.state.in_(WAITING),
    )
    return session.scalar(query.limit(1)) is not None
