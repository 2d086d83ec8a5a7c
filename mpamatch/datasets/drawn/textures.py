"""Random textures of drawn tissue: smooth fields, bent fibres, cells that tile the plane. Periodic, seeded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IdArray = npt.NDArray[np.intp]


def noise(rng: np.random.Generator, size_px: int, along_px: float, across_px: float, angle: float = 0.0) -> FloatArray:
    """Smooth random texture of mean 0 and deviation 1, stretched along ``angle``; periodic, made by one FFT."""
    y = fft.fftfreq(size_px).astype(np.float32)[:, None]
    x = fft.rfftfreq(size_px).astype(np.float32)[None, :]
    spread = np.float32(2.0 * np.pi**2)
    if along_px == across_px:  # the common case costs two short exponentials instead of one for each frequency
        gain = np.exp(-spread * np.float32(along_px) ** 2 * y**2) * np.exp(-spread * np.float32(across_px) ** 2 * x**2)
    else:
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along, across = (x * cos + y * sin) * np.float32(along_px), (y * cos - x * sin) * np.float32(across_px)
        gain = np.exp(-spread * (along**2 + across**2))
    gain[0, 0] = 0.0
    grains = rng.standard_normal((size_px, size_px), dtype=np.float32)
    field = fft.irfft2(fft.rfft2(grains) * gain, s=(size_px, size_px))
    return np.asarray(field / max(float(field.std()), 1e-9), np.float32)


def bent(rng: np.random.Generator, field: FloatArray, shift_px: float = 9.0, wave_px: float = 22.0) -> FloatArray:
    """The same texture with its straight lines bent into waves."""
    size = field.shape[0]
    shift = shift_px * noise(rng, size, wave_px, wave_px)
    rows, columns = np.mgrid[0:size, 0:size]
    moved = np.rint(rows + shift).astype(np.intp) % size, np.rint(columns + 0.6 * shift).astype(np.intp) % size
    return field[moved]


def scattered(rng: np.random.Generator, size_px: int, spacing_px: float) -> npt.NDArray[np.float64]:
    """Points about ``spacing_px`` apart over the square, (n, 2) as x, y: a grid, each point moved at random."""
    count = max(1, round(size_px / spacing_px))
    step = size_px / count
    grid = (np.stack(np.meshgrid(np.arange(count), np.arange(count)), -1).reshape(-1, 2) + 0.5) * step
    # Every second row half a step aside, as cells lie; a plain grid shows through its own jitter.
    grid[:, 0] += np.where((grid[:, 1] // step).astype(int) % 2, 0.25, -0.25) * step
    return np.clip(grid + rng.uniform(-0.38, 0.38, grid.shape) * step, 0.0, size_px - 1.0)


def plane_cells(rng: np.random.Generator, size_px: int, spacing_px: float) -> tuple[IdArray, FloatArray]:
    """Cells that tile the square: the number of each pixel's cell, and its distance to that cell's centre in pixels."""
    points = np.rint(scattered(rng, size_px, spacing_px)).astype(np.intp)
    away = np.ones((size_px, size_px), bool)
    away[points[:, 1], points[:, 0]] = False
    distance, nearest = ndimage.distance_transform_edt(away, return_indices=True)
    return nearest[0] * size_px + nearest[1], distance.astype(np.float32)


def borders(cells: npt.NDArray[np.integer]) -> BoolArray:
    """Pixels whose right or lower neighbour is of another cell."""
    found = np.zeros(cells.shape, bool)
    found[:-1] |= cells[:-1] != cells[1:]
    found[:, :-1] |= cells[:, :-1] != cells[:, 1:]
    return found
