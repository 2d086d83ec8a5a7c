"""What lies between drawn glands: collagen, muscle, fat, vessels, blood, and the cells of inflammation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mpamatch.datasets.drawn.density import Density
from mpamatch.datasets.drawn.habit import Habit
from mpamatch.datasets.drawn.layout import Layout
from mpamatch.datasets.drawn.stamps import ellipses, stamped
from mpamatch.datasets.drawn.textures import BoolArray, FloatArray, bent, borders, noise, plane_cells

Points = npt.NDArray[np.float64]


def draw_ground(rng: np.random.Generator, size_px: int, habit: Habit) -> Density:
    """Collagen over the whole tile: wavy bundles in two directions, with loose pale places; perhaps muscle, fat."""
    angle = habit.angle + rng.normal(0.0, 0.5)
    grain = habit.fibre_px
    bundles = bent(rng, noise(rng, size_px, 6.0 * grain, grain, angle), 9.0 * habit.scale, 22.0 * habit.scale)
    crossing = noise(rng, size_px, 3.6 * grain, 0.8 * grain, angle + rng.uniform(0.4, 1.2))
    loose = noise(rng, size_px, 12.0 * habit.scale, 12.0 * habit.scale)
    mix = 1.0 / (1.0 + np.exp(-2.0 * noise(rng, size_px, 24.0, 24.0)))
    fibres = mix * bundles + (1.0 - mix) * crossing
    lumpy = noise(rng, size_px, 2.2 * habit.scale, 2.2 * habit.scale)
    texture = habit.fibrous * fibres + (1.0 - habit.fibrous) * lumpy
    eosin = habit.collagen * (1.0 + 0.20 * texture + 0.15 * habit.looseness * loose) + 0.03 * noise(
        rng, size_px, 0.8, 0.8
    )
    # Clefts between bundles: where fibres are thin and the tissue is loose, the slide shows.
    eosin += 0.55 * habit.collagen * habit.looseness * np.clip(texture + 0.25 + 0.7 * loose, -2.0, 0.0)
    haematoxylin = habit.collagen * rng.uniform(0.05, 0.35) * (1.0 + 0.3 * noise(rng, size_px, 5.0, 5.0))
    density = Density(
        np.clip(haematoxylin, 0.0, None).astype(np.float32),
        np.clip(eosin, 0.02, None).astype(np.float32),
        np.zeros((size_px, size_px), np.float32),
    )
    if habit.muscle:
        _muscle(rng, density, habit)
    if habit.fat:
        _fat(rng, density, habit)
    return density


def draw_stroma(rng: np.random.Generator, density: Density, layout: Layout, habit: Habit) -> None:
    """Vessels, blood and cells, where neither gland nor glass is."""
    free = (layout.instances == 0) & ~layout.glass
    for _ in range(int(rng.poisson(habit.vessels * (density.size_px / 256.0) ** 2))):
        free &= ~_vessel(rng, density, free, habit)
    size = density.size_px
    chromatin = noise(rng, size, 1.2, 1.2)
    area = (size / 256.0) ** 2 / habit.scale**2
    spindles = _where(rng, free, int(120 * area * habit.spindles))
    tilt = habit.angle + rng.normal(0.0, 0.5, len(spindles))
    long, short = (
        rng.uniform(3.2, 6.6, (len(spindles))) * habit.scale,
        rng.uniform(1.0, 1.8, len(spindles)) * habit.scale,
    )
    cover = stamped(size, ellipses(rng, spindles[:, 0], spindles[:, 1], long, short, tilt)) * free
    density.nuclei(cover, 0.75 * habit.nucleus_strength, chromatin)
    crowd = np.exp(habit.patchiness * noise(rng, size, 20.0 * habit.scale, 20.0 * habit.scale))
    crowd = np.clip(crowd / crowd.mean(), 0.0, 3.0) / 3.0
    _inflammation(rng, density, free, crowd, chromatin, habit, int(5200 * area * habit.lymphocytes))
    _loose_blood(rng, density, free, habit, int(60 * area * habit.red_cells))


def _where(rng: np.random.Generator, free: BoolArray, count: int, chance: FloatArray | None = None) -> Points:
    """Up to ``count`` random points (n, 2) as x, y on free ground, thinned by ``chance``."""
    points = rng.uniform(0.0, free.shape[0] - 1.0, (count, 2))
    rounded = points.astype(np.intp)
    kept = free[rounded[:, 1], rounded[:, 0]]
    if chance is not None:
        kept &= rng.random(count) < chance[rounded[:, 1], rounded[:, 0]]
    kept_points: Points = points[kept]
    return kept_points


def _inflammation(
    rng: np.random.Generator,
    density: Density,
    free: BoolArray,
    crowd: FloatArray,
    chromatin: FloatArray,
    habit: Habit,
    count: int,
) -> None:
    """Lymphocytes; plasma cells in purple cytoplasm; eosinophils in red."""
    size = density.size_px
    points = _where(rng, free, count, crowd)
    if not len(points):
        return
    radius = rng.uniform(1.9, 2.9, len(points)) * habit.scale
    plasma = rng.random(len(points)) < habit.plasma_share
    if plasma.any():
        turn = rng.uniform(0.0, np.pi, int(plasma.sum()))
        aside = points[plasma] + np.stack([np.cos(turn), np.sin(turn)], 1) * radius[plasma, None] * 0.8
        body = ellipses(rng, aside[:, 0], aside[:, 1], radius[plasma] * 2.1, radius[plasma] * 1.5, turn)
        around = stamped(size, body) * free
        density.haematoxylin += around * rng.uniform(0.05, 0.25)
        density.eosin += around * rng.uniform(0.0, 0.25)
    red = rng.random(len(points)) < rng.uniform(0.0, 0.05)
    if red.any():
        body = ellipses(rng, points[red, 0], points[red, 1], radius[red] * 1.4, radius[red] * 1.4, radius[red])
        density.blood += 0.6 * stamped(size, body) * free
    long = radius * rng.uniform(1.0, 1.3, len(points))
    cover = stamped(size, ellipses(rng, points[:, 0], points[:, 1], long, radius, rng.uniform(0, 3, len(points))))
    density.nuclei(cover * free, min(1.0, 1.1 * habit.nucleus_strength), chromatin)


def _loose_blood(rng: np.random.Generator, density: Density, free: BoolArray, habit: Habit, count: int) -> None:
    patch = noise(rng, density.size_px, 9.0 * habit.scale, 9.0 * habit.scale) > 1.2
    points = _where(rng, free & patch, 8 * count)
    if len(points):
        radius = rng.uniform(2.0, 2.9, len(points)) * habit.scale
        cover = stamped(density.size_px, ellipses(rng, points[:, 0], points[:, 1], radius, radius * 0.9, radius))
        density.blood += 0.8 * cover * free
        density.haematoxylin *= 1.0 - 0.8 * cover * free


def _vessel(rng: np.random.Generator, density: Density, free: BoolArray, habit: Habit) -> BoolArray:
    """A white or blood-filled lumen like a gland's, but with a thin wall and flat nuclei. Returns its ground."""
    size = density.size_px
    row, column = rng.uniform(0.0, size, 2)
    angle, long = rng.uniform(0.0, np.pi), rng.uniform(5.0, 26.0) * habit.scale
    short = long * rng.uniform(0.3, 0.9)
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    y, x = rows - np.float32(row), columns - np.float32(column)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    ratio = np.hypot((x * cos + y * sin) / np.float32(long), (y * cos - x * sin) / np.float32(short))
    ratio *= 1.0 + 0.08 * noise(rng, size, 8.0, 8.0)
    lumen = (ratio < 1.0) & free
    wall = (ratio < 1.0 + rng.uniform(2.0, 5.0) * habit.scale / short) & (ratio >= 1.0) & free
    density.bare(lumen)
    density.eosin[wall] += rng.uniform(0.05, 0.2)
    angles = rng.uniform(0.0, 2.0 * np.pi, int(0.7 * long / habit.scale) + 2)
    edge = 1.0 + 1.5 * habit.scale / short
    at_x = column + edge * (long * np.cos(angles) * cos - short * np.sin(angles) * sin)
    at_y = row + edge * (long * np.cos(angles) * sin + short * np.sin(angles) * cos)
    tilt = angle + np.arctan2(short * np.cos(angles), -long * np.sin(angles))
    flat = ellipses(rng, at_x, at_y, rng.uniform(2.6, 4.6, angles.size) * habit.scale, np.full(angles.size, 1.3), tilt)
    density.nuclei(stamped(size, flat) * free, 0.8 * habit.nucleus_strength, noise(rng, size, 1.2, 1.2))
    if rng.random() < 0.6:
        cells = int(long * short / (7.0 * habit.scale**2))
        spread, turn = np.sqrt(rng.uniform(0.0, 0.9, cells)), rng.uniform(0.0, 2.0 * np.pi, cells)
        at_x = column + spread * (long * np.cos(turn) * cos - short * np.sin(turn) * sin)
        at_y = row + spread * (long * np.cos(turn) * sin + short * np.sin(turn) * cos)
        radius = rng.uniform(2.0, 2.9, cells) * habit.scale
        density.blood += rng.uniform(0.5, 1.0) * stamped(size, ellipses(rng, at_x, at_y, radius, radius, turn)) * lumen
    return lumen | wall


