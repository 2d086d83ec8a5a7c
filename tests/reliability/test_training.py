"""Trainings that go wrong: losses that are no numbers, labels of one class, shuffled labels. The champion stays.

Real trainings, as children of the train worker's job; predictions and verdicts by the jobs that the workers run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.numpy import load_file, save_file

from backend.actions.judge_candidate import judge_candidate
from backend.actions.open_run import open_run, request_run
from backend.actions.register_images import RegisterItem, register
from backend.clock import utc_now
from backend.credentials import ensure_dashboard_token
from backend.servers import EmbeddedPostgres, EmbeddedRedis
from backend.settings import Settings
from backend.site import create_site
from backend.store import masks, projects
from backend.store.tables import Model, Run
from backend.wakeups import Wakeups
from mpamatch.files.images import encode_png
from mpamatch.files.model_archive import TENSORS_NAME, pack_model, unpack_model
from mpamatch.files.rasters import encode_raster
from tests.builders import Installation, installation
from tests.invariants import check_invariants
from tests.mpamatch.tissue import draw, quick_recipe
from tests.reliability.fault_log import FaultLog
from workers.champion import LoadedModels
from workers.device import set_threads
from workers.jobs.predict import predict_due
from workers.jobs.train import train_due
from workers.parts import Parts

pytestmark = [pytest.mark.database, pytest.mark.torch, pytest.mark.processes, pytest.mark.timeout(600)]
TRAIN, AUDIT, STEPS = 8, 12, 40
BASE = "http://127.0.0.1"


class Ring:
    """One project with drawn discs, their masks, and what the workers do with it."""

    def __init__(self, database_url: str, redis_url: str, state: Path) -> None:
        self.made: Installation = installation(database_url, state, train=0, audit=0)
        self.settings = Settings(state=state, database_url=database_url, broker_url=redis_url, threads=1)
        made = self.made
        self.parts = Parts(self.settings, made.database, made.blobs, made.keys, Wakeups(redis_url), "host:1:1.0")
        set_threads(self.settings)
        self.models = LoadedModels(made.blobs, state / "cache", "cpu")
        register(made.database, made.blobs, made.project_id, list(self._items(state)))

    def _items(self, state: Path) -> Iterator[RegisterItem]:
        for number in range(TRAIN + AUDIT):
            path = state / f"drawn-{number}.png"
            path.write_bytes(encode_png(draw(number)[0]))
            yield RegisterItem(path, group=f"case-{number}", split="train" if number < TRAIN else "audit")

    def label(self, split: str, shown: Any) -> None:
        """Give every tile of a split the mask that ``shown`` makes of the number of its drawing."""
        first = 0 if split == "train" else TRAIN
        for number, tile in enumerate(self.made.tiles(split), start=first):
            blob = self.made.blobs.put(encode_raster(shown(number)))
            with self.made.database.transaction() as session:
                masks.append(session, tile_id=tile.id, origin="annotated", blob=blob, reviewed_share=1.0)

    def run(self, **knobs: Any) -> Run:
        """One run by hand with a small recipe, through training, prediction and verdict; the row at its end."""
        made, now = self.made, utc_now()
        recipe = quick_recipe("supervised", **{"steps_cold": STEPS, "steps_warm": STEPS, "lr": 0.01, **knobs})
        with made.database.transaction() as session:
            request_run(session, projects.get(session, made.project_id), by="manual")
        run, decision = open_run(made.database, made.blobs, made.project_id, now=now)
        assert run is not None, decision.reasons
        with made.database.transaction() as session:
            session.get_one(Run, run.id).recipe = recipe.to_json()
        assert train_due(self.parts, stop=lambda: False) == 1
        predict_due(self.parts, self.models, stop=lambda: False)
        judge_candidate(made.database, made.blobs, run.id, now=utc_now())
        check_invariants(made.database, made.blobs, settled=False)
        with made.database.transaction() as session:
            return session.get_one(Run, run.id)

    def model_of(self, run: Run) -> Model | None:
        with self.made.database.transaction() as session:
            return session.query(Model).filter(Model.run_id == run.id).one_or_none()

    def champion(self) -> Model:
        with self.made.database.transaction() as session:
            return projects.champion(session, projects.get(session, self.made.project_id))

    def page(self, path: str) -> str:
        """A page of the dashboard as the operator sees it."""
        with TestClient(create_site(self.settings), base_url=BASE) as client:
            client.post("/login", data={"token": ensure_dashboard_token(self.settings.state)}, headers={"origin": BASE})
            answer = client.get(f"/projects/test-glands{path}")
            assert answer.status_code == 200
            return answer.text


def disc_of(number: int) -> np.ndarray:
    return draw(number)[1]


def shuffled(number: int) -> np.ndarray:
    """The disc of another drawing, on every second tile with its classes swapped: nothing can be learnt from it."""
    other = draw((number + 3) % TRAIN)[1]
    return 1 - other if number % 2 else other


def background(number: int) -> np.ndarray:
    return np.zeros_like(disc_of(number))


@pytest.fixture(scope="module")
def ring(
    postgres: EmbeddedPostgres,
    migrated_template: str,
    redis_server: EmbeddedRedis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ring]:
    """A ring whose champion was trained on right labels and judged."""
    url = postgres.create_database("training_faults", template=migrated_template)
    made = Ring(url, redis_server.url, tmp_path_factory.mktemp("training"))
    made.label("train", disc_of)
    made.label("audit", disc_of)
    run = made.run()
    assert run.state == "done", run.problem
    model = made.model_of(run)
    assert model is not None
    assert model.state == "champion", model.verdict
    yield made
    made.made.database.close()
    postgres.drop_database("training_faults")


def test_a_model_of_shuffled_labels_is_kept_out_and_the_dashboard_says_why(ring: Ring, log: FaultLog) -> None:
    champion = ring.champion()
    ring.label("train", shuffled)
    run = ring.run()
    model = ring.model_of(run)
    assert model is not None
    assert model.verdict is not None
    assert (run.state, model.state, model.verdict["promote"]) == ("done", "rejected", False)
    assert model.verdict["figures"]["difference"] < -0.05
    assert model.verdict["figures"]["rule"] in ("bound", "collapsed")
    assert ring.champion().id == champion.id
    page = ring.page(f"/runs/{run.number}")
    assert all(reason.replace(">", "&gt;") in page for reason in model.verdict["reasons"])
    assert "kept out" in ring.page("")
    seen = (
        f"kept out at {model.verdict['figures']['difference']:+.2f} mean Dice; reasons in the verdict and on the page"
    )
    log.recovered(row=17, fault="a model trained on shuffled labels", seen=seen)


def test_a_model_of_masks_without_any_gland_is_kept_out(ring: Ring, log: FaultLog) -> None:
    champion = ring.champion()
    ring.label("train", background)
    run = ring.run()
    model = ring.model_of(run)
    assert model is not None
    assert model.verdict is not None
    assert model.metrics is not None
    assert model.metrics["labelled_classes"] == [0]
    assert (run.state, model.state) == ("done", "rejected")
    (reason,) = model.verdict["reasons"]
    assert reason == "the candidate answers one class everywhere; it never replaces a trained champion"
    assert ring.champion().id == champion.id
    assert reason in ring.page(f"/runs/{run.number}")
    log.recovered(
        row=16, fault="every mask is background", seen="kept out; the reason is in the verdict and on the page"
    )


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        (STEPS, "run: loss not finite in 10 of the last 100 steps; lower recipe.lr and check the images"),
        (
            6,
            "run: its weights are not finite after the last step; lower recipe.lr and check the images",
        ),
    ],
    ids=["while it trains", "at its end"],
)
def test_a_loss_that_is_no_number_ends_the_run_with_one_line_and_the_champion_stays(
    ring: Ring, log: FaultLog, steps: int, problem: str
) -> None:
    ring.label("train", disc_of if steps == STEPS else shuffled)
    champion, good = ring.champion(), ring.champion().blob
    assert good is not None
    _set_blob(ring, champion.id, _without_numbers(ring, good))
    try:
        run = ring.run(steps_warm=steps)
    finally:
        _set_blob(ring, champion.id, good)
    assert (run.state, run.problem) == ("failed", problem)
    assert ring.model_of(run) is None
    assert ring.champion().id == champion.id
    page = ring.page("")
    assert f"run {run.number} failed: {problem}" in page
    log.recovered(row=16, fault=f"a weight that is no number, {steps} steps", seen=f"the run fails: {problem}")


def _set_blob(ring: Ring, model_id: int, blob: str) -> None:
    with ring.made.database.transaction() as session:
        session.get_one(Model, model_id).blob = blob


def _without_numbers(ring: Ring, blob: str) -> str:
    """The same model with one weight that is no number: what a broken disk or a bad import may leave."""
    folder = ring.settings.state / "without-numbers"
    unpack_model(ring.made.blobs.path(blob), folder)
    tensors = load_file(folder / TENSORS_NAME)
    name = next(n for n, t in tensors.items() if np.issubdtype(t.dtype, np.floating) and t.ndim == 4)
    tensors[name] = tensors[name].copy()
    tensors[name].flat[0] = np.nan
    save_file(tensors, folder / TENSORS_NAME)
    return ring.made.blobs.put(pack_model(folder))


def test_a_model_that_answers_with_no_numbers_is_never_judged(ring: Ring, log: FaultLog) -> None:
    """Should such a model be handed in all the same, its predictions are refused and its run ends."""
    made = ring.made
    champion = ring.champion()
    assert champion.blob is not None
    poisoned = _without_numbers(ring, champion.blob)
    ring.label("train", disc_of)
    with made.database.transaction() as session:
        request_run(session, projects.get(session, made.project_id), by="manual")
    run, decision = open_run(made.database, made.blobs, made.project_id, now=utc_now())
    assert run is not None, decision.reasons
    with made.database.transaction() as session:
        row = session.get_one(Run, run.id)
        row.state = "judging"
        session.add(Model(project_id=made.project_id, version="x1", kind="trained", state="candidate", blob=poisoned))
        session.flush()
        session.query(Model).filter(Model.version == "x1").one().run_id = run.id
    predict_due(ring.parts, ring.models, stop=lambda: False)
    with made.database.transaction() as session:
        ended, model = session.get_one(Run, run.id), session.query(Model).filter(Model.version == "x1").one()
    assert (ended.state, model.state) == ("failed", "rejected")
    assert ended.problem is not None
    assert ended.problem.endswith("answers with no numbers; train it again")
    assert ring.champion().id == champion.id
    seen = "its predictions are refused, it is rejected and its run fails; the champion stays"
    log.recovered(row=16, fault="a candidate that answers with no numbers is handed in", seen=seen)
    check_invariants(made.database, made.blobs, settled=False)
