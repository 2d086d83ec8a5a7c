"""What a prediction costs with the default segmenter: a patch of 256 px on one thread, a tile of 1024 px on all cores.

Weights are untrained: time does not depend on them. The tile is blended from overlapping patches.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch

# Benchmarks are run as files; the repository's root is then not on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import Figure, median_ms, run
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.recipe import Recipe
from mpamatch.inference import Predictor
from mpamatch.network.encoders import encoder_record
from mpamatch.network.model import build_segmenter
from mpamatch.network.weights import LoadedModel, ModelConfig, WorkingScale

PATCH_PX, TILE_PX = 256, 1024


def untrained(reduction: float) -> LoadedModel:
    """The default segmenter as it is built, for two classes, at a working scale."""
    recipe = Recipe.for_profile("demo")
    record = encoder_record(recipe.encoder)
    classes = ClassSet.from_names(["background", "gland"])
    module = build_segmenter(record, classes.count, seed=0).eval()
    return LoadedModel(module, ModelConfig("untrained", classes, record, WorkingScale(reduction), recipe))


def measure(repeats: int = 5) -> dict[str, Figure]:
    rng = np.random.default_rng(0)
    patch, tile = (rng.integers(0, 255, (side, side, 3), dtype=np.uint8) for side in (PATCH_PX, TILE_PX))
    full = Predictor(untrained(1.0))
    reduced = Predictor(untrained(Recipe.for_profile("demo").reduction_for(TILE_PX)))
    torch.set_num_threads(1)
    patch_ms = median_ms(lambda: full.predict(patch), repeats=repeats)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    reduced_ms = median_ms(lambda: reduced.predict(tile), repeats=repeats)
    full_ms = median_ms(lambda: full.predict(tile), repeats=repeats)
    scale = f"at 1/{reduced.reduction(tile):g} of its size, as training chooses where the scale is unknown; all cores"
    return {
        "patch_256_ms": Figure(patch_ms, "ms", 150.0, "one patch, one thread"),
        "tile_1024_s": Figure(reduced_ms / 1000, "s", 1.5, scale),
        "tile_1024_full_size_s": Figure(
            full_ms / 1000, "s", None, "at its own size, 49 overlapping patches; all cores"
        ),
    }


if __name__ == "__main__":
    run(measure, __doc__)
