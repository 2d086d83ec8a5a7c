"""Count what is not counted yet of a project's labels: predictions against masks, clicks behind masks, two people's
masks against each other.

Level-triggered: rows say what is missing, each is made from rasters that never change, and a second maker of the same
row loses nothing. So pages, API and commands read small rows and decode no picture.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from backend.actions.fit_costs import COUNTED_BY
from backend.actions.set_aside import forget_prediction, set_aside_tile
from backend.labelstudio.results import class_map_to_result, paint
from backend.store import masks, models, projects, tallies
from backend.store.blobs import BlobStore
from backend.store.masks import CurrentMask
from backend.store.sessions import Database
from backend.store.tables import Model, Project
from backend.store.tallies import DueAgreement, DueEffort, DueTally
from mpamatch.domain.agreement import compare
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.clicks import clicks_to_correct, clicks_to_draw
from mpamatch.domain.masks import combine
from mpamatch.domain.tallies import LEVELS, pack, tally
from mpamatch.errors import BadInput, NotFound
from mpamatch.files.rasters import decode_raster

LOG = logging.getLogger("mpamatch.tally")
ClassMap = NDArray[np.uint8]

# A slow slide of confidence shows over a few champions; more would cost pictures to read and change nothing.
CHAMPIONS = 5


@dataclass(frozen=True)
class Subjects:
    """What is to be counted of a project. ``served``: the champions compared, the present one last; ``held``: labelled
    train tiles that the present one never learnt from."""

    served: tuple[Model, ...]
    audit: tuple[CurrentMask, ...]
    held: tuple[CurrentMask, ...]


def tally_labels(database: Database, blobs: BlobStore, project_id: int, *, limit: int) -> bool:
    """Count up to ``limit`` of what is missing, what is quick first; True while more is left."""
    with database.transaction() as session:
        project = projects.get(session, project_id)
        classes, label_type = projects.classes_of(project), project.label_type
        agreements = tallies.due_agreements(session, project_id, limit)
        efforts = tallies.due_efforts(session, project_id, limit - len(agreements))
        room = limit - len(agreements) - len(efforts)
        due = _due(session, subjects(session, project), room)
    _compare(database, blobs, agreements, classes)
    _measure(database, blobs, efforts, classes, label_type)
    _tally(database, blobs, due, classes)
    return len(due) == room


def subjects(session: Session, project: Project) -> Subjects:
    """What the audit speaks of, as the rows are now."""
    champion = projects.champion(session, project)
    served = [m for m in models.promoted(session, project.id) if m.id <= champion.id][-CHAMPIONS:]
    current = masks.current(session, project.id)
    train = [m for m in current if m.split == "train"]
    unseen = _never_learnt(session, champion, [m.tile_id for m in train])
    return Subjects(
        served=tuple(served),
        audit=tuple(m for m in current if m.split == "audit"),
        held=tuple(m for m in train if m.tile_id in unseen),
    )


def _never_learnt(session: Session, champion: Model, tile_ids: Sequence[int]) -> frozenset[int]:
    """Of labelled train tiles, those in no gradient of the champion or of any model that it may have started from.

    The starter was made elsewhere, so it saw none of them. A tile that an earlier run learnt from before a later one
    kept it back is left out. An adapted champion has learnt what the one before it had.
    """
    champion = models.origin(session, champion)
    if champion.kind == "starter":
        return frozenset(tile_ids)
    if champion.kind == "blank" or champion.run_id is None:
        return frozenset()
    number = models.run_number(session, champion)
    kept = tallies.held_back(session, champion.project_id, number)
    first = tallies.first_runs(session, tile_ids)
    ours = kept.get(number, frozenset()) & set(tile_ids)
    return frozenset(t for t in ours if all(t in held for n, held in kept.items() if n >= first.get(t, number)))


def _pairs(found: Subjects) -> list[tuple[list[int], list[int]]]:
    """(masks, models) to be counted against each other, the present champion's first."""
    served = [m.id for m in found.served]
    return [([m.mask_id for m in found.held], served[-1:]), ([m.mask_id for m in found.audit], served)]


