"""`mpamatch projects prompts` on a real database and broker."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from backend.actions.open_run import open_run
from backend.settings import Settings
from backend.store import projects
from backend.store.tables import Event
from backend.wakeups import Wakeups
from mpamatch.cli import main
from mpamatch.domain.policy import Policy
from mpamatch.files.prompts import class_texts
from tests.builders import Installation, installation
from tests.mpamatch.prompt_files import write_prompts
from workers.jobs import train
from workers.parts import Parts

pytestmark = pytest.mark.database
LATER = datetime(2100, 1, 1, tzinfo=UTC)
NAMES = ("background", "gland")
MINE = {name: [f"my P-nonsim {name}"] for name in NAMES}


@pytest.fixture
def made(database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    for name, value in (("STATE", str(tmp_path)), ("DATABASE_URL", database_url), ("BROKER_URL", redis_url)):
        monkeypatch.setenv(f"MPAMATCH_{name}", value)
    policy = Policy(debounce_s=0, retrain_after_tiles=2, train_method="mpamatch")
    return installation(database_url, tmp_path, train=4, audit=2, masked=True, policy=policy)


@pytest.fixture
def call(made: Installation, capsys: pytest.CaptureFixture[str]) -> Any:
    def called(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["projects", "prompts", *map(str, arguments)])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return called


def _changes(made: Installation) -> int:
    with made.database.transaction() as session:
        return session.scalar(select(func.count()).where(Event.what == "texts changed")) or 0


def test_own_texts_are_set_shown_and_given_up_again(made: Installation, call: Any, tmp_path: Path) -> None:
    shipped = {n: list(t) for n, t in zip(NAMES, class_texts(NAMES, "P-nonsim", dataset=None), strict=True)}
    found = json.loads(call("--json")[1])
    assert (found["classes"], found["own"], found["written"]) == (shipped, False, False)
    mine = write_prompts(tmp_path / "mine.json", *NAMES)
    code, out, err = call(mine)
    assert (code, err) == (0, "")
    assert out.splitlines() == ["test-glands: own texts (set)", *(f"  {n}: {t[0]}" for n, t in MINE.items())]
    mine.unlink()
    found = json.loads(call("--json")[1])
    assert (found["classes"], found["own"], found["read"]) == (MINE, True, True)
    assert call("--shipped")[1].startswith("test-glands: shipped texts (set)")
    assert json.loads(call("--json")[1])["classes"] == shipped
    assert _changes(made) == 2


def test_a_run_trains_on_the_texts_that_the_project_had_when_it_opened(
    made: Installation, call: Any, tmp_path: Path
) -> None:
    assert call(write_prompts(tmp_path / "mine.json", *NAMES))[0] == 0
    run, decision = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert run is not None, decision.reasons
    assert call("--shipped")[0] == 0
    settings = Settings(state=tmp_path)
    parts = Parts(settings, made.database, made.blobs, made.keys, Wakeups("redis://127.0.0.1:1/0"), "a-worker")
    train._write_run_folder(parts, run, tmp_path / "run")
    classes = json.loads((tmp_path / "run" / "run.json").read_text())["classes"]
    assert {c["name"]: c["prompts"] for c in classes} == MINE


@pytest.mark.parametrize(
    ("names", "sets", "said"),
    [
        (("background", "glnd"), {}, "class 'glnd': is unknown; the classes are background, gland"),
        (("gland",), {}, "class 'background': has no texts"),
        (NAMES, {"T_sim": [" "]}, "gland, T-sim: not a list of texts"),
    ],
)
def test_texts_that_do_not_fit_are_one_line_and_change_nothing(
    made: Installation, call: Any, tmp_path: Path, names: tuple[str, ...], sets: dict[str, Any], said: str
) -> None:
    code, out, err = call(write_prompts(tmp_path / "mine.json", *names, **sets))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert said in err
    assert (_changes(made), projects.classes_of(made.project()).classes[1].prompts) == (0, ())


def test_a_project_whose_runs_read_no_texts_says_so(made: Installation, call: Any, tmp_path: Path) -> None:
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        projects.change_policy(session, project, {"train_method": "supervised"}, actor="test")
    code, _, err = call(write_prompts(tmp_path / "mine.json", *NAMES))
    assert (code, err) == (0, "note: runs train by supervised, which reads no texts: mpamatch runs rules\n")
