"""The alert rules: valid YAML, of figures that `/metrics` has, each with its paragraph in the runbook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from backend.clock import utc_now
from backend.settings import Settings
from backend.signs import Signs
from backend.site import create_site
from backend.store.tables import Run
from tests.contracts.test_docs import ROOT, anchors
from tests.dashboard_project import filled

RULES = ROOT / "deploy" / "alerts.yml"
RUNBOOK = ROOT / "docs" / "runbook.md"
_NAME = re.compile(r"\bmpamatch_\w+")
_SELECTOR = re.compile(r"(\bmpamatch_\w+)\{(.*?)\}(?=[\[\s)<>=]|$)")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')

Shape = dict[str, dict[str, set[str]]]


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def unknown(expression: str, shape: Shape) -> list[str]:
    """Figures, labels and values of labels that an expression names and `/metrics` has not."""
    found = [name for name in _NAME.findall(expression) if name not in shape]
    for name, selector in _SELECTOR.findall(expression):
        for label, value in _MATCHER.findall(selector):
            known = shape.get(name, {}).get(label, set())
            free = label == "status"  # which ones there are depends on what was asked for
            if not known or (not free and not any(re.fullmatch(value, one) or value == one for one in known)):
                found.append(f'{name}{{{label}="{value}"}}')
    return found


@pytest.fixture
def shape(database_url: str, redis_url: str, tmp_path: Path) -> Shape:
    """Every figure of a project with something at each station, with its labels and their values."""
    made = filled(database_url, tmp_path)
    Signs(redis_url).synced(made.project_id, now=utc_now())
    with made.database.transaction() as session:
        session.query(Run).filter(Run.state == "training").one().heartbeat_at = utc_now()
    site = create_site(Settings(state=tmp_path, database_url=database_url, broker_url=redis_url))
    with TestClient(site, base_url="http://127.0.0.1", client=("127.0.0.1", 1)) as client:
        client.post("/ml/test-glands/webhook", json={})
        text = client.get("/metrics").text
    found: Shape = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


@pytest.mark.database
def test_every_rule_speaks_of_figures_that_are_there(shape: Shape) -> None:
    assert {rule["alert"]: missing for rule in rules() if (missing := unknown(rule["expr"], shape))} == {}


@pytest.mark.database
def test_a_rule_on_what_is_not_measured_is_noticed(shape: Shape) -> None:
    assert unknown("mpamatch_made_up > 0", shape) == ["mpamatch_made_up"]
    assert unknown('mpamatch_runs{state="stolen"} > 0', shape) == ['mpamatch_runs{state="stolen"}']
    assert unknown('mpamatch_runs{colour="red"} > 0', shape) == ['mpamatch_runs{colour="red"}']
    assert unknown('mpamatch_runs{state=~"done|failed"}[1h] > 0', shape) == []


def test_every_rule_has_its_paragraph_in_the_runbook_and_every_paragraph_its_rule() -> None:
    alerts = [rule["alert"] for rule in rules()]
    assert len(alerts) == len(set(alerts))
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (ROOT / page).samefile(RUNBOOK)
        assert anchor in anchors(RUNBOOK), rule["alert"]
        assert anchor == rule["alert"].lower()
    headings = re.findall(r"^### (\w+)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(alerts)


def test_every_rule_says_what_it_means_and_how_grave_it_is() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["annotations"]["summary"].endswith("."), rule["alert"]


def test_every_paragraph_of_the_runbook_names_something_to_do_or_to_read() -> None:
    paragraphs = re.split(r"^### \w+$", RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    silent = [paragraph.strip()[:60] for paragraph in paragraphs if "`" not in paragraph and "Look" not in paragraph]
    assert silent == []
