"""What the controls of a project in Label Studio are called: ours, or those of a configuration that was there before.

Inside, every result speaks of our own names; this is the one place where it is put into a project's words on its way
out. Coming in, the kind of a region tells what it is, whatever its control is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from backend.labelstudio.config import IMAGE, REVIEW, SCOPE, SEG, ConfigReading


@dataclass(frozen=True)
class Controls:
    """Names of the segmentation control, the image and the data key of its picture; whether the others are there."""

    seg: str = SEG
    image: str = IMAGE
    image_key: str = IMAGE
    review: bool = True
    scope: bool = True
    why: bool = True

    @classmethod
    def of(cls, reading: ConfigReading) -> Controls:
        """Those of a configuration that has a segmentation control and an image."""
        return cls(
            seg=reading.seg_name or SEG,
            image=reading.image_name or IMAGE,
            image_key=reading.image_key or IMAGE,
            review=reading.review,
            scope=reading.scope,
            why=reading.why,
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Controls:
        """The inverse of :meth:`to_json`; None stands for ours."""
        return cls() if value is None else cls(**value)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def missing(self) -> tuple[str, ...]:
        """What we would use and the configuration does not have, with what that means."""
        absent = {
            "the Review boxes (RectangleLabels `review`): uncertain regions are not marked": self.review,
            "the scope (Choices `scope`): every annotation stands for the whole picture": self.scope,
            "the line above the picture (Header `$why`): the reason is shown on the dashboard only": self.why,
        }
        return tuple(words for words, there in absent.items() if not there)

    def worded(self, result: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A result of ours in the project's names, without what it has no control for."""
        if self == Controls():
            return [dict(item) for item in result]
        names = {SEG: self.seg, **({REVIEW: REVIEW} if self.review else {}), **({SCOPE: SCOPE} if self.scope else {})}
        return [
            {**item, "from_name": names[item["from_name"]], "to_name": self.image}
            for item in result
            if item["from_name"] in names
        ]
