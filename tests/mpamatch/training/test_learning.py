"""Drawn discs on noise are learnt from a handful of labels, by labels alone and by the whole method."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from mpamatch.training.run_folder import train_run
from tests.mpamatch.tissue import quick_recipe, write_run, write_tile

pytestmark = [pytest.mark.torch, pytest.mark.timeout(600)]


@pytest.mark.method_line(48)
def test_both_learn_what_was_drawn(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Which of the two is better on real tissue is for experiments to say: here both must learn."""
    found = {}
    for method in ("supervised", "mpamatch"):
        recipe = quick_recipe(method, steps_cold=80, labelled_batch=4, unlabelled_batch=4, checkpoint_every=1000)
        audit = [write_tile(tmp_path / method / "audit", 500 + n) for n in range(4)]
        folder = write_run(tmp_path / method, recipe=recipe, labelled=8, pool=64, audit=audit)
        ticks = itertools.count()
        result = train_run(folder, clock=lambda ticks=ticks: float(next(ticks)))  # type: ignore[misc]
        found[method] = result["audit"]["mdice"]
        record_property(f"mdice_{method}", found[method])
    assert min(found.values()) > 0.8
