"""How a run gets on, for people who wait: figures of a step, seconds it takes, time that is left."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpamatch.network.devices import peak_memory_mib
from mpamatch.training.course import Course
from mpamatch.training.loop import TrainingLoop
from mpamatch.training.step_sums import StepReport

_LOW_RANK_COST = 2.0


@dataclass
class Sums:
    """Running figures that a resumed run carries on: seconds, and means over the last quarter of the steps.

    ``class_mask_ratio`` is that of the last step that looked at the pool, ``pseudo_labels`` how right they last were.
    """

    seconds: float = 0.0
    steps: int = 0
    skipped: int = 0
    x: float = 0.0
    u: float = 0.0
    image: float = 0.0
    text: float = 0.0
    total: float = 0.0
    mask_ratio: float = 0.0
    class_mask_ratio: list[float | None] = field(default_factory=list)
    pseudo_labels: dict[str, Any] | None = None

    def add(self, report: StepReport) -> None:
        if report.class_mask_ratio:
            self.class_mask_ratio = list(report.class_mask_ratio)
        self.skipped += report.skipped
        if report.skipped or report.step <= 0.75 * report.steps:
            return
        self.steps += 1
        self.x += report.x
        self.u += report.u
        self.image += report.image or 0.0
        self.text += report.text or 0.0
        self.total += report.total
        self.mask_ratio += report.mask_ratio or 0.0

    def mean(self, value: float) -> float:
        return value / self.steps if self.steps else math.nan

    def losses(self, loop: TrainingLoop) -> dict[str, float]:
        """The mean of each loss before weights; L_P's sides only where the recipe has them."""
        found = {"x": self.mean(self.x), "u": self.mean(self.u), "total": self.mean(self.total)}
        if loop.recipe.uses_image_prototypes:
            found["image"] = self.mean(self.image)
        if loop.recipe.uses_text_prototypes:
            found["text"] = self.mean(self.text)
        return found


class Pace:
    """Seconds a step of a run's present loop takes, apart for steps with and without the pool, and the time left.

    A step whose low-rank changes learn costs about twice one with a frozen encoder, until one has been seen.
    """

    def __init__(self, course: Course) -> None:
        self.phase = course.phase
        self._first_pool_step, self._steps = course.loop.first_pool_step, course.loop.steps
        self._ends = course.loop_ends
        self._seconds: dict[bool, float] = {}

    @property
    def knows(self) -> bool:
        return bool(self._seconds)

    def add(self, report: StepReport, seconds: float) -> None:
        pool = report.unlabelled_weight > 0
        self._seconds[pool] = 0.9 * self._seconds[pool] + 0.1 * seconds if pool in self._seconds else seconds

    def seconds_per_step(self, pool: bool) -> float:
        # A step with pool costs about twice one without, until one has been seen.
        guess = self._seconds.get(not pool, 0.0) * (2.0 if pool else 0.5)
        return self._seconds.get(pool, guess)

    def left_s(self, step: int) -> float:
        """From a step of the loop on to the end of the run."""
        left = self._lasts_s(step, self._ends)
        return left + _LOW_RANK_COST * self._lasts_s(0, self._steps) if self.phase == "frozen" else left

    def _lasts_s(self, step: int, end: int) -> float:
        plain = max(0, min(self._first_pool_step, end) - step)
        return plain * self.seconds_per_step(False) + (end - step - plain) * self.seconds_per_step(True)


def step_json(report: StepReport, pace: Pace, pool_tiles: int, device: str) -> dict[str, Any]:
    """The figures of a step as progress files hold them; ``device`` is what it trains on."""
    seconds = pace.seconds_per_step(report.unlabelled_weight > 0)
    losses = {"x": report.x, "u": report.u, "total": report.total}
    losses |= {name: v for name, v in (("image", report.image), ("text", report.text)) if v is not None}
    return {
        "step": report.told_step,
        "steps": report.told_steps,
        "losses": losses,
        "mask_ratio": report.mask_ratio,
        "class_mask_ratio": list(report.class_mask_ratio),
        "labelled_weight": report.labelled_weight,
        "unlabelled_weight": report.unlabelled_weight,
        "prototype_weight": report.prototype_weight,
        "pool_prototype_weight": report.pool_prototype_weight,
        "prototypes": None if report.health is None else report.health.to_json(),
        "gradient_norm": report.gradient_norm,
        "pool_tiles": pool_tiles,
        "seconds_per_step": seconds,
        "images_per_s": report.tiles / seconds if seconds > 0 else None,
        "peak_memory_mib": peak_memory_mib(device),
        "eta_s": pace.left_s(report.step),
        "batch_parts": report.parts,
    }


def told_steps(progress: Path) -> list[dict[str, Any]]:
    """The steps that a progress file tells of, in its order; a line that was cut (a full disk) is passed over."""
    found = []
    for line in progress.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("event") == "step":
            found.append(row)
    return found
