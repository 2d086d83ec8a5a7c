"""Results of Label Studio: written for a prediction, and read from an annotation into a mask with its supervision.

Architecture of the reading: (1) paint the segmentation regions in their order onto background; (2) keep what the scope
says was looked at, the rest is 255; (3) compare with what was shown. Knows the class set, not where masks go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from backend.labelstudio.config import (
    ARTEFACT,
    CANNOT_TELL,
    IMAGE,
    ONLY_BOXES,
    REVIEW,
    REVIEW_LABEL,
    SCOPE,
    SCOPES,
    SEG,
    WHOLE_TILE,
    LabelType,
)
from backend.labelstudio.shapes import (
    SEGMENTATION,
    read_rectangle,
    write_bitmask,
    write_brush,
    write_polygons,
    write_rectangle,
)
from backend.labelstudio.validation import validate_result
from mpamatch.domain.classes import IGNORE, ClassSet
from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput

__all__ = [
    "MaskReading",
    "ReviewBox",
    "class_map_to_result",
    "paint",
    "read_class_map",
    "result_to_mask",
    "scope_item",
    "scope_of",
    "validate_result",
]

Result = list[dict[str, Any]]
ClassMap = NDArray[np.uint8]

# Kinds that paint or select pixels in ways we do not read: dropping them silently would lose someone's work.
_UNREADABLE: Final = {"brush", "bitmask", "polygon", "rectangle", "ellipse", "ellipselabels", "keypointlabels"}
_MAX_SIDE_PX: Final = 16_384
_MAX_REGION_PX: Final = 1 << 26


@dataclass(frozen=True)
class ReviewBox:
    """A queued region as the annotator sees it: a read-only rectangle in tile pixels; ``text`` says why."""

    box: Box
    score: float | None = None
    text: str = ""


@dataclass(frozen=True)
class MaskReading:
    """What an annotation says. ``mask``: uint8 (H, W), 255 where nobody looked.

    ``origin``: ``confirmed`` when the shown prediction came back as it was; ``reviewed_share``: supervised share of the
    pixels; ``abstained``: the annotator could not tell; ``artefact``: the tile is to leave the pool.
    """

    mask: ClassMap
    origin: Literal["annotated", "confirmed"]
    scope: str
    reviewed_share: float
    abstained: bool
    artefact: bool


def class_map_to_result(
    class_map: ClassMap,
    classes: ClassSet,
    *,
    review_boxes: Sequence[ReviewBox] = (),
    scope: str | None = None,
    region_scores: Mapping[int, float] | None = None,
    label_type: LabelType = "brush",
) -> Result:
    """A prediction's result: one region per class that is present (polygons: one per connected area), boxes, scope.

    ``class_map``: uint8 (H, W); background and 255 are not painted. ``region_scores``: confidence by class id, shown
    to people. The same input gives the same JSON, ids included. Raises BadInput for unknown class ids or scopes.
    """
    class_map = np.asarray(class_map)
    if class_map.ndim != 2 or class_map.dtype != np.uint8:
        raise BadInput("class map", f"{class_map.dtype} of shape {class_map.shape}", "give uint8 (height, width)")
    counts = np.bincount(class_map.reshape(-1), minlength=IGNORE + 1)
    present = [int(c) for c in np.flatnonzero(counts) if c not in (0, IGNORE)]
    if present and present[-1] >= classes.count:
        raise BadInput("class map", f"holds class id {present[-1]}", f"classes are 0..{classes.count - 1}")
    height, width = class_map.shape
    items: Result = []
    for class_id in present:
        score = None if region_scores is None else region_scores.get(class_id)
        values = _values(class_map == class_id, classes.classes[class_id].colour, label_type)
        for number, value in enumerate(values):
            kind = f"{label_type}labels"
            value = value | {kind: [classes.names[class_id]]}
            suffix = f"-{number}" if label_type == "polygon" else ""
            items.append(_item(f"seg-{class_id}{suffix}", SEG, kind, value, (width, height), score))
    for number, review in enumerate(review_boxes):
        value = write_rectangle(review.box, width, height) | {"rectanglelabels": [REVIEW_LABEL]}
        item = _item(f"review-{number}", REVIEW, "rectanglelabels", value, (width, height), review.score)
        items.append(item | {"readonly": True} | ({"meta": {"text": [review.text]}} if review.text else {}))
    if scope is not None:
        items.append(scope_item(scope))
    return items


def scope_item(scope: str) -> dict[str, Any]:
    """The choice that says what was looked at. Raises BadInput for a scope that does not exist."""
    if scope not in SCOPES:
        raise BadInput(f"scope {scope!r}", "unknown", f"use one of: {', '.join(SCOPES)}")
    return {
        "id": "scope",
        "from_name": SCOPE,
        "to_name": IMAGE,
        "type": "choices",
        "origin": "prediction",
        "value": {"choices": [scope]},
    }


def result_to_mask(
    result: Sequence[Mapping[str, Any]],
    *,
    width: int,
    height: int,
    classes: ClassSet,
    shown: Sequence[Mapping[str, Any]] | None = None,
    shown_class_map: ClassMap | None = None,
) -> MaskReading:
    """The mask (``height``, ``width``) that an annotation stands for.

    ``shown``: the result of the prediction that the annotator started from, or ``shown_class_map``, its class map at
    the same size; None when there was none, it was empty (a blind tile), or it is not known any more.

    Raises BadInput naming the region that cannot be read; such an annotation is kept and said, never guessed.
    """
    scope = scope_of(result)
    class_map = paint(result, width=width, height=height, classes=classes)
    if shown_class_map is None:
        before = paint(shown or (), width=width, height=height, classes=classes)
    elif shown_class_map.shape == (height, width):
        before = shown_class_map
    else:
        raise BadInput("shown class map", f"shape {shown_class_map.shape}", f"give ({height}, {width})")
    regions = [item for item in result if _kind(item) in SEGMENTATION]
    something_shown = bool(shown) or shown_class_map is not None
    untouched = something_shown and all(item.get("origin") == "prediction" for item in regions)
    inside = _inside_boxes(result, width, height) if scope == ONLY_BOXES else np.zeros((height, width), bool)
    return read_class_map(class_map, before, scope=scope, inside=inside, untouched=untouched)


def read_class_map(
    class_map: ClassMap, before: ClassMap, *, scope: str, inside: NDArray[np.bool_], untouched: bool
) -> MaskReading:
    """The mask that a drawn class map (H, W) stands for; 255 in it is kept: there the annotator says nothing.

    ``before``: what they started from, background where nothing was shown; ``inside``: the pixels in boxes;
    ``untouched``: whether equal pixels mean that a suggestion was accepted as it was.
    """
    if scope == WHOLE_TILE:
        mask = class_map
    elif scope == ONLY_BOXES:
        mask = np.where(inside | (class_map != before), class_map, np.uint8(IGNORE))
    else:
        mask = np.full(class_map.shape, IGNORE, np.uint8)
    as_it_was = untouched and bool(((class_map == before) | (class_map == IGNORE)).all())
    return MaskReading(
        mask=mask,
        origin="confirmed" if as_it_was else "annotated",
        scope=scope,
        reviewed_share=float((mask != IGNORE).mean()),
        abstained=scope == CANNOT_TELL,
        artefact=scope == ARTEFACT,
    )


def paint(result: Sequence[Mapping[str, Any]], *, width: int, height: int, classes: ClassSet) -> ClassMap:
    """The class map (``height``, ``width``) of the segmentation regions alone, later over earlier. Raises BadInput."""
    class_map = np.zeros((height, width), np.uint8)
    for number, item in enumerate(result):
        kind = _kind(item)
        if kind in _UNREADABLE:
            raise BadInput(f"result[{number}].type", f"{kind} cannot be read", "use the controls of this project")
        if kind == "rectanglelabels" and item.get("from_name") != REVIEW and _labels(item, kind) != [REVIEW_LABEL]:
            raise BadInput(f"result[{number}]", "is a rectangle outside the review control", "paint the class instead")
        if kind not in SEGMENTATION:
            continue
        with _naming(number):
            class_id = _class_of(item, kind, classes)
            class_map[_resampled(_covered(item, kind, width, height), width, height)] = class_id
    return class_map


class _naming:
    """Puts ``result[n]`` in front of what a BadInput from inside names."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BadInput):
            raise BadInput(f"result[{self._number}].{error.item}", error.problem, error.remedy) from error


