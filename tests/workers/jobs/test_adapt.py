"""An adaptation from the wish to the verdict: the real child, real predictions and the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import select

from backend.actions.judge_candidate import judge_candidate
from backend.actions.open_run import open_run, request_adaptation
from backend.actions.register_images import RegisterItem, register
from backend.clock import utc_now
from backend.settings import Settings
from backend.store import masks, projects
from backend.store.tables import Mask, Model, Project, Run
from backend.wakeups import Wakeups
from mpamatch.domain.policy import Policy
from mpamatch.files.images import encode_png
from mpamatch.files.model_archive import pack_model, unpack_model
from mpamatch.files.rasters import encode_raster
from mpamatch.network.weights import LoadedModel, load_model
from mpamatch.training.run_folder import train_run
from tests.builders import Installation, installation
from tests.invariants import check_invariants
from tests.mpamatch.tissue import draw, quick_recipe, write_run
from workers.champion import LoadedModels
from workers.jobs.predict import predict_due
from workers.jobs.train import train_due
from workers.parts import Parts

pytestmark = [pytest.mark.database, pytest.mark.torch, pytest.mark.processes, pytest.mark.timeout(300)]
TRAIN, AUDIT = 6, 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small model that was trained elsewhere, on tissue of the ordinary stain."""
    folder = write_run(
        tmp_path_factory.mktemp("elsewhere"), recipe=quick_recipe("supervised", steps_cold=40), labelled=6
    )
    return pack_model(Path(train_run(folder, clock=lambda: 0.0)["model"]))


