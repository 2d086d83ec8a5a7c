"""Whether low-rank tuning holds: its loss on tiles kept back, beside that of a frozen encoder after as many steps.

Pure. On some encoders and rates low-rank tuning collapses (PFM-DenseBench, arXiv 2602.03887, has such rows).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class GuardVerdict:
    """The losses after ``step`` steps of each, and the ``limit``: how many times the frozen one's loss is too much.

    ``lora_loss`` is nan where the losses of those steps were not finite.
    """

    step: int
    frozen_loss: float
    lora_loss: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether low-rank tuning goes on.

        >>> GuardVerdict(20, 0.4, 0.6, 1.5).holds, GuardVerdict(20, 0.4, 0.61, 1.5).holds
        (True, False)
        """
        return math.isfinite(self.lora_loss) and not self.lora_loss > self.limit * self.frozen_loss

    @property
    def note(self) -> str | None:
        """Where it does not go on, that and why in one line."""
        if self.holds:
            return None
        if math.isfinite(self.lora_loss):
            losses = f"its loss on tiles kept back is {self.lora_loss:.3g}, more than {self.limit:g} times the "
            losses += f"{self.frozen_loss:.3g} of a frozen encoder"
        else:
            losses = f"its loss is not finite, that of a frozen encoder {self.frozen_loss:.3g} on tiles kept back"
        return f"{GIVEN_UP} after {self.step} steps: {losses}; the run goes on with that one"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "kept": "lora" if self.holds else "frozen"}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GuardVerdict:
        """The inverse of :meth:`to_json`, also where a file has nothing for a loss that was not finite."""
        losses = {name: values[name] for name in ("frozen_loss", "lora_loss")}
        losses = {name: math.nan if loss is None else float(loss) for name, loss in losses.items()}
        return cls(step=int(values["step"]), limit=float(values["limit"]), **losses)


GIVEN_UP = "low-rank tuning given up"
"""How the note of a verdict against it begins."""


def guard_step(steps: int, share: float) -> int:
    """After how many of ``steps`` the two are compared, at least one.

    >>> guard_step(600, 0.2), guard_step(1, 0.2)
    (120, 1)
    """
    return max(1, round(share * steps))
