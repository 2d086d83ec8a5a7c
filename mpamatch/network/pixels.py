"""Pixels on their way into the network: to the working scale, and to normalised tensors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor


def reduced_size(width_px: int, height_px: int, reduction: float) -> tuple[int, int]:
    """Width and height at the working scale, at least 1."""
    return max(1, round(width_px / reduction)), max(1, round(height_px / reduction))


def reduce_image(image: NDArray[np.uint8], reduction: float) -> NDArray[np.uint8]:
    """The image (H, W, 3) shrunk by a factor, bilinear with antialiasing; the same array at factor 1."""
    size = reduced_size(image.shape[1], image.shape[0], reduction)
    if size == (image.shape[1], image.shape[0]):
        return image
    return np.asarray(Pillow.fromarray(image).resize(size, Pillow.Resampling.BILINEAR))


def reduce_mask(mask: NDArray[np.uint8], reduction: float) -> NDArray[np.uint8]:
    """The mask (H, W) on the grid of :func:`reduce_image`, nearest pixel."""
    size = reduced_size(mask.shape[1], mask.shape[0], reduction)
    if size == (mask.shape[1], mask.shape[0]):
        return mask
    return np.asarray(Pillow.fromarray(mask).resize(size, Pillow.Resampling.NEAREST))


def normalise(images: NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W), channels last in memory, zero at the encoder's mean."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()  # keeps the strides, which are channels last
    scale = torch.tensor(std).view(1, 3, 1, 1) * 255
    return x.sub_(torch.tensor(mean).view(1, 3, 1, 1) * 255).div_(scale)
