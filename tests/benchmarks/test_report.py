from __future__ import annotations

import json
import time

import pytest

from benchmarks.report import Figure, machine, median_ms, report, run


def measured() -> dict[str, Figure]:
    return {"some_ms": Figure(12.5, "ms", 60.0, "an idle machine"), "ratio": Figure(2.0, "x")}


def test_json_has_the_keys_that_others_read(capsys: pytest.CaptureFixture[str]) -> None:
    run(measured, "a benchmark", ["--json"])
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"machine", "figures"}
    assert document["figures"]["some_ms"] == {
        "value": 12.5,
        "unit": "ms",
        "bound": 60.0,
        "reference": "an idle machine",
    }
    assert document["figures"]["ratio"]["bound"] is None
    assert document["machine"]["cores"] >= 1


def test_without_json_each_figure_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    run(measured, "a benchmark", [])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "bound 60" in lines[0]


def test_a_report_is_json_and_names_the_machine() -> None:
    assert json.loads(json.dumps(report(measured())))["machine"]["python"] == machine()["python"]


def test_the_median_leaves_out_the_warm_up_and_one_slow_call() -> None:
    delays = iter([0.2, 0.0, 0.0, 0.2])
    assert median_ms(lambda: time.sleep(next(delays)), repeats=3, warm_up=1) < 100
