"""A run in words: whole counts, shares of two digits, and nothing of how it is stored."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from backend.commands.run_table import run_rows

FOUND: dict[str, Any] = {
    "run": 3,
    "state": "done",
    "trigger": "labels",
    "version": "glands-m3",
    "step": 300,
    "steps": 300,
    "eta_s": None,
    "problem": None,
    "reasons": ["12 tiles changed", "quiet for 10 s"],
    "losses": {"image": 0.5, "total": 0.2, "u": 0.1, "x": 0.31234},
    "adapted": None,
    "mask_ratio": 0.76351,
    "pseudo_labels": {"step": 300, "accuracy": 0.93123, "share": 0.70061, "pixels": 9000.0},
    "pool_tiles": 20.0,
    "seconds": 84.51,
    "notes": ["texts not used"],
    "attempt": 1,
    "recipe": "unimatch-ema",
    "recipe_hash": "0123456789abcdef",
    "created_at": datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC),
    "finished_at": None,
    "verdict": {
        "promote": True,
        "provisional": True,
        "reasons": ["too few for a bound", "not lower"],
        "figures": {"candidate_dice": 0.8123, "champion_dice": None, "audit_tiles": 5, "audit_groups": 1},
    },
}


def test_a_run_is_told_in_words() -> None:
    assert run_rows(FOUND) == [
        ("state", "done"),
        ("trigger", "labels"),
        ("because", "12 tiles changed\nquiet for 10 s"),
        ("model", "glands-m3"),
        ("step", "300 of 300"),
        ("training took", "1 min 25 s"),
        ("losses", "x 0.312, u 0.100, total 0.200, image 0.500"),
        ("pool", "20 tiles, 0.76 of its pixels confident enough to learn from"),
        ("pseudo-labels", "at step 300: 0.70 of 9000 labelled pixels kept back are confident, 0.93 of these right"),
        ("notes", "texts not used"),
        ("attempt", "1"),
        ("recipe", "unimatch-ema, 0123456789ab"),
        ("opened", "2026-03-01 12:00:00 UTC"),
        ("verdict", "promoted, provisional"),
        ("why", "too few for a bound\nnot lower"),
        ("mean Dice", "0.812 candidate"),
        ("judged on", "5 audit tiles of 1 group"),
    ]


def test_a_run_that_has_not_begun_says_what_there_is() -> None:
    empty = dict.fromkeys(
        ("step", "steps", "losses", "mask_ratio", "pseudo_labels", "pool_tiles", "seconds", "verdict")
    )
    told = dict(run_rows({**FOUND, **empty, "state": "queued", "notes": []}))
    assert list(told) == ["state", "trigger", "because", "model", "attempt", "recipe", "opened"]
    odd = {**FOUND, "pseudo_labels": {"step": 50, "accuracy": None, "share": 0.0}, "mask_ratio": None}
    assert dict(run_rows(odd))["pseudo-labels"] == "at step 50: 0.00 of labelled pixels kept back are confident"
    assert dict(run_rows(odd))["pool"] == "20 tiles"


def test_an_adaptation_is_told_without_what_only_trainings_have() -> None:
    rows = dict(
        run_rows({**FOUND, "adapted": {"from": "glands-m2", "images": 20}, "recipe": None, "recipe_hash": None})
    )
    assert rows["adapted"] == "glands-m2 to 20 tiles; no label was learnt"
    assert rows["adapting took"] == "1 min 25 s"
    assert not {"training took", "recipe"} & rows.keys()
