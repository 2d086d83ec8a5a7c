"""Weak and strong views of tiles: a view is a function of its seed, tile and step, so a resumed run repeats it.

Geometry moves image, mask and padding together on one grid (image bilinear, mask nearest); photometry touches the
image alone. No torch here. Magnitudes: level ``um`` has those of UniMatch (Yang et al. 2023); the others keep scale and
hue to what scanners do, two of them with stain jitter in Ruifrok's haematoxylin-eosin-DAB space (Ruifrok and Johnston
2001).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy.ndimage import gaussian_filter1d

from mpamatch.domain.classes import ABSTAIN, IGNORE
from mpamatch.domain.recipe import Photometry, Recipe

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Tile:
    """A tile at the working scale: ``image`` uint8 (H, W, 3), ``mask`` uint8 (H, W) with 255 where unlabelled."""

    image: Pixels
    mask: Pixels


@dataclass(frozen=True)
class View:
    """A square crop: ``image`` uint8 (S, S, 3), ``mask`` uint8 (S, S), ``pad`` bool (S, S) where no tissue is."""

    image: Pixels
    mask: Pixels
    pad: NDArray[np.bool_]


def weak_view(tile: Tile, recipe: Recipe, rng: np.random.Generator, fill: Pixels, *, supervised: bool) -> View:
    """A crop at random scale and place, flipped and turned; ``fill`` (3,) is the colour beyond the tile.

    ``supervised`` places the crop so that it holds at least one labelled pixel, if the tile has any.
    """
    side_px = recipe.crop_px
    span_px = max(1, round(side_px / rng.uniform(recipe.scale_min, recipe.scale_max)))
    y, x = _corner(tile.mask, span_px, rng, supervised=supervised)
    image, mask, pad = _window(tile, y, x, span_px, fill)
    size = (side_px, side_px)
    image = np.asarray(Pillow.fromarray(image).resize(size, Pillow.Resampling.BILINEAR))
    mask = np.asarray(Pillow.fromarray(mask).resize(size, Pillow.Resampling.NEAREST))
    if pad is None:
        pad = np.zeros(size, np.uint8)
    else:
        pad = np.asarray(Pillow.fromarray(pad).resize(size, Pillow.Resampling.NEAREST))
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    image, mask, pad = (_turned(a, turns, flip) for a in (image, mask, pad))
    return View(image, mask, pad > 0)


def _corner(mask: Pixels, span_px: int, rng: np.random.Generator, *, supervised: bool) -> tuple[int, int]:
    """Top left corner of the window; negative where the tile is smaller than the window and gets centred."""
    free = [side - span_px for side in mask.shape]
    anchor = _labelled_pixel(mask, rng) if supervised else None
    corner = []
    for axis, room in enumerate(free):
        if room <= 0:
            corner.append(room // 2)
        elif anchor is None:
            corner.append(int(rng.integers(room + 1)))
        else:
            low, high = max(0, anchor[axis] - span_px + 1), min(room, anchor[axis])
            corner.append(int(rng.integers(low, high + 1)))
    return corner[0], corner[1]


def _labelled_pixel(mask: Pixels, rng: np.random.Generator) -> tuple[int, int] | None:
    places = np.flatnonzero(mask < ABSTAIN)
    if places.size in (0, mask.size):
        return None
    y, x = divmod(int(places[rng.integers(places.size)]), mask.shape[1])
    return y, x


def _window(tile: Tile, y: int, x: int, span_px: int, fill: Pixels) -> tuple[Pixels, Pixels, Pixels | None]:
    top, left = max(0, y), max(0, x)
    image = tile.image[top : y + span_px, left : x + span_px]
    mask = tile.mask[top : y + span_px, left : x + span_px]
    if mask.shape == (span_px, span_px):
        return np.ascontiguousarray(image), np.ascontiguousarray(mask), None
    rows = slice(top - y, top - y + mask.shape[0])
    columns = slice(left - x, left - x + mask.shape[1])
    wide = np.empty((span_px, span_px, 3), np.uint8)
    wide[:] = fill
    wide[rows, columns] = image
    labels = np.full((span_px, span_px), IGNORE, np.uint8)
    labels[rows, columns] = mask
    pad = np.ones((span_px, span_px), np.uint8)
    pad[rows, columns] = 0
    return wide, labels, pad


def _turned(array: NDArray[Any], turns: int, flip: bool) -> NDArray[Any]:
    turned = np.rot90(array, turns)
    return np.ascontiguousarray(turned[:, ::-1] if flip else turned)


@dataclass(frozen=True)
class _Levels:
    """How far colours move: factors from 1 - x to 1 + x, ``hue`` a share of the full turn to either side."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    stain_p: float
    grey_p: float
    blur_p: float
    jitter_p: float = 1.0


