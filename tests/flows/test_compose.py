"""The team profile from its compose file, every part of ours twice: one run per project, nothing twice, work shared."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from sqlalchemy import func, select

from backend.labelstudio.results import scope_item
from backend.store import predictions, projects, queue, runs, second_looks, tasks
from backend.store.tables import Event, Model, Prediction, Project, Run, Tile
from mpamatch.datasets import phantom
from mpamatch.domain.recipe import Recipe
from tests.flows.composed import Composed, composed
from tests.label_studio_tables import PROGRAM

pytestmark = [
    pytest.mark.team,
    pytest.mark.processes,
    pytest.mark.labelstudio,
    pytest.mark.torch,
    pytest.mark.timeout(900),
]
KEYS = ("first", "second")
HEAD = 10
MASKED = 20


@pytest.fixture(scope="module")
def system() -> Iterator[Composed]:
    """Every service of the file, two replicas of each of ours but for the train workers, which come later."""
    if not PROGRAM.exists():
        pytest.skip("no .venv-label-studio: run `make setup`")
    # A run opens once every mask of a project is in, and no second one by itself.
    settings = {"retrain_after_tiles": MASKED, "debounce_s": 1, "sweep_s": 3, "head_size": HEAD, "lease_s": 30}
    with composed(**settings, train_profile="quick", threads=1, open_page_s=5) as made:
        # Two at once, as when somebody scales or repeats the step.
        steps = [made.start("migrate", replica) for replica in ("-1", "-2")]
        for step in steps:
            assert step.child.wait(120) == 0, step.said()
        made.start("api", "-1")
        made.start("api", "-2", api="api-2")
        for name in ("io", "predict", "beat"):
            for replica in ("-1", "-2"):
                made.start(name, replica)
        made.wait("Label Studio", lambda: made.healthy("label-studio"), 240)
        for api in ("api", "api-2"):
            made.wait(api, lambda api=api: made.healthy("api", api=api), 60)
        yield made


@pytest.fixture(scope="module")
def registered(system: Composed, tmp_path_factory: pytest.TempPathFactory) -> Composed:
    """Two projects of drawn tissue, some of it with masks, tied to Label Studio."""
    for seed, key in enumerate(KEYS, start=11):
        folder: Path = tmp_path_factory.mktemp(key)
        phantom.write_folder(folder, tiles=40, groups=10, size_px=128, masked=MASKED, seed=seed)
        options = ["--project", key, "--classes", "background,gland", "--start", "blank"]
        told = system.execute("register", str(folder), *options)
        assert (told["images"], told["problems"]) == (40, [])
    return system


def _project(session: Any, key: str) -> Project:
    return projects.choose(session, key)


def test_every_part_is_healthy_by_the_file_s_own_checks(system: Composed) -> None:
    checks = {}  # the workers share one
    for name in ("postgres", "redis", "label-studio", "api", "io", "predict", "train", "beat"):
        service = system.services[name]
        checks[str((service.whole["healthcheck"], service.environment))] = name
    assert len(checks) == 5
    assert [name for name in checks.values() if not system.healthy(name)] == []
    assert all(process.child.poll() is None for process in system.running if "migrate" not in process.name)


def test_connect_answers_with_addresses_for_browsers_and_label_studio_gets_the_containers(
    registered: Composed,
) -> None:
    found = registered.execute("connect")
    browsers = registered.variables["LABEL_STUDIO_PUBLIC_URL"]
    assert len(found) == len(KEYS)
    assert all(address.startswith(f"{browsers}/projects/") for address in found.values())
    with registered.label_studio() as client, registered.database() as database, database.transaction() as session:
        for key in KEYS:
            (backend,) = client.ml_backends(_project(session, key).ls_project_id)
            assert backend["url"] == f"http://127.0.0.1:{registered.ports['api']}/ml/{key}"


def test_the_product_is_a_plain_role_here_too(system: Composed) -> None:
    with system.database() as database, database.transaction() as session:
        words = "SELECT usesuper OR usecreatedb FROM pg_user WHERE usename = current_user"
        assert session.connection().exec_driver_sql(words).scalar() is False


def test_the_head_of_both_projects_is_published_once(registered: Composed) -> None:
    registered.wait("both heads", lambda: all(_settled(registered, key) for key in KEYS))
    _check_published_once(registered)


def test_two_predict_workers_share_the_tiles(registered: Composed, tmp_path: Path) -> None:
    """Blank predictions are so quick that one worker can be done before the other has heard of them: then once more."""
    for turn in range(1, 6):
        if all(_made_by(registered, f"predict-{n}") for n in (1, 2)):
            return
        phantom.write_folder(tmp_path / str(turn), tiles=100, groups=5, size_px=128, masked=0, seed=turn)
        # A project without masks opens no run.
        options = ["--project", f"more-{turn}", "--classes", "background,gland", "--start", "blank"]
        registered.execute("register", str(tmp_path / str(turn)), *options)
        registered.wait("its predictions", lambda turn=turn: _nothing_due(registered, f"more-{turn}"))
    raise AssertionError(f"one worker made everything\n{registered.last_words()}")


def test_two_io_workers_and_two_beats_open_one_run_per_project_and_two_train_workers_share_them(
    registered: Composed,
) -> None:
    registered.wait("a run of each project", lambda: len(_runs(registered)) >= len(KEYS))
    small = Recipe.for_profile("quick", encoder="tiny", steps_cold=12)
    with registered.database() as database, database.transaction() as session:
        for run in session.scalars(select(Run)):
            run.recipe = small.to_json()
    for replica in ("-1", "-2"):
        registered.start("train", replica)
    registered.wait("both verdicts", lambda: all(r.state not in runs.OPEN for r in _runs(registered)), 400)
    found = _runs(registered)
    assert [r.state for r in found] == ["done", "done"], [r.problem for r in found]
    assert Counter(r.project_id for r in found) == dict.fromkeys({r.project_id for r in found}, 1)
    assert {r.number for r in found} == {1}
    with registered.database() as database, database.transaction() as session:
        holders = list(session.scalars(select(Event.actor).where(Event.what == "run training")))
        made = session.execute(select(Model.run_id, func.count()).group_by(Model.run_id)).all()
    assert len(holders) == len(set(holders)) == 2, "each worker trained one"
    assert {count for run_id, count in made if run_id is not None} == {1}


def test_the_new_champion_s_head_is_published_once_by_all_of_them(registered: Composed) -> None:
    registered.wait("both heads of the champions", lambda: all(_settled(registered, key) for key in KEYS), 240)
    with registered.database() as database, database.transaction() as session:
        states = {key: projects.champion(session, _project(session, key)).kind for key in KEYS}
    assert "trained" in states.values(), "at least one candidate is better than a blank"
    _check_published_once(registered)
    with registered.database() as database, database.transaction() as session:
        twice = select(Prediction.tile_id).group_by(Prediction.tile_id, Prediction.model_id).having(func.count() > 1)
        assert session.execute(twice).all() == []


def test_both_apis_serve_the_same_pictures_and_speak_for_the_same_projects(registered: Composed) -> None:
    with registered.label_studio() as client, registered.database() as database, database.transaction() as session:
        task = next(iter(client.tasks(_project(session, "first").ls_project_id, unlabelled_only=True)))
    address = task["data"]["image"]
    assert address.startswith(registered.variables["PUBLIC_URL"]), "browsers are sent to the address of browsers"
    access = registered.execute("projects", "access", "--project", "first")
    auth = (access["MPAMATCH_PROJECT_USER"], access["MPAMATCH_PROJECT_PASSWORD"])
    answers = []
    for api in ("api", "api-2"):
        host = f"127.0.0.1:{registered.ports[api]}"
        picture = httpx.get(urlsplit(address)._replace(netloc=host).geturl(), trust_env=False)
        setup = httpx.post(f"http://{host}/ml/first/setup", auth=auth, json={}, trust_env=False)
        assert (picture.status_code, setup.status_code) == (200, 200)
        answers.append((picture.content, setup.json()))
    assert answers[0] == answers[1]


def test_labels_that_arrive_by_both_apis_count_once(registered: Composed) -> None:
    """The same annotation is told twice, to each API once; two io workers look at it."""
    with registered.label_studio() as client, registered.database() as database:
        with database.transaction() as session:
            project = _project(session, "first")
            ls_project_id, password = project.ls_project_id, project.ls_webhook_secret
        assert password is not None
        task = next(iter(client.tasks(ls_project_id, unlabelled_only=True)))
        (hook,) = client.webhooks(ls_project_id)
        annotation = client.create_annotation(int(task["id"]), [scope_item("whole tile")], 2.0)
        about = {"annotation": {**annotation, "task": task["id"]}, "task": task, "project": {"id": ls_project_id}}
        body = {"action": "ANNOTATION_CREATED", **about}

        def tell(api: str) -> int:
            url = urlsplit(hook["url"])._replace(netloc=f"127.0.0.1:{registered.ports[api]}").geturl()
            return httpx.post(url, json=body, headers=hook["headers"], trust_env=False).status_code

        with ThreadPoolExecutor(4) as pool:
            assert {code // 100 for code in pool.map(tell, ["api", "api-2"] * 4)} == {2}

        def masks_of_tile() -> list[int]:
            with database.transaction() as session:
                row = tasks.by_ls_id(session, project.id, int(task["id"]))
                assert row is not None
                words = "SELECT version FROM mask WHERE tile_id = %s"
                return list(session.connection().exec_driver_sql(words, (row.tile_id,)).scalars())

        registered.wait("its mask", masks_of_tile, 60)
        registered.wait("an applied inbox", lambda: _inbox_is_empty(registered), 60)
        assert len(masks_of_tile()) == 1


def test_a_train_worker_that_is_stopped_puts_its_run_back_and_the_other_ends_it(registered: Composed) -> None:
    trainers = [p for p in registered.running if p.name.startswith("train")]
    for process in trainers:
        process.stop()
    before = len(_runs(registered))
    registered.execute("runs", "start", "--project", "second")
    registered.wait("the run", lambda: len(_runs(registered)) > before, 60)
    longer = Recipe.for_profile("quick", encoder="tiny", steps_warm=30, steps_cold=30, checkpoint_every=5)
    with registered.database() as database, database.transaction() as session:
        run_id = session.scalars(select(func.max(Run.id))).one()
        session.get_one(Run, run_id).recipe = longer.to_json()
    first = registered.start("train", "-3")
    registered.wait("some steps", lambda: _step(registered, run_id) >= 2, 120)
    registered.start("train", "-4")
    first.stop()
    assert "put back with its checkpoint" in first.said()
    registered.wait("its end", lambda: _run(registered, run_id).state not in runs.OPEN, 240)
    run = _run(registered, run_id)
    assert (run.state, run.crashes) == ("done", 0), run.problem
    assert run.attempt == 2
    with registered.database() as database, database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Model).where(Model.run_id == run_id)) == 1


def test_no_password_stands_in_a_log_or_in_the_list_of_processes(registered: Composed) -> None:
    secret = {v for k, v in registered.variables.items() if k.endswith(("PASSWORD", "TOKEN"))}
    for process in registered.running:
        text = process.said()
        if process.child.poll() is None:
            text += " ".join(psutil.Process(process.child.pid).cmdline())
        assert not [word for word in secret if word in text], process.name
    closed = subprocess.run(
        ["redis-cli", "-p", str(registered.ports["redis"]), "ping"], capture_output=True, text=True, check=False
    )
    assert "NOAUTH" in closed.stdout + closed.stderr


def _settled(system: Composed, key: str) -> bool:
    """Label Studio shows the champion, in the order that was made from it, with a full head."""
    with system.database() as database, database.transaction() as session:
        project = _project(session, key)
        champion = projects.champion(session, project)
        if (project.ls_model_version, project.ranked_model_id) != (champion.version, champion.id):
            return False
        if second_looks.pending(session, project.id):
            return False  # its order changes once more
        head = queue.head(session, project, HEAD)
        shown = {t.tile_id for t in tasks.live(session, project.id) if t.model_version == champion.version}
        return len(head) == HEAD and all(e.tile_id in shown for e in head)


def _check_published_once(system: Composed) -> None:
    """No tile has two tasks in Label Studio, and no task two predictions of one version."""
    with system.label_studio() as client, system.database() as database, database.transaction() as session:
        for key in KEYS:
            project = _project(session, key)
            there = list(client.tasks(project.ls_project_id))
            assert len(there) >= HEAD
            assert max(Counter(t["data"]["tile_id"] for t in there).values()) == 1
            for task in there:
                versions = Counter(p["model_version"] for p in task["predictions"])
                assert max(versions.values(), default=1) == 1, versions
            tiles = session.scalar(select(func.count()).select_from(Tile).where(Tile.project_id == project.id))
            assert tiles == 40


def _made_by(system: Composed, name: str) -> int:
    """How many predictions a worker says that it made."""
    process = next(p for p in system.running if p.name == name)
    return sum(int(n) for n in re.findall(r"made (\d+) predictions", process.said()))


def _nothing_due(system: Composed, key: str) -> bool:
    with system.database() as database, database.transaction() as session:
        project = _project(session, key)
        champion = projects.champion(session, project)
        return predictions.missing_for(session, project.id, champion.id, live_tasks_only=False) == 0


def _runs(system: Composed) -> list[Run]:
    with system.database() as database, database.transaction() as session:
        return list(session.scalars(select(Run).order_by(Run.id)))


def _run(system: Composed, run_id: int) -> Run:
    return next(r for r in _runs(system) if r.id == run_id)


def _step(system: Composed, run_id: int) -> int:
    run = _run(system, run_id)
    return int((run.progress or {}).get("step", 0)) if run.state == "training" else 0


def _inbox_is_empty(system: Composed) -> bool:
    with system.database() as database, database.transaction() as session:
        words = "SELECT count(*) FROM inbox WHERE applied_at IS NULL"
        return session.connection().exec_driver_sql(words).scalar() == 0
