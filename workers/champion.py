"""Loaded models by their row, the latest few: a champion is swapped by asking for another id."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from pathlib import Path

from backend.store.blobs import BlobFolder
from mpamatch.files.model_archive import unpack_model
from mpamatch.inference import Predictor
from mpamatch.network.weights import load_model

KEPT = 3


class LoadedModels:
    """Predictors by model blob; unpacked into a cache folder, which may be deleted at any time."""

    def __init__(self, blobs: BlobFolder, cache: Path, device: str) -> None:
        self._blobs = blobs
        self._cache = cache
        self._device = device
        self._loaded: OrderedDict[str, Predictor] = OrderedDict()

    def predictor(self, blob: str) -> Predictor:
        """Raises NotFound or BadInput when the blob is missing or damaged."""
        if blob in self._loaded:
            self._loaded.move_to_end(blob)
            return self._loaded[blob]
        predictor = Predictor(load_model(self._unpacked(blob), self._device))
        self._loaded[blob] = predictor
        while len(self._loaded) > KEPT:
            self._loaded.popitem(last=False)
        return predictor

    def _unpacked(self, blob: str) -> Path:
        folder = self._cache / blob
        shutil.rmtree(folder, ignore_errors=True)  # a torn cache from a killed worker must not be trusted
        self._blobs.get(blob)  # checks the hash
        folder.parent.mkdir(parents=True, exist_ok=True)
        unpack_model(self._blobs.path(blob), folder)
        return folder
