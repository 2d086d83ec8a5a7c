"""The adapter under the real label-studio-ml 1.0.9, a real Label Studio in front of it, our running API behind it.

2.x of label-studio-ml is on no registry, so it does not run here: what is tested of it are the calls that it makes,
``setup()``, ``predict(tasks, context, **kw)`` and ``fit(event, data)``, in the environment of 1.0.9.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from backend.store import projects
from backend.store.tables import Annotation, Event, Inbox, Mask
from mpamatch.datasets import phantom
from tests import label_studio_person as person
from tests.flows.drawn_predictions import store_predictions
from tests.flows.stack import Stack, running

pytestmark = [pytest.mark.processes, pytest.mark.labelstudio, pytest.mark.torch, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv-label-studio-ml"
PYTHON = ENVIRONMENT / "bin" / "python"
ADAPTER = ROOT / "backend" / "labelstudio" / "sdk_adapter.py"
NOBODY = "http://127.0.0.1:9"
# The calls of 2.x, which hands a model its store through `set`.
AS_SECOND = """
import json, sys
sys.path.insert(0, sys.argv[1])
from sdk_adapter import MpamatchModel
class Model(MpamatchModel):
    kept = {}
    def set(self, name, value):
        self.kept[name] = value
data = json.load(sys.stdin)
model = Model(label_config=None)
model.setup()
print(json.dumps({
    "kept": model.kept,
    "results": model.predict(data["tasks"], context=None, more="ignored"),
    "fit": model.fit("START_TRAINING", {"project": data["project"]}),
}))
"""


@dataclass(frozen=True)
class Served:
    """One adapter that answers, and what it wrote."""

    url: str
    log: Path

    def asked(self, line: str) -> int:
        return self.log.read_text(errors="replace").count(line)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if not PYTHON.exists():
        if os.environ.get("CI") == "true":
            pytest.fail("no .venv-label-studio-ml: make adapter")
        pytest.skip("no .venv-label-studio-ml: run `make adapter`")
    drawn = tmp_path_factory.mktemp("tissue") / "adapter tissue"
    phantom.write_folder(drawn, tiles=4, groups=1, size_px=128, masked=0, seed=3)
    options = ["--images", str(drawn), "--classes", "background,gland"]
    with running(options, retrain_after_tiles=100, debounce_s=3600, sweep_s=5) as up:
        store_predictions(up, "adapter-tissue", drawn)
        up.wait("the predictions", lambda: _shown(up))
        yield up


def _shown(stack: Stack) -> bool:
    """Every task has its outlines, and Label Studio's project names the model that drew them: that comes last."""
    listed = list(stack.client.tasks(stack.ls_project_id))
    shown = bool(listed) and all(t["predictions"] and t["predictions"][0]["result"] for t in listed)
    return shown and _version(stack) == "adapter-tissue-m1"


@pytest.fixture(scope="module")
def access(stack: Stack) -> dict[str, str]:
    """What `mpamatch projects access` tells, as an environment of the adapter's own."""
    told = stack.cli("projects", "access")
    assert set(told) == {f"MPAMATCH_PROJECT_{name}" for name in ("URL", "USER", "PASSWORD")}
    # Nothing of ours may be found by it, and nothing of the one who runs the tests.
    return {"PATH": os.environ["PATH"], "HOME": str(stack.state), "PYTHONUNBUFFERED": "1", **told}


