"""The segmenter: encoder, decoder and a 1x1 head, assembled from an encoder's record.

The record decides the decoder: the small U-Net on a pyramid, TransUNi's behind a transformer, with the skips of
TransUNet where the encoder has convolutions of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mpamatch.domain.recipe import Recipe
from mpamatch.network.branch import BranchShape, PrototypeBranch
from mpamatch.network.decoder import Decoder, Refine
from mpamatch.network.encoders import EncoderRecord, build_encoder, encoder_record, with_options
from mpamatch.network.token_decoder import ConvStem, TokenDecoder


@dataclass(frozen=True)
class Segmented:
    """``logits`` (B, C, S, S) and the decoder's feature at a quarter of the size, ``quarter`` (B, q, S/4, S/4)."""

    logits: Tensor
    quarter: Tensor


class Segmenter(nn.Module):
    """Normalised images (B, 3, S, S) -> logits (B, C, S, S); S a multiple of 32.

    ``weights_dir`` and ``allow_hub`` say where published weights may come from (see ``build_encoder``).
    """

    def __init__(
        self,
        record: EncoderRecord,
        class_count: int,
        *,
        pretrained: bool,
        weights_dir: Path | None = None,
        allow_hub: bool = False,
    ) -> None:
        super().__init__()
        self.record = record
        self.class_count = class_count
        self.encoder = build_encoder(record, pretrained=pretrained, weights_dir=weights_dir, allow_hub=allow_hub)
        self.decoder = (
            Decoder(record.channels, record.bottleneck, record.decoder_widths, record.decoder_norm)
            if record.family == "cnn"
            else TokenDecoder(record)
        )
        self.head = nn.Conv2d(record.decoder_widths[-1], class_count, 1)
        self.stem = ConvStem(record.decoder_norm) if record.skips == "stem" else None
        self.branch: PrototypeBranch | None = None

    def forward(self, images: Tensor, channel_gains: Sequence[Tensor] | None = None) -> Tensor:
        """``channel_gains``: one (B, channels) factor for each feature level, for dropout of whole channels."""
        return self.segment(self.features(images, channel_gains), images.shape[-1]).logits

    def features(self, images: Tensor, channel_gains: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The encoder's features, finest first, with whole channels scaled where gains are given."""
        # Nothing of an encoder that does not train is kept for a gradient.
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and any(p.requires_grad for p in self.encoder.parameters())
        ):
            features: list[Tensor] = self.encoder(images)
        if self.stem is not None:
            features = [*self.stem(images), *features]
        if channel_gains is None:
            return features
        return [f * g[:, :, None, None] for f, g in zip(features, channel_gains, strict=True)]

    def segment(self, features: Sequence[Tensor], size_px: int, refine: Refine | None = None) -> Segmented:
        """Features -> logits of ``size_px``; ``refine`` may change the decoder's feature at a quarter of that."""
        if refine is None and self.branch is not None:
            refine = self.branch.refine
        decoded = self.decoder(features, size_px, refine)
        logits = functional.interpolate(
            self.head(decoded.finest), size=(size_px, size_px), mode="bilinear", align_corners=False
        )
        return Segmented(logits, decoded.quarter)

    def train(self, mode: bool = True) -> Segmenter:
        """As of every module; but parts of the encoder that do not train keep to eval (batch norms, dropout)."""
        super().train(mode)
        if mode and not all(p.requires_grad for p in self.encoder.parameters()):
            for part in self.encoder.modules():
                own = list(part.parameters())
                if own and not any(p.requires_grad for p in own):
                    part.eval()
        return self


def segmenter_record(recipe: Recipe) -> EncoderRecord:
    """The record of a recipe's segmenter: its encoder with its skips, which are settled by now, and its norm.

    Raises NotFound or BadInput.
    """
    assert recipe.skips != "auto"
    return with_options(encoder_record(recipe.encoder), skips=recipe.skips, decoder_norm=recipe.decoder_norm)


def build_segmenter(
    record: EncoderRecord,
    class_count: int,
    *,
    seed: int,
    pretrained: bool = True,
    weights_dir: Path | None = None,
    allow_hub: bool = False,
) -> Segmenter:
    """A fresh segmenter whose random weights depend on ``seed`` alone; torch's global state is left as it was.

    Raises NotFound, BadInput or Unavailable when ``pretrained`` and the published weights cannot be had.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Segmenter(record, class_count, pretrained=pretrained, weights_dir=weights_dir, allow_hub=allow_hub)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def add_branch(model: Segmenter, shape: BranchShape, *, seed: int, text_temperature: float = 0.07) -> None:
    """Give a segmenter a fresh prototype branch whose random weights depend on ``seed`` alone."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        branch = PrototypeBranch(model.decoder.quarter_channels, model.class_count, shape, text_temperature)
    model.branch = branch.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def channel_gains_pair(
    record: EncoderRecord, batch: int, generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor]]:
    """Complementary dropout of feature channels for two strong views of ``batch`` tiles.

    Each level's gains are m in {0, 2} and 2 - m, so the pair sums to 2; a random half of the tiles is left whole at
    every level (none at batch 1). Source: UniMatch V2 (Yang et al. 2024), complementary channel-wise dropout.
    """
    first, second = [], []
    whole = torch.randperm(batch, generator=generator)[: batch // 2]
    for channels in record.channels:
        gains = 2.0 * torch.bernoulli(torch.full((batch, channels), 0.5), generator=generator)
        other = 2.0 - gains
        gains[whole] = 1.0
        other[whole] = 1.0
        first.append(gains)
        second.append(other)
    return first, second


def channel_dropout(record: EncoderRecord, batch: int, generator: torch.Generator) -> list[Tensor]:
    """Factors 0 or 2 for every channel of each level, (batch, channels): half of them dropped, the sum kept on average.

    Source: feature perturbation of UniMatch (Yang et al. 2023), Dropout2d 0.5.
    """
    return [
        2.0 * torch.bernoulli(torch.full((batch, channels), 0.5), generator=generator) for channels in record.channels
    ]
