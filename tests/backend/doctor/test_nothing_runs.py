"""`doctor` where no server runs, what it judges by a version or an address alone, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from backend.clock import utc_now
from backend.commands.doctor import doctor
from backend.doctor.examine import examine
from backend.doctor.label_studio import is_private, judge_release
from backend.doctor.machine import check_torch
from backend.doctor.stores import judge_postgres, judge_redis
from backend.settings import Settings
from tests.backend.doctor.complaints import named, one

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]


def test_when_nothing_runs_that_is_the_one_complaint(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    checks = examine(
        Settings(state=tmp_path, disk_low_gb=0, api_port=9, label_studio_port=9), now=utc_now, with_torch=False
    )
    assert named(checks) - {"label studio program"} == {"servers"}


def test_a_state_folder_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    checks = examine(Settings(state=tmp_path / "none", disk_low_gb=0), now=utc_now, with_torch=False)
    assert named(checks) - {"label studio program", "ports"} == {"state folder"}
    assert not (tmp_path / "none").exists()


def test_a_missing_label_studio_program_is_named(tmp_path: Path) -> None:
    settings = Settings(state=tmp_path, label_studio_command="no-such-program", disk_low_gb=0)
    checks = examine(settings, now=utc_now, with_torch=False)
    assert "MPAMATCH_LABEL_STUDIO_COMMAND" in one(checks, "label studio program").remedy


@pytest.mark.torch
def test_a_device_that_is_asked_for_and_absent_is_named(tmp_path: Path) -> None:
    torch, device = check_torch(Settings(state=tmp_path, device="cuda:31"))
    assert torch.result == "ok"
    assert device.result == "fail"
    assert "MPAMATCH_DEVICE" in device.remedy


def test_a_torch_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart is missing')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    torch, device = check_torch(Settings(state=tmp_path))
    assert (torch.result, device.result) == ("fail", "skipped")
    assert "libcudart is missing" in torch.says


@pytest.mark.parametrize(("number", "result"), [(140_011, "warn"), (150_018, "ok"), (180_004, "ok")])
def test_an_old_postgresql_is_named(number: int, result: str) -> None:
    assert judge_postgres(number).result == result


@pytest.mark.parametrize(("version", "result"), [("5.0.14", "warn"), ("6.2.14", "ok"), ("7.0.15", "ok"), ("x", "warn")])
def test_an_old_broker_is_named(version: str, result: str) -> None:
    assert judge_redis(version).result == result


def test_another_release_of_label_studio_is_named() -> None:
    assert judge_release("label studio version", "1.23.2").result == "ok"
    assert "1.23.2" in judge_release("label studio version", "1.30.0").remedy


def test_only_addresses_that_label_studio_refuses_bring_up_its_guard() -> None:
    assert is_private("http://127.0.0.1:9090/ml/x")
    assert is_private("http://10.1.2.3/ml/x")
    assert is_private("http://localhost/ml/x")
    assert not is_private("http://8.8.8.8/ml/x")


def test_the_command_tells_people_and_machines_and_ends_with_one_on_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPAMATCH_STATE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(doctor)
    done = CliRunner().invoke(app, ["--quick", "--json"])
    assert done.exit_code == 1
    told = json.loads(done.output)
    assert told["well"] is False
    assert {"item", "result", "says", "remedy"} == set(told["checks"][0])
    done = CliRunner().invoke(app, ["--quick"])
    assert done.exit_code == 1
    assert "mpamatch up" in " ".join(done.output.split())
