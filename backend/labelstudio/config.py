"""The labelling configuration: written for a class set, and read from a project to see what it can carry.

The control names are fixed, because results refer to them. XML is read through defusedxml: entities and external
references are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from xml.etree.ElementTree import Element, ParseError
from xml.sax.saxutils import quoteattr

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from mpamatch.domain.classes import ClassSet
from mpamatch.errors import BadInput, Conflict

LabelType = Literal["brush", "bitmask", "polygon"]

IMAGE: Final = "image"
SEG: Final = "seg"
REVIEW: Final = "review"
SCOPE: Final = "scope"
REVIEW_LABEL: Final = "Review"
WHOLE_TILE: Final = "whole tile"
ONLY_BOXES: Final = "only the boxes"
ARTEFACT: Final = "artefact"
CANNOT_TELL: Final = "cannot tell"
SCOPES: Final = (WHOLE_TILE, ONLY_BOXES, ARTEFACT, CANNOT_TELL)

_CONTROLS: Final[dict[LabelType, str]] = {
    "brush": "BrushLabels",
    "bitmask": "BitmaskLabels",
    "polygon": "PolygonLabels",
}
_EXTRA: Final[dict[LabelType, str]] = {"brush": "", "bitmask": "", "polygon": ' strokeWidth="2" pointSize="small"'}
_MAX_CHARACTERS: Final = 1_000_000


@dataclass(frozen=True)
class ConfigReading:
    """What a configuration offers. ``class_names``: labels of the segmentation control, in order.

    ``seg``, ``review``, ``scope``: the controls of these names exist on the image; ``why``: a header shows ``$why``;
    ``image_key``: the task data key that holds the image; ``seg_name`` and ``image_name``: what the segmentation
    control and its image are called; ``others``: the controls besides, which results may hold and we do not read.
    """

    label_type: LabelType | None
    class_names: tuple[str, ...]
    seg: bool
    review: bool
    scope: bool
    why: bool
    image_key: str | None
    seg_name: str | None = None
    image_name: str | None = None
    others: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything that the flow relies on is there."""
        return self.seg and self.review and self.scope and self.why and self.image_key == IMAGE


def labelling_config(classes: ClassSet, label_type: LabelType = "brush") -> str:
    """The configuration for a class set, as XML. Raises BadInput for an unknown label type.

    Background has no label: what nobody paints is background. The picture comes last: what to press stays on screen.
    """
    if label_type not in _CONTROLS:
        raise BadInput(f"label type {label_type!r}", "unknown", f"use one of: {', '.join(_CONTROLS)}")
    control = _CONTROLS[label_type]
    labels = "\n".join(
        f"    <Label value={_attribute(c.name)} background={_attribute(c.colour)}/>" for c in classes.foreground
    )
    choices = "\n".join(
        f'    <Choice value="{scope}"' + (' selected="true"/>' if scope == WHOLE_TILE else "/>") for scope in SCOPES
    )
    return f"""<View>
  <Header value="$why"/>
  <Choices name="{SCOPE}" toName="{IMAGE}" choice="single" showInline="true">
{choices}
  </Choices>
  <{control} name="{SEG}" toName="{IMAGE}"{_EXTRA[label_type]}>
{labels}
  </{control}>
  <RectangleLabels name="{REVIEW}" toName="{IMAGE}" canRotate="false">
    <Label value="{REVIEW_LABEL}" background="#ffbf00"/>
  </RectangleLabels>
  <Image name="{IMAGE}" value="${IMAGE}" zoom="true" zoomControl="true"/>
</View>"""


def read_config(xml: str) -> ConfigReading:
    """What a project's configuration offers. Raises BadInput when it is no XML, too large, or declares entities."""
    if len(xml) > _MAX_CHARACTERS:
        raise BadInput("labelling configuration", f"has {len(xml)} characters", "shorten it")
    try:
        root = fromstring(xml, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise BadInput("labelling configuration", f"cannot be read ({error})", "mend it in Label Studio") from error
    elements = list(root.iter())
    image = next((e for e in elements if _tag(e) == "image"), None)
    label_type, seg = _segmentation(elements)
    scopes = {c.get("value") for e in _named(elements, "choices", SCOPE) for c in e.iter() if _tag(c) == "choice"}
    return ConfigReading(
        label_type=label_type,
        class_names=_label_names(seg) if seg is not None else (),
        seg=seg is not None and seg.get("name") == SEG,
        review=any(True for _ in _named(elements, "rectanglelabels", REVIEW)),
        scope=set(SCOPES) <= scopes,
        why=any(_tag(e) == "header" and e.get("value") == "$why" for e in elements),
        image_key=(image.get("value") or "").removeprefix("$") or None if image is not None else None,
        seg_name=None if seg is None else seg.get("name"),
        image_name=None if image is None else image.get("name"),
        others=tuple(
            e.get("name") or _tag(e)
            for e in elements
            if e is not seg and e.get("toName") and e.get("name") not in (REVIEW, SCOPE)
        ),
    )


def check_same_classes(reading: ConfigReading, classes: ClassSet) -> None:
    """Pass silently when the labels are the project's classes (their order does not matter, background may be missing).

    Raises Conflict naming what is new and what is gone: old masks keep their class ids, so this is not guessed.
    """
    there, known = set(reading.class_names), set(classes.names)
    new, gone = sorted(there - known), sorted(known - there - {classes.names[0]})
    if not new and not gone:
        return
    parts = [f"unknown here: {', '.join(new)}"] if new else []
    parts += [f"missing there: {', '.join(gone)}"] if gone else []
    remedy = "undo the change in Label Studio, or make a new project of it: old masks keep the classes that they have"
    raise Conflict("labels in Label Studio", "; ".join(parts), remedy)


def _segmentation(elements: list[Element]) -> tuple[LabelType | None, Element | None]:
    """The control named ``seg``, else the only one of its kind."""
    found: list[tuple[LabelType, Element]] = []
    for label_type, control in _CONTROLS.items():
        found += [(label_type, e) for e in elements if _tag(e) == control.lower()]
    named = [pair for pair in found if pair[1].get("name") == SEG]
    pairs = named or found
    return pairs[0] if len(pairs) == 1 else (None, None)


def _named(elements: list[Element], tag: str, name: str) -> list[Element]:
    return [e for e in elements if _tag(e) == tag and e.get("name") == name]


def _tag(element: Element) -> str:
    return element.tag.lower() if isinstance(element.tag, str) else ""


def _label_names(control: Element) -> tuple[str, ...]:
    # Results carry the alias where there is one.
    names = (e.get("alias") or e.get("value") for e in control.iter() if _tag(e) == "label")
    return tuple(name for name in names if name)


def _attribute(text: str) -> str:
    return quoteattr(text, {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})
