"""The dashboard's project with enough behind it for every figure of the audit: audit tiles, tiles kept back, times,
two people on some tiles, verdicts with bounds."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

from backend.actions.keep_prediction import keep_prediction
from backend.actions.tally_labels import tally_labels
from backend.store import events, predictions
from backend.store.tables import Model, Prediction, Run, Tile
from tests.backend.actions.tallied_project import label
from tests.builders import SIZE, Installation, add_images, disc
from tests.dashboard_project import KEY

AUDIT_TILES = 14


def audited(made: Installation, *, alarm: bool = False) -> Installation:
    """Adds to what `filled` made. ``alarm``: the second champion is surer than the first, and more often wrong."""
    add_images(made, train=0, audit=AUDIT_TILES, masked=False, first=300)
    audit, train = made.tiles("audit")[-AUDIT_TILES:], made.tiles("train")[6:28]
    with made.database.transaction() as session:
        first, second = (session.query(Model).filter(Model.version == f"{KEY}-{name}").one() for name in ("m1", "m2"))
        for one in session.query(Prediction).filter(Prediction.tile_id.in_([t.id for t in train])).all():
            predictions.forget(session, one.id)
        run = session.get_one(Run, second.run_id)
        run.metrics = {**(run.metrics or {}), "held_back": {"by": "group", "tiles": [t.id for t in train[:10]]}}
        _verdicts(session, made)
    for number, tile in enumerate(audit):
        _answer(made, first, tile, disc(x=34 + number % 3), near_px=6.0)
        _answer(made, second, tile, disc(x=(40 if alarm else 33) + number % 3), near_px=1.5 if alarm else 5.0)
        label(made, tile, disc(radius=13 + number % 3), annotator=1 + number % 2, seconds=25.0 + number)
    for number, tile in enumerate(train):
        _answer(made, second, tile, disc(x=33 + number % 3), near_px=5.0)
        radius = 8 + number % 9
        seconds = 6 + 1.4 * radius + (3600 if number % 8 == 0 else 0)
        label(made, tile, disc(radius=radius), annotator=1, seconds=seconds, run_id=second.run_id)
        if number < 7:
            label(made, tile, disc(radius=radius - number % 3), annotator=2, seconds=seconds + 5)
    while tally_labels(made.database, made.blobs, made.project_id, limit=100):
        pass
    return made


def _verdicts(session: object, made: Installation) -> None:
    """Three more, each with bounds, and the events that say who was compared with whom."""
    for number, difference in enumerate((0.5, 0.06, -0.04), start=1):
        model = session.query(Model).filter(Model.version == f"{KEY}-m{number}").one()  # type: ignore[attr-defined]
        figures = {"difference": difference, "lower": difference - 0.02, "upper": difference + 0.02, "confidence": 0.9}
        model.verdict = {**model.verdict, "figures": {**model.verdict["figures"], **figures}}
        promoted = number < 3
        events.record(
            session,  # type: ignore[arg-type]
            project_id=made.project_id,
            actor="gate",
            what="champion changed" if promoted else "candidate rejected",
            subject=f"model:{model.id}",
            before={"champion": f"{KEY}-m{number - 1}"} if promoted else None,
            after={"champion": model.version} if promoted else {"reasons": []},
        )


def _answer(made: Installation, model: Model, tile: Tile, class_map: np.ndarray, *, near_px: float) -> None:
    """Unsure along the outline, surer the farther from it."""
    distance = np.maximum(distance_transform_edt(class_map), distance_transform_edt(1 - class_map))
    assert class_map.shape == (SIZE, SIZE)
    keep_prediction(
        made.database,
        made.blobs,
        tile_id=tile.id,
        model_id=model.id,
        class_map=class_map,
        confidence=(1 - 0.45 * np.exp(-distance / near_px)).astype(np.float32),
        regions=(),
    )
