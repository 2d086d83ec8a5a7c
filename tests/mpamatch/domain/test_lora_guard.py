from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpamatch.domain.lora_guard import GIVEN_UP, GuardVerdict, guard_step

LOSSES = st.floats(0, 1e6)


@given(LOSSES, LOSSES, st.floats(0.1, 10))
def test_tuning_holds_up_to_so_many_times_the_frozen_loss_and_never_without_a_figure(
    frozen: float, lora: float, limit: float
) -> None:
    assert GuardVerdict(20, frozen, lora, limit).holds == (lora <= limit * frozen)
    for nothing in (math.nan, math.inf):
        assert not GuardVerdict(20, frozen, nothing, limit).holds
        assert GuardVerdict(20, nothing, lora, limit).holds  # the frozen run is no way out then


@given(LOSSES | st.just(math.nan), LOSSES | st.just(math.nan))
def test_a_verdict_comes_back_from_a_file_and_decides_the_same(frozen: float, lora: float) -> None:
    verdict = GuardVerdict(7, frozen, lora, 1.5)
    written = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in verdict.to_json().items()}
    again = GuardVerdict.from_json(json.loads(json.dumps(written)))
    assert (again.holds, again.note) == (verdict.holds, verdict.note)
    assert written["kept"] == ("lora" if verdict.holds else "frozen")


def test_the_note_says_what_was_seen() -> None:
    note = GuardVerdict(120, 0.3216, 0.5269, 1.5).note
    assert note is not None
    assert note.startswith(GIVEN_UP)
    assert "after 120 steps: its loss on tiles kept back is 0.527, more than 1.5 times the 0.322 of a frozen" in note
    assert "is not finite" in (GuardVerdict(120, 0.3, math.nan, 1.5).note or "")
    assert GuardVerdict(120, 0.3, 0.3, 1.5).note is None


@pytest.mark.parametrize(("steps", "share", "step"), [(3000, 0.2, 600), (7, 0.2, 1), (2, 0.01, 1), (10, 0.5, 5)])
def test_the_comparison_is_at_a_share_of_the_steps_and_never_before_the_first(
    steps: int, share: float, step: int
) -> None:
    assert guard_step(steps, share) == step
