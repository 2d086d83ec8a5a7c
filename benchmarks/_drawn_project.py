"""A ranked project of drawn tissue whose champion has seen every tile; not connected yet.

Not a benchmark itself. Few pictures serve many tiles: drawing one of 1024 px takes seconds, and nothing measured here
reads its pixels. Each tile has a prediction of its own: the drawn glands, frayed along their outlines as a young model
draws them, so that masks and regions have the size of real ones.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from backend.actions.rank_queue import rank_queue
from backend.store.blobs import BlobStore
from backend.store.sessions import Database
from backend.store.tables import Image, Tile
from benchmarks._served_project import add_project, keep_answer
from mpamatch.datasets.phantom import CLASS_NAMES, draw_tile
from mpamatch.domain.policy import Policy
from mpamatch.files.images import encode_png

VERSION = "bench-m1"
TILES_PER_IMAGE = 8
FRAY_PX, SMOOTH_PX = 5.0, 3.0


def make_project(
    database: Database, blobs: BlobStore, *, tiles: int, pictures: int, side_px: int, head_size: int
) -> int:
    """The id of the project. Raises RuntimeError when there was nothing to rank."""
    drawn = [draw_tile(number, size_px=side_px, group=number) for number in range(pictures)]
    png_blobs = [blobs.put(encode_png(image)) for image, _ in drawn]
    project_id, model_id, tile_ids = _rows(database, png_blobs, tiles, side_px, Policy(head_size=head_size))
    fray = _noise(side_px)
    rng = np.random.default_rng(1)
    for number, tile_id in enumerate(tile_ids):
        shifted = np.roll(fray, rng.integers(0, side_px, 2), axis=(0, 1))
        probabilities = _frayed(drawn[number % pictures][1], shifted)
        keep_answer(database, blobs, tile_id, model_id, probabilities)
    if not rank_queue(database, project_id, blobs=blobs):
        raise RuntimeError("there was nothing to rank")
    return project_id


def _rows(
    database: Database, png_blobs: list[str], tiles: int, side_px: int, policy: Policy
) -> tuple[int, int, list[int]]:
    """Project, champion and tiles; all train, since the audit split is no matter of the order."""
    with database.transaction() as session:
        project, model = add_project(session, CLASS_NAMES, VERSION, policy)
        rows = []
        for number in range(-(-tiles // TILES_PER_IMAGE)):
            name = f"image-{number}"
            image = Image(
                project_id=project.id,
                uri=name,
                sha256=hashlib.sha256(name.encode()).hexdigest(),
                width_px=TILES_PER_IMAGE * side_px,
                height_px=side_px,
                um_per_px=0.5,
                group_name=f"case-{number // 2}",
                split="train",
                state="ready",
            )
            session.add(image)
            session.flush()
            rows += [
                Tile(
                    project_id=project.id,
                    image_id=image.id,
                    x_px=place * side_px,
                    y_px=0,
                    width_px=side_px,
                    height_px=side_px,
                    scale=1.0,
                    tissue_share=0.8,
                    png_blob=png_blobs[(number * TILES_PER_IMAGE + place) % len(png_blobs)],
                )
                for place in range(min(TILES_PER_IMAGE, tiles - number * TILES_PER_IMAGE))
            ]
        session.add_all(rows)
        session.flush()
        return project.id, model.id, [tile.id for tile in rows]


def _noise(side_px: int) -> npt.NDArray[np.float32]:
    """Smooth noise without seams, float32 (side_px, side_px), of unit deviation."""
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.standard_normal((side_px, side_px)), FRAY_PX, mode="wrap")
    return (noise / noise.std()).astype(np.float32)


def _frayed(mask: npt.NDArray[np.uint8], fray: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Float32 (2, H, W) of probabilities: sure inside and outside of the glands, torn between along the outline."""
    inside = ndimage.gaussian_filter(mask.astype(np.float32), SMOOTH_PX) - 0.5
    gland = 1.0 / (1.0 + np.exp(-(12.0 * inside + 2.0 * fray)))
    return np.stack([1.0 - gland, gland]).astype(np.float32)
