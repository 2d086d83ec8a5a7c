"""`mpamatch queue rules` on a real database and broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backend.store import projects
from mpamatch.cli import main
from tests.builders import Installation, installation

pytestmark = pytest.mark.database


@pytest.fixture
def made(database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    for name, value in (("STATE", str(tmp_path)), ("DATABASE_URL", database_url), ("BROKER_URL", redis_url)):
        monkeypatch.setenv(f"MPAMATCH_{name}", value)
    return installation(database_url, tmp_path, train=2, audit=1)


def _called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["queue", "rules", *arguments])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def _policy(made: Installation) -> Any:
    return projects.policy_of(made.project())


def test_the_rules_are_shown_and_set(made: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _called(capsys)
    assert (code, out.strip()) == (
        0,
        "test-glands: strategy mpamatch, rank by score, head size 50, exploration share 0.1, audit share 0.2,"
        " artefact cosine 0.95, tau 0.95",
    )
    code, out, _ = _called(capsys, "--strategy", "ripu", "--rank-by", "worth-per-minute", "--head-size", "20", "--json")
    found = json.loads(out)
    assert code == 0
    assert found == {
        "project": "test-glands",
        "strategy": "ripu",
        "rank_by": "worth-per-minute",
        "head_size": 20,
        "exploration_share": 0.1,
        "audit_share": 0.2,
        "artefact_cosine": 0.95,
        "tau": 0.95,
        "tau_by_class": {},
        "written": True,
    }
    assert (_policy(made).strategy, _policy(made).rank_by, _policy(made).head_size) == ("ripu", "worth-per-minute", 20)
    assert json.loads(_called(capsys, "--strategy", "ripu", "--json")[1])["written"] is False


def test_a_class_gets_a_tau_of_its_own_and_loses_it_again(
    made: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = _called(capsys, "--tau", "0.9", "--tau-of", "gland=0.8", "--tau-of", "background=0.85")
    assert code == 0
    assert out.strip().endswith("artefact cosine 0.95, tau 0.9, of gland 0.8, of background 0.85 (set)")
    assert _policy(made).taus(projects.classes_of(made.project())) == (0.85, 0.8)
    assert json.loads(_called(capsys, "--tau-of", "background=", "--json")[1])["tau_by_class"] == {"gland": 0.8}
    assert json.loads(_called(capsys, "--tau-of", "gland=0.8", "--json")[1])["written"] is False


@pytest.mark.parametrize(
    "wrong",
    [
        *(("--strategy", "best"), ("--strategy", "oracle"), ("--rank-by", "luck"), ("--tau", "0.3")),
        *(("--tau-of", text) for text in ("glnd=0.8", "gland=0.3", "gland", "0.8", "gland=high", "gland=")),
    ],
)
def test_what_no_queue_can_do_is_refused_and_nothing_changes(
    made: Installation, capsys: pytest.CaptureFixture[str], wrong: tuple[str, str]
) -> None:
    before = _policy(made)
    code, _, err = _called(capsys, *wrong)
    assert code != 0
    assert wrong[1].split("=")[0] in err
    assert _policy(made) == before
