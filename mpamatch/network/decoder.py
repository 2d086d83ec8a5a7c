"""The decoder: a small U-Net on an encoder's features, with group norms.

Group norms because a step holds a handful of crops of different views, whose batch statistics would be noise.
Upsampling is bilinear without aligned corners, which does not drift when images are cut in patches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_MAX_GROUPS = 8
_MIN_CHANNELS_PER_GROUP = 4


def group_norm(channels: int) -> nn.GroupNorm:
    """A group norm with the most groups (at most 8) that divide ``channels`` and keep at least 4 in each."""
    groups = max(g for g in range(1, _MAX_GROUPS + 1) if channels % g == 0 and channels >= g * _MIN_CHANNELS_PER_GROUP)
    return nn.GroupNorm(groups, channels)


class _Block(nn.Module):
    """Up by 2, join the skip, then twice conv 3x3, norm, ReLU."""

    def __init__(self, coming: int, skip: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(coming + skip, width, 3, padding=1, bias=False),
            group_norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            group_norm(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = functional.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        joined: Tensor = self.body(torch.cat([x, skip], dim=1))
        return joined


class Decoder(nn.Module):
    """Features, finest first -> embedding at the finest feature's size, (B, widths[-1], S/2, S/2)."""

    def __init__(self, channels: Sequence[int], bottleneck: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.bottleneck = nn.Conv2d(channels[-1], bottleneck, 1)
        coming = [bottleneck, *widths[:-1]]
        skips = list(reversed(channels[:-1]))
        self.blocks = nn.ModuleList(_Block(c, s, w) for c, s, w in zip(coming, skips, widths, strict=True))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x: Tensor = self.bottleneck(features[-1])
        for block, skip in zip(self.blocks, reversed(features[:-1]), strict=True):
            x = block(x, skip)
        return x
