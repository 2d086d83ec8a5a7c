from __future__ import annotations

import pytest

from benchmarks import publishing
from benchmarks._installation import running_label_studio
from benchmarks.publishing import Load, measure
from tests.label_studio_tables import PROGRAM, lay_tables

pytestmark = [pytest.mark.processes, pytest.mark.embedded]


def test_a_small_head_stands_in_label_studio_in_the_order_of_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    if not PROGRAM.exists():
        pytest.skip("no .venv-label-studio: run `make setup`")

    def with_tables(settings):
        lay_tables(settings.state / "label-studio" / "label_studio.sqlite3")
        return running_label_studio(settings)

    monkeypatch.setattr(publishing, "running_label_studio", with_tables)
    figures = measure(Load(head=6, tiles=9, pictures=1, side_px=128, pushes=2))
    assert set(figures) == {"head_6_published_s", "head_6_published_max_s", "head_6_settled_s"}
    assert figures["head_6_published_s"].bound == 30.0
    assert all(figure.value > 0 for figure in figures.values())
    assert "6 of 9 tiles" in (figures["head_6_published_s"].reference or "")
