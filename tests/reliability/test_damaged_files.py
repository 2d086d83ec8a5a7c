"""Row 8: checkpoints, pictures, masks and weights that were torn, flipped or lost on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from backend.store import masks, projects
from backend.store.tables import Image, Model, Tile
from mpamatch.domain.classes import ClassSet
from tests.flows.untrained import untrained_model
from tests.reliability.fault_log import FaultLog
from tests.reliability.ring import Ring

pytestmark = [pytest.mark.processes, pytest.mark.labelstudio, pytest.mark.torch, pytest.mark.timeout(900)]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _starts(folder: Path) -> list[int]:
    lines = (folder / "progress.jsonl").read_text().splitlines()
    return [int(e["step"]) for e in map(json.loads, lines) if e["event"] == "start"]


def test_a_run_resumes_from_the_checkpoint_before_when_the_latest_is_damaged(ring: Ring, log: FaultLog) -> None:
    number = ring.start_run()
    folder = ring.folder(number)
    kept = ring.until(lambda: (f := sorted((folder / "checkpoint").glob("step-*[0-9]"))) and len(f) == 2 and f, 120)
    child = psutil.Process(json.loads((folder / "child.json").read_text())["pid"])
    child.suspend()
    kept = sorted((folder / "checkpoint").glob("step-*[0-9]"))
    _flip(kept[-1] / "tensors.safetensors")
    child.kill()
    log.struck()
    ring.until(lambda: len(_starts(folder)) >= 2, 90)
    before = int(kept[-2].name[5:])
    assert _starts(folder)[1] == before
    assert ring.ended(number).state == "done"
    ring.recover(90)
    log.recovered(row=8, fault="latest checkpoint flipped by a bit", seen=f"resumed from step {before}, ended as done")


def _labelled(ring: Ring, count: int) -> list[masks.CurrentMask]:
    """Masks that a run would train on, with contents and pictures of their own."""
    with ring.database.transaction() as session:
        found = [m for m in masks.current(session, projects.choose(session, None).id) if m.split == "train"]
    alone = [m for m in found if sum(o.blob == m.blob for o in found) == 1]
    assert len(alone) >= count
    return alone[:count]


def _image_of(ring: Ring, tile_id: int) -> Image:
    with ring.database.transaction() as session:
        return session.get_one(Image, session.get_one(Tile, tile_id).image_id)


def test_a_run_goes_on_without_the_tiles_whose_mask_or_picture_is_lost(ring: Ring, log: FaultLog) -> None:
    lost, flipped, torn = _labelled(ring, 3)
    kept = {p: p.read_bytes() for p in map(ring.stack.blobs.path, (lost.blob, flipped.blob, torn.png_blob))}
    ring.stack.blobs.path(lost.blob).unlink()
    _flip(ring.stack.blobs.path(flipped.blob))
    torn_path = ring.stack.blobs.path(torn.png_blob)
    torn_path.write_bytes(torn_path.read_bytes()[:200])
    log.struck()
    number = ring.start_run()
    run = ring.ended(number)
    assert run.state == "done", run.problem
    described = json.loads((ring.folder(number) / "run.json").read_text())
    assert not {lost.tile_id, flipped.tile_id, torn.tile_id} & {row["tile"] for row in described["labelled"]}
    for mask, words in ((lost, "is missing"), (flipped, "is damaged"), (torn, "is damaged")):
        image = _image_of(ring, mask.tile_id)
        assert image.state == "quarantined"
        assert words in (image.problem or "")
        assert f"tile {mask.tile_id}" in (image.problem or "")
    ring.recover(90)
    seen = "three images set aside with the tile and the reason; the run went on without them and ended as done"
    log.recovered(row=8, fault="mask lost, mask flipped, labelled picture torn", seen=seen)
    for path, content in kept.items():
        path.write_bytes(content)
    ring.stack.cli("register", str(ring.drawn), as_json=False)  # registering whole files again mends it
    assert _image_of(ring, lost.tile_id).state == "ready"
    ring.recover(90)


def test_the_champion_before_serves_when_the_champions_weights_are_damaged(ring: Ring, log: FaultLog) -> None:
    """A new champion, promoted by hand, whose weights are flipped before any worker has loaded them."""
    before = ring.champion()
    classes = ClassSet.from_names(["background", "gland"])
    blob = ring.stack.blobs.put(untrained_model(classes, seed=1))
    _flip(ring.stack.blobs.path(blob))
    version = f"{before.version}-damaged"
    with ring.database.transaction() as session:
        project = projects.choose(session, None)
        session.add(Model(project_id=project.id, version=version, kind="trained", state="candidate", blob=blob))
    log.struck()
    ring.stack.cli("models", "promote", version)
    ring.until(lambda: ring.champion().version == before.version, 60)
    ring.recover(90)
    with ring.database.transaction() as session:
        states = {m.version: m.state for m in session.scalars(select(Model))}
    assert states[version] == "rejected"
    assert any("is damaged" in line for line in ring.log_lines("worker-predict"))
    seen = f"the hash refused {version}; {before.version} serves again, with its predictions, without a human"
    log.recovered(row=8, fault="weights of the champion flipped by a bit", seen=seen)
