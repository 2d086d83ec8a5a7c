"""The segmenter: encoder, decoder and a 1x1 head, assembled from an encoder's record."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mpamatch.network.decoder import Decoder
from mpamatch.network.encoders import EncoderRecord, build_encoder


class Segmenter(nn.Module):
    """Normalised images (B, 3, S, S) -> logits (B, C, S, S); S a multiple of 32."""

    def __init__(self, record: EncoderRecord, class_count: int, *, pretrained: bool) -> None:
        super().__init__()
        self.record = record
        self.class_count = class_count
        self.encoder = build_encoder(record, pretrained=pretrained)
        self.decoder = Decoder(record.channels, record.bottleneck, record.decoder_widths)
        self.head = nn.Conv2d(record.decoder_widths[-1], class_count, 1)

    def forward(self, images: Tensor, channel_gains: Sequence[Tensor] | None = None) -> Tensor:
        """``channel_gains``: one (B, channels) factor for each feature level, for dropout of whole channels."""
        features = self.encoder(images)
        if channel_gains is not None:
            features = [f * g[:, :, None, None] for f, g in zip(features, channel_gains, strict=True)]
        logits = self.head(self.decoder(features))
        return functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def build_segmenter(record: EncoderRecord, class_count: int, *, seed: int, pretrained: bool = True) -> Segmenter:
    """A fresh segmenter whose random weights depend on ``seed`` alone; torch's global state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Segmenter(record, class_count, pretrained=pretrained)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def channel_gains_pair(
    record: EncoderRecord, batch: int, generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor]]:
    """Complementary dropout of feature channels for two strong views of ``batch`` tiles.

    Each level's gains are m in {0, 2} and 2 - m, so the pair sums to 2; a random half of the tiles is left whole
    (none at batch 1). Source: UniMatch V2 (Yang et al. 2024), complementary channel-wise dropout.
    """
    first, second = [], []
    for channels in record.channels:
        gains = 2.0 * torch.bernoulli(torch.full((batch, channels), 0.5), generator=generator)
        other = 2.0 - gains
        whole = torch.randperm(batch, generator=generator)[: batch // 2]
        gains[whole] = 1.0
        other[whole] = 1.0
        first.append(gains)
        second.append(other)
    return first, second
