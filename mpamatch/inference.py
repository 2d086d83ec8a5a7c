"""A model and an image -> class probabilities: working scale, overlapping patches, blending, memory back-off."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mpamatch.domain.recipe import STRIDE_PX
from mpamatch.domain.tiling import PatchBlender, patch_starts
from mpamatch.errors import BadInput, Unavailable
from mpamatch.network.devices import out_of_memory, release_memory
from mpamatch.network.pixels import normalise, reduce_image
from mpamatch.network.weights import LoadedModel

LOG = logging.getLogger("mpamatch.predict")
Image = NDArray[np.uint8]
Probabilities = NDArray[np.float32]


class Predictor:
    """Probabilities of whole images from one loaded model; deterministic, no gradient.

    ``batch`` patches go through the network at once; the number is halved for good when memory runs out.
    """

    def __init__(self, loaded: LoadedModel, batch: int = 8) -> None:
        if batch < 1:
            raise BadInput("batch", f"is {batch}", "give 1 or more")
        self._module = loaded.module.eval()
        self._config = loaded.config
        self._batch = batch
        self._device = next(loaded.module.parameters()).device

    def reduction(self, image: Image, *, um_per_px: float | None = None) -> float:
        """The factor by which this image shrinks before the network."""
        known = self._config.scale.reduction_at(um_per_px)
        return self._config.recipe.reduction_for(max(image.shape[:2])) if known is None else known

    def predict(self, image: Image, *, um_per_px: float | None = None) -> Probabilities:
        """Class probabilities float32 (C, H, W), summing to 1 at each pixel, at the image's own size.

        ``image`` is uint8 (H, W, 3) RGB; ``um_per_px`` is used when the model's scale is known in micrometres.
        Raises BadInput for another shape and for a model that answers with no numbers, Unavailable when even one patch
        does not fit in memory.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise BadInput("image", f"is {image.dtype} {image.shape}", "give uint8 (height, width, 3)")
        working = reduce_image(image, self.reduction(image, um_per_px=um_per_px))
        blended = self._blend(working)
        if not np.isfinite(blended).all():  # it would read as class 0, quite sure or not at all
            raise BadInput(f"model {self._config.version}", "answers with no numbers", "train it again")
        if working.shape == image.shape:
            return blended
        whole = functional.interpolate(
            torch.from_numpy(blended)[None], size=image.shape[:2], mode="bilinear", align_corners=False
        )
        return np.ascontiguousarray(whole[0].numpy())

    def _blend(self, image: Image) -> Probabilities:
        """Probabilities at the working scale: patches at 50 % overlap, weighted by a raised cosine."""
        height_px, width_px = image.shape[:2]
        patch_px = min(self._config.recipe.patch_px, STRIDE_PX * -(-max(height_px, width_px) // STRIDE_PX))
        image = _reflect_to(image, patch_px)
        corners = [(y, x) for y in _starts(image.shape[0], patch_px) for x in _starts(image.shape[1], patch_px)]
        blender = PatchBlender(self._config.classes.count, height_px, width_px)
        done = 0
        while done < len(corners):
            chosen = corners[done : done + self._batch]
            shares = self._forward([image[y : y + patch_px, x : x + patch_px] for y, x in chosen])
            if shares is None:
                continue
            for (y, x), share in zip(chosen, shares, strict=True):
                blender.add(y, x, share)
            done += len(chosen)
        return blender.result()

    def _forward(self, patches: Sequence[Image]) -> Probabilities | None:
        """Probabilities of some patches (N, C, p, p), or None after halving the batch for want of memory."""
        try:
            with torch.inference_mode():
                x = normalise(np.stack(patches), self._config.encoder.mean, self._config.encoder.std)
                logits: Tensor = self._module(x.to(self._device, memory_format=torch.channels_last))
                return (logits.float() / self._config.temperature).softmax(dim=1).cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if self._batch == 1:
                problem = f"one patch does not fit in the memory of {self._device}"
                remedy = "free its memory, or set MPAMATCH_DEVICE=cpu"
                raise Unavailable("prediction", problem, remedy) from error
            self._batch = max(1, len(patches) // 2)
        # Only here has the error let go of what the failed pass held.
        release_memory(self._device)
        LOG.warning("out of memory on %s: %s patches at once from here on", self._device, self._batch)
        return None


def _starts(length_px: int, patch_px: int) -> tuple[int, ...]:
    return patch_starts(length_px, patch_px, patch_px // 2)


def _reflect_to(image: Image, least_px: int) -> Image:
    """The image, at least ``least_px`` on each side, continued by reflection to the right and below."""
    bottom, right = (max(0, least_px - side) for side in image.shape[:2])
    return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="reflect") if bottom or right else image
