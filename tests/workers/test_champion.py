"""Loaded models: two workers that load one at the same moment, and memory that comes back."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from backend.store.blobs import BlobFolder
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.recipe import Recipe
from mpamatch.files.model_archive import pack_model
from mpamatch.network.encoders import encoder_record
from mpamatch.network.model import build_segmenter
from mpamatch.network.weights import ModelConfig, WorkingScale, save_model
from tests.flows.untrained import untrained_model
from tests.mpamatch.tissue import CLASSES
from workers import champion
from workers.champion import KEPT, LoadedModels

pytestmark = pytest.mark.torch


def test_two_workers_that_load_one_model_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path / "blobs")
    blob = blobs.put(untrained_model(ClassSet.from_names(["background", "gland"])))
    image = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    ready = threading.Barrier(4)

    def load(_: int) -> np.ndarray:
        ready.wait()
        return LoadedModels(blobs, tmp_path / "cache", "cpu").predictor(blob).predict(image)

    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            first, *others = pool.map(load, range(4))
        assert all(np.array_equal(first, other) for other in others)
    assert list((tmp_path / "cache").iterdir()) == [], "nothing is left behind"


def _store(blobs: BlobFolder, folder: Path, version: str) -> str:
    record = encoder_record("tiny")
    recipe = Recipe.for_profile("quick", encoder="tiny")
    config = ModelConfig(version, CLASSES, record, WorkingScale(), recipe)
    save_model(folder / version, build_segmenter(record, 2, seed=0, pretrained=False), config)
    return blobs.put(pack_model(folder / version))


def test_a_model_that_makes_room_for_another_is_gone_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[str] = []
    monkeypatch.setattr(champion, "release_memory", lambda device: released.append(device))
    blobs = BlobFolder(tmp_path / "blobs")
    names = [_store(blobs, tmp_path, f"m{n}") for n in range(KEPT + 2)]
    models = LoadedModels(blobs, tmp_path / "cache", "cpu")
    seen = [weakref.ref(models.predictor(name)._module) for name in names]
    assert [ref() is None for ref in seen] == [True, True, *[False] * KEPT]
    assert released == ["cpu", "cpu"]
    assert models.predictor(names[-1])._module is seen[-1]()
