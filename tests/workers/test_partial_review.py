"""From a reviewed box to the gradient: a tile of which only a box was looked at teaches there and nowhere else.

The tile's picture is bright inside the box and dark outside, so that every view of it tells where it lies, whatever was
cut, scaled, turned and flipped on the way.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.actions.answer_tile import Answer, answer_tile
from backend.actions.open_run import open_run, request_run
from backend.actions.rank_queue import rank_queue
from backend.actions.register_images import RegisterItem, register
from backend.settings import Settings
from backend.store import leases, masks, projects, runs
from backend.store.tables import Model
from backend.wakeups import Wakeups
from mpamatch.files.images import encode_png
from mpamatch.files.masks import write_mask
from mpamatch.network.losses import supervised_loss
from mpamatch.training.batches import Streams, TileReader
from mpamatch.training.run_spec import read_run
from tests.builders import Installation, add_model, disc, installation, predict_all
from workers.jobs import train
from workers.parts import Parts

pytestmark = [pytest.mark.database, pytest.mark.torch]
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEPS = 12


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """Three tiles with a bright box where the champion's region lies, 10..30 px, ranked."""
    made = installation(database_url, tmp_path, train=0, audit=0)
    items = []
    for number in range(3):
        picture = np.full((64, 64, 3), 20 + number, np.uint8)
        picture[10:30, 10:30] = 230
        path = tmp_path / f"box-{number}.png"
        path.write_bytes(encode_png(picture))
        items.append(RegisterItem(path=path, group=f"case-{number}", split="train"))
    register(made.database, made.blobs, made.project_id, items)
    model = add_model(made, "m1")
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        projects.champion(session, project).state = "retired"
        session.flush()
        session.get_one(Model, model.id).state = "champion"
        project.champion_id = model.id
    predict_all(made, model)
    assert rank_queue(made.database, made.project_id)
    return made


def test_training_reads_only_inside_the_box_that_was_reviewed(
    made: Installation, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    suggested = Answer("only the boxes", write_mask(disc()), shown_version="m1")
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        held = [e.tile_id for e in leases.claim(session, project.id, holder="a", count=2, now=NOW, lease_s=60)]
        for tile_id in held:
            answer_tile(session, made.blobs, project, tile_id, suggested, holder="a", attempt=1, now=NOW)
        assert [m.reviewed_share for m in masks.current(session, project.id)] == [400 / 64**2] * 2
        request_run(session, project, by="manual")
    run, decision = open_run(made.database, made.blobs, made.project_id, now=NOW)
    assert run is not None, decision.reasons
    settings = Settings(state=tmp_path, database_url=database_url, broker_url=redis_url)
    parts = Parts(settings, made.database, made.blobs, made.keys, Wakeups(redis_url), "a-worker")
    folder = runs.folder(tmp_path, run)
    train._write_run_folder(parts, run, folder)
    spec = read_run(folder)
    assert sorted(s.tile for s in spec.labelled) == sorted(held)
    assert set(held) <= {s.tile for s in spec.pool}, "the rest of them is open to pseudo-labels"
    streams = Streams(
        spec.labelled,
        spec.pool,
        recipe=replace(spec.recipe, labelled_photometry="none"),  # other light moves no label
        reader=TileReader(1.0, spec.classes.count),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        seed=spec.seed,
    )
    taught = 0
    for step in range(STEPS):
        batch = streams.labelled_batch(step)
        logits = torch.zeros(len(batch.masks), spec.classes.count, *batch.masks.shape[1:], requires_grad=True)
        supervised_loss(logits, batch.masks).backward()
        assert logits.grad is not None
        moved = logits.grad.abs().sum(dim=1) > 0
        bright = batch.images.mean(dim=1)
        # 0.09 outside and 0.90 inside; where both meet, scaling blends them over a pixel.
        assert float(bright[moved].min()) > 0.15
        assert torch.equal(moved, batch.masks != 255)
        taught += int(moved.sum())
    assert taught > 0
