from __future__ import annotations

import pytest

from benchmarks.serving import Load, _paced, _percentile, measure

pytestmark = pytest.mark.processes

# Others read these names.
FIGURES = {"webhook_p95_ms", "predict_p95_ms", "api_ready_s", "api_rss_mb", "api_torch_mapped", "health_p95_ms"}


def test_a_tiny_load_gives_every_figure_and_loses_no_webhook() -> None:
    figures = measure(Load(starts=1, webhooks=5, predictions=3, healths=3, pause_s=0.1))
    assert set(figures) >= FIGURES
    assert figures["api_torch_mapped"].value == 0
    assert all(figures[key].value > 0 for key in FIGURES - {"api_torch_mapped"})


def test_a_call_counts_from_the_moment_at_which_it_was_due() -> None:
    assert len(_paced([lambda: None] * 4, per_s=1000)) == 4


def test_the_percentile_is_one_of_the_values() -> None:
    assert _percentile([float(n) for n in range(1, 101)], 95) == 95.0
    assert _percentile([7.0], 95) == 7.0
