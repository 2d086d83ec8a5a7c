"""A hidden pool of drawn tissue without files, and what a model would say of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpamatch.datasets import phantom
from mpamatch.domain.looks import Look, regions_of
from mpamatch.domain.tiling import Box
from mpamatch.experiments.protocol import Division, divide
from mpamatch.experiments.simulation.hidden_pool import HiddenPool
from mpamatch.experiments.simulation.looking import Seen, embeddings_of_boxes

SIDE_PX, BOX_PX = 128, 32


def division_at(folder: Path, tiles: int = 8) -> Division:
    phantom.write_folder(folder, tiles=tiles, groups=4, size_px=SIDE_PX)
    return divide(phantom.open_phantom(folder), None, 0)


def seen_of(pool: HiddenPool, known: dict[int, list[Box]] | None = None) -> list[Seen]:
    """Of a model that is right but in the lowest rows, where it sees nothing, and unsure in a square of each image."""
    found = []
    for tile in range(len(pool)):
        truth = pool.truth(tile)
        foreground = np.where(truth == 1, 0.99, 0.01).astype(np.float32)
        foreground[30:80, 40:90] = 0.45 + 0.02 * tile
        foreground[-20:] = 0.01
        shares = np.stack([1 - foreground, foreground])
        tokens = np.random.default_rng(tile).standard_normal((5, 4, 4)).astype(np.float32)
        look = Look(shares, tokens)
        boxes = (known or {}).get(tile, [])
        reviewed = np.zeros(truth.shape, bool)
        for box in boxes:
            reviewed[box.y_px : box.y_px + box.height_px, box.x_px : box.x_px + box.width_px] = True
        regions = regions_of(look, pool.image(tile), 0.95, reduction=1.0, reviewed=reviewed, box_side_px=BOX_PX)
        predicted = shares.argmax(axis=0).astype(np.uint8)
        found.append(Seen(predicted, regions, (float("nan"),) * len(regions), embeddings_of_boxes(look, boxes)))
    return found
