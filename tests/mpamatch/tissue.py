"""Small makers of tissue and run folders for the tests of training: discs on noise, their masks, a run.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mpamatch.domain.classes import ClassSet
from mpamatch.domain.recipe import Recipe
from mpamatch.files.images import encode_png
from mpamatch.files.rasters import encode_raster

CLASSES = ClassSet.from_names(["background", "gland"])
QUICK: dict[str, Any] = {
    "encoder": "tiny",
    "crop_px": 64,
    "patch_px": 64,
    "steps_cold": 8,
    "steps_warm": 4,
    "labelled_batch": 2,
    "unlabelled_batch": 2,
    "checkpoint_every": 3,
    "report_every": 1,
}


def quick_recipe(method: str = "unimatch-ema", **knobs: Any) -> Recipe:
    return Recipe.for_profile("demo", method, **{**QUICK, **knobs})


def draw(seed: int, side_px: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """An image uint8 (S, S, 3) with one dark disc, and its mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side_px, :side_px]
    centre = rng.uniform(0.3 * side_px, 0.7 * side_px, 2)
    disc = np.hypot(y - centre[0], x - centre[1]) < side_px / 4
    image = np.where(disc[..., None], (120, 60, 130), (225, 190, 210)) + rng.normal(0, 12, (side_px, side_px, 3))
    return np.clip(image, 0, 255).astype(np.uint8), disc.astype(np.uint8)


def write_tile(folder: Path, tile: int, mask: np.ndarray | None = None, seed: int | None = None) -> dict[str, Any]:
    """A tile's files without suffixes, and its row for run.json."""
    folder.mkdir(parents=True, exist_ok=True)
    image, drawn = draw(tile if seed is None else seed)
    image_path, mask_path = folder / f"image-{tile}", folder / f"mask-{tile}"
    image_path.write_bytes(encode_png(image))
    mask_path.write_bytes(encode_raster(drawn if mask is None else mask))
    return {"tile": tile, "group": f"patient {tile}", "image": str(image_path), "mask": str(mask_path)}


def write_run(
    folder: Path,
    *,
    recipe: Recipe | None = None,
    labelled: int = 3,
    pool: int = 4,
    pool_seed: int = 100,
    seed: int = 0,
    start: Path | None = None,
    classes: ClassSet = CLASSES,
    **more: Any,
) -> Path:
    """A run folder of drawn tiles; ``pool_seed`` changes what the pool's images show and nothing else.

    ``more`` goes into the run as it is.
    """
    tiles = folder / "tiles"
    rows = [write_tile(tiles, tile) for tile in range(labelled)]
    pool_rows = [write_tile(tiles, 1000 + n, seed=pool_seed + n) for n in range(pool)]
    run = {
        "seed": seed,
        "recipe": (recipe or quick_recipe()).to_json(),
        "classes": classes.to_json(),
        "version": "test-m1",
        "labelled": rows,
        "pool": [{k: v for k, v in row.items() if k != "mask"} for row in pool_rows],
        "start": None if start is None else str(start),
        "threads": 1,
        **more,
    }
    (folder / "run.json").write_text(json.dumps(run))
    return folder
