from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpamatch.domain.states import ENTRY, IMAGE, MODEL, RUN, allowed_moves, check_move
from mpamatch.errors import BadInput, Conflict

TABLES = {"run": RUN, "model": MODEL, "entry": ENTRY, "image": IMAGE}


@pytest.mark.parametrize("kind", TABLES)
def test_every_move_leads_to_a_state_of_the_same_table(kind):
    for after in TABLES[kind].values():
        assert after <= set(TABLES[kind])


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("run", "queued training judging done"),
        ("run", "queued training queued training judging queued"),
        ("run", "training failed"),
        ("run", "judging cancelled"),
        ("model", "candidate champion retired champion"),
        ("model", "candidate rejected"),
        ("entry", "open leased done open"),
        ("entry", "open leased open leased skipped"),
        ("entry", "open done"),
        ("image", "registered ready quarantined ready"),
        ("image", "registered quarantined"),
    ],
)
def test_the_ways_of_the_design_are_open(kind, path):
    states = path.split()
    for before, after in pairwise(states):
        check_move(kind, before, after)


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("run", "queued", "done"),
        ("run", "queued", "judging"),
        ("run", "done", "training"),
        ("run", "cancelled", "queued"),
        ("model", "rejected", "champion"),
        ("model", "champion", "rejected"),
        ("model", "candidate", "retired"),
        ("entry", "done", "leased"),
        ("image", "ready", "registered"),
    ],
)
def test_other_moves_are_refused_and_the_possible_ones_are_named(kind, before, after):
    with pytest.raises(Conflict) as caught:
        check_move(kind, before, after)
    assert before in str(caught.value)
    for possible in TABLES[kind][before]:
        assert possible in caught.value.remedy


@given(st.sampled_from([(k, s) for k, t in TABLES.items() for s in t]))
def test_staying_is_no_move(kind_and_state):
    kind, state = kind_and_state
    with pytest.raises(Conflict):
        check_move(kind, state, state)


@pytest.mark.parametrize(("kind", "state"), [("run", "sleeping"), ("robot", "queued")])
def test_unknown_names_are_bad_input(kind, state):
    with pytest.raises(BadInput):
        allowed_moves(kind, state)
    with pytest.raises(BadInput):
        check_move("run", "queued", "sleeping")