def _muscle(rng: np.random.Generator, density: Density, habit: Habit) -> None:
    """A broad band of smooth muscle: even, pink, fine parallel lines."""
    size = density.size_px
    angle = habit.angle
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    across = rows * np.float32(np.cos(angle)) - columns * np.float32(np.sin(angle))
    across += 10.0 * noise(rng, size, 35.0, 35.0)
    middle = np.quantile(across, rng.uniform(0.1, 0.9))
    band = np.clip(1.5 - np.abs(across - middle) / (rng.uniform(18.0, 60.0) * habit.scale), 0.0, 1.0)
    lines = bent(rng, noise(rng, size, 16.0 * habit.scale, 1.2 * habit.scale, angle), 4.0, 30.0)
    pink = rng.uniform(0.4, 0.65) * (1.0 + 0.14 * lines)
    density.eosin += (band * (pink - density.eosin)).astype(np.float32)


def _fat(rng: np.random.Generator, density: Density, habit: Habit) -> None:
    """White round cells in thin walls, in a part of the tile."""
    size = density.size_px
    cells, _ = plane_cells(rng, size, rng.uniform(28.0, 48.0) * habit.scale)
    walls = ndimage.binary_dilation(borders(cells), iterations=1 + int(habit.scale))
    where = noise(rng, size, 45.0, 45.0) > rng.uniform(-0.4, 0.8)
    density.bare(where & ~walls)
