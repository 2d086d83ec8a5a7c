"""What a segmenter tells of a batch of patches in one pass, and what it tells when channels of its decoder drop out.

Sources: MPAMatch (arXiv 2508.19574) for the posteriors of prototypes; BALD (Houlsby et al. 2011) by dropout (Gal and
Ghahramani 2016). The network that is trained has no dropout: whole channels are dropped here alone, from outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mpamatch.network.branch import PrototypeBranch
from mpamatch.network.encoders import EncoderRecord
from mpamatch.network.model import Segmenter
from mpamatch.network.prototype_losses import posterior

# The two coarsest: what a channel means there is a place, not a pixel.
DROPPED_BLOCKS = 2


@dataclass(frozen=True)
class PatchLook:
    """Of N patches of p pixels: ``probabilities`` (N, C, p, p), ``tokens`` (N, E, u, v), the encoder's deepest
    features, and ``quarter`` (N, q, p/4, p/4), the decoder's feature of which embeddings are made; None where the
    model makes none.
    """

    probabilities: Tensor
    tokens: Tensor
    quarter: Tensor | None


@dataclass(frozen=True)
class CellLook:
    """Of images in cells: ``embeddings`` (N, D, h, w) of unit length, and what prototypes say of them, (N, C, h, w)
    each; None for prototypes that are silent."""

    embeddings: Tensor
    image_posterior: Tensor | None
    text_posterior: Tensor | None


@torch.inference_mode()
def look_at(model: Segmenter, images: Tensor, temperature: float) -> PatchLook:
    """One pass over normalised ``images`` (N, 3, p, p); logits are divided by ``temperature``."""
    features = model.features(images)
    done = model.segment(features, images.shape[-1])
    probabilities = (done.logits.float() / temperature).softmax(dim=1)
    quarter = None if model.branch is None else done.quarter.float()
    return PatchLook(probabilities, features[-1].float(), quarter)


@torch.inference_mode()
def look_at_cells(branch: PrototypeBranch, quarter: Tensor, prototype_temperature: float) -> CellLook:
    """What the branch makes of a feature (N, q, h, w) of any size: its layers see one cell at a time."""
    embeddings = branch.embed(quarter)
    return CellLook(embeddings, *posteriors(branch, embeddings, prototype_temperature))


def posteriors(
    branch: PrototypeBranch, embeddings: Tensor, prototype_temperature: float
) -> tuple[Tensor | None, Tensor | None]:
    """What image and text prototypes say of unit ``embeddings`` (N, D, h, w): class probabilities (N, C, h, w) each.

    A class without a row is spoken for by its text. Prototypes that do not know every class say nothing (None): they
    would disagree with the head wherever it sees the class that they lack.
    """
    by_text = None
    text_cosine = None
    if branch.projection is not None and bool(branch.text_vectors.any(dim=1).all()):
        text_cosine = _cosines(embeddings, branch.text_prototypes())
        by_text = (text_cosine / branch.text_temperature).softmax(dim=1)
    bank = branch.bank
    if bank is None or not bool(bank.ready.any()) or (text_cosine is None and not bool(bank.ready.all())):
        return None, by_text
    classes, per_class, _ = bank.rows.shape
    cosine = _cosines(embeddings, bank.rows.flatten(0, 1)).unflatten(1, (classes, per_class))
    cosine = cosine.masked_fill(~bank.active[None, :, :, None, None], -torch.inf)
    if text_cosine is not None:
        unknown = ~bank.ready
        cosine[:, unknown, 0] = text_cosine[:, unknown]
    return posterior(cosine, prototype_temperature), by_text


def _cosines(embeddings: Tensor, rows: Tensor) -> Tensor:
    """Cosine of each cell with each of unit ``rows`` (R, D), (N, R, h, w)."""
    return functional.conv2d(embeddings, rows[:, :, None, None].to(embeddings.dtype))


def channel_keeps(record: EncoderRecord, passes: int, dropout: float, seed: int) -> list[list[Tensor]]:
    """For each pass and dropped block a factor for each channel, (width,): 0 for a share, 1 / (1 - share) else.

    They depend on ``seed`` alone: each pass is one network for every patch and every image.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = 1.0 - dropout
    return [
        [
            torch.bernoulli(torch.full((width,), kept), generator=generator) / kept
            for width in record.decoder_widths[:DROPPED_BLOCKS]
        ]
        for _ in range(passes)
    ]


@torch.inference_mode()
def look_with_dropout(
    model: Segmenter, images: Tensor, temperature: float, keeps: Sequence[Sequence[Tensor]]
) -> Tensor:
    """Class probabilities of every second pixel from each pass, (N, T, C, p/2, p/2): one encoder pass, T decoders.

    The heads answer on every second pixel; in between there is nothing more to know.
    """
    features = model.features(images)
    drawn = []
    for keep in keeps:
        with _dropping(model, [k.to(images.device) for k in keep]):
            logits = model.segment(features, images.shape[-1]).logits
        drawn.append((logits[:, :, ::2, ::2].float() / temperature).softmax(dim=1))
    return torch.stack(drawn, dim=1)


@contextmanager
def _dropping(model: Segmenter, keep: Sequence[Tensor]) -> Iterator[None]:
    """The first blocks of the decoder with their channels multiplied; the model is as it was afterwards."""
    blocks = list(model.decoder.blocks)[: len(keep)]
    hooks = [
        block.register_forward_hook(lambda _module, _given, out, factor=factor: out * factor[None, :, None, None])
        for block, factor in zip(blocks, keep, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
