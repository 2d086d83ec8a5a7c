"""A packed model with weights that nobody trained."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mpamatch.domain.classes import ClassSet
from mpamatch.domain.recipe import Recipe
from mpamatch.files.model_archive import pack_model
from mpamatch.network.encoders import encoder_record
from mpamatch.network.model import build_segmenter
from mpamatch.network.weights import ModelConfig, WorkingScale, save_model


def untrained_model(classes: ClassSet, *, seed: int = 0) -> bytes:
    """The archive of such a model, as a run would have left it; another seed, other weights."""
    record = encoder_record("tiny")
    config = ModelConfig(
        version="untrained",
        classes=classes,
        encoder=record,
        scale=WorkingScale(),
        recipe=Recipe.for_profile("quick", encoder="tiny"),
    )
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", build_segmenter(record, classes.count, seed=seed, pretrained=False), config)
        return pack_model(Path(folder) / "model")
