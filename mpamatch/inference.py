"""A model and an image -> class probabilities: working scale, overlapping patches, blending, memory back-off."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mpamatch.domain.looks import Look
from mpamatch.domain.recipe import STRIDE_PX
from mpamatch.domain.signals import bald
from mpamatch.domain.tiling import CellBlender, PatchBlender, patch_starts
from mpamatch.errors import BadInput, Unavailable
from mpamatch.network.devices import out_of_memory, release_memory
from mpamatch.network.looking import channel_keeps, look_at, look_at_cells, look_with_dropout
from mpamatch.network.pixels import normalise, reduce_image
from mpamatch.network.weights import LoadedModel

LOG = logging.getLogger("mpamatch.predict")
Image = NDArray[np.uint8]
Probabilities = NDArray[np.float32]
Run = Callable[[Tensor], dict[str, Tensor]]
"""Normalised patches (N, 3, p, p) -> answers by name, each (N, ...)."""


@dataclass(frozen=True)
class _Patch:
    """A square of an image at the working scale, its corner and side, and what the network answers there."""

    y_px: int
    x_px: int
    side_px: int
    answers: dict[str, Probabilities]


class Predictor:
    """What one loaded model says of whole images; deterministic, no gradient.

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
        working = self._working(image, um_per_px)
        blender = PatchBlender(self._config.classes.count, *working.shape[:2])
        for patch in self._patches(working, lambda x: {"shares": self._softened(self._module(x))}):
            blender.add(patch.y_px, patch.x_px, patch.answers["shares"])
        return _at_size(self._numbers(blender.result()), image)

    def look(self, image: Image, *, um_per_px: float | None = None) -> Look:
        """All that a model tells of an image in the same pass: the probabilities of :meth:`predict`, and beside them
        the encoder's deepest features, its embeddings, and what its prototypes say of these.

        What embeddings are made of is blended over patches as probabilities are, and then embedded once. Raises as
        :meth:`predict` does.
        """
        working = self._working(image, um_per_px)

        def run(x: Tensor) -> dict[str, Tensor]:
            seen = look_at(self._module, x, self._config.temperature)
            return {name: one for name, one in vars(seen).items() if one is not None}

        blender = PatchBlender(self._config.classes.count, *working.shape[:2])
        cells: dict[str, CellBlender] = {}
        for patch in self._patches(working, run):
            blender.add(patch.y_px, patch.x_px, patch.answers.pop("probabilities"))
            for name, answer in patch.answers.items():
                one = cells.setdefault(name, CellBlender(*working.shape[:2]))
                one.add(patch.y_px, patch.x_px, patch.side_px, answer)
        shares = self._numbers(blender.result())
        quarter = cells["quarter"].result() if "quarter" in cells else None
        return Look(
            probabilities=_at_size(shares, image),
            tokens=self._numbers(cells["tokens"].result()),
            **({} if quarter is None else self._of_cells(shares, quarter)),
        )

    def _of_cells(self, shares: Probabilities, quarter: Probabilities) -> dict[str, Probabilities]:
        """What is known of each cell, by its name in a look."""
        assert self._module.branch is not None
        feature = torch.from_numpy(quarter)[None].to(self._device, memory_format=torch.channels_last)
        temperature = self._config.recipe.prototype_temperature
        told = vars(look_at_cells(self._module.branch, feature, temperature))
        maps = {name: self._numbers(one[0].contiguous().cpu().numpy()) for name, one in told.items() if one is not None}
        pooled = functional.adaptive_avg_pool2d(torch.from_numpy(shares)[None], quarter.shape[1:])
        return maps | {"shares": pooled[0].numpy()}

    def second_look(
        self,
        image: Image,
        *,
        um_per_px: float | None = None,
        passes: int = 8,
        dropout: float = 0.1,
        seed: int = 0,
    ) -> NDArray[np.float32]:
        """What the model could learn from a label (BALD), float32 (h, w) in 0..1 in cells of a quarter.

        ``passes`` decoders with a share ``dropout`` of the channels of their first blocks dropped go over one pass of
        the encoder. Which channels is drawn from ``seed`` alone, so each pass is one network for all images; without
        dropout the answer is 0 everywhere. Costs several times what a look does. Raises as :meth:`predict` does, and
        BadInput for a dropout outside 0 to 1 or no pass.
        """
        if not 0 <= dropout < 1 or passes < 1:
            raise BadInput("second look", f"has {passes} passes at dropout {dropout}", "use the defaults")
        working = self._working(image, um_per_px)
        keeps = channel_keeps(self._config.encoder, passes, dropout, seed)
        blender = CellBlender(*working.shape[:2])

        def run(x: Tensor) -> dict[str, Tensor]:
            return {"drawn": look_with_dropout(self._module, x, self._config.temperature, keeps)}

        for patch in self._patches(working, run):
            gain = bald(self._numbers(patch.answers["drawn"]))
            cells = gain.reshape(gain.shape[0] // 2, 2, gain.shape[1] // 2, 2).mean(axis=(1, 3))
            blender.add(patch.y_px, patch.x_px, patch.side_px, cells[None].astype(np.float32))
        return blender.result()[0]

    def _working(self, image: Image, um_per_px: float | None) -> Image:
        """The image at the working scale. Raises BadInput."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise BadInput("image", f"is {image.dtype} {image.shape}", "give uint8 (height, width, 3)")
        return reduce_image(image, self.reduction(image, um_per_px=um_per_px))

    def _numbers(self, answer: Probabilities) -> Probabilities:
        if not np.isfinite(answer).all():  # it would read as class 0, quite sure or not at all
            raise BadInput(f"model {self._config.version}", "answers with no numbers", "train it again")
        return answer

    def _softened(self, logits: Tensor) -> Tensor:
        return (logits.float() / self._config.temperature).softmax(dim=1)

    def _patches(self, image: Image, run: Run) -> Iterator[_Patch]:
        """The patches of an image at the working scale, at 50 % overlap, with what the network answers."""
        height_px, width_px = image.shape[:2]
        patch_px = min(self._config.recipe.patch_px, STRIDE_PX * -(-max(height_px, width_px) // STRIDE_PX))
        image = _reflect_to(image, patch_px)
        corners = [(y, x) for y in _starts(image.shape[0], patch_px) for x in _starts(image.shape[1], patch_px)]
        done = 0
        while done < len(corners):
            chosen = corners[done : done + self._batch]
            answers = self._forward([image[y : y + patch_px, x : x + patch_px] for y, x in chosen], run)
            if answers is None:
                continue
            for index, (y, x) in enumerate(chosen):
                yield _Patch(y, x, patch_px, {name: answer[index] for name, answer in answers.items()})
            done += len(chosen)

    def _forward(self, patches: Sequence[Image], run: Run) -> dict[str, Probabilities] | None:
        """What some patches are answered with, or None after halving the batch for want of memory."""
        try:
            with torch.inference_mode():
                x = normalise(np.stack(patches), self._config.encoder.mean, self._config.encoder.std)
                answers = run(x.to(self._device, memory_format=torch.channels_last))
                # Channels first, as blending walks them.
                return {name: answer.contiguous().cpu().numpy() for name, answer in answers.items()}
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


def _at_size(shares: Probabilities, image: Image) -> Probabilities:
    if shares.shape[1:] == image.shape[:2]:
        return shares
    whole = functional.interpolate(
        torch.from_numpy(shares)[None], size=image.shape[:2], mode="bilinear", align_corners=False
    )
    return np.ascontiguousarray(whole[0].numpy())


def _starts(length_px: int, patch_px: int) -> tuple[int, ...]:
    return patch_starts(length_px, patch_px, patch_px // 2)


def _reflect_to(image: Image, least_px: int) -> Image:
    """The image, at least ``least_px`` on each side, continued by reflection to the right and below."""
    bottom, right = (max(0, least_px - side) for side in image.shape[:2])
    return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="reflect") if bottom or right else image
