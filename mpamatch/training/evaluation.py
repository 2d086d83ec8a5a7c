"""A model and masked images -> metrics; and the temperature that calibrates it. Reads no files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mpamatch.domain import metrics
from mpamatch.domain.classes import IGNORE, ClassSet
from mpamatch.domain.objects import class_objects
from mpamatch.domain.recipe import STRIDE_PX
from mpamatch.errors import BadInput
from mpamatch.inference import Predictor
from mpamatch.network.losses import pooled_supervised_loss
from mpamatch.network.pixels import normalise
from mpamatch.network.weights import LoadedModel, WorkingScale
from mpamatch.training.batches import as_labels
from mpamatch.training.views import Tile

_LEAST_SHARE = 1e-30
_TEMPERATURE_STEPS = 41
_MOST_PATCHES = 16
_ALWAYS = ("mdice", "foreground_dice", "miou")
_MEANS = (*_ALWAYS, "object_dice", "hd95_px")


@dataclass(frozen=True)
class ImageScore:
    """One image's name and confusion, int64 (C, C), rows truth.

    ``objects``: object Dice and Hausdorff 95 of each class but background, float64 (2, C - 1), where they were asked
    for (``mpamatch.domain.objects.class_objects``).
    """

    name: str
    confusion: NDArray[np.int64]
    objects: NDArray[np.float64] | None = None

    def to_json(self) -> dict[str, Any]:
        figures = {
            "image": self.name,
            "mdice": metrics.mean_dice(self.confusion),
            "foreground_dice": metrics.foreground_dice(self.confusion),
            "pixels": int(self.confusion.sum()),
            "miou": metrics.mean_iou(self.confusion),
        }
        if self.objects is not None:
            figures["object_dice"], figures["hd95_px"] = (metrics.known_mean(row) for row in self.objects)
        return figures


@dataclass(frozen=True)
class Evaluation:
    """Scores of a set: every image's confusion, the set's calibration table and how sure the model was.

    ``confident`` and ``confident_right`` count labelled pixels at or above tau, and those of them that are right.
    """

    classes: ClassSet
    images: tuple[ImageScore, ...]
    calibration: NDArray[np.float64]
    confident: int
    confident_right: int

    @property
    def confusion(self) -> NDArray[np.int64]:
        count = self.classes.count
        return np.sum([i.confusion for i in self.images], axis=0, dtype=np.int64) + np.zeros((count, count), np.int64)

    def to_json(self) -> dict[str, Any]:
        """The figures that others read, as fractions in 0..1 and px; nan where nothing was scored.

        Three ways of averaging: ``mdice`` and its like pool the pixels of all images, ``per_image`` scores each image
        alone, ``per_image_mean`` is the mean of those over the images that have the figure.
        """
        per_image = [i.to_json() for i in self.images]
        pooled = self.confusion
        pixels = int(pooled.sum())
        dice, iou = metrics.dice_per_class(pooled), metrics.iou_per_class(pooled)
        return {
            "images": len(self.images),
            "mdice": metrics.mean_dice(pooled),
            "miou": metrics.mean_iou(pooled),
            "foreground_dice": metrics.foreground_dice(pooled),
            "per_class": [
                {
                    "class": c.name,
                    "dice": float(dice[c.id]),
                    "iou": float(iou[c.id]),
                    "pixels": int(pooled[c.id].sum()),
                    **self._objects_of(c.id),
                }
                for c in self.classes.classes
            ],
            "predicted_classes": [int(c) for c in np.flatnonzero(pooled.sum(axis=0))],
            "per_image": per_image,
            "per_image_mean": {
                key: metrics.known_mean(row[key] for row in per_image if key in row)
                for key in _MEANS
                if key in _ALWAYS or any(key in row for row in per_image)
            },
            "ece": metrics.ece(self.calibration),
            "confident_share": self.confident / pixels if pixels else float("nan"),
            "confident_accuracy": self.confident_right / self.confident if self.confident else float("nan"),
        }

    def _objects_of(self, class_id: int) -> dict[str, float]:
        """A class's object figures, each the mean over the images that have it; empty for background, or unasked."""
        rows = [i.objects[:, class_id - 1] for i in self.images if i.objects is not None]
        if class_id == 0 or not rows:
            return {}
        return {
            "object_dice": metrics.known_mean(r[0] for r in rows),
            "hd95_px": metrics.known_mean(r[1] for r in rows),
        }


