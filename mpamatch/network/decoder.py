"""The decoder of a pyramid: a small U-Net on an encoder's features; and the block and norms every decoder is made of.

Group norms because a step holds a handful of crops of different views, whose batch statistics would be noise.
Upsampling is bilinear without aligned corners, which does not drift when images are cut in patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mpamatch.domain.recipe import Norm

_MAX_GROUPS = 8
_MIN_CHANNELS_PER_GROUP = 4


def group_norm(channels: int, most: int = _MAX_GROUPS) -> nn.GroupNorm:
    """A group norm with the most groups (at most ``most``) that divide ``channels`` and keep at least 4 in each."""
    groups = max(g for g in range(1, most + 1) if channels % g == 0 and channels >= g * _MIN_CHANNELS_PER_GROUP)
    return nn.GroupNorm(groups, channels)


def decoder_norm(kind: Norm, channels: int, most: int = _MAX_GROUPS) -> nn.Module:
    """The norm after a decoder's convolution: groups, or the whole batch as the paper has it."""
    return group_norm(channels, most) if kind == "group" else nn.BatchNorm2d(channels)


def convolution(coming: int, width: int, norm: nn.Module) -> list[nn.Module]:
    """Convolution 3x3, norm, ReLU."""
    return [nn.Conv2d(coming, width, 3, padding=1, bias=False), norm, nn.ReLU(inplace=True)]


class Block(nn.Module):
    """To a larger size, join the skip where there is one, then twice conv 3x3, norm, ReLU."""

    def __init__(self, coming: int, skip: int, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *convolution(coming + skip, width, norm(width)), *convolution(width, width, norm(width))
        )

    def forward(self, x: Tensor, size: Sequence[int], skip: Tensor | None = None) -> Tensor:
        x = functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
        joined: Tensor = self.body(x if skip is None else torch.cat([x, skip], dim=1))
        return joined


Refine = Callable[[Tensor], Tensor]
"""A change of the feature at a quarter of the image's size, of the same shape."""


@dataclass(frozen=True)
class Decoded:
    """What a decoder makes of features: ``finest`` (B, widths[-1], f, f), f = S/2 (U-Net) or S (behind a transformer),
    and ``quarter`` (B, q, S/4, S/4)."""

    finest: Tensor
    quarter: Tensor


class Decoder(nn.Module):
    """Features, finest first, at strides 2 to 32 -> :class:`Decoded`; pixel embeddings are read from its quarter."""

    def __init__(self, channels: Sequence[int], bottleneck: int, widths: Sequence[int], norm: Norm = "group") -> None:
        super().__init__()
        self.bottleneck = nn.Conv2d(channels[-1], bottleneck, 1)
        coming = [bottleneck, *widths[:-1]]
        skips = list(reversed(channels[:-1]))
        self.blocks = nn.ModuleList(
            Block(c, s, w, lambda n: decoder_norm(norm, n)) for c, s, w in zip(coming, skips, widths, strict=True)
        )
        self.quarter_channels = widths[-2]

    def forward(self, features: Sequence[Tensor], size_px: int, refine: Refine | None = None) -> Decoded:
        """``size_px`` is that of the image; here the skips already say it."""
        x: Tensor = self.bottleneck(features[-1])
        *coarse, last = self.blocks
        *skips, finest = reversed(features[:-1])
        for block, skip in zip(coarse, skips, strict=True):
            x = block(x, skip.shape[-2:], skip)
        quarter = x if refine is None else refine(x)
        return Decoded(last(quarter, finest.shape[-2:], finest), quarter)
