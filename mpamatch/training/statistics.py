"""Statistics of a segmenter's batch norms, taken anew from unlabelled images: no label, no gradient.

For images of another laboratory or scanner. It costs little time and may help or harm, so the model that comes out is a
candidate like any other: the gate decides. Source of the idea: Li et al., "Revisiting batch normalization for
practical domain adaptation", arXiv 1603.04779 (AdaBN).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mpamatch.domain.draws import hash_draw
from mpamatch.errors import BadInput
from mpamatch.inference import Predictor
from mpamatch.network.model import Segmenter
from mpamatch.network.pixels import normalise, reduce_image
from mpamatch.network.weights import LoadedModel, ModelConfig

ROUNDS, BATCH = 4, 8
"""Patches of each image, and patches that a batch shows."""
KEPT_BYTES = 256 * 2**20
"""Room for patches of later rounds; an image whose patches find none is read again in the next round."""
ReadImage = Callable[[Path], NDArray[np.uint8] | None]
_Norm = nn.modules.batchnorm._BatchNorm


def reestimate_norms(model: Segmenter, batches: Iterable[Tensor]) -> int:
    """Replace the running statistics of the encoder's batch norms by those of ``batches``; answers how many there were.

    ``batches`` are normalised images float32 (B, 3, S, S). Each norm's mean and variance become the plain average of
    what every batch has (the variance with n - 1, as torch keeps it); a batch passes through the encoder as in
    training, all else in eval mode. Weights stay, and so do the norms of the decoder. The same batches give the same
    statistics. Raises BadInput when the encoder has no batch norm or there is no batch; the model is then as before.
    """
    norms = batch_norms(model)
    if not norms:
        raise BadInput(
            "model", "has no batch norm in its encoder", "adapt a model whose encoder has them, as light has"
        )
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise BadInput("images", "there is none to take statistics from", "give a folder with images")
    was_training, momenta = model.training, [norm.momentum for norm in norms]
    model.eval()
    count = 0
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a cumulative average
            norm.train()
        with torch.no_grad():
            batch: Tensor | None = first
            while batch is not None:
                model.encoder(batch)
                count += 1
                batch = next(stream, None)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(was_training)
    return count


def batch_norms(model: Segmenter) -> list[_Norm]:
    """The encoder's batch norms that keep statistics."""
    return [m for m in model.encoder.modules() if isinstance(m, _Norm) and m.track_running_stats]


def adapted_config(config: ModelConfig, version: str, adapted: Mapping[str, Any]) -> ModelConfig:
    """The config of an adapted model: ``adapted`` goes into its provenance, and the old model's figures do not."""
    provenance = {**config.provenance, "adapted": dict(adapted)}
    return replace(config, version=version, provenance=provenance, metrics={})


def pool_batches(
    loaded: LoadedModel,
    images: Sequence[Path],
    read: ReadImage,
    *,
    seed: int,
    um_per_px: Mapping[Path, float] | None = None,
    rounds: int = ROUNDS,
    batch: int = BATCH,
) -> Iterator[Tensor]:
    """Batches of patches of the pool for :func:`reestimate_norms`, at the model's scale and patch size.

    ``um_per_px`` is the scale of images where it is known.

    In each round every image gives one patch, at a place drawn by (seed, round, file name), and the order of images is
    drawn too: a batch shows many images, which its variance needs. A last short batch is left out unless it is the
    only one, and an image for which ``read`` answers None. An image is read once where its patches of later rounds
    find room in ``KEPT_BYTES``.
    """
    predictor, config = Predictor(loaded), loaded.config
    device, scales = next(loaded.module.parameters()).device, um_per_px or {}
    side_px = config.recipe.patch_px
    room = KEPT_BYTES // (3 * side_px**2)
    kept: dict[tuple[int, Path], NDArray[np.uint8]] = {}
    waiting: list[NDArray[np.uint8]] = []
    given = False
    for number in range(rounds):
        for path in sorted(images, key=lambda p: hash_draw(seed, f"order {number}", p.name)):
            patch = kept.pop((number, path), None)
            if patch is None:
                image = read(path)
                if image is None:
                    continue
                working = reduce_image(image, predictor.reduction(image, um_per_px=scales.get(path)))
                later = rounds if len(kept) + rounds - number - 1 <= room else number + 1
                for at in range(number, later):
                    draw = np.random.default_rng(hash_draw(seed, f"patch {at}", path.name))
                    kept[at, path] = _patch(working, side_px, draw)
                patch = kept.pop((number, path))
            waiting.append(patch)
            if len(waiting) == batch:
                yield _tensor(waiting, loaded).to(device, memory_format=torch.channels_last)
                waiting, given = [], True
    if waiting and not given:
        yield _tensor(waiting, loaded).to(device, memory_format=torch.channels_last)


def _patch(image: NDArray[np.uint8], side_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A square of the image at a random place; a smaller image is continued by reflection."""
    y, x = (int(rng.integers(max(0, side - side_px) + 1)) for side in image.shape[:2])
    part = image[y : y + side_px, x : x + side_px]
    rest = [(0, side_px - side) for side in part.shape[:2]]
    return np.pad(part, (*rest, (0, 0)), mode="reflect")


def _tensor(patches: Sequence[NDArray[np.uint8]], loaded: LoadedModel) -> Tensor:
    return normalise(np.stack(patches), loaded.config.encoder.mean, loaded.config.encoder.std)