def evaluate(
    predictor: Predictor,
    classes: ClassSet,
    pairs: Iterable[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]],
    *,
    tau: float,
    um_per_px: Mapping[str, float] | None = None,
    objects: bool = False,
) -> Evaluation:
    """Score (name, image, mask) one by one, each at its mask's own size; pixels with 255 do not count.

    ``um_per_px``: the scale of the images by name, where it is known. ``objects``: object Dice and Hausdorff 95 too.
    """
    scales = um_per_px or {}
    images: list[ImageScore] = []
    calibration = np.zeros((3, metrics.CALIBRATION_BINS))
    confident = right = 0
    for name, image, mask in pairs:
        shares = predictor.predict(image, um_per_px=scales.get(name))
        guess = shares.argmax(axis=0).astype(np.uint8)
        found = class_objects(guess, mask, classes.count) if objects else None
        images.append(ImageScore(name, metrics.confusion(guess, mask, classes.count), found))
        calibration += metrics.calibration_table(shares, mask)
        sure = (shares.max(axis=0) >= tau) & (mask != IGNORE)
        confident += int(sure.sum())
        right += int((sure & (guess == mask)).sum())
    return Evaluation(classes, tuple(images), calibration, confident, right)


def labelled_loss(loaded: LoadedModel, tiles: Sequence[Tile]) -> float:
    """L_x over the labelled pixels of all ``tiles`` (at working scale) together, of what the model predicts there.

    nan without any such pixel, and where the model answers with no numbers.
    """
    predictor = Predictor(replace(loaded, config=replace(loaded.config, scale=WorkingScale(1.0))))

    def answers() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for tile in tiles:
            shares = torch.from_numpy(predictor.predict(tile.image))[None]
            yield shares.clamp(min=_LEAST_SHARE).log(), torch.from_numpy(as_labels(tile.mask))[None].long()

    try:
        return pooled_supervised_loss(answers())
    except BadInput:
        return math.nan


def fit_temperature(loaded: LoadedModel, tiles: Sequence[Tile], *, units: int) -> float:
    """The temperature, at least 1, that makes the model's confidence on ``tiles`` (at working scale) honest.

    What fits best is drawn towards 1 while it rests on few ``units`` (groups, or tiles): three tiles that a model
    gets wrong would otherwise make it unsure of everything. Never below 1, for the same reason; 1 when no pixel is
    labelled. Source of the fit: Guo et al. 2017, section 4.2.
    """
    recipe = loaded.config.recipe
    logits, truth = _labelled_logits(loaded, tiles)
    if not len(truth):
        return 1.0
    candidates = np.geomspace(1.0, recipe.temperature_max, _TEMPERATURE_STEPS)
    losses = [float(torch.nn.functional.cross_entropy(logits / t, truth)) for t in candidates]
    best = float(candidates[int(np.argmin(losses))])
    return round(best ** (units / (units + recipe.temperature_prior_units)), 4) if units else 1.0


def _labelled_logits(loaded: LoadedModel, tiles: Sequence[Tile]) -> tuple[torch.Tensor, torch.Tensor]:
    record, patch_px = loaded.config.encoder, loaded.config.recipe.patch_px
    device = next(loaded.module.parameters()).device
    found = [(torch.empty(0, loaded.config.classes.count), torch.empty(0, dtype=torch.int64))]
    for image, mask in [p for tile in tiles for p in _patches(tile, patch_px)][:_MOST_PATCHES]:
        x = normalise(image[None], record.mean, record.std).to(device, memory_format=torch.channels_last)
        with torch.inference_mode():
            logits = loaded.module(x)[0].float().cpu()
        seen = torch.from_numpy(mask != IGNORE)
        found.append((logits.permute(1, 2, 0)[seen][::4], torch.from_numpy(mask).long()[seen][::4]))
    return torch.cat([a for a, _ in found]), torch.cat([b for _, b in found])


def labelled_patches(tile: Tile, patch_px: int) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """The patches of a tile with a label in them: images uint8 (S, S, 3) and masks uint8 (S, S)."""
    return [(image, mask) for image, mask in _patches(tile, patch_px) if (mask != IGNORE).any()]


def _patches(tile: Tile, patch_px: int) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """The tile in patches side by side, each continued by reflection to sides the network takes; pad is unlabelled.

    So is where a person could not tell.
    """
    height_px, width_px = tile.mask.shape
    side_px = min(patch_px, STRIDE_PX * -(-max(height_px, width_px) // STRIDE_PX))
    patches = []
    for y in range(0, height_px, side_px):
        for x in range(0, width_px, side_px):
            image, mask = tile.image[y : y + side_px, x : x + side_px], tile.mask[y : y + side_px, x : x + side_px]
            rest = ((0, side_px - mask.shape[0]), (0, side_px - mask.shape[1]))
            image = np.pad(image, (*rest, (0, 0)), mode="reflect")
            patches.append((image, np.pad(as_labels(mask), rest, constant_values=IGNORE)))
    return patches
