"""A project with something at every station of the ring, made through the store; its names are hostile on purpose."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backend.actions.rank_queue import rank_queue
from backend.store import events, projects
from backend.store.tables import Annotation, Image, Inbox, Mask, Model, Run, Task
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.recipe import Recipe
from mpamatch.files.rasters import encode_raster
from tests.builders import Installation, disc, installation, predict_all

HOSTILE = "<script>window.hit=1</script>"
HOSTILE_FILE = '"><img src=x onerror="window.hit=1">.png'
KEY = "test-glands"
LABEL_STUDIO = "http://127.0.0.1:9"  # nobody listens there
NOW = datetime.now(UTC)


def filled(database_url: str, folder: Path) -> Installation:
    """Two champions and one candidate kept out, a run in training, labels, a skip, and things set aside."""
    made = installation(database_url, folder, train=30, audit=6)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        project.title = f"Glands {HOSTILE}"
        project.classes = ClassSet.from_names(["background", f"gland {HOSTILE}"]).to_json()
        project.ls_url, project.ls_project_id = LABEL_STUDIO, 7
        rows = session.query(Image).order_by(Image.id).all()
        for row in rows:
            row.uri = f"{folder}/{row.id}-{HOSTILE_FILE}"
        rows[-1].state, rows[-1].problem = "quarantined", f"cannot be read {HOSTILE}"
    verdicts = [
        ("m1", True, 0.81, 0.2, None),
        ("m2", True, 0.87, 0.81, None),
        ("m3", False, 0.80, 0.84, (-0.07, -0.01)),
    ]
    for number, (name, promote, ours, theirs, bounds) in enumerate(verdicts, start=1):
        _run_with_verdict(made, number, name, promote, ours, theirs, bounds)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
    predict_all(made, champion)
    rank_queue(made.database, made.project_id)
    _labels(made)
    _open_run(made)
    return made


def _run_with_verdict(
    made: Installation,
    number: int,
    name: str,
    promote: bool,
    ours: float,
    theirs: float,
    bounds: tuple[float, float] | None,
) -> None:
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        run = _run(made, number, "done")
        session.add(run)
        session.flush()
        figures = {"candidate_dice": ours, "champion_dice": theirs, "audit_tiles": 5 * number, "audit_groups": number}
        figures |= {} if bounds is None else {"lower": bounds[0], "upper": bounds[1]}
        before = projects.champion(session, project)
        if promote:
            before.state = "retired"
            session.flush()
        model = Model(
            project_id=project.id,
            version=f"{KEY}-{name}",
            kind="trained",
            state="champion" if promote else "rejected",
            provisional=promote,
            run_id=run.id,
            previous_id=before.id if promote else None,
            promoted_at=NOW if promote else None,
            verdict={"promote": promote, "provisional": promote, "reasons": [f"because {HOSTILE}"], "figures": figures},
        )
        session.add(model)
        session.flush()
        project.champion_id = model.id if promote else project.champion_id
        events.record(
            session,
            project_id=project.id,
            actor="labels",
            what="run queued",
            subject=f"run:{run.id}",
            after={"labelled": 9 * number, "pool": 20},
        )


METRICS = {
    "seconds": 84.0,
    "mask_ratio": 0.76,
    "pseudo_labels": {"step": 300, "accuracy": 0.931, "share": 0.7, "pixels": 9000},
    "pool_tiles": 20,
    "notes": [f"low-rank tuning given up {HOSTILE}"],
    "audit": {"mdice": 0.8123, "foreground_dice": 0.79, "images": 3},
    "prototypes": {"used": 2.75, "within": 0.4, "between": 0.1, "most_between": 0.62, "collapsed": False},
}


def _run(made: Installation, number: int, state: str) -> Run:
    recipe = Recipe.for_profile("demo")
    return Run(
        project_id=made.project_id,
        number=number,
        trigger="labels",
        reasons=["12 tiles changed"],
        recipe=recipe.to_json(),
        recipe_hash=recipe.sha256(),
        snapshot_blob="0" * 64,
        version=f"{KEY}-m{number}",
        state=state,
        attempt=1,
        progress={"step": 120, "steps": 300, "eta_s": 95.0, "losses": {"x": 0.3, "u": 0.1, "total": 0.2}},
        metrics=METRICS if state == "done" else None,
        curves_blob=made.blobs.put(encode_raster(disc())) if state == "done" else None,
        started_at=NOW - timedelta(minutes=5),
        finished_at=NOW if state == "done" else None,
    )


def _labels(made: Installation) -> None:
    """Of the first train tiles: one drawn, one confirmed, one skipped, one that could not be read; one audit tile."""
    train, audit = made.tiles("train"), made.tiles("audit")
    blob = made.blobs.put(encode_raster(disc()))
    states = [(train[0], "present"), (train[1], "present"), (train[2], "skipped"), (train[3], "quarantined")]
    states.append((audit[0], "present"))
    with made.database.transaction() as session:
        for number, (tile, state) in enumerate(states, start=1):
            session.add(
                Task(
                    project_id=made.project_id,
                    tile_id=tile.id,
                    ls_task_id=100 + number,
                    origin="head",
                    state="labelled",
                )
            )
            annotation = Annotation(
                project_id=made.project_id,
                tile_id=tile.id,
                ls_annotation_id=200 + number,
                ls_task_id=100 + number,
                result_blob=blob,
                annotator=1 if number < 4 else 2,
                lead_time_s=10.0 * number,
                shown_version=f"{KEY}-m2",
                updated_at=NOW - timedelta(minutes=number),
                state=state,
                problem=f"unknown class {HOSTILE}" if state == "quarantined" else None,
            )
            session.add(annotation)
            session.flush()
            if state == "present":
                origin = "confirmed" if number == 2 else "annotated"
                mask = Mask(tile_id=tile.id, version=1, origin=origin, blob=blob, reviewed_share=0.5)
                mask.annotation_id = annotation.id
                session.add(mask)
        session.add(Task(project_id=made.project_id, tile_id=train[5].id, ls_task_id=150, origin="head", why=HOSTILE))
        session.add(
            Inbox(
                project_id=made.project_id,
                dedupe_key="old",
                action="ANNOTATION_CREATED",
                payload={},
                received_at=NOW - timedelta(minutes=9),
            )
        )


def _open_run(made: Installation) -> None:
    """In training, with a folder as its worker writes it."""
    with made.database.transaction() as session:
        run = _run(made, 4, "training")
        session.add(run)
        session.flush()
        folder = made.folder / "runs" / f"{run.version}-r{run.id}"
    folder.mkdir(parents=True)
    rows = [
        {"event": "step", "step": s, "steps": 300, "losses": {"x": 1 / s, "u": 0.5 / s, "total": 0.8 / s}}
        for s in range(5, 125, 5)
    ]
    text = "".join(json.dumps(row) + "\n" for row in [{"event": "start"}, *rows])
    (folder / "progress.jsonl").write_text(text + '{"event": "st', encoding="utf-8")


def paths(made: Installation) -> list[str]:
    """Every page of the project."""
    project = f"/projects/{KEY}"
    train, audit = made.tiles("train"), made.tiles("audit")
    tiles = [train[0], train[2], train[5], train[-1], audit[0], audit[1]]
    return [
        project,
        f"{project}?refresh=10",
        f"{project}/queue",
        f"{project}/queue?page=2",
        f"{project}/queue?stratum=audit",
        f"{project}/queue?stratum=cold",
        f"{project}/runs",
        *[f"{project}/runs/{n}" for n in (1, 3, 4)],
        f"{project}/people",
        f"{project}/audit",
        f"{project}/audit?class=1",
        *[f"{project}/tiles/{tile.id}" for tile in tiles],
        *[f"{project}/images/{tile.image_id}" for tile in (train[5], audit[1])],
    ]
