"""A project with a large pool, made of rows alone: tiles with predictions and regions, some labelled, none with pixels.

Not a benchmark itself. Regions have outlines of some thirty corners and factors as trained models show them; tiles have
embeddings in blobs, of which many tiles share one: how a blob is read does not depend on how often it was read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import text

from backend.store.blobs import BlobStore
from backend.store.sessions import Database
from benchmarks._served_project import add_project
from mpamatch.files.embeddings import encode_embeddings

REGIONS_PER_TILE = 4
TILES_PER_IMAGE = 25
IMAGES_PER_GROUP = 20
CLASSES = ("background", "gland", "stroma", "necrosis", "vessel")
# Pixel embeddings and deepest features of the light segmenter, side by side.
EMBEDDING_CHANNELS = 64 + 320
BLOBS = 500
VERSION = "bench-m1"

# A ragged outline around (256, 256), of 32 corners, as a polygon's JSON.
_OUTLINE = """
SELECT jsonb_build_array(jsonb_agg(jsonb_build_array(
    round((256 + (40 + 9 * (c % 3)) * cos(c * pi() / 16))::numeric, 2),
    round((256 + (40 + 9 * (c % 5)) * sin(c * pi() / 16))::numeric, 2)) ORDER BY c))
FROM generate_series(0, 32) c
"""

_ROWS = (
    """
    INSERT INTO image (id, project_id, uri, sha256, width_px, height_px, um_per_px, group_name, split, state)
    SELECT n, :project, 'image-' || n, md5(n::text), 5120, 5120, 0.5, 'case-' || (n / :images_per_group),
           CASE WHEN (n / :images_per_group) % 5 = 4 THEN 'audit' ELSE 'train' END, 'ready'
    FROM generate_series(1, (CAST(:tiles AS bigint) - 1) / :tiles_per_image + 1) n
    """,
    """
    INSERT INTO tile (id, project_id, image_id, x_px, y_px, width_px, height_px, scale, tissue_share, png_blob,
                      look_hash)
    SELECT n, :project, (n - 1) / :tiles_per_image + 1, (n - 1) % :tiles_per_image % 5 * 1024,
           (n - 1) % :tiles_per_image / 5 * 1024, 1024, 1024, 1.0, 0.8, 'none', hashint8extended(n, 7)
    FROM generate_series(1, :tiles) n
    """,
    """
    INSERT INTO prediction (id, tile_id, model_id, class_blob, confidence_blob, embeddings_blob, class_areas)
    SELECT n, n, :model, 'none', 'none', (CAST(:blobs AS text[]))[1 + n % :blob_count],
           jsonb_build_object('0', 1048576 - n % 9 * 50000, '1', n % 9 * 50000)
    FROM generate_series(1, :tiles) n
    """,
    f"""
    INSERT INTO region (prediction_id, x_px, y_px, width_px, height_px, polygon, area_px, uncertainty, margin,
                        impurity, disagreement, mean_confidence, predicted_class, perimeter_px, class_scores)
    SELECT (n - 1) / :regions_per_tile + 1, 200, 200, 110, 110, o.polygon, (64 + random() ^ 3 * 20000)::int,
           random() * 0.9, random() * 0.8, random() ^ 2, random() ^ 3, 0.4 + random() * 0.55, (random() * 4)::int,
           100 + random() * 600, ARRAY[random(), random(), random(), random(), random()]::real[]
    FROM generate_series(1, :tiles * CAST(:regions_per_tile AS bigint)) n, ({_OUTLINE.strip()}) o(polygon)
    """,  # noqa: S608 - a constant of this file
    """
    INSERT INTO mask (tile_id, version, origin, blob, reviewed_share)
    SELECT id, 1, 'annotated', 'none', 1.0 FROM tile WHERE id % 101 = 0 AND project_id = :project
    """,
    """
    INSERT INTO annotation (project_id, tile_id, ls_annotation_id, ls_task_id, result_blob, updated_at, state)
    SELECT :project, id, id, id, 'none', now(), 'present' FROM tile WHERE id % 101 = 0 AND project_id = :project
    """,
)


@dataclass(frozen=True)
class LargeQueue:
    """One project of ``tiles`` tiles whose champion has seen them all; not ranked yet."""

    project_id: int
    tiles: int

    @property
    def regions(self) -> int:
        return self.tiles * REGIONS_PER_TILE


def make_rows(database: Database, blobs: BlobStore, tiles: int) -> LargeQueue:
    """Fill an empty database."""
    names = _embeddings(blobs)
    with database.transaction() as session:
        project, model = add_project(session, CLASSES, VERSION)
        values: dict[str, Any] = {
            "project": project.id,
            "model": model.id,
            "tiles": tiles,
            "tiles_per_image": TILES_PER_IMAGE,
            "images_per_group": IMAGES_PER_GROUP,
            "regions_per_tile": REGIONS_PER_TILE,
            "blobs": names,
            "blob_count": len(names),
        }
        for words in _ROWS:
            session.execute(text(words), values)
        made = LargeQueue(project.id, tiles)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return made


def _embeddings(blobs: BlobStore) -> list[str]:
    """Blobs of embeddings (1 + regions, D): the whole tile, then its regions."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(BLOBS, 1 + REGIONS_PER_TILE, EMBEDDING_CHANNELS))
    return [blobs.put(encode_embeddings(one)) for one in rows]
