"""A trained model's figures on masked images at the scale that it was trained at: the one way all cells are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpamatch.datasets import DatasetItem
from mpamatch.errors import Cancelled
from mpamatch.files.images import read_image
from mpamatch.inference import Predictor
from mpamatch.network.pixels import reduce_image, reduce_mask
from mpamatch.network.weights import LoadedModel, WorkingScale
from mpamatch.training.evaluation import Evaluation, evaluate

Pixels = NDArray[np.uint8]
Masked = tuple[DatasetItem, Pixels]
"""An image, and what of its mask counts: class ids (H, W) at the image's own size, 255 where it does not."""


def score_at_working_scale(
    loaded: LoadedModel, masked: Iterable[Masked], *, tau: float, stop: Callable[[], bool]
) -> dict[str, Any]:
    """Figures of a set and every image's confusion; images and masks are shrunk by the model's reduction.

    Raises Cancelled when ``stop`` says so.
    """
    reduction = loaded.config.scale.reduction or 1.0
    # Images are shrunk here, masks alike; the model is not to shrink them again.
    predictor = Predictor(LoadedModel(loaded.module, replace(loaded.config, scale=WorkingScale(1.0))))

    def pairs() -> Iterator[tuple[str, Pixels, Pixels]]:
        for item, mask in masked:
            if stop():
                raise Cancelled(loaded.config.version, "stopped while it was scored", "start it again to resume")
            yield item.name, reduce_image(read_image(item.image), reduction), reduce_mask(mask, reduction)

    return _figures(evaluate(predictor, loaded.config.classes, pairs(), tau=tau))


def _figures(done: Evaluation) -> dict[str, Any]:
    values = done.to_json()
    per_image = [row["foreground_dice"] for row in values["per_image"] if row["foreground_dice"] is not None]
    known = [value for value in per_image if not np.isnan(value)]
    names = ("images", "mdice", "foreground_dice", "ece", "confident_share", "confident_accuracy")
    return {
        **{name: values[name] for name in names},
        "image_foreground_dice": float(np.mean(known)) if known else float("nan"),
        "per_image": [{"image": one.name, "confusion": one.confusion.tolist()} for one in done.images],
    }
