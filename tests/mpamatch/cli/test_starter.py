"""The starter as shipped: what it reaches on the published validation list, and that its card says so."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import mpamatch.cli as cli
from mpamatch.files.model_archive import TENSORS_NAME
from mpamatch.files.starter import CARD_NAME, starter_folder

RESULTS = Path(__file__).parents[3] / "docs" / "results" / "starter.json"


def _run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: object) -> str:
    names = {"evaluate": "evaluate:evaluate", "starter": "starter:app"}
    found = {n: EntryPoint(n, f"mpamatch.cli.{where}", cli.GROUP) for n, where in names.items()}
    monkeypatch.setattr(cli, "_entries", lambda: found)
    with pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in arguments])
    assert not left.value.code
    return str(capsys.readouterr().out)


@pytest.mark.torch
@pytest.mark.shared
def test_it_reaches_on_ebhi_what_its_card_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, shared_dir: Path
) -> None:
    command = ("evaluate", "--model", "starter", "--dataset", "ebhi", "--root", shared_dir / "data" / "ebhi")
    figures = json.loads(_run(monkeypatch, capsys, *command, "--split", "val", "--foreground", "--json"))
    assert figures["images"] == 49
    assert figures["mdice"] >= 0.88
    stated = json.loads(RESULTS.read_text())["evaluations"]["ebhi-val"]["mdice"]
    assert figures["mdice"] == pytest.approx(stated, abs=0.002)


def test_the_card_and_the_results_speak_of_the_file_that_is_shipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    card = _run(monkeypatch, capsys, "starter", "show")
    assert card.strip() == (starter_folder() / CARD_NAME).read_text().strip()
    digest = hashlib.sha256((starter_folder() / TENSORS_NAME).read_bytes()).hexdigest()
    results = json.loads(RESULTS.read_text())
    assert digest in card
    assert results["sha256"] == digest
    for name in ("ebhi-val", "glas-val", "glas-all"):
        assert re.search(rf"\| {results['evaluations'][name]['mdice']:.3f} \|", card), name
