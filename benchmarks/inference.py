"""What a prediction costs with the default segmenter: a patch of 256 px on one thread, a tile of 1024 px on all cores.

Weights are untrained: time does not depend on them. The tile is blended from overlapping patches. A pool is scored as
by the predict worker, but for files and rows: all that a model tells of a tile, and its regions with their embeddings;
against the network alone over the same patches in the same batches, in turns. How many regions there are does depend
on weights, so the starter scores a drawn tile, with prototypes of images and texts laid under it.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

# Run as a file: the repository's root takes the place of this folder, where `queue` is not the standard library's.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from benchmarks.report import Figure, median_ms, run
from mpamatch.datasets.drawn.wide import draw_wide_tile
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.looks import embeddings_of, regions_of
from mpamatch.domain.recipe import Recipe
from mpamatch.domain.tiling import patch_starts
from mpamatch.files.starter import starter_folder
from mpamatch.inference import Predictor
from mpamatch.network.branch import BranchShape
from mpamatch.network.encoders import encoder_record
from mpamatch.network.model import add_branch, build_segmenter
from mpamatch.network.weights import LoadedModel, ModelConfig, WorkingScale, load_model

PATCH_PX, TILE_PX, BATCH = 256, 1024, 8
TEXT_WIDTH, TAU = 384, 0.95


def untrained(reduction: float) -> LoadedModel:
    """The default segmenter as it is built, for two classes, at a working scale."""
    recipe = Recipe.for_profile("demo")
    record = encoder_record(recipe.encoder)
    classes = ClassSet.from_names(["background", "gland"])
    module = build_segmenter(record, classes.count, seed=0).eval()
    return LoadedModel(module, ModelConfig("untrained", classes, record, WorkingScale(reduction), recipe))


def with_prototypes(loaded: LoadedModel) -> LoadedModel:
    """The model with a branch as the default method makes it: random rows and texts."""
    recipe, classes = Recipe.for_profile("demo"), loaded.config.classes.count
    shape = BranchShape(recipe.embedding_channels, recipe.prototypes_per_class, TEXT_WIDTH)
    add_branch(loaded.module, shape, seed=1)
    branch, generator = loaded.module.branch, torch.Generator().manual_seed(2)
    assert branch is not None
    assert branch.bank is not None
    rows = torch.randn(branch.bank.rows.shape, generator=generator)
    branch.bank.rows.copy_(torch.nn.functional.normalize(rows, dim=-1))
    branch.bank.active.fill_(True)
    branch.text_vectors.copy_(torch.randn(classes, TEXT_WIDTH, generator=generator))
    loaded.module.eval()
    return loaded


@torch.inference_mode()
def bare_loop(loaded: LoadedModel, patches: torch.Tensor) -> None:
    """The network over the patches of a tile, in the batches of a predictor, and nothing else."""
    for batch in patches.split(BATCH):
        loaded.module(batch)


def pool_against_bare_loop(repeats: int) -> Figure:
    """Tiles a second of scoring over tiles a second of the network alone, the median over turns.

    All on one thread, where it is work that is compared and not how well it spreads.
    """
    torch.set_num_threads(1)
    tile = draw_wide_tile(0, 0, TILE_PX).image
    loaded = with_prototypes(load_model(starter_folder()))
    predictor = Predictor(loaded, batch=BATCH)
    reduction = predictor.reduction(tile)
    side = round(TILE_PX / reduction)
    corners = patch_starts(side, PATCH_PX, PATCH_PX // 2)
    patches = torch.randn(len(corners) ** 2, 3, PATCH_PX, PATCH_PX).to(memory_format=torch.channels_last)

    def score() -> None:
        look = predictor.look(tile)
        embeddings_of(look, regions_of(look, tile, TAU, reduction=reduction))

    turns = [
        (median_ms(score, repeats=1), median_ms(lambda: bare_loop(loaded, patches), repeats=1)) for _ in range(repeats)
    ]
    regions = len(regions_of(predictor.look(tile), tile, TAU, reduction=reduction))
    ratio = statistics.median(bare / scored for scored, bare in turns)
    what = f"the network alone over the same {len(patches)} patches in the same run; {regions} regions; one thread"
    return Figure(ratio, "x (at least)", 0.85, what)


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
        "pool_tiles_x_bare_loop": pool_against_bare_loop(repeats),
    }


if __name__ == "__main__":
    run(measure, __doc__)
