"""Loaded models by their blob, the latest few: a champion is swapped by asking for another one."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from pathlib import Path

from backend.store.blobs import BlobStore
from mpamatch.files.model_archive import unpack_model
from mpamatch.inference import Predictor
from mpamatch.network.devices import release_memory
from mpamatch.network.weights import load_model

KEPT = 3


class LoadedModels:
    """Predictors by model blob; each is unpacked into a folder of its own, which is gone once it is loaded."""

    def __init__(self, blobs: BlobStore, cache: Path, device: str, weights_dir: Path | None = None) -> None:
        self._blobs = blobs
        self._cache = cache
        self._device = device
        self._weights_dir = weights_dir
        self._loaded: OrderedDict[str, Predictor] = OrderedDict()

    def predictor(self, blob: str) -> Predictor:
        """Raises NotFound or BadInput when the blob is missing or damaged."""
        if blob in self._loaded:
            self._loaded.move_to_end(blob)
            return self._loaded[blob]
        predictor = self._load(blob)
        self._loaded[blob] = predictor
        if len(self._loaded) > KEPT:
            self._loaded.popitem(last=False)
            release_memory(self._device)
        return predictor

    def _load(self, blob: str) -> Predictor:
        content = self._blobs.get(blob)  # checks the hash
        self._cache.mkdir(parents=True, exist_ok=True)
        # Never a folder that another worker on this state unpacks or removes at the same moment, or left torn.
        with tempfile.TemporaryDirectory(dir=self._cache, prefix=f"{blob[:12]}-") as folder:
            unpack_model(content, Path(folder) / "model")
            return Predictor(load_model(Path(folder) / "model", self._device, weights_dir=self._weights_dir))
