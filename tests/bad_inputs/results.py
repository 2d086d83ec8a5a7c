"""Results of annotations that something is wrong or odd with, as Label Studio would hand them out.

The tile has 64 x 64 pixels and two classes, background and gland. ``line``: the reason with which the annotation is set
aside; None where it is read. ``mask``: the ids that it is read as, where it is read.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.labelstudio.rle import encode_rle
from tests.bad_inputs.pictures import Pixels, png, png_of_header
from tests.builders import SIZE, disc

AGAIN = "; send the region again"
SIZES = "; the region's size must be that of the image"
SCOPES = "; use one of: whole tile, only the boxes, artefact, cannot tell"
PERCENT = "; give a number in percent of the image"


@dataclass(frozen=True)
class BadResult:
    """One annotation's ``result``, whatever it is."""

    name: str
    make: Callable[[], Any]
    line: str | None = None
    mask: Callable[[], Pixels] | None = None


def region(kind: str, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One region of class gland."""
    return {
        "id": "r",
        "from_name": "seg",
        "to_name": "image",
        "type": f"{kind}labels",
        "original_width": SIZE,
        "original_height": SIZE,
        "image_rotation": 0,
        "value": {**value, f"{kind}labels": ["gland"]},
        **more,
    }


def brush(rle: Any, **more: Any) -> list[dict[str, Any]]:
    return [region("brush", {"format": "rle", "rle": rle}, **more)]


def polygon(points: Any, **more: Any) -> list[dict[str, Any]]:
    return [region("polygon", {"points": points, "closed": True}, **more)]


def bitmask(data: bytes) -> list[dict[str, Any]]:
    return [region("bitmask", {"imageDataURL": "data:image/png;base64," + base64.b64encode(data).decode()})]


def _rle() -> list[int]:
    return encode_rle(disc() > 0)


def _other_class() -> list[dict[str, Any]]:
    (item,) = brush(_rle())
    item["value"]["brushlabels"] = ["Tumour"]
    return [item]


def _two_classes() -> list[dict[str, Any]]:
    (item,) = brush(_rle())
    item["value"]["brushlabels"] = ["gland", "background"]
    return [item]


def _deep() -> list[Any]:
    value: Any = []
    for _ in range(200):
        value = [value]
    return [value]


def _scope(choices: Any) -> list[dict[str, Any]]:
    return [{"id": "s", "from_name": "scope", "to_name": "image", "type": "choices", "value": {"choices": choices}}]


def _bow_tie() -> Pixels:
    """What the even-odd rule fills of an outline that crosses itself: two triangles that meet in the middle."""
    percent = (np.arange(SIZE) + 0.5) * 100 / SIZE
    x, y = np.meshgrid(percent, percent)
    return ((y > 0.99 * x) == (y < 0.99 * (100 - x))).astype(np.uint8)


def _double_size() -> list[dict[str, Any]]:
    big = np.kron(disc(), np.ones((2, 2), np.uint8)) > 0
    return brush(encode_rle(big), original_width=2 * SIZE, original_height=2 * SIZE)


def _background() -> Pixels:
    return np.zeros((SIZE, SIZE), np.uint8)


RESULTS = (
    # what is no list of regions
    BadResult(
        "an object",
        lambda: {"regions": []},
        "result: is no list; send a list of regions, empty where nothing was drawn",
    ),
    BadResult("a number", lambda: 7, "result: is no list; send a list of regions, empty where nothing was drawn"),
    BadResult("a text", lambda: "[]", "result: is no list; send a list of regions, empty where nothing was drawn"),
    BadResult("a list of texts", lambda: ["x"], "result[0]: is no region; send a list of objects with a value each"),
    BadResult("deeply nested", _deep, "result[0]: is no region; send a list of objects with a value each"),
    # brush
    BadResult(
        "run lengths cut short",
        lambda: brush(_rle()[:20]),
        "result[0].rle: does not end at the last pixel: it is cut short or damaged" + AGAIN,
    ),
    BadResult(
        "run lengths of another size",
        lambda: brush(encode_rle(np.ones((32, 32), bool))),
        "result[0].rle: holds 4096 values, not 64 x 64 x 4" + SIZES,
    ),
    BadResult(
        "run lengths that claim four thousand million",
        lambda: brush([255, 255, 255, 255, *_rle()[4:]]),
        "result[0].rle: holds 4294967295 values, not 64 x 64 x 4" + SIZES,
    ),
    BadResult(
        "run lengths that are no bytes",
        lambda: brush([300] * 20),
        "result[0].rle: is not a list of bytes (bytes must be in range(0, 256)); give integers 0..255",
    ),
    BadResult(
        "run lengths as a text",
        lambda: brush("AAAA"),
        "result[0].value.rle: is missing or no list; send the run lengths as a list of bytes",
    ),
    # classes and sizes
    BadResult(
        "a class that is unknown", _other_class, "result[0].class 'Tumour': unknown; known classes: background, gland"
    ),
    BadResult(
        "two classes at once",
        _two_classes,
        "result[0].value.brushlabels: holds 2 labels; give each region exactly one class",
    ),
    BadResult(
        "a size beyond any picture",
        lambda: brush(_rle(), original_width=10**6, original_height=10**6),
        "result[0].original_width: is 1000000 x 1000000 px; the size must be that of the image",
    ),
    BadResult(
        "a picture that was turned",
        lambda: brush(_rle(), image_rotation=90),
        "result[0].image_rotation: is 90; turn the image back before submitting",
    ),
    BadResult("another size, said and kept", _double_size, mask=disc),
    # outlines
    BadResult(
        "an outline of two points",
        lambda: polygon([[0, 0], [50, 50]]),
        "result[0].value.points: are fewer than three points; draw the outline again",
    ),
    BadResult(
        "an outline that is nowhere",
        lambda: polygon([[0, 0], [math.nan, 5], [5, 5]]),
        "result[0].value.points: is nan" + PERCENT,
    ),
    BadResult(
        "an outline without end",
        lambda: polygon([[0, 0], [math.inf, 5], [5, 5]]),
        "result[0].value.points: is inf" + PERCENT,
    ),
    BadResult(
        "an outline of truths",
        lambda: polygon([[0, 0], [True, 5], [5, 5]]),
        "result[0].value.points: is True" + PERCENT,
    ),
    BadResult("an outline that crosses itself", lambda: polygon([[0, 0], [100, 99], [100, 0], [0, 99]]), mask=_bow_tie),
    BadResult("an outline outside", lambda: polygon([[200, 200], [300, 200], [300, 300]]), mask=_background),
    # bitmasks
    BadResult(
        "a bitmask that unpacks to 40 thousand million pixels",
        lambda: bitmask(png_of_header(200_000, 200_000)),
        "result[0].value.imageDataURL: cannot be read (Image size (40000000000 pixels) exceeds limit of "
        "178956970 pixels, could be decompression bomb DOS attack.)" + AGAIN,
    ),
    BadResult(
        "a bitmask of another size",
        lambda: bitmask(png()),
        "result[0].value.imageDataURL: is 48 x 48 px, not 64 x 64; the mask's size must be that of the image",
    ),
    BadResult(
        "a bitmask from elsewhere",
        lambda: [region("bitmask", {"imageDataURL": "http://127.0.0.1/a.png"})],
        "result[0].value.imageDataURL: is no PNG data URL; begin with data:image/png;base64,",
    ),
    # other controls
    BadResult(
        "an ellipse",
        lambda: [region("ellipse", {"x": 5, "y": 5})],
        "result[0].type: ellipselabels cannot be read; use the controls of this project",
    ),
    BadResult(
        "an unknown scope", lambda: _scope(["everything"]), "result[0].value.choices: is ['everything']" + SCOPES
    ),
    BadResult("a scope that is no word", lambda: _scope([{"a": 1}]), "result[0].value.choices: is [{'a': 1}]" + SCOPES),
    BadResult("nothing", lambda: [], mask=_background),
    BadResult("no result at all", lambda: None, mask=_background),
)