@pytest.fixture(scope="module")
def adapter(access: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("adapter")
    with _served([str(PYTHON), str(ADAPTER)], access, folder) as one:
        yield one


@contextmanager
def _served(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[Served]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    one = Served(f"http://127.0.0.1:{port}", folder / "log")
    with one.log.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 60
        while not _answers(one.url):
            assert process.poll() is None, one.log.read_text()
            assert time.monotonic() < deadline, one.log.read_text()
            time.sleep(0.2)
        yield one
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _ask(method: str, url: str, **more: Any) -> httpx.Response:
    return httpx.request(method, url, timeout=60, trust_env=False, **more)


def _version(stack: Stack) -> str:
    return str(stack.client.project(stack.ls_project_id)["model_version"])


def _requests(stack: Stack) -> int:
    """How often somebody asked for a run by Label Studio."""
    with stack.database() as database, database.transaction() as session:
        query = select(func.count()).select_from(Event)
        return session.scalar(query.where(Event.what == "run requested", Event.actor == "label-studio")) or 0


def test_it_answers_what_our_api_answers(stack: Stack, adapter: Served, access: dict[str, str]) -> None:
    setup = _ask("POST", f"{adapter.url}/setup", json={"project": "1.2", "schema": "<View/>", "extra_params": None})
    assert setup.json() == {"model_version": _version(stack)}
    assert _ask("GET", f"{adapter.url}/versions").json()["versions"][0] == _version(stack)
    tasks = list(stack.client.tasks(stack.ls_project_id))
    body = {"tasks": tasks, "project": "1.2", "label_config": "<View/>", "params": {"context": None}}
    answer = _ask("POST", f"{adapter.url}/predict", json=body).json()["results"]
    sign = (access["MPAMATCH_PROJECT_USER"], access["MPAMATCH_PROJECT_PASSWORD"])
    ours = _ask("POST", f"{access['MPAMATCH_PROJECT_URL']}/predict", json=body, auth=sign).json()["results"]
    assert answer == ours
    assert [r["model_version"] for r in answer] == [_version(stack)] * len(tasks)
    assert all(r["result"] for r in answer)


def test_label_studio_in_front_of_it_predicts_labels_and_starts_training(stack: Stack, adapter: Served) -> None:
    client, project_id = stack.client, stack.ls_project_id
    for backend in client.ml_backends(project_id):  # our own way in: what comes now comes through the adapter
        client.delete_ml_backend(int(backend["id"]))
    for hook in client.webhooks(project_id):
        client.delete_webhook(int(hook["id"]))
    made = client._call(
        "POST", "/api/ml", json={"project": project_id, "url": adapter.url, "title": "adapter", "auth_method": "NONE"}
    )
    assert made["state"] == "CO"
    assert made["model_version"] == _version(stack)
    assert [h["url"] for h in client.webhooks(project_id)] == [f"{adapter.url}/webhook"]

    task = person.next_task_by_action(client, project_id)
    assert task is not None
    asked = adapter.asked("POST /predict")
    person.delete_predictions_of_tasks(client, project_id, [task["id"]])
    client._action("retrieve_tasks_predictions", project_id, [task["id"]])
    shown = client.task(task["id"])["predictions"]
    assert adapter.asked("POST /predict") == asked + 1
    assert {p["model_version"] for p in shown} == {_version(stack)}
    assert all(p["result"] for p in shown)

    label = client.create_annotation(task["id"], shown[0]["result"], 3.0)

    def collected() -> Mask | None:
        with stack.database() as database, database.transaction() as session:
            query = select(Mask).join(Annotation, Annotation.id == Mask.annotation_id)
            return session.scalars(query.where(Annotation.ls_annotation_id == int(label["id"]))).one_or_none()

    mask = stack.wait("the mask", collected, 30)
    assert mask.origin == "confirmed"
    with stack.database() as database, database.transaction() as session:
        project = projects.choose(session, None)
        heard = session.scalars(
            select(Inbox).where(Inbox.project_id == project.id, Inbox.action == "ANNOTATION_CREATED")
        )
        assert [row.payload["annotation"]["id"] for row in heard] == [label["id"]]

    before = _requests(stack)
    person.start_training(client, int(made["id"]))
    assert _requests(stack) == before + 1


def test_a_server_that_label_studio_ml_wrote_itself_answers_our_version_and_passes_training_on(
    stack: Stack, access: dict[str, str], tmp_path: Path
) -> None:
    init = [str(ENVIRONMENT / "bin" / "label-studio-ml"), "init", "served", "--script", f"{ADAPTER}:MpamatchModel"]
    done = subprocess.run(init, env=access, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with _served([str(PYTHON), str(tmp_path / "served" / "_wsgi.py")], access, tmp_path) as one:
        for _ in range(2):  # the first one makes the model, the second finds the routes in place
            setup = _ask("POST", f"{one.url}/setup", json={"project": "1.2", "schema": "<View/>"})
            assert setup.json() == {"model_version": _version(stack)}
        before = _requests(stack)
        body = {"action": "START_TRAINING", "project": {"id": stack.ls_project_id}}
        assert _ask("POST", f"{one.url}/webhook", json=body).json() == {"status": "requested"}
        assert _requests(stack) == before + 1


def test_it_takes_the_calls_that_the_second_version_makes(stack: Stack, access: dict[str, str]) -> None:
    tasks = [{"id": t["id"]} for t in stack.client.tasks(stack.ls_project_id)]
    before = _requests(stack)
    done = subprocess.run(
        [str(PYTHON), "-c", AS_SECOND, str(ADAPTER.parent)],
        input=json.dumps({"tasks": tasks, "project": {"id": stack.ls_project_id}}),
        env=access,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["kept"] == {"model_version": _version(stack)}
    assert [r["model_version"] for r in told["results"]] == [_version(stack)] * len(tasks)
    assert told["fit"] == {"event": "START_TRAINING", "status": "requested"}
    assert _requests(stack) == before + 1


@pytest.mark.parametrize(
    ("changes", "status"), [({"MPAMATCH_PROJECT_PASSWORD": "wrong"}, 401), ({"MPAMATCH_PROJECT_URL": NOBODY}, 502)]
)
def test_what_our_api_refuses_is_refused_and_no_password_is_told(
    access: dict[str, str], tmp_path: Path, changes: dict[str, str], status: int
) -> None:
    with _served([str(PYTHON), str(ADAPTER)], {**access, **changes}, tmp_path) as one:
        answer = _ask("POST", f"{one.url}/webhook", json={"action": "START_TRAINING", "project": {"id": 1}})
        assert answer.status_code == status
        assert _ask("POST", f"{one.url}/predict", json={"tasks": [{"id": 1}]}).status_code == 500
        assert _ask("POST", f"{one.url}/setup", json={"project": "1.2", "schema": "<View/>"}).status_code >= 400
        assert access["MPAMATCH_PROJECT_PASSWORD"] not in answer.text + one.log.read_text()
