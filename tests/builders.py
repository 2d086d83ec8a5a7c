"""Small makers of tissue, masks and rows for tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.actions.keep_prediction import keep_prediction
from backend.actions.register_images import RegisterItem, register
from backend.store import projects
from backend.store.blobs import BlobFolder, BlobStore
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Image, Model, Project, Tile
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy
from mpamatch.domain.tiling import Box
from mpamatch.files.images import encode_png
from mpamatch.files.masks import write_mask

SIZE = 64


def disc(size: int = SIZE, x: int = 32, y: int = 32, radius: int = 14) -> np.ndarray:
    """A mask with one disc of class 1."""
    rows, columns = np.mgrid[:size, :size]
    return ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2).astype(np.uint8)


def picture(seed: int, size: int = SIZE) -> np.ndarray:
    """An image that no other seed makes."""
    return np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)


@dataclass
class Installation:
    """A database with one project, its blobs and keys."""

    database: Database
    blobs: BlobFolder
    keys: KeyRing
    folder: Path
    project_id: int = 0

    def project(self) -> Project:
        with self.database.transaction() as session:
            return projects.get(session, self.project_id)

    def tiles(self, split: str | None = None) -> list[Tile]:
        with self.database.transaction() as session:
            query = session.query(Tile).join(Image, Image.id == Tile.image_id).order_by(Tile.id)
            query = query.filter(Tile.project_id == self.project_id)
            return list(query if split is None else query.filter(Image.split == split))


def installation(
    database_url: str,
    folder: Path,
    *,
    train: int = 6,
    audit: int = 4,
    masked: bool = False,
    policy: Policy | None = None,
    blobs: BlobStore | None = None,
    title: str = "Test glands",
) -> Installation:
    """A project with one image per group; audit groups are fixed, masks optional."""
    database = Database(database_url)
    kept: Any = blobs or BlobFolder(folder / "blobs")
    made = Installation(database, kept, KeyRing.at(folder / "key"), folder)
    with database.transaction() as session:
        made.project_id = projects.create(
            session,
            title=title,
            classes=ClassSet.from_names(["background", "gland"]),
            policy=policy or Policy(debounce_s=0),
            seed=1,
        ).id
    add_images(made, train=train, audit=audit, masked=masked)
    return made


def add_images(made: Installation, *, train: int, audit: int, masked: bool, first: int = 0) -> Any:
    """Register more images, named by their number."""
    items = []
    for number in range(first, first + train + audit):
        path = made.folder / f"image-{number}.png"
        path.write_bytes(encode_png(picture(number)))
        mask = None
        if masked:
            mask = made.folder / f"mask-{number}.png"
            mask.write_bytes(write_mask(disc(x=20 + number % 20)))
        split = "train" if number - first < train else "audit"
        items.append(RegisterItem(path=path, group=f"case-{number}", mask=mask, split=split))
    return register(made.database, made.blobs, made.project_id, items)


def predict_all(
    made: Installation,
    model: Model,
    class_map: np.ndarray | None = None,
    confidence: float = 0.6,
    region_count: int = 1,
) -> None:
    """Predictions of one model for every tile, without computing any: regions around the middle each."""
    from mpamatch.domain.regions import Region

    class_map = disc() if class_map is None else class_map
    region = Region(
        box=Box(10, 10, 20, 20),
        rings=(((10.0, 10.0), (30.0, 10.0), (30.0, 30.0), (10.0, 30.0), (10.0, 10.0)),),
        area_px=400,
        uncertainty=0.5,
        margin=0.2,
        impurity=0.3,
        disagreement=0.0,
        predicted_class=1,
        mean_confidence=confidence,
    )
    regions = () if model.kind == "blank" else (region,) * region_count
    for tile in made.tiles():
        keep_prediction(
            made.database,
            made.blobs,
            tile_id=tile.id,
            model_id=model.id,
            class_map=class_map if model.kind != "blank" else np.zeros_like(class_map),
            confidence=np.full(class_map.shape, confidence, np.float32),
            regions=regions,
        )


def add_model(made: Installation, version: str, state: str = "candidate", run_id: int | None = None) -> Model:
    """A trained model's row; its weights are of no matter here."""
    with made.database.transaction() as session:
        model = Model(
            project_id=made.project_id, version=version, kind="trained", state=state, blob=None, run_id=run_id
        )
        session.add(model)
        session.flush()
        return model
