"""The class set of a project: ids, names, colours and prompts of what a pixel can be.

Class ids are positions: 0 is background, and masks store the id of each pixel. ``IGNORE`` is no class:
it marks pixels without supervision. ``ABSTAIN`` is none either: a person looked and could not tell, so no model's guess
is asked for there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mpamatch.errors import BadInput

IGNORE = 255
ABSTAIN = 254
MAX_CLASSES = 64

_COLOURS = ("#9e9e9e", "#d62728", "#2ca02c", "#1f77b4", "#9467bd", "#ff7f0e", "#17becf", "#e377c2", "#8c564b")


@dataclass(frozen=True)
class TissueClass:
    """One class. ``colour`` is ``#rrggbb``; ``prompts`` are descriptions for the text branch."""

    id: int
    name: str
    colour: str
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassSet:
    """All classes of a project in id order; id 0 is background.

    >>> ClassSet.from_names(["background", "gland"]).id_of("gland")
    1
    """

    classes: tuple[TissueClass, ...]

    def __post_init__(self) -> None:
        names = [c.name for c in self.classes]
        if not 2 <= len(names) <= MAX_CLASSES:
            raise BadInput("classes", f"{len(names)} given", f"name background and 1 to {MAX_CLASSES - 1} more")
        if len({n.casefold() for n in names}) != len(names):
            raise BadInput("classes", "two classes share a name", "give each class its own name")
        if any(not n.strip() or n != n.strip() or len(n) > 80 for n in names):
            raise BadInput("classes", "a name is empty, padded or over 80 characters", "use short plain names")
        if [c.id for c in self.classes] != list(range(len(names))):
            raise BadInput("classes", "ids are not 0, 1, 2, ...", "number classes from 0 (background) without gaps")

    @classmethod
    def from_names(cls, names: Iterable[str]) -> ClassSet:
        """A class set with default colours; the first name is background. Raises BadInput."""
        return cls(tuple(TissueClass(i, n.strip(), _COLOURS[i % len(_COLOURS)]) for i, n in enumerate(names)))

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, Any]]) -> ClassSet:
        """The inverse of :meth:`to_json`. Raises BadInput."""
        try:
            return cls(
                tuple(
                    TissueClass(int(r["id"]), str(r["name"]), str(r["colour"]), tuple(r.get("prompts", ())))
                    for r in rows
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput("classes", f"not a class list ({error})", "give id, name and colour of each") from error

    def with_prompts(self, texts: Sequence[Sequence[str]]) -> ClassSet:
        """The same classes with these texts, one row for each in id order; an empty row leaves a class without."""
        return ClassSet(tuple(replace(one, prompts=tuple(of)) for one, of in zip(self.classes, texts, strict=True)))

    def to_json(self) -> list[dict[str, Any]]:
        return [{"id": c.id, "name": c.name, "colour": c.colour, "prompts": list(c.prompts)} for c in self.classes]

    @property
    def count(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @property
    def foreground(self) -> tuple[TissueClass, ...]:
        return self.classes[1:]

    def id_of(self, name: str) -> int:
        """The id of a class by its exact name. Raises BadInput naming what is known."""
        for c in self.classes:
            if c.name == name:
                return c.id
        raise BadInput(f"class {name!r}", "unknown", f"known classes: {', '.join(self.names)}")