def _values(mask: NDArray[np.bool_], colour: str, label_type: LabelType) -> list[dict[str, Any]]:
    if label_type == "brush":
        return [write_brush(mask)]
    return [write_bitmask(mask, colour)] if label_type == "bitmask" else write_polygons(mask)


def _item(
    item_id: str, from_name: str, kind: str, value: dict[str, Any], size: tuple[int, int], score: float | None
) -> dict[str, Any]:
    item = {
        "id": item_id,
        "from_name": from_name,
        "to_name": IMAGE,
        "type": kind,
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": 0,
        "origin": "prediction",
        "value": value,
    }
    return item if score is None else item | {"score": round(float(score), 6)}


def _check_items(result: Any) -> None:
    if not isinstance(result, list | tuple):
        raise BadInput("result", "is no list", "send a list of regions, empty where nothing was drawn")
    for number, item in enumerate(result):
        if not isinstance(item, Mapping) or not isinstance(item.get("value", {}), Mapping):
            raise BadInput(f"result[{number}]", "is no region", "send a list of objects with a value each")


def _kind(item: Mapping[str, Any]) -> str:
    return str(item.get("type", "")).lower()  # Label Studio stores any spelling


def _labels(item: Mapping[str, Any], kind: str) -> list[Any]:
    labels = item.get("value", {}).get(kind)
    return labels if isinstance(labels, list) else []


