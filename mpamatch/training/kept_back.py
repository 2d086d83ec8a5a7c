"""How right pseudo-labels are, on patches of labelled tiles that the run does not train on.

Pool tiles have no labels, so there is no other way to see it while a run goes on. What is looked at is fixed for the
run, few, and of the size of a pool view: a look costs about as much as labelling two batches of the pool, and changes
nothing of the run. The network is in eval mode, also where the student labels the pool in the midst of its own pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpamatch.domain.classes import IGNORE
from mpamatch.network.encoders import EncoderRecord
from mpamatch.network.pixels import normalise
from mpamatch.training.evaluation import labelled_patches
from mpamatch.training.views import Tile

CHECK_EVERY = 50
"""Steps from one look to the next, as for the health of prototypes."""
_MOST_PATCHES = 8


@dataclass(frozen=True)
class PseudoLabelCheck:
    """After ``step``: the ``share`` of ``pixels`` with a label that reach tau, and the share of those that are right.

    ``accuracy`` is None where no pixel reaches tau.
    """

    step: int
    accuracy: float | None
    share: float
    pixels: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class KeptBack:
    """Patches of at most eight places, spread evenly over labelled ``tiles`` at the working scale."""

    def __init__(self, tiles: Sequence[Tile], record: EncoderRecord, crop_px: int) -> None:
        found = [patch for tile in tiles for patch in labelled_patches(tile, crop_px)]
        spread = np.linspace(0, len(found) - 1, min(_MOST_PATCHES, len(found))).round().astype(int)
        chosen = [found[index] for index in spread]
        self._patches = [(normalise(image[None], record.mean, record.std), mask) for image, mask in chosen]

    def check(self, shares_of: Callable[[Tensor], Tensor], taus: Tensor, step: int) -> PseudoLabelCheck | None:
        """One look. ``shares_of``: images (1, 3, S, S) -> probabilities (1, C, S, S) of who labels the pool; ``taus``
        float (C,). None where there is no patch.
        """
        pixels = sure = right = 0
        for image, mask in self._patches:
            confidence, classes = shares_of(image)[0].float().cpu().max(dim=0)
            truth = torch.from_numpy(mask).long()
            labelled = truth != IGNORE
            passed = (confidence >= taus[classes]) & labelled
            pixels += int(labelled.sum())
            sure += int(passed.sum())
            right += int((passed & (classes == truth)).sum())
        if not pixels:
            return None
        return PseudoLabelCheck(step, right / sure if sure else None, sure / pixels, pixels)
