"""The running ring as a test of faults sees it: kill a part, wait until all holds again, look at runs and the head."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import func, select

from backend.actions.open_run import request_run
from backend.api_names import SECRET_HEADER, USER
from backend.labelstudio.results import scope_item
from backend.settings import load_endpoints
from backend.store import predictions, projects, queue, runs, tasks
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Annotation, Inbox, Model, Project, Run
from mpamatch.errors import MpamatchError
from tests.flows.stack import Stack
from tests.invariants import BrokenInvariants, check_invariants
from tests.reliability.proxy import FaultyDoor


class Ring:
    """One stack with one project."""

    def __init__(self, stack: Stack, drawn: Path) -> None:
        self.stack, self.drawn = stack, drawn
        endpoints = load_endpoints(stack.state)
        assert endpoints is not None
        assert endpoints.database_url is not None
        self.database = Database(endpoints.database_url)

    # -- looking

    def project(self) -> Project:
        with self.database.transaction() as session:
            return projects.choose(session, None)

    def champion(self) -> Model:
        with self.database.transaction() as session:
            return projects.champion(session, projects.choose(session, None))

    def model(self, version: str) -> Model:
        with self.database.transaction() as session:
            return session.scalars(select(Model).where(Model.version == version)).one()

    def latest(self) -> Run | None:
        with self.database.transaction() as session:
            return runs.latest(session, projects.choose(session, None).id)

    def run(self, number: int) -> Run:
        with self.database.transaction() as session:
            return runs.by_number(session, projects.choose(session, None).id, number)

    def folder(self, number: int) -> Path:
        return runs.folder(self.stack.state, self.run(number))

    def predicted_by(self, model_id: int) -> int:
        """How many tiles the model has not seen yet."""
        with self.database.transaction() as session:
            project = projects.choose(session, None)
            return predictions.missing_for(session, project.id, model_id, live_tasks_only=False)

    def waiting(self) -> list[int]:
        """The tasks that wait, in order."""
        with self.database.transaction() as session:
            listed = queue.listing(session, projects.choose(session, None), 50)
        return [e.ls_task_id for e in listed if e.ls_task_id is not None]

    def inbox(self, *, waiting_only: bool = False) -> int:
        with self.database.transaction() as session:
            query = select(func.count()).select_from(Inbox)
            return session.scalar(query.where(Inbox.applied_at.is_(None)) if waiting_only else query) or 0

    def log_lines(self, part: str) -> list[str]:
        path = self.stack.state / "logs" / f"{part}.log"
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    # -- acting

    def kill(self, role: str) -> int:
        """kill -9 of a part; its pid."""
        process = self.stack.wait(f"a {role}", lambda: self._part(role), 60)
        process.kill()
        return int(process.pid)

    def _part(self, role: str) -> psutil.Process | None:
        try:
            part = self.stack.part(role)
            return part if part.is_running() and part.status() != psutil.STATUS_ZOMBIE else None
        except (StopIteration, psutil.Error, OSError, ValueError):
            return None

    def alive(self, role: str) -> bool:
        return self._part(role) is not None

    def label(self, ls_task_id: int) -> int:
        """One label by a person; its number in Label Studio."""
        return int(self.stack.client.create_annotation(ls_task_id, [scope_item("whole tile")], 3.0)["id"])

    def start_run(self) -> int:
        """Ask for a run by hand; its number."""
        latest = self.latest()
        number = 1 if latest is None else latest.number + 1
        with self.database.transaction() as session:
            request_run(session, projects.choose(session, None), by="manual")
        self.until(lambda: (found := self.latest()) is not None and found.number == number, 240)
        return number

    def until(self, look: Callable[[], Any], limit_s: float, pause_s: float = 0.1) -> Any:
        """Look often, since the moment matters; what is down meanwhile is looked at again."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            try:
                found = look()
            except (MpamatchError, OSError, ValueError, httpx.TransportError, psutil.Error):
                found = None
            if found:
                return found
            time.sleep(pause_s)
        raise AssertionError(f"did not come within {limit_s:.0f} s\n{self.stack.last_words()}")

    def step(self, number: int) -> int:
        """The step that a run's training has told of."""
        path = self.folder(number) / "progress.jsonl"
        if not path.exists():
            return 0
        told = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        return max((int(e.get("step", 0)) for e in told if e["event"] in ("start", "step")), default=0)

    def ended(self, number: int, limit_s: float = 400) -> Run:
        return self.until(lambda: (r := self.run(number)).state in ("done", "failed", "cancelled") and r, limit_s, 0.3)

    def api(self) -> httpx.Client:
        """The API as Label Studio calls it: with the project's password and the webhook's secret."""
        project, keys = self.project(), KeyRing.at(self.stack.state / "key")
        assert project.ls_auth_password is not None
        assert project.ls_webhook_secret is not None
        endpoints = load_endpoints(self.stack.state)
        assert endpoints is not None
        return httpx.Client(
            base_url=f"{endpoints.api_url}/ml/{project.key}",
            auth=(USER, keys.open(project.ls_auth_password)),
            headers={SECRET_HEADER: keys.open(project.ls_webhook_secret)},
            timeout=30,
            trust_env=False,
        )

    @contextmanager
    def through(self, door: FaultyDoor) -> Iterator[None]:
        """Let the workers reach Label Studio through a door that can misbehave; the API is not concerned."""
        self._set_address(door.url)
        try:
            yield
        finally:
            self._set_address(self.stack.status["label_studio"]["url"])

    def _set_address(self, url: str) -> None:
        with self.database.transaction() as session:
            projects.choose(session, None).ls_url = url

    def other_champion(self) -> str:
        """Let another earlier champion serve, by one command: a new head has to go out. Its version."""
        present = self.champion().version
        with self.database.transaction() as session:
            rows = session.scalars(select(Model).where(Model.state == "retired").order_by(Model.id.desc()))
            version = next(m.version for m in rows if m.version != present)
        return str(self.stack.cli("models", "rollback", "--to", version)["champion"])

    # -- holding

    def whole(self, *, label_studio: bool = True) -> bool:
        """Whether everything that must come about has come about, in the rows and in Label Studio."""
        with self.database.transaction() as session:
            project = projects.choose(session, None)
            champion = projects.champion(session, project)
            if project.ranked_model_id != champion.id:
                raise BrokenInvariants(["E: the order is another model's"])
            head = [e.tile_id for e in queue.head(session, project, 20)]
            missing = set(head) - tasks.tiles_with_one(session, project.id, head)
            if label_studio and missing:
                raise BrokenInvariants([f"E: tiles of the head without a task: {sorted(missing)}"])
        check_invariants(self.database, self.stack.blobs, client=self.stack.client if label_studio else None)
        return True

    def recover(self, limit_s: float = 60.0) -> None:
        """Wait until all holds, by itself; fails with what does not when the time is over."""
        deadline = time.monotonic() + limit_s
        while True:
            try:
                self.whole()
                return
            except (BrokenInvariants, MpamatchError, OSError, httpx.TransportError) as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"not within {limit_s:.0f} s: {error}\n{self.stack.last_words()}") from error
            time.sleep(0.5)

    def first_run(self) -> None:
        """A trained champion, shown in Label Studio."""
        self.recover(240)
        number = self.start_run()
        assert self.ended(number).state == "done"
        assert self.champion().kind == "trained", self.stack.last_words()
        self.recover(120)

    def accepted(self, ls_annotation_ids: list[int]) -> int:
        """How many of some labels are in the store."""
        with self.database.transaction() as session:
            query = select(func.count()).where(Annotation.ls_annotation_id.in_(ls_annotation_ids))
            return session.scalar(query) or 0