def _class_of(item: Mapping[str, Any], kind: str, classes: ClassSet) -> int:
    labels = _labels(item, kind)
    if len(labels) != 1 or not isinstance(labels[0], str):
        raise BadInput(f"value.{kind}", f"holds {len(labels)} labels", "give each region exactly one class")
    return classes.id_of(labels[0])


def scope_of(result: Sequence[Mapping[str, Any]]) -> str:
    """What the annotator says was looked at; the whole tile where nothing is chosen. Raises BadInput."""
    _check_items(result)
    scope = WHOLE_TILE
    for number, item in enumerate(result):
        if _kind(item) != "choices" or item.get("from_name") != SCOPE:
            continue
        choices = item.get("value", {}).get("choices")
        if not isinstance(choices, list) or len(choices) != 1 or choices[0] not in SCOPES:
            raise BadInput(f"result[{number}].value.choices", f"is {choices!r}", f"use one of: {', '.join(SCOPES)}")
        scope = choices[0]
    return scope


def _inside_boxes(result: Sequence[Mapping[str, Any]], width: int, height: int) -> NDArray[np.bool_]:
    inside = np.zeros((height, width), bool)
    for number, item in enumerate(result):
        if _kind(item) == "rectanglelabels":
            with _naming(number):
                inside |= read_rectangle(dict(item.get("value", {})), width, height)
    return inside


def _covered(item: Mapping[str, Any], kind: str, width: int, height: int) -> NDArray[np.bool_]:
    """The region's pixels at its own size."""
    size = item.get("original_width", width), item.get("original_height", height)
    if not all(type(s) is int and 0 < s <= _MAX_SIDE_PX for s in size) or size[0] * size[1] > _MAX_REGION_PX:
        raise BadInput("original_width", f"is {size[0]!r} x {size[1]!r} px", "the size must be that of the image")
    if item.get("image_rotation") not in (0, None):
        raise BadInput("image_rotation", f"is {item['image_rotation']!r}", "turn the image back before submitting")
    return SEGMENTATION[kind](dict(item.get("value", {})), size[0], size[1])


def _resampled(mask: NDArray[np.bool_], width: int, height: int) -> NDArray[np.bool_]:
    """Nearest, taken at pixel centres."""
    if mask.shape == (height, width):
        return mask
    rows = (2 * np.arange(height) + 1) * mask.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * mask.shape[1] // (2 * width)
    return mask[rows[:, None], columns[None, :]]