def _stained_otherwise(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A drawing as another laboratory would stain it: paler and greener."""
    image, mask = draw(number)
    return (image * np.array([0.6, 0.9, 0.7])).astype(np.uint8), mask


class Here:
    """A project whose champion was trained elsewhere; audit tiles are labelled, train tiles are not."""

    def __init__(self, database_url: str, redis_url: str, state: Path, weights: bytes, **settings: Any) -> None:
        policy = Policy(debounce_s=0, gate_min_tiles=3, gate_min_groups=3)
        self.made: Installation = installation(database_url, state, train=0, audit=0, policy=policy)
        made = self.made
        for number in range(TRAIN + AUDIT):
            (state / f"{number}.png").write_bytes(encode_png(_stained_otherwise(number)[0]))
        splits = ["train"] * TRAIN + ["audit"] * AUDIT
        items = [RegisterItem(state / f"{n}.png", group=f"case-{n}", split=split) for n, split in enumerate(splits)]
        register(made.database, made.blobs, made.project_id, items)
        with made.database.transaction() as session:
            champion = projects.champion(session, projects.get(session, made.project_id))
            champion.blob, champion.kind = made.blobs.put(weights), "starter"
            for number, tile in enumerate(made.tiles("audit"), start=TRAIN):
                blob = made.blobs.put(encode_raster(_stained_otherwise(number)[1]))
                masks.append(session, tile_id=tile.id, origin="annotated", blob=blob, reviewed_share=1.0)
        self.settings = Settings(
            state=state, database_url=database_url, broker_url=redis_url, threads=1, device="cpu", **settings
        )
        self.parts = Parts(self.settings, made.database, made.blobs, made.keys, Wakeups(redis_url), "host:1:1.0")

    def adapted(self) -> Run:
        """The run after its child has ended."""
        made = self.made
        with made.database.transaction() as session:
            request_adaptation(session, projects.get(session, made.project_id))
        run, decision = open_run(made.database, made.blobs, made.project_id, now=utc_now())
        assert run is not None, decision.reasons
        assert train_due(self.parts, stop=lambda: False) == 1
        return self.row(run.id)

    def row(self, run_id: int) -> Run:
        with self.made.database.transaction() as session:
            return session.get_one(Run, run_id)

    def model_of(self, run: Run) -> Model:
        with self.made.database.transaction() as session:
            return session.scalars(select(Model).where(Model.run_id == run.id)).one()

    def load(self, blob: str, folder: Path) -> LoadedModel:
        unpack_model(self.made.blobs.get(blob), folder)
        return load_model(folder)


def test_a_champion_is_adapted_to_the_pool_judged_and_no_label_is_touched(
    database_url: str, redis_url: str, tmp_path: Path, weights: bytes
) -> None:
    here = Here(database_url, redis_url, tmp_path / "state", weights)
    made = here.made
    torn = made.tiles("train")[2]
    made.blobs.path(torn.png_blob).write_bytes(b"torn")
    run = here.adapted()
    assert (run.state, run.trigger) == ("judging", "adapt"), run.problem
    model = here.model_of(run)
    assert model.metrics == run.metrics
    assert run.metrics is not None
    told = {"from": "test-glands-m0", "images": TRAIN - 1, "batches": 2, "seed": 1 + run.number, "rounds": 4}
    assert run.metrics["adapted"] == told
    assert any(note.startswith(f"pool tile {torn.id} left out") for note in run.metrics["notes"])
    assert run.curves_blob is None
    assert run.progress is not None
    assert (run.progress["step"], "losses" in run.progress) == (2, False)

    assert model.blob is not None
    new, old = here.load(model.blob, tmp_path / "new"), load_model(_unpacked(weights, tmp_path / "old"))
    before, after = old.module.state_dict(), new.module.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(n.startswith("encoder.") and n.rsplit(".", 1)[-1].startswith(("running_", "num_")) for n in changed)
    assert (new.config.version, new.config.metrics) == (run.version, {})
    assert new.config.provenance["adapted"] == told

    predict_due(here.parts, LoadedModels(made.blobs, tmp_path / "cache", "cpu"), stop=lambda: False)
    verdict = judge_candidate(made.database, made.blobs, run.id, now=utc_now())
    assert verdict is not None
    assert (verdict.figures["rule"], verdict.provisional) == ("bound", False)
    assert here.row(run.id).state == "done"
    assert here.model_of(run).state == ("champion" if verdict.promote else "rejected")
    with made.database.transaction() as session:
        assert {m.first_run_id for m in masks.current(session, made.project_id)} == {None}
    check_invariants(made.database, made.blobs, settled=False)


def _unpacked(weights: bytes, folder: Path) -> Path:
    unpack_model(weights, folder)
    return folder


def test_audit_masks_that_are_gone_by_the_verdict_keep_the_model_out(
    database_url: str, redis_url: str, tmp_path: Path, weights: bytes
) -> None:
    here = Here(database_url, redis_url, tmp_path / "state", weights)
    made = here.made
    run = here.adapted()
    with made.database.transaction() as session:
        for mask in session.query(Mask):
            mask.withdrawn_at = utc_now()
    verdict = judge_candidate(made.database, made.blobs, run.id, now=utc_now())
    assert verdict is not None
    assert (verdict.promote, verdict.provisional, verdict.figures["champion_kind"]) == (False, False, "starter")
    assert here.model_of(run).state == "rejected"
    with made.database.transaction() as session:
        assert session.get_one(Project, made.project_id).champion_id != here.model_of(run).id


def test_a_worker_that_is_stopped_puts_it_back_and_the_next_one_begins_anew(
    database_url: str, redis_url: str, tmp_path: Path, weights: bytes
) -> None:
    here = Here(database_url, redis_url, tmp_path / "state", weights)
    made = here.made
    with made.database.transaction() as session:
        request_adaptation(session, projects.get(session, made.project_id))
    run, decision = open_run(made.database, made.blobs, made.project_id, now=utc_now())
    assert run is not None, decision.reasons
    answers = iter([False, True])  # it takes the run, and is asked to stop while the child begins
    train_due(here.parts, stop=lambda: next(answers, True))
    assert here.row(run.id).state == "queued"
    train_due(here.parts, stop=lambda: False)
    again = here.row(run.id)
    # Whether the child had begun to listen decides if this counts as a crash.
    assert (again.state, again.attempt) == ("judging", 2), again.problem
    assert again.metrics is not None
    assert again.metrics["adapted"]["batches"] == 3


def test_several_devices_leave_an_adaptation_to_one_of_them(
    database_url: str, redis_url: str, tmp_path: Path, weights: bytes
) -> None:
    here = Here(database_url, redis_url, tmp_path / "state", weights, train_devices=2)
    run = here.adapted()
    assert run.state == "judging", run.problem
    assert run.metrics is not None
    assert run.metrics["adapted"]["images"] == TRAIN