def _due(session: Session, found: Subjects, limit: int) -> list[DueTally]:
    due: list[DueTally] = []
    for masks_, models_ in _pairs(found):
        due += tallies.due_tallies(session, masks_, models_, limit - len(due))
    return due


def waiting(session: Session, found: Subjects) -> int:
    """How many predictions are there and not counted."""
    return sum(tallies.count_due(session, *pair) for pair in _pairs(found))


def _tally(database: Database, blobs: BlobStore, due: Sequence[DueTally], classes: ClassSet) -> None:
    rows = []
    for one in due:
        try:
            mask = decode_raster(blobs.get(one.mask_blob))
        except (BadInput, NotFound) as error:
            named = type(error)(f"mask {one.mask_id}", f"{error.item} {error.problem}", error.remedy)
            set_aside_tile(database, one.tile_id, named, actor="tally")
            continue
        try:
            class_map = decode_raster(blobs.get(one.class_blob))
            confidence = decode_raster(blobs.get(one.confidence_blob))
        except (BadInput, NotFound) as error:
            forget_prediction(database, one.prediction_id, error, actor="tally")
            continue
        rows.append((one.mask_id, one.model_id, pack(_counts(one, class_map, confidence, mask, classes.count))))
    with database.transaction() as session:
        tallies.add_tallies(session, rows)


def _counts(
    due: DueTally, class_map: ClassMap, confidence: ClassMap, mask: ClassMap, class_count: int
) -> NDArray[np.int64]:
    """The tally; nothing where the two do not fit together, which making the prediction again would not mend."""
    try:
        return tally(class_map, confidence, mask, class_count)
    except BadInput as error:
        LOG.warning("tile=%s mask=%s model=%s not counted: %s", due.tile_id, due.mask_id, due.model_id, error)
        return np.zeros((3, LEVELS, class_count), np.int64)


def _measure(
    database: Database, blobs: BlobStore, due: Sequence[DueEffort], classes: ClassSet, label_type: str
) -> None:
    rows = [(one.mask_id, _clicks(blobs, one, classes, label_type), one.class_blob is not None) for one in due]
    with database.transaction() as session:
        tallies.add_efforts(session, rows)


def _clicks(blobs: BlobStore, due: DueEffort, classes: ClassSet, label_type: str) -> float | None:
    if due.lost:
        return None
    try:
        mask = decode_raster(blobs.get(due.mask_blob))
        if due.class_blob is None:
            return clicks_to_draw(mask, COUNTED_BY)
        in_view = decode_raster(blobs.get(due.class_blob))
        if due.known_blob is not None:
            in_view = combine(in_view, decode_raster(blobs.get(due.known_blob)))
        shown = _in_view(in_view, classes, label_type)
    except (BadInput, NotFound) as error:
        LOG.warning("mask=%s clicks are not known: %s", due.mask_id, error)
        return None
    return clicks_to_correct(shown, mask, COUNTED_BY) if shown.shape == mask.shape else None


def _in_view(class_map: ClassMap, classes: ClassSet, label_type: str) -> ClassMap:
    """The class map as the page showed it: polygons have fewer corners than what they outline."""
    if label_type != "polygon":
        return class_map
    height, width = class_map.shape
    result = class_map_to_result(class_map, classes, label_type="polygon")
    return paint(result, width=width, height=height, classes=classes)


def _compare(database: Database, blobs: BlobStore, due: Sequence[DueAgreement], classes: ClassSet) -> None:
    rows = []
    for one in due:
        try:
            first, second = (decode_raster(blobs.get(blob)) for blob in (one.first_blob, one.second_blob))
            counts = compare(first, second, classes.count).ravel().tolist()
        except (BadInput, NotFound) as error:
            LOG.warning("masks=%s,%s cannot be compared: %s", one.first_mask_id, one.second_mask_id, error)
            counts = []
        rows.append((one.first_mask_id, one.second_mask_id, counts))
    with database.transaction() as session:
        tallies.add_agreements(session, rows)
