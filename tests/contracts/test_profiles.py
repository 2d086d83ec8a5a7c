"""The two profiles of the suite: which tests run in which, and what is said where Debian's servers are absent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import team_servers
from tests.compose import ROOT

FILES = ["tests/backend/test_servers.py", "tests/flows/test_compose.py", "tests/migrations/test_migrations.py"]


def _collected(profile: str) -> tuple[set[str], str]:
    """The files of which any test is left, and all that was said."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *FILES],
        env={**os.environ, "MPAMATCH_TEST_PROFILE": profile},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    return {name for name in FILES if f"{name}:" in done.stdout}, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("profile", "left_out"),
    [
        ("embedded", "tests/flows/test_compose.py"),
        ("team", "tests/backend/test_servers.py"),
    ],
)
def test_each_profile_leaves_out_what_is_of_the_other_one_only(profile: str, left_out: str) -> None:
    assert _collected(profile)[0] == set(FILES) - {left_out}


def test_a_profile_that_does_not_exist_is_refused() -> None:
    found, said = _collected("club")
    assert found == set()
    assert "MPAMATCH_TEST_PROFILE=club: it is one of embedded, team" in said


def test_absent_servers_skip_with_the_reason_and_fail_in_ci(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert team_servers.find_programs() is None
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install postgresql redis-server"):
        team_servers.absent()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install postgresql redis-server"):
        team_servers.absent()


def test_ci_installs_the_servers_as_it_does_the_browser_and_both_profiles_run() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert ci.index(".ci/servers") < next(i for i, line in enumerate(ci) if line.endswith(" make test"))
    assert os.access(ROOT / ".ci" / "servers", os.X_OK)
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\ntest:")[1].split("\n\n")[0]
    assert ".ci/both-profiles" in recipe


@pytest.mark.parametrize(
    ("embedded", "library", "team", "code"),
    [(0, 0, 0, 0), (1, 0, 0, 1), (0, 4, 0, 4), (0, 0, 1, 1), (0, 4, 1, 1), (3, 4, 1, 3)],
)
def test_a_failure_in_any_part_is_a_failure_and_all_are_heard(
    tmp_path: Path, embedded: int, library: int, team: int, code: int
) -> None:
    """The script that runs both, with a stand-in for Python that says what it was asked for."""
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"#!/bin/bash\necho ran ${{MPAMATCH_TEST_PROFILE:-embedded}} $*\n"
        f'[ -n "$MPAMATCH_TEST_PROFILE" ] && exit {team}\n[[ "$*" == *--ignore* ]] && exit {embedded}\nexit {library}\n'
    )
    python.chmod(0o755)
    done = subprocess.run([ROOT / ".ci" / "both-profiles"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code
    embedded_said, team_said, library_said = (line for line in done.stdout.splitlines() if line.startswith("ran "))
    assert embedded_said.startswith("ran embedded -m pytest --durations=10 tests --ignore=")
    left_out = {part.removeprefix("--ignore=") for part in embedded_said.split() if part.startswith("--ignore=")}
    assert left_out, "what the first process leaves out, another runs"
    assert library_said.split()[:5] == ["ran", "embedded", "-m", "pytest", "--durations=10"]
    assert set(library_said.split()[5:]) == left_out
    assert all((ROOT / folder).is_dir() for folder in left_out)
    assert team_said.startswith("ran team -m pytest")
    assert team_said.endswith("profiles or team or (database and not browser)")
    above_rows = [part.removeprefix("--ignore=") for part in team_said.split() if part.startswith("--ignore=")]
    assert above_rows
    for folder in above_rows:
        assert (ROOT / folder).is_dir()
        for path in (ROOT / folder).rglob("test_*.py"):
            assert not re.search(r"mark\.(profiles|team)\b", path.read_text(encoding="utf-8")), path


def test_an_interrupted_run_says_where_both_profiles_stood(tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"#!{sys.executable}\nimport os, pathlib, time\n"
        "profile = os.environ.get('MPAMATCH_TEST_PROFILE', 'embedded')\n"
        "try:\n    print('began', profile, flush=True)\n    pathlib.Path(profile).touch()\n    time.sleep(100)\n"
        "except KeyboardInterrupt:\n    print('stood', profile)\n"
    )
    python.chmod(0o755)
    with subprocess.Popen(
        [ROOT / ".ci" / "both-profiles"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        while not all((tmp_path / profile).exists() for profile in ("embedded", "team")):
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        assert running.stdout is not None
        said = running.stdout.read()
    assert running.returncode == 130
    assert sorted(said.splitlines()) == ["began embedded", "began team", "stood embedded", "stood team"]
