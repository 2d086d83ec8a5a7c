"""What is in force at each step of a run: the learning rate, and how much the pool and the prototypes count.

Sources: the ramp of temporal ensembling (Laine and Aila 2017), the schedule of MPAMatch (arXiv 2508.19574).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mpamatch.domain.recipe import Recipe


@dataclass(frozen=True)
class Ramps:
    """The weights of a run of ``steps``; steps count from 0.

    ``warm``: by the recipe, a warm start skips the ramps. ``has_branch``: there are prototypes to learn from, and
    ``brought_prototypes``: the start brought them.
    """

    recipe: Recipe
    steps: int
    warm: bool
    uses_pool: bool
    has_branch: bool
    brought_prototypes: bool

    @property
    def supervised_weight(self) -> float:
        return self.recipe.beta if self.uses_pool else 1.0

    @property
    def side_weights(self) -> tuple[float, float]:
        """How L_P is shared by images and texts: halves, or all to the side that is on."""
        image, text = self.recipe.uses_image_prototypes, self.recipe.uses_text_prototypes
        return (image / (image + text), text / (image + text)) if image or text else (0.0, 0.0)

    @property
    def first_pool_step(self) -> int:
        """The first step that looks at the pool (equal to ``steps`` when none does)."""
        return next((s for s in range(self.steps) if self.unlabelled_weight(s) > 0), self.steps)

    @property
    def first_prototype_step(self) -> int:
        """The first step that has L_P on (equal to ``steps`` when none does)."""
        return next((s for s in range(self.steps) if self.prototypes(s) > 0), self.steps)

    def unlabelled_weight(self, step: int) -> float:
        if not self.uses_pool:
            return 0.0
        if self._skips:
            return self.recipe.pool_weight
        return self.recipe.pool_weight * ramp(step / self.steps, self.recipe.ramp_start, self.recipe.ramp_end)

    def prototypes(self, step: int) -> float:
        """How far L_P on labelled cells is in force, 0..1; a warm start that brought its bank has it from the start."""
        recipe = self.recipe
        if not self.has_branch or recipe.prototype_weight == 0:
            return 0.0
        if self._skips and self.brought_prototypes:
            return 1.0
        return ramp(step / self.steps, recipe.prototype_start, recipe.prototype_ramp_end)

    def pool_prototypes(self, step: int) -> float:
        """How far L_P on pool cells is in force: not before labelled ones or the pool, and only late in a cold run."""
        recipe, weight = self.recipe, self.unlabelled_weight(step)
        if weight == 0:
            return 0.0
        if self._skips and self.brought_prototypes:
            return 1.0
        if step / self.steps < recipe.prototype_pool_start:
            return 0.0
        return self.prototypes(step) * weight / max(recipe.pool_weight, 1e-12)

    @property
    def _skips(self) -> bool:
        return self.warm and not self.recipe.ramp_when_warm


def ramp(progress: float, start: float, end: float) -> float:
    """Sigmoid ramp exp(-5 (1 - r)^2) over start..end of the run, exactly 0 before it.

    >>> ramp(0.1, 0.2, 0.4), ramp(0.4, 0.2, 0.4)
    (0.0, 1.0)
    """
    if progress < start:
        return 0.0
    if progress >= end:
        return 1.0
    return math.exp(-5 * (1 - (progress - start) / (end - start)) ** 2)


def learning_rate_factor(step: int, steps: int, recipe: Recipe) -> float:
    """Linear warm-up, then polynomial decay; ``step`` counts from 0."""
    warmup = round(recipe.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    return float((1 - (step - warmup) / max(1, steps - warmup)) ** recipe.poly_power)
