"""What a pool tile is taken to show: classes and confidence of a network's weak views, and which of them count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mpamatch.domain.classes import IGNORE
from mpamatch.domain.recipe import Recipe
from mpamatch.training.batches import PoolBatch

_TAU_DECAY = 0.999
_FIRST_CLASS_TAU = 0.7


@dataclass(frozen=True)
class PseudoLabels:
    """On the CPU, of N weak views: ``classes`` int64 and ``confidence`` float32 (N, S, S), ``shares`` (N, S, S, C)."""

    classes: Tensor
    confidence: Tensor
    shares: Tensor


def pseudo_labels(shares: Tensor, pool: PoolBatch) -> PseudoLabels:
    """From probabilities (N, C, S, S): the best class; a person's labels replace it, with confidence 1."""
    shares = shares.detach().float().cpu()
    confidence, classes = shares.max(dim=1)
    shares = shares.permute(0, 2, 3, 1)
    known = pool.labels != IGNORE
    if bool(known.any()):
        classes = torch.where(known, pool.labels, classes)
        confidence = confidence.masked_fill(known, 1.0)
        shares = torch.where(known[..., None], functional.one_hot(classes, shares.shape[-1]).float(), shares)
    return PseudoLabels(classes, confidence, shares)


@dataclass(frozen=True)
class ClassCounts:
    """Sums over weak views that add up over shares: float64 (3, C) of pixels, those that passed, and confidence."""

    sums: Tensor

    @staticmethod
    def of(found: PseudoLabels, valid: Tensor, taus: Tensor) -> ClassCounts:
        """By pseudo-label over valid pixels (B, S, S); ``found`` may hold more views than B."""
        size = len(valid)
        classes, confidence = found.classes[:size][valid], found.confidence[:size][valid]
        passed = confidence >= taus[classes]
        rows = (torch.ones_like(confidence), passed, confidence)
        count = len(taus)
        return ClassCounts(torch.stack([torch.bincount(classes, r.double(), minlength=count) for r in rows]))

    @property
    def ratio(self) -> float:
        """The mask ratio: the share of all valid pixels that passed."""
        pixels, passed, _ = self.sums.sum(dim=1).tolist()
        return float(passed / max(pixels, 1.0))

    @property
    def ratios(self) -> tuple[float | None, ...]:
        """The mask ratio of each class: the share of its pixels that passed; None where it was not predicted."""
        pixels, passed, _ = self.sums.tolist()
        return tuple(p / n if n else None for n, p in zip(pixels, passed, strict=True))


def first_taus(recipe: Recipe, class_count: int) -> Tensor:
    """The threshold of each class at the start, float32 (C,)."""
    return torch.full((class_count,), recipe.tau if recipe.tau_mode == "fixed" else _FIRST_CLASS_TAU)


def next_taus(taus: Tensor, counts: ClassCounts, recipe: Recipe) -> Tensor:
    """With ``tau_mode`` class, thresholds follow each class's mean confidence, as CorrMatch's (Sun et al. 2024)."""
    if recipe.tau_mode == "fixed":
        return taus
    pixels, _, confidence = counts.sums
    mean = (confidence / pixels.clamp(min=1)).float()
    return torch.where(pixels > 0, _TAU_DECAY * taus + (1 - _TAU_DECAY) * mean, taus)
