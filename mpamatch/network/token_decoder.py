"""The decoder behind a transformer (TransUNi, and TransUNet with its skips), and the stem that may stand beside one.

Source: MPAMatch (arXiv 2508.19574) for the widths, TransUNet (Chen et al. 2021) for the block. Each block goes to a
fixed share of the image's size (an eighth, a quarter, a half, the whole), whatever the patch of the encoder: for patch
16 these are steps of 2, for patch 14 and 8 the first one is smaller. So the feature at a quarter is always one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from mpamatch.domain.recipe import Norm
from mpamatch.network.decoder import Block, Decoded, Refine, convolution, decoder_norm
from mpamatch.network.encoders.records import STEM_CHANNELS, EncoderRecord

_MAX_GROUPS = 32
_SHARES = (8, 4, 2, 1)
_TAPPED_CHANNELS = (32, 64, 128)


class TokenDecoder(nn.Module):
    """Features, finest first, the last a map of tokens -> :class:`Decoded` with its finest at the image's own size.

    Up to three skips, for the half, the quarter and the eighth; tokens of earlier blocks are projected 1x1 first.
    """

    def __init__(self, record: EncoderRecord) -> None:
        super().__init__()
        norm = _norm_of(record.decoder_norm)
        *skips, tokens = record.channels
        tapped = record.skips == "vit"
        narrow = [nn.Conv2d(c, p, 1) for c, p in zip(skips, _TAPPED_CHANNELS, strict=True)] if tapped else []
        self.projections = nn.ModuleList(narrow)
        joined = list(reversed(_TAPPED_CHANNELS if tapped else skips)) or [0, 0, 0]
        self.more = nn.Sequential(*convolution(tokens, record.bottleneck, norm(record.bottleneck)))
        coming = [record.bottleneck, *record.decoder_widths[:-1]]
        self.blocks = nn.ModuleList(
            Block(c, s, w, norm) for c, s, w in zip(coming, [*joined, 0], record.decoder_widths, strict=True)
        )
        self.quarter_channels = record.decoder_widths[1]

    def forward(self, features: Sequence[Tensor], size_px: int, refine: Refine | None = None) -> Decoded:
        *skips, tokens = features
        if len(self.projections):
            skips = [project(skip) for project, skip in zip(self.projections, skips, strict=True)]
        x: Tensor = self.more(tokens)
        joined: list[Tensor | None] = [*reversed(skips), None] if skips else [None] * len(_SHARES)
        quarter = x
        for block, skip, share in zip(self.blocks, joined, _SHARES, strict=True):
            size = (size_px // share, size_px // share)
            if skip is not None and tuple(skip.shape[-2:]) != size:
                skip = functional.interpolate(skip, size=size, mode="bilinear", align_corners=False)
            x = block(x, size, skip)
            if share == 4:
                quarter = x = x if refine is None else refine(x)
        return Decoded(x, quarter)


class ConvStem(nn.Module):
    """Images (B, 3, S, S) -> features of 32, 64 and 128 channels at strides 2, 4 and 8, for ``skips=stem``."""

    def __init__(self, kind: Norm) -> None:
        super().__init__()
        norm = _norm_of(kind)
        coming = (3, *STEM_CHANNELS[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, w, 3, stride=2, padding=1, bias=False),
                norm(w),
                nn.ReLU(inplace=True),
                *convolution(w, w, norm(w)),
            )
            for c, w in zip(coming, STEM_CHANNELS, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        x = images
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def _norm_of(kind: Norm) -> Callable[[int], nn.Module]:
    return lambda channels: decoder_norm(kind, channels, _MAX_GROUPS)
