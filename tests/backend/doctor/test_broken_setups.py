"""`doctor` on set-ups broken on purpose: each fault is named by its own check, with a remedy, and by no other."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from backend.clock import utc_now
from backend.doctor.examine import examine, failed
from backend.doctor.machine import check_ports
from backend.settings import Settings
from tests.backend.doctor.broken_here import BROKEN_HERE, no_api
from tests.backend.doctor.broken_there import BROKEN_THERE, adopted_with_two_annotators
from tests.backend.doctor.complaints import Break, look, named, one
from tests.backend.doctor.conftest import Well

pytestmark = [pytest.mark.labelstudio, pytest.mark.database, pytest.mark.processes, pytest.mark.timeout(600)]

BROKEN = [*BROKEN_HERE, *BROKEN_THERE]


def test_an_installation_that_is_well_gives_no_cause_for_complaint(well: Well) -> None:
    checks = look(well.settings)
    assert named(checks) == set(), [check for check in checks if check.remedy]
    assert {check.item for check in checks if check.result == "skipped"} == {"label studio program"}
    assert len({check.item for check in checks}) == len(checks)


@pytest.mark.parametrize(("broken", "items", "remedy"), BROKEN, ids=[b.__name__ for b, _, _ in BROKEN])
def test_a_broken_set_up_is_named_by_its_own_check_with_a_remedy(
    well: Well, broken: Break, items: set[str], remedy: str
) -> None:
    with broken(well) as settings:
        checks = look(settings)
    assert named(checks) == items, [check for check in checks if check.remedy]
    assert broken is not adopted_with_two_annotators or not failed(checks), "it is a warning: it works"
    for item in items:
        check = one(checks, item)
        assert check.says
        assert "\n" not in check.says + check.remedy
        assert check.remedy
    assert any(remedy in one(checks, item).remedy for item in items)


def test_after_all_that_the_installation_is_well_again(well: Well) -> None:
    assert named(look(well.settings)) == set()


def test_a_clock_that_is_wrong_is_named_with_who_differs(well: Well) -> None:
    late = examine(well.settings, now=lambda: utc_now() - timedelta(minutes=9), with_torch=False)
    assert named(late) == {"clock"}
    assert "the database is 540 s ahead of us" in one(late, "clock").says.replace("539", "540")
    assert "label studio is 5" in one(late, "clock").says


def test_looking_changes_nothing(well: Well) -> None:
    def state() -> object:
        with well.client as client:
            there = client.project(well.ls_project_id)
            hooks = client.webhooks(well.ls_project_id)
        files = sorted((str(p), p.stat().st_mtime_ns) for p in well.settings.state.rglob("*") if p.name != "api.log")
        return there["model_version"], there["task_number"], hooks, files

    before = state()
    look(well.settings)
    assert state() == before


def test_an_address_that_answers_something_else_is_not_taken_for_our_api(well: Well) -> None:
    trap = httpx.get(f"{well.studio.url}/health/live", trust_env=False)
    assert trap.json() == {"status": "UP"}, "Label Studio answers as if it were ours"
    with no_api(well) as settings:
        assert "something else" in one(look(settings), "api").says


def test_a_port_that_somebody_else_has_is_named(well: Well, tmp_path: Path) -> None:
    assert well.settings.public_url is not None
    settings = Settings(state=tmp_path, api_port=well.settings.api_port, label_studio_port=9)
    check = check_ports(settings)
    assert (check.result, str(well.settings.api_port) in check.says) == ("warn", True)
