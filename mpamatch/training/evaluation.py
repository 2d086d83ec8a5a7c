"""A model and masked images -> metrics; and the temperature that calibrates it. Reads no files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mpamatch.domain import metrics
from mpamatch.domain.classes import IGNORE, ClassSet
from mpamatch.domain.recipe import STRIDE_PX
from mpamatch.inference import Predictor
from mpamatch.network.pixels import normalise
from mpamatch.network.weights import LoadedModel
from mpamatch.training.views import Tile

_TEMPERATURE_STEPS = 41
_MOST_PATCHES = 16


@dataclass(frozen=True)
class ImageScore:
    """One image's name and confusion, int64 (C, C), rows truth."""

    name: str
    confusion: NDArray[np.int64]


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
        """The figures that others read, as fractions in 0..1; nan where nothing was scored."""
        pooled = self.confusion
        pixels = int(pooled.sum())
        dice, iou = metrics.dice_per_class(pooled), metrics.iou_per_class(pooled)
        return {
            "images": len(self.images),
            "mdice": metrics.mean_dice(pooled),
            "miou": metrics.mean_iou(pooled),
            "foreground_dice": metrics.foreground_dice(pooled),
            "per_class": [
                {"class": c.name, "dice": float(dice[c.id]), "iou": float(iou[c.id]), "pixels": int(pooled[c.id].sum())}
                for c in self.classes.classes
            ],
            "per_image": [
                {
                    "image": i.name,
                    "mdice": metrics.mean_dice(i.confusion),
                    "foreground_dice": metrics.foreground_dice(i.confusion),
                    "pixels": int(i.confusion.sum()),
                }
                for i in self.images
            ],
            "ece": metrics.ece(self.calibration),
            "confident_share": self.confident / pixels if pixels else float("nan"),
            "confident_accuracy": self.confident_right / self.confident if self.confident else float("nan"),
        }


def evaluate(
    predictor: Predictor,
    classes: ClassSet,
    pairs: Iterable[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]],
    *,
    tau: float,
) -> Evaluation:
    """Score (name, image, mask) one by one, each at its mask's own size; pixels with 255 do not count."""
    images: list[ImageScore] = []
    calibration = np.zeros((3, metrics.CALIBRATION_BINS))
    confident = right = 0
    for name, image, mask in pairs:
        shares = predictor.predict(image)
        guess = shares.argmax(axis=0).astype(np.uint8)
        images.append(ImageScore(name, metrics.confusion(guess, mask, classes.count)))
        calibration += metrics.calibration_table(shares, mask)
        sure = (shares.max(axis=0) >= tau) & (mask != IGNORE)
        confident += int(sure.sum())
        right += int((sure & (guess == mask)).sum())
    return Evaluation(classes, tuple(images), calibration, confident, right)


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


def _patches(tile: Tile, patch_px: int) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """The tile in patches side by side, each continued by reflection to sides the network takes; pad is unlabelled."""
    height_px, width_px = tile.mask.shape
    side_px = min(patch_px, STRIDE_PX * -(-max(height_px, width_px) // STRIDE_PX))
    patches = []
    for y in range(0, height_px, side_px):
        for x in range(0, width_px, side_px):
            image, mask = tile.image[y : y + side_px, x : x + side_px], tile.mask[y : y + side_px, x : x + side_px]
            rest = ((0, side_px - mask.shape[0]), (0, side_px - mask.shape[1]))
            image = np.pad(image, (*rest, (0, 0)), mode="reflect")
            patches.append((image, np.pad(mask, rest, constant_values=IGNORE)))
    return patches
