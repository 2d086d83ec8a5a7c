"""Rows 12 and 18: Label Studio is away, refuses, errs, crawls or answers nonsense; a bad model is served."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import psutil
import pytest

from backend.store import projects
from backend.store.tables import Model
from mpamatch.domain.classes import ClassSet
from tests.flows.untrained import untrained_model
from tests.reliability.fault_log import FaultLog
from tests.reliability.proxy import Call, Fault, FaultyDoor
from tests.reliability.ring import Ring

pytestmark = [pytest.mark.processes, pytest.mark.labelstudio, pytest.mark.torch, pytest.mark.timeout(900)]
DOWN_S = 60.0
COUNTED_S = 8.0


def test_nothing_is_lost_and_the_head_is_right_after_label_studio_was_down_for_a_minute(
    ring: Ring, log: FaultLog
) -> None:
    """A real minute. Labels come before it, and the champion changes in it, so that a new head is due at its end."""
    labels = [ring.label(t) for t in ring.waiting()[:4]]
    server = ring.stack.part("label-studio")
    family = [server, *server.children(recursive=True)]
    for process in family:
        process.suspend()
    went = time.monotonic()
    try:
        version = ring.other_champion()
        time.sleep(max(0.0, DOWN_S - (time.monotonic() - went)))
    finally:
        for process in family:
            process.resume()
    log.struck()
    ring.recover(60)
    seconds = log.recovered(
        row=12,
        fault="Label Studio down for a minute, while the champion changes",
        seen=f"all {len(labels)} labels are in; Label Studio shows {version}, the head is right",
    )
    assert ring.accepted(labels) == len(labels)
    assert ring.stack.client.project(ring.stack.ls_project_id)["model_version"] == version
    assert seconds <= 60


def test_a_killed_label_studio_comes_back_and_labels_given_then_are_taken_in(ring: Ring, log: FaultLog) -> None:
    ring.kill("label-studio")
    log.struck()
    version = ring.other_champion()
    labels = [ring.until(lambda: ring.label(ring.waiting()[0]), 120, 1.0)]
    ring.until(lambda: ring.accepted(labels) == 1, 60)
    ring.recover(90)
    seen = f"started again; a label given then is in, and {version} is shown"
    log.recovered(row=12, fault="kill -9 Label Studio while the champion changes", seen=seen)


def _always(fault: Fault) -> Callable[[Call], Fault]:
    return lambda call: fault


FAULTS: dict[str, tuple[Fault, str]] = {
    "401": (Fault(status=401), "Label Studio token: 401"),
    "500": (Fault(status=500), "500: as the test wants it"),
    "slow": (Fault(wait_s=30.0), "no answer from"),
    "half": (Fault(half=True), "answered something that is no JSON"),
    "dropped": (Fault(dropped=True), "no answer from"),
    "other version": (Fault(status=200, body=b'{"items": [], "count": 0}'), "answers differently than expected"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_misbehaving_label_studio_is_said_in_one_line_and_asked_less_often(
    ring: Ring, log: FaultLog, name: str
) -> None:
    fault, words = FAULTS[name]
    pids = {role: ring.stack.part(role).pid for role in ("worker-io", "api", "beat")}
    lines = len(ring.log_lines("worker-io"))
    with FaultyDoor(ring.stack.status["label_studio"]["url"]) as door, ring.through(door):
        door.fault = _always(fault)
        version = ring.other_champion()
        ring.until(lambda: _said(ring, lines, words), 60)
        began, calls = time.monotonic(), len(door.calls)
        time.sleep(COUNTED_S)
        asked = len(door.calls) - calls
        rate = asked / (time.monotonic() - began)
        number = ring.start_run() if name == "500" else None  # what does not need Label Studio goes on
        door.fault = lambda call: None
        log.struck()
        ring.recover(75)
        if number is not None:
            assert ring.ended(number).state == "done"
            ring.recover(90)
    said = ring.log_lines("worker-io")[lines:]
    assert not any("Traceback" in line for line in said)
    most = Counter(line.split("WARNING", 1)[1] for line in said if "WARNING" in line and words in line)
    assert most
    assert max(most.values()) < 12, most
    assert rate < 2, f"{asked} calls in {COUNTED_S:.0f} s"
    assert {role: ring.stack.part(role).pid for role in pids} == pids, "no part died of it"
    seen = f"«{words}»; {asked} calls in {COUNTED_S:.0f} s; then {version} was shown"
    log.recovered(row=12, fault=f"Label Studio answers: {name}", seen=seen)


def _said(ring: Ring, lines: int, words: str) -> bool:
    return any(words in line for line in ring.log_lines("worker-io")[lines:])


def test_a_bad_model_that_serves_is_gone_after_one_command_and_the_predictions_follow(
    ring: Ring, log: FaultLog
) -> None:
    good = ring.champion()
    blob = ring.stack.blobs.put(untrained_model(ClassSet.from_names(["background", "gland"])))
    version = f"{good.version}-bad"
    with ring.database.transaction() as session:
        project = projects.choose(session, None)
        session.add(Model(project_id=project.id, version=version, kind="trained", state="candidate", blob=blob))
    ring.stack.cli("models", "promote", version)
    ring.recover(120)  # it serves: its predictions are what people see
    assert ring.stack.client.project(ring.stack.ls_project_id)["model_version"] == version
    log.struck()
    assert ring.stack.cli("models", "rollback")["champion"] == good.version
    ring.recover(60)
    assert ring.stack.client.project(ring.stack.ls_project_id)["model_version"] == good.version
    shown = ring.stack.client.tasks(ring.stack.ls_project_id, unlabelled_only=True)
    assert {p["model_version"] for t in shown for p in t["predictions"]} >= {good.version}
    seen = f"one command; {good.version} is shown in every waiting task"
    log.recovered(row=18, fault="a bad model is served", seen=seen)


def test_no_process_of_the_ring_is_a_zombie_after_all_that(ring: Ring, log: FaultLog) -> None:
    log.struck()
    alive = ring.stack.alive()
    assert alive
    assert all(p.status() != psutil.STATUS_ZOMBIE for p in alive)
    log.recovered(row=12, fault="all of these, one after the other", seen=f"{len(alive)} processes, none a zombie")