_LEVELS: dict[str, _Levels] = {
    "mild": _Levels(0.15, 0.15, 0.15, 0.02, stain_p=0.5, grey_p=0.0, blur_p=0.25),
    "strong": _Levels(0.3, 0.3, 0.3, 0.04, stain_p=0.5, grey_p=0.1, blur_p=0.5),
    "um": _Levels(0.5, 0.5, 0.5, 0.25, stain_p=0.0, grey_p=0.2, blur_p=0.5, jitter_p=0.8),
    "path": _Levels(0.3, 0.3, 0.2, 0.05, stain_p=0.0, grey_p=0.2, blur_p=0.5, jitter_p=0.8),
}
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32)
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
_STAIN_SCALE = (0.95, 1.05)
_STAIN_SHIFT = (-0.05, 0.05)
_BLUR_SIGMA_PX = (0.1, 2.0)


def photometric(image: Pixels, level: Photometry, rng: np.random.Generator) -> Pixels:
    """The image (H, W, 3) in other light: brightness, contrast, saturation, hue, stain, grey, blur."""
    if level == "none":
        return image
    levels = _LEVELS[level]
    x = image.astype(np.float32)
    if rng.random() < levels.stain_p:
        x = _stain_jitter(x, rng)
    # Nothing is drawn where colours always move: views of recipes from before there was a choice stay what they were.
    if levels.jitter_p >= 1 or rng.random() < levels.jitter_p:
        x = _colour_jitter(x, levels, rng)
    if rng.random() < levels.grey_p:
        x = np.repeat((x @ _LUMA)[:, :, None], 3, axis=2)
    if rng.random() < levels.blur_p:
        sigma = rng.uniform(*_BLUR_SIGMA_PX)
        x = gaussian_filter1d(gaussian_filter1d(x, sigma, axis=0, truncate=2.5), sigma, axis=1, truncate=2.5)
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def _colour_jitter(x: Floats, levels: _Levels, rng: np.random.Generator) -> Floats:
    """Brightness, contrast about the mean grey, saturation and hue, joined in one affine map of colours."""
    bright = rng.uniform(1 - levels.brightness, 1 + levels.brightness)
    contrast = rng.uniform(1 - levels.contrast, 1 + levels.contrast)
    saturation = rng.uniform(1 - levels.saturation, 1 + levels.saturation)
    angle = 2 * np.pi * rng.uniform(-levels.hue, levels.hue)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    chroma = np.diag([1.0, saturation, saturation])
    matrix = (bright * contrast * (np.linalg.inv(_YIQ) @ turn @ chroma @ _YIQ)).astype(np.float32)
    offset = np.float32(bright * (1 - contrast) * float(x.mean(axis=(0, 1)) @ _LUMA))
    return np.asarray(x @ matrix.T + offset, np.float32)


def _stain_jitter(x: Floats, rng: np.random.Generator) -> Floats:
    """Scale and shift each stain's concentration a little."""
    scale = rng.uniform(*_STAIN_SCALE, size=3)
    shift = rng.uniform(*_STAIN_SHIFT, size=3)
    density = -np.log((x + 1) / 256)
    matrix = (np.linalg.inv(_STAINS) @ np.diag(scale) @ _STAINS).astype(np.float32)
    density = density @ matrix + (shift @ _STAINS).astype(np.float32)
    return np.asarray(np.exp(-density) * 256 - 1, np.float32)


@dataclass(frozen=True)
class MixBox:
    """The part of a view that CutMix takes from its partner: rows and columns, half open."""

    top: int
    left: int
    bottom: int
    right: int


def cutmix_box(recipe: Recipe, rng: np.random.Generator) -> MixBox | None:
    """A box of random area and aspect inside the crop, or None with probability 1 - ``cutmix_p``."""
    if rng.random() >= recipe.cutmix_p:
        return None
    side_px = recipe.crop_px
    width = height = side_px
    for _ in range(100):
        area = rng.uniform(recipe.cutmix_area_min, recipe.cutmix_area_max) * side_px**2
        aspect = rng.uniform(recipe.cutmix_aspect_min, 1 / recipe.cutmix_aspect_min)
        width, height = max(1, int((area / aspect) ** 0.5)), max(1, int((area * aspect) ** 0.5))
        if width <= side_px and height <= side_px:
            break
    width, height = min(width, side_px), min(height, side_px)
    top, left = int(rng.integers(side_px - height + 1)), int(rng.integers(side_px - width + 1))
    return MixBox(top, left, top + height, left + width)
