"""The plan of a cell, whatever kind it is: what the runner asks of it, and how it is kept in its folder.

A plan is written into its cell's folder before anything runs, so that a cell is always the one it says it is.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from mpamatch.domain.recipe import Recipe
from mpamatch.errors import BadInput

CELL_PLAN, CELL_RESULT, CELL_ERROR, CELL_LOG = "plan.json", "cell.json", "error.json", "log.txt"
# What a plan may name anew when it goes on: where things lie, and what of it is kept.
_NOT_COMPARED = ("root", "weights_dir", "keep_models")


class CellPlan(ABC):
    """The part that all plans share; each is a frozen dataclass with a ``recipe``, and ``PLACES`` names its paths."""

    PLACES: ClassVar[tuple[str, ...]] = ()
    recipe: Recipe

    @property
    @abstractmethod
    def place(self) -> Path:
        """Its folder, below the experiment's."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What people call it."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many steps it trains in all."""

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self._names()}
        places = {name: None if (path := values[name]) is None else str(path) for name in self.PLACES}
        return {**values, **places, "recipe": self.recipe.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`. Raises BadInput."""
        try:
            named = [field for field in dataclasses.fields(cls) if field.name not in cls.PLACES]  # type: ignore[arg-type]
            # What has a default came later than the first plans.
            optional = {field.name for field in named if field.default is not dataclasses.MISSING}
            known = {f.name: values[f.name] for f in named if f.name in values or f.name not in optional}
            places = {name: None if values.get(name) is None else Path(values[name]) for name in cls.PLACES}
            places["root"] = Path(values["root"])
        except (KeyError, TypeError) as error:
            raise BadInput("cell", f"its plan is damaged ({error!r})", "remove its folder") from error
        return cls(**{**known, **places, "recipe": Recipe.from_json(values["recipe"])})

    def comparable(self) -> dict[str, Any]:
        """All by which one cell differs from another, every knob by its name."""
        values = self.to_json()
        for name in _NOT_COMPARED:
            values.pop(name, None)
        return {**values.pop("recipe"), **values}

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]


Plan = TypeVar("Plan", bound=CellPlan)


def read_plan(folder: Path, kind: type[Plan]) -> Plan:
    """The plan in a cell's folder. Raises BadInput."""
    try:
        return kind.from_json(json.loads((folder / CELL_PLAN).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise BadInput(str(folder), f"holds no plan of a cell ({error})", "run the experiment's command") from error
