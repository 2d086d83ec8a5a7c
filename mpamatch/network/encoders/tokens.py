"""Transformers as encoders: their tokens as one feature map, and the finer features of those that have any.

A side that is no multiple of the patch is resized to the nearest one first (252 px for 256 at patch 14). Position
embeddings are resampled to the grid at every pass, which gives what resampling them once would; :func:`fix_size` does
it once, for a model that is exported at one size. Source: timm's vision transformers; TransUNet (Chen et al. 2021) for
the hybrid's skips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Published:
    """The weights an encoder began with: whose, a hash of the tensors, and whether training has changed them since."""

    origin: str
    sha256: str
    changed: bool = False


class TokenEncoder(nn.Module):
    """A transformer whose tokens make a map (B, D, S/patch, S/patch), the last of its features."""

    def __init__(self, vit: Any, patch: int) -> None:
        super().__init__()
        self.vit = vit
        self.patch = patch
        self.published: Published | None = None

    def fitted(self, images: Tensor) -> Tensor:
        """The images at the nearest size that is a multiple of the patch."""
        size = [self.patch * max(1, round(int(side) / self.patch)) for side in images.shape[-2:]]
        if size == list(images.shape[-2:]):
            return images
        return functional.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)

    def as_map(self, tokens: Tensor, like: Tensor) -> Tensor:
        """Tokens (B, prefix + h*w, D) of the fitted images ``like`` -> (B, D, h, w), without the prefix."""
        height, width = (side // self.patch for side in like.shape[-2:])
        image_tokens = tokens[:, self.vit.num_prefix_tokens :]
        return image_tokens.transpose(1, 2).reshape(tokens.shape[0], -1, height, width)


class VitEncoder(TokenEncoder):
    """A plain vision transformer: the tokens of some earlier blocks, then the last ones under the final norm."""

    def __init__(self, vit: Any, patch: int, taps: Sequence[int] = ()) -> None:
        super().__init__(vit, patch)
        self.taps = tuple(taps)

    def forward(self, images: Tensor) -> list[Tensor]:
        images = self.fitted(images)
        if not self.taps:
            return [self.as_map(self.vit.forward_features(images), images)]
        last, earlier = self.vit.forward_intermediates(images, indices=list(self.taps), output_fmt="NCHW")
        return [*earlier, self.as_map(last, images)]


class HybridEncoder(TokenEncoder):
    """A transformer on a ResNet's features; the ResNet's own at strides 2, 4 and 8 come first."""

    def forward(self, images: Tensor) -> list[Tensor]:
        images = self.fitted(images)
        resnet = self.vit.patch_embed.backbone
        half: Tensor = resnet.stem.norm(resnet.stem.conv(images))
        features, x = [half], resnet.stem.pool(half)
        for stage in resnet.stages:
            x = stage(x)
            features.append(x)
        x = self.vit.patch_embed.proj(resnet.norm(x)).permute(0, 2, 3, 1)
        x = self.vit.norm_pre(self.vit._pos_embed(x))
        tokens = self.vit.norm(self.vit.blocks(x))
        return [*features[:-1], self.as_map(tokens, images)]


@torch.no_grad()
def fix_size(encoder: TokenEncoder, size_px: int) -> None:
    """Resample the position embeddings for images of ``size_px`` once and for all; other sizes no longer fit."""
    side = encoder.patch * max(1, round(size_px / encoder.patch))
    encoder.vit.set_input_size(img_size=(side, side))
    encoder.vit.dynamic_img_size = False
    encoder.vit.patch_embed.flatten, encoder.vit.patch_embed.output_fmt = True, None
