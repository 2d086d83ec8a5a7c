"""`mpamatch runs ...` on a real database and broker; the workers that would answer are elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from backend.actions.open_run import open_run, request_run
from backend.clock import utc_now
from backend.store import masks, projects, runs
from backend.store.tables import Event, Model, Run, Schedule
from mpamatch.cli import main
from mpamatch.domain.policy import Policy
from mpamatch.domain.recipe import Recipe
from mpamatch.files.rasters import encode_raster
from tests.builders import Installation, add_images, disc, installation

pytestmark = pytest.mark.database


@pytest.fixture
def made(database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    made = installation(database_url, tmp_path, train=4, audit=2, masked=True, policy=Policy())
    for name, value in (("STATE", str(tmp_path)), ("DATABASE_URL", database_url), ("BROKER_URL", redis_url)):
        monkeypatch.setenv(f"MPAMATCH_{name}", value)
    return made


@pytest.fixture
def call(made: Installation, capsys: pytest.CaptureFixture[str]) -> Any:
    """One command; its exit code, what it printed, and what it said on stderr."""

    def called(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["runs", *arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return called


def _rows(made: Installation, table: Any) -> int:
    with made.database.transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def _queued(made: Installation) -> Run:
    with made.database.transaction() as session:
        request_run(session, projects.get(session, made.project_id), by="manual")
    run, decision = open_run(made.database, made.blobs, made.project_id, now=utc_now())
    assert run is not None, decision.reasons
    return run


def _move(made: Installation, run: Run, *states: str, **values: Any) -> None:
    with made.database.transaction() as session:
        for state in states:
            runs.move(session, session.get_one(Run, run.id), state, actor="test", **values)


def test_a_dry_run_says_what_would_happen_when_and_why_and_writes_nothing(made: Installation, call: Any) -> None:
    events = _rows(made, Event)
    code, out, _ = call(
        *("schedule", "30 2 * * *", "--tz", "Europe/Paris", "--quiet", "01:00-04:00"),
        *("--from", "2026-10-24", "--count", "3", "--dry-run", "--json"),
    )
    found = json.loads(out)
    assert (code, found["written"], found["cron"]) == (0, False, "30 2 * * *")
    first, twice, _ = found["dues"]
    assert first["due_local"] == "Sat 2026-10-24 02:30+02:00"
    assert (twice["due"], twice["starts"]) == ("2026-10-25 00:30:00+00:00", "2026-10-25 03:00:00+00:00")
    assert any("comes twice that day" in why for why in twice["why"])
    assert any("quiet hours 01:00-04:00" in why for why in twice["why"])
    assert found["now"]["reasons"][0].startswith("6 tiles changed")
    assert (_rows(made, Schedule), _rows(made, Event)) == (0, events)
    for_people = call("schedule", "30 2 * * *", "--tz", "Europe/Paris", "--dry-run")[1]
    assert "dry run: nothing was written" in for_people
    assert "now: no run starts" in for_people
    assert _rows(made, Schedule) == 0


def test_a_schedule_is_set_shown_changed_and_removed(made: Installation, call: Any) -> None:
    assert call("schedule", "0 2 * * *", "--tz", "Europe/Paris", "--quiet", "22:00-01:00")[0] == 0
    shown = json.loads(call("schedule", "--json")[1])
    assert (shown["cron"], shown["tz"], shown["quiet"]) == ("0 2 * * *", "Europe/Paris", "22:00-01:00")
    assert shown["next_due_at"] is not None
    assert len(shown["dues"]) == 5
    changed = json.loads(call("schedule", "--tz", "Asia/Kolkata", "--always", "--quiet", "none", "--json")[1])
    assert (changed["cron"], changed["tz"], changed["quiet"], changed["always"]) == (
        "0 2 * * *",
        "Asia/Kolkata",
        None,
        True,
    )
    removed = json.loads(call("schedule", "--off", "--json")[1])
    assert (removed["cron"], removed["dues"], removed["next_due_at"]) == (None, [], None)


@pytest.mark.parametrize(
    "arguments", [["99 * * * *"], ["0 0 30 2 *"], ["0 2 * * *", "--tz", "Paris"], ["--quiet", "late"]]
)
def test_what_is_no_schedule_is_refused_and_changes_nothing(
    made: Installation, call: Any, arguments: list[str]
) -> None:
    code, out, err = call("schedule", *arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert _rows(made, Schedule) == 0


def test_the_rules_of_labels_are_tried_and_changed(made: Installation, call: Any) -> None:
    tried = json.loads(call("rules", "--after-tiles", "3", "--debounce-s", "0", "--dry-run", "--json")[1])
    assert (tried["now"]["starts"], tried["written"]) == (True, False)
    assert projects.policy_of(made.project()).retrain_after_tiles == 12
    assert json.loads(call("rules", "--after-tiles", "20", "--no-by-labels", "--json")[1])["written"]
    policy = projects.policy_of(made.project())
    assert (policy.retrain_after_tiles, policy.retrain_by_labels, policy.debounce_s) == (20, False, 10.0)
    assert call("rules", "--after-tiles", "0")[0] == 1


def test_another_method_is_chosen_for_the_runs_of_a_project_and_given_up_again(made: Installation, call: Any) -> None:
    shipped = Recipe.for_profile("demo").method
    assert f"runs train by {shipped}, the shipped method" in call("rules")[1]
    assert "runs train by supervised\n" in call("rules", "--method", "supervised", "--dry-run")[1]
    assert projects.policy_of(made.project()).train_method is None
    found = json.loads(call("rules", "--method", "unimatch-ema", "--json")[1])
    assert (found["method"], found["method_chosen"], found["written"]) == ("unimatch-ema", True, True)
    assert _queued(made).recipe["method"] == "unimatch-ema"
    code, out, err = call("rules", "--method", "guess")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "'guess': is unknown; one of supervised, " in err
    assert projects.policy_of(made.project()).train_method == "unimatch-ema"
    found = json.loads(call("rules", "--method", "shipped", "--json")[1])
    assert (found["method"], found["method_chosen"]) == (shipped, False)
    assert projects.policy_of(made.project()).train_method is None


def test_a_request_that_cannot_be_met_yet_stands_and_says_what_is_missing(
    made: Installation, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with made.database.transaction() as session:
        projects.create(session, title="Empty", classes=projects.classes_of(made.project()), policy=Policy(), seed=1)
    code, out, _ = call("start", "--project", "empty", "--follow")
    assert code == 0
    assert "the request stands" in out
    assert "label 2 more, and the run starts by itself" in out


def test_looking_on_ends_with_the_verdict_or_with_the_failure(
    made: Installation, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _queued(made)

    def train() -> None:
        step = {"step": 5, "steps": 10, "losses": {"x": 0.5, "u": 0.25}, "eta_s": 3.0}
        step["notes"] = ["as the last step told"]
        step["pseudo_labels"] = {"step": 5, "accuracy": 0.9, "share": 0.5, "pixels": 100}
        _move(made, run, "training", progress=step)

    def judge() -> None:
        with made.database.transaction() as session:
            verdict = {"promote": False, "reasons": ["no better"]}
            session.add(
                Model(
                    project_id=made.project_id,
                    version=run.version,
                    kind="trained",
                    state="rejected",
                    run_id=run.id,
                    verdict=verdict,
                )
            )
        _move(made, run, "judging", "done")

    # What goes on happens between two looks, so that each state is seen.
    happenings = [train, judge]
    monkeypatch.setattr("backend.commands.run_follow.time.sleep", lambda seconds: happenings.pop(0)())
    code, out, _ = call("show", "--follow")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "run 1: waits for the train worker"
    assert "run 1: training, step 5 of 10, loss x 0.500 u 0.250, 3 s left; as the last step told" in lines
    assert lines[-1] == f"run 1: done; {run.version} kept out: no better"
    shown = json.loads(call("show", "--json")[1])
    assert shown["notes"] == ["as the last step told"]
    assert shown["pseudo_labels"]["accuracy"] == 0.9
    table = call("show")[1]
    for line in ("state", "step", "losses", "pseudo-labels", "notes", "verdict", "why"):
        assert line in table
    assert "x 0.500, u 0.250" in table
    assert "at step 5: 0.50 of 100 labelled pixels kept back are confident, 0.90 of these right" in table
    assert "kept out" in table
    assert not set('{}[]"') & set(table), "JSON is what --json is for"
    second = _queued(made)
    _move(made, second, "failed", problem="no memory")
    code, _, err = call("show", "--follow")
    assert code == 1
    assert "run 2: failed: no memory; the champion is as before" in err


def test_ctrl_c_while_looking_on_leaves_the_run_going(
    made: Installation, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _queued(made)

    def pressed(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("backend.commands.run_follow.time.sleep", pressed)
    code, _, err = call("show", "--follow")
    assert code == 130
    assert "run 1 goes on" in err
    with made.database.transaction() as session:
        found = session.get_one(Run, run.id)
        assert (found.state, found.cancel_requested) == ("queued", False)


def test_a_cancelled_run_names_the_champion_that_stays(made: Installation, call: Any) -> None:
    _queued(made)
    found = json.loads(call("cancel", "--json")[1])
    assert (found["run"], found["state"]) == (1, "cancelled")
    assert found["champion"].endswith("-m0")
    assert call("cancel")[0] == 1


def test_a_log_holds_events_steps_and_what_the_training_wrote(made: Installation, call: Any) -> None:
    run = _queued(made)
    folder = runs.folder(made.folder, run)
    folder.mkdir(parents=True)
    steps = [{"event": "step", "step": n, "steps": 30, "losses": {"x": 0.5}, "eta_s": 2.0} for n in range(1, 31)]
    (folder / "progress.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps) + '{"event": "st')
    (folder / "train.log").write_text("note: a tile was left out\n")
    _, out, _ = call("logs", "--lines", "2")
    lines = out.splitlines()
    assert lines[0].startswith("event | ")
    assert "run queued (manual)" in lines[0]
    assert lines[1:] == [
        "train | step 29/30: loss x 0.5000, 2 s left",
        "train | step 30/30: loss x 0.5000, 2 s left",
        "log   | note: a tile was left out",
    ]
    _move(made, run, "failed", problem="no memory")
    everything = json.loads(call("logs", "--lines", "0", "--follow", "--json")[1])
    assert len([line for line in everything if line["source"] == "train"]) == 30
    assert "no memory" in next(line["text"] for line in everything if "run failed" in line["text"])


def _adaptable(made: Installation) -> None:
    """A champion with weights, pool tiles without labels, and enough audit masks to judge by."""
    add_images(made, train=3, audit=12, masked=False, first=100)
    with made.database.transaction() as session:
        projects.champion(session, made.project()).blob = made.blobs.put(b"weights")
        for tile in made.tiles("audit"):
            blob = made.blobs.put(encode_raster(disc()))
            masks.append(session, tile_id=tile.id, origin="annotated", blob=blob, reviewed_share=1.0)


def test_an_adaptation_is_asked_for_and_says_that_it_learns_no_label(made: Installation, call: Any) -> None:
    _adaptable(made)
    found = json.loads(call("start", "--adapt", "--json")[1])
    assert (found["starts"], found["missing"]) == (True, 0)
    assert "no label is learnt" in found["reasons"][0]
    assert (made.project().requested_adaptation, made.project().requested_run) == (True, None)
    run, _ = open_run(made.database, made.blobs, made.project_id, now=utc_now())
    assert run is not None
    notes = ["the norms of test-glands-m0 were adapted to 3 images of the pool; no label was learnt"]
    metrics = {"adapted": {"from": "test-glands-m0", "images": 3}, "steps": 1, "seconds": 0.5, "notes": notes}
    _move(made, run, "training", "judging", "done", metrics=metrics, progress={"step": 1, "steps": 1, "eta_s": 0.0})
    listed = json.loads(call("list", "--json")[1])
    assert (listed[0]["trigger"], listed[0]["learns"]) == ("adapt", "no label")
    shown = json.loads(call("show", "--json")[1])
    assert shown["adapted"] == {"from": "test-glands-m0", "images": 3}
    assert (shown["recipe"], shown["losses"], shown["notes"]) == (None, None, notes)
    for_people = call("show")[1]
    assert "no label" in for_people
    assert not [name for name in ("losses", "mask ratio", "recipe") if name in for_people]
    folder = runs.folder(made.folder, run)
    folder.mkdir(parents=True)
    (folder / "progress.jsonl").write_text('{"event": "step", "step": 1, "steps": 1, "eta_s": 0.0}\n')
    logged = call("logs")[1]
    assert "train | step 1/1, 0 s left" in logged
    assert "run queued (adapt); " in logged
    assert "adapt True; labelled 0; asked to adapt the champion's norms" in logged


def test_looking_on_at_an_adaptation_says_what_it_does(
    made: Installation, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _adaptable(made)

    def opened() -> None:
        open_run(made.database, made.blobs, made.project_id, now=utc_now())

    def adapting() -> None:
        with made.database.transaction() as session:
            run = runs.latest(session, made.project_id)
        assert run is not None
        _move(made, run, "training", progress={"step": 2, "steps": 6, "eta_s": 1.0})

    def ended() -> None:
        with made.database.transaction() as session:
            run = runs.latest(session, made.project_id)
        assert run is not None
        _move(made, run, "judging", "done")

    happenings = [opened, adapting, ended]
    monkeypatch.setattr("backend.commands.run_follow.time.sleep", lambda seconds: happenings.pop(0)())
    code, out, _ = call("start", "--adapt", "--follow")
    assert code == 0
    assert "run 1: adapting the champion's norms, step 2 of 6, 1 s left" in out.splitlines()


def test_an_adaptation_that_could_not_be_judged_is_refused_in_one_line(made: Installation, call: Any) -> None:
    code, out, err = call("start", "--adapt")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "has no weights" in err
    with made.database.transaction() as session:
        projects.champion(session, made.project()).blob = made.blobs.put(b"weights")
    code, out, err = call("start", "--adapt", "--follow")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "audit tiles: 2 labelled of 2 groups; the gate needs 12 tiles of 4 groups" in err
    assert made.project().requested_adaptation is False


def test_looking_on_ends_when_the_wish_became_vain(
    made: Installation, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _queued(made)
    _adaptable(made)

    def vain() -> None:
        with made.database.transaction() as session:
            run = runs.latest(session, made.project_id)
            projects.champion(session, projects.get(session, made.project_id)).blob = None
        assert run is not None
        _move(made, run, "cancelled")
        open_run(made.database, made.blobs, made.project_id, now=utc_now())

    monkeypatch.setattr("backend.commands.run_follow.time.sleep", lambda seconds: vain())
    code, _, err = call("start", "--adapt", "--follow")
    assert code == 1
    assert "adaptation: can no longer be made" in err
