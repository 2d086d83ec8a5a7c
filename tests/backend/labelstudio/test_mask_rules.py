"""The rules from a submitted result to a mask, as a table: one row a rule, each read in all three label types.

Grids: `.` background, `T` tumour, `S` stroma, `?` no supervision. A row says what was shown, what was submitted on top
of each other, the boxes (x, y, width, height), the scope, and what the mask must be.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from backend.labelstudio.config import ARTEFACT, CANNOT_TELL, ONLY_BOXES, WHOLE_TILE
from backend.labelstudio.results import ReviewBox, class_map_to_result, result_to_mask
from mpamatch.domain.classes import IGNORE, ClassSet
from mpamatch.domain.tiling import Box

CLASSES = ClassSet.from_names(["background", "Tumour", "Stroma"])
LETTERS = {".": 0, "T": 1, "S": 2, "?": IGNORE}
WIDTH, HEIGHT = 8, 4
Grid = tuple[str, str, str, str]

NOTHING: Grid = ("........", "........", "........", "........")
UNKNOWN: Grid = ("????????", "????????", "????????", "????????")
LEFT: Grid = ("TTTT....", "TTTT....", "........", "........")
MIDDLE: Grid = ("..SSSS..", "..SSSS..", "..SSSS..", "........")
CORNER: Grid = ("........", "........", "......TT", "......TT")


class Rule(NamedTuple):
    says: str
    submitted: Sequence[Grid]
    expected: Grid
    shown: Grid | None = None
    boxes: Sequence[tuple[int, int, int, int]] = ()
    scope: str | None = None
    origin: str = "annotated"
    abstained: bool = False
    artefact: bool = False


RULES = [
    Rule("no region on the whole tile is background", [], NOTHING, scope=WHOLE_TILE),
    Rule("no scope is the whole tile", [LEFT], LEFT),
    Rule("regions are painted on background", [LEFT], LEFT, scope=WHOLE_TILE),
    Rule(
        "a later region lies over an earlier one",
        [LEFT, MIDDLE],
        ("TTSSSS..", "TTSSSS..", "..SSSS..", "........"),
        scope=WHOLE_TILE,
    ),
    Rule(
        "the order of the result decides, not the class",
        [MIDDLE, LEFT],
        ("TTTTSS..", "TTTTSS..", "..SSSS..", "........"),
        scope=WHOLE_TILE,
    ),
    Rule("boxes never paint", [], NOTHING, boxes=[(0, 0, 4, 2)], scope=WHOLE_TILE),
    Rule(
        "only the boxes: inside them, as it is there",
        [LEFT],
        ("??TT..??", "??TT..??", "????????", "????????"),
        shown=LEFT,
        boxes=[(2, 0, 4, 2)],
        scope=ONLY_BOXES,
        origin="confirmed",
    ),
    Rule(
        "only the boxes: and where something was painted",
        [LEFT, CORNER],
        ("??TT????", "??TT????", "??????TT", "??????TT"),
        shown=LEFT,
        boxes=[(2, 0, 2, 2)],
        scope=ONLY_BOXES,
    ),
    Rule(
        "only the boxes: and where something was erased",
        [],
        ("........", "........", "????????", "????????"),
        shown=LEFT,
        boxes=[(4, 0, 4, 2)],
        scope=ONLY_BOXES,
    ),
    Rule(
        "only the boxes: one that the annotator added counts as well",
        [LEFT],
        ("T???????", "T???????", "????????", "????????"),
        shown=LEFT,
        boxes=[(0, 0, 1, 1), (0, 1, 1, 1)],
        scope=ONLY_BOXES,
        origin="confirmed",
    ),
    Rule("only the boxes without any box supervises nothing", [LEFT], UNKNOWN, LEFT, (), ONLY_BOXES, "confirmed"),
    Rule("cannot tell supervises nothing", [LEFT], UNKNOWN, LEFT, [(0, 0, 4, 2)], CANNOT_TELL, "confirmed", True),
    Rule("an artefact supervises nothing", [MIDDLE], UNKNOWN, LEFT, (), ARTEFACT, artefact=True),
    Rule("the shown map that comes back is confirmed", [LEFT], LEFT, LEFT, (), WHOLE_TILE, "confirmed"),
    Rule("a changed map is annotated", [MIDDLE], MIDDLE, LEFT, (), WHOLE_TILE),
    Rule("a blind tile cannot be confirmed", [LEFT], LEFT, None, (), WHOLE_TILE),
]


def array(grid: Grid) -> np.ndarray:
    return np.array([[LETTERS[letter] for letter in row] for row in grid], np.uint8)


def text(mask: np.ndarray) -> Grid:
    letters = {value: letter for letter, value in LETTERS.items()}
    rows = ["".join(letters[int(value)] for value in row) for row in mask]
    return rows[0], rows[1], rows[2], rows[3]


def submitted(rule: Rule, label_type: Any) -> list[dict[str, Any]]:
    """The result as it comes over the wire: regions in the order they were painted, boxes, the scope."""
    items = []
    for number, grid in enumerate(rule.submitted):
        for item in class_map_to_result(array(grid), CLASSES, label_type=label_type):
            items.append(item | {"id": f"{item['id']}-{number}"})
    boxes = [ReviewBox(Box(*box)) for box in rule.boxes]
    extra = class_map_to_result(array(NOTHING), CLASSES, review_boxes=boxes, scope=rule.scope)
    found: list[dict[str, Any]] = json.loads(json.dumps([*items, *extra]))
    return found


@pytest.mark.parametrize("label_type", ["brush", "bitmask", "polygon"])
@pytest.mark.parametrize("rule", RULES, ids=[rule.says for rule in RULES])
def test_a_rule_from_a_submitted_result_to_a_mask(rule: Rule, label_type: Any) -> None:
    shown = None if rule.shown is None else class_map_to_result(array(rule.shown), CLASSES, label_type=label_type)
    reading = result_to_mask(submitted(rule, label_type), width=WIDTH, height=HEIGHT, classes=CLASSES, shown=shown)
    assert text(reading.mask) == rule.expected
    assert (reading.origin, reading.abstained, reading.artefact) == (rule.origin, rule.abstained, rule.artefact)
    assert reading.reviewed_share == (array(rule.expected) != IGNORE).mean()
