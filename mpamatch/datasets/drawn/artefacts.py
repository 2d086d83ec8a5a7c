"""What befalls a section and its scan: folds, pen marks, bubbles, dust, focus, sharpening, camera noise, JPEG.

None of it moves tissue, so no mask changes: what lies under ink is still what it is.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage, special

from mpamatch.datasets.drawn.density import Density
from mpamatch.datasets.drawn.stains import Look
from mpamatch.datasets.drawn.textures import FloatArray, noise

# Transmission of felt pens: blue, green, black, red.
_INKS = ((0.16, 0.30, 0.78), (0.12, 0.55, 0.30), (0.07, 0.07, 0.09), (0.75, 0.12, 0.16))


def fold(rng: np.random.Generator, density: Density) -> None:
    """A band where the section lies double: all its dyes count more, darkest at its edges."""
    size = density.size_px
    across = _across(rng, size, 10.0)
    width = rng.uniform(4.0, 16.0)
    band = special.expit((width - np.abs(across)) / 0.8)
    rim = np.exp(-(((np.abs(across) - width) / 2.0) ** 2))
    more = (rng.uniform(0.6, 1.1) * band + rng.uniform(0.0, 0.5) * rim).astype(np.float32)
    for dye in (density.haematoxylin, density.eosin, density.blood):
        dye *= 1.0 + more
    density.eosin += 0.12 * more


def pen(rng: np.random.Generator, seen: FloatArray) -> FloatArray:
    """A stroke of ink across the tile, more or less opaque, with an uneven edge."""
    size = seen.shape[0]
    across = _across(rng, size, 16.0)
    width = rng.uniform(6.0, 34.0)
    edge = np.abs(across) + 1.5 * noise(rng, size, 3.0, 3.0) - width
    cover = special.expit(-edge / rng.uniform(0.8, 3.0))
    cover *= np.clip(rng.uniform(0.65, 1.0) + 0.10 * noise(rng, size, 12.0, 12.0), 0.0, 1.0)
    ink = np.array(_INKS[int(rng.integers(len(_INKS)))]) * rng.uniform(0.85, 1.15, 3)
    through = 1.0 - cover[..., None] * (1.0 - ink)
    inked: FloatArray = (seen * through).astype(np.float32)
    return inked


def bubble(rng: np.random.Generator, seen: FloatArray) -> FloatArray:
    """The rim of an air bubble under the cover slip: a dark line beside a bright one, milky inside."""
    size = seen.shape[0]
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    centre, radius = rng.uniform(-0.2, 1.2, 2) * size, rng.uniform(0.15, 0.6) * size
    away = np.hypot(rows - np.float32(centre[0]), columns - np.float32(centre[1])) - np.float32(radius)
    away += 2.0 * noise(rng, size, 30.0, 30.0)
    width = rng.uniform(1.5, 4.0)
    rim = 0.55 * np.exp(-((away / width) ** 2)) - 0.25 * np.exp(-(((away + 2.5 * width) / width) ** 2))
    milky = (0.18 * (away < 0)).astype(np.float32)
    out: FloatArray = ((seen * (1.0 - milky[..., None]) + 0.85 * milky[..., None]) * (1.0 - rim[..., None])).astype(
        np.float32
    )
    return out


def dust(rng: np.random.Generator, seen: FloatArray) -> FloatArray:
    """Dark grains above the section, out of focus."""
    size = seen.shape[0]
    grains = np.zeros((size, size), np.float32)
    count = int(rng.integers(1, 7))
    grains[tuple(rng.integers(0, size, (2, count)))] = rng.uniform(8.0, 60.0, count)
    shadow = np.clip(ndimage.gaussian_filter(grains, rng.uniform(0.8, 3.0)), 0.0, 0.85)
    out: FloatArray = (seen * (1.0 - shadow[..., None])).astype(np.float32)
    return out


def focus(rng: np.random.Generator, seen: FloatArray) -> FloatArray:
    """The whole tile a little soft, and now and then a part of it, or all, far out of focus."""
    sharp = rng.uniform(0.2, 0.65)
    kind = rng.random()
    if kind < 0.07:
        return _blurred(seen, rng.uniform(1.0, 2.4))
    soft = _blurred(seen, sharp)
    if kind < 0.20:
        where = special.expit(4.0 * noise(rng, seen.shape[0], 50.0, 50.0))
        far = _blurred(seen, rng.uniform(1.2, 3.0))
        mixed: FloatArray = soft + where[..., None].astype(np.float32) * (far - soft)
        return mixed
    return soft


def develop(rng: np.random.Generator, seen: FloatArray, look: Look) -> npt.NDArray[np.uint8]:
    """The camera: sharpening, gamma, noise, and often the loss of a JPEG."""
    if rng.random() < 0.55:
        seen = seen + rng.uniform(0.3, 1.3) * (seen - _blurred(seen, rng.uniform(1.0, 2.2)))
    shown = np.clip(seen, 0.0, 1.0) ** look.gamma
    if rng.random() < 0.3:  # contrast stretched by the viewer
        middle = rng.uniform(0.45, 0.65)
        shown = middle + rng.uniform(1.05, 1.35) * (shown - middle)
    shown = shown + rng.normal(0.0, look.noise, (*seen.shape[:2], 1)) + rng.normal(0.0, 0.5 * look.noise, seen.shape)
    image = np.clip(np.rint(shown * 255.0), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        image = _jpeg(image, int(rng.integers(55, 96)))
    return image


def _across(rng: np.random.Generator, size: int, waviness_px: float) -> FloatArray:
    """Signed distance to a wavy line through the tile."""
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) - np.float32(size / 2)
    angle, offset = rng.uniform(0.0, np.pi), rng.uniform(-0.4, 0.4) * size
    line = rows * np.float32(np.cos(angle)) - columns * np.float32(np.sin(angle)) + np.float32(offset)
    away: FloatArray = line + np.float32(waviness_px) * noise(rng, size, 60.0, 60.0)
    return away


def _blurred(seen: FloatArray, sigma_px: float) -> FloatArray:
    blurred: FloatArray = ndimage.gaussian_filter(seen, (sigma_px, sigma_px, 0))
    return blurred


def _jpeg(image: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer), np.uint8)
