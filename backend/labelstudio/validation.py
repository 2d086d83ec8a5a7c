"""Whether a result may be sent to Label Studio, which stores almost anything and breaks on it later.

Stricter than the server's own optional validation: ids, sizes, kinds, ranges and the run lengths themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from backend.labelstudio.config import IMAGE, REVIEW, REVIEW_LABEL, SCOPE, SCOPES, SEG
from backend.labelstudio.shapes import SEGMENTATION
from mpamatch.domain.classes import ClassSet
from mpamatch.errors import BadInput

_PERCENT_SLACK: Final = 1e-6  # x + width of a box at the edge may be 100.00000000000001


def validate_result(result: Sequence[Mapping[str, Any]], classes: ClassSet, width: int, height: int) -> None:
    """Pass silently when every item is one of ours and sound. Raises BadInput naming the field."""
    if not isinstance(result, Sequence) or isinstance(result, str):
        raise BadInput("result", "is no list", "give a list of regions")
    seen: set[str] = set()
    for number, item in enumerate(result):
        at = f"result[{number}]"
        _require(isinstance(item, Mapping), at, "is no object")
        item_id = item.get("id")
        _require(isinstance(item_id, str) and item_id != "", f"{at}.id", "is missing")
        _require(item_id not in seen, f"{at}.id", f"{item_id!r} comes twice: the editor would merge both regions")
        seen.add(str(item_id))
        _require(item.get("to_name") == IMAGE, f"{at}.to_name", f"is {item.get('to_name')!r}, not {IMAGE!r}")
        _require(isinstance(item.get("value"), Mapping), f"{at}.value", "is missing")
        _check_score(item.get("score"), f"{at}.score")
        _check_item(item, at, classes, width, height)


def _check_item(item: Mapping[str, Any], at: str, classes: ClassSet, width: int, height: int) -> None:
    kind, name, value = item.get("type"), item.get("from_name"), item["value"]
    if name == SCOPE and kind == "choices":
        choices = value.get("choices")
        fine = isinstance(choices, list) and len(choices) == 1 and choices[0] in SCOPES
        _require(fine, f"{at}.value.choices", f"is {choices!r}")
        return
    for field, wanted in (("original_width", width), ("original_height", height), ("image_rotation", 0)):
        _require(item.get(field) == wanted, f"{at}.{field}", f"is {item.get(field)!r}, not {wanted}")
    if name == REVIEW and kind == "rectanglelabels":
        _require(value.get(kind) == [REVIEW_LABEL], f"{at}.value.{kind}", f"is {value.get(kind)!r}")
        _check_rectangle(value, at)
    elif name == SEG and kind in SEGMENTATION:
        _check_region(value, str(kind), at, classes, width, height)
    else:
        raise BadInput(f"{at}.type", f"{kind!r} of {name!r} is none of ours", "write seg, review or scope items")


def _check_region(value: Mapping[str, Any], kind: str, at: str, classes: ClassSet, width: int, height: int) -> None:
    labels = value.get(kind)
    known = isinstance(labels, list) and len(labels) == 1 and labels[0] in classes.names
    _require(known, f"{at}.value.{kind}", f"is {labels!r}, no class of the project")
    if kind == "polygonlabels":
        for point in value.get("points") or ():
            fine = isinstance(point, list | tuple) and len(point) == 2 and all(_is_percent(p) for p in point)
            _require(fine, f"{at}.value.points", f"hold {point!r}, outside 0..100")
    try:
        SEGMENTATION[kind](dict(value), width, height)
    except BadInput as error:
        raise BadInput(f"{at}.{error.item}", error.problem, error.remedy) from error


def _check_rectangle(value: Mapping[str, Any], at: str) -> None:
    for field in ("x", "y", "width", "height"):
        _require(_is_percent(value.get(field)), f"{at}.value.{field}", f"is {value.get(field)!r}, outside 0..100")
    for start, length in (("x", "width"), ("y", "height")):
        _require(value[length] > 0, f"{at}.value.{length}", "is 0")
        over = value[start] + value[length] > 100 + _PERCENT_SLACK
        _require(not over, f"{at}.value.{length}", f"runs over the image: {start} + {length} > 100")


def _check_score(score: Any, at: str) -> None:
    if score is not None:
        number = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
        _require(number and 0 <= score <= 1, at, f"is {score!r}, outside 0..1")


def _is_percent(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return number and -_PERCENT_SLACK <= value <= 100 + _PERCENT_SLACK


def _require(fine: bool, item: str, problem: str) -> None:
    if not fine:
        raise BadInput(item, problem, "mend the prediction before it is sent")
