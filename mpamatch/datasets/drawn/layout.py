"""Where the glands of a drawn tile lie: one number per gland, tears and glass, before anything has a colour.

A gland is a set of bones (line pieces) with a radius, seen through a warped plane: a crypt across is a point, a crypt
along is a line, a branching one a star. Each pixel goes to the bone set that it is relatively nearest to, so glands
that are pressed together share a border and never overlap. Solid tumour is a level set of noise instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mpamatch.datasets.drawn.habit import Habit
from mpamatch.datasets.drawn.textures import BoolArray, FloatArray, noise

InstanceArray = npt.NDArray[np.int32]
_FAR = np.float32(9.0)


@dataclass(frozen=True)
class Layout:
    """``instances`` numbers each gland from 1, 0 between them; ``glass`` is bare; ``core`` is 0 on a gland's bones and
    1 at its outline (as it was before glands were fused)."""

    instances: InstanceArray
    glass: BoolArray
    core: FloatArray


def lay_out(rng: np.random.Generator, size_px: int, habit: Habit) -> Layout:
    """The glands of a tile of this habit; every gland is connected and none is a speck."""
    core = np.full((size_px, size_px), _FAR, np.float32)
    instances = np.zeros((size_px, size_px), np.int32)
    if habit.growth in ("crypts", "tubes", "branching", "fused", "nests"):
        instances, core = _boned(rng, size_px, habit)
    if habit.growth == "sheets" or (habit.growth == "nests" and rng.random() < 0.5):
        sheets = _sheets(rng, size_px, habit) & (instances == 0)
        labels = ndimage.label(sheets)[0]
        instances = np.where(sheets, labels + instances.max(initial=0), instances).astype(np.int32)
    glass = _glass(rng, size_px, habit)
    instances[glass] = 0
    return Layout(whole_instances(instances, smallest_px=int(150 * habit.scale**2)), glass, core)


def whole_instances(instances: npt.NDArray[np.integer], smallest_px: int = 1) -> InstanceArray:
    """Each connected piece numbered from 1 on its own, pieces under ``smallest_px`` left out."""
    whole = np.zeros(instances.shape, np.int32)
    count = 0
    for number, window in enumerate(ndimage.find_objects(instances), start=1):
        if window is None:
            continue
        pieces, found = ndimage.label(instances[window] == number)
        for piece, area_px in enumerate(np.bincount(pieces.ravel(), minlength=found + 1)[1:], start=1):
            if area_px >= smallest_px:
                count += 1
                whole[window][pieces == piece] = count
    return whole


def _boned(rng: np.random.Generator, size_px: int, habit: Habit) -> tuple[InstanceArray, FloatArray]:
    rows, columns = np.mgrid[0:size_px, 0:size_px].astype(np.float32)
    wave = habit.radius_px * rng.uniform(0.5, 1.1)
    rows += habit.warp_px * noise(rng, size_px, wave, wave) + habit.ragged_px * noise(rng, size_px, 4.0, 4.0)
    columns += habit.warp_px * noise(rng, size_px, wave, wave) + habit.ragged_px * noise(rng, size_px, 4.0, 4.0)
    best, second = np.full((2, size_px, size_px), _FAR, np.float32)
    owner = np.zeros((size_px, size_px), np.int32)
    count = 0
    for _ in range(habit.tries):
        radius = habit.radius_px * float(rng.uniform(0.6, 1.35))
        centre = rng.uniform(-0.02, 1.02, 2) * size_px
        at_row, at_column = np.clip(centre.astype(int), 0, size_px - 1)
        if best[at_row, at_column] < 1.0 + 0.75 * habit.tightness:
            continue
        bones = _bones(rng, habit, centre, radius)
        reach = radius * 1.7 + 3.0 * habit.warp_px + 3.0
        low = np.clip(bones.reshape(-1, 2).min(axis=0) - reach, 0, size_px).astype(int)
        high = np.clip(bones.reshape(-1, 2).max(axis=0) + reach + 1, 0, size_px).astype(int)
        window = slice(low[0], high[0]), slice(low[1], high[1])
        ratio = _distance(rows[window], columns[window], bones) / np.float32(radius)
        inside = ratio < 1.0
        area = int(inside.sum())
        overlap = int((inside & (best[window] < 1.0)).sum())
        if area < 60 or overlap > habit.overlap * area:
            continue
        count += 1
        nearer = ratio < best[window]
        second[window] = np.where(nearer, best[window], np.minimum(second[window], ratio))
        best[window] = np.where(nearer, ratio, best[window])
        owner[window] = np.where(nearer, count, owner[window])
    fused = _fused(rng, count, habit.fusing)
    seam = (second - best) * habit.radius_px < habit.gap_px
    instances = fused[owner]
    if habit.fusing:  # glands that grew into each other keep no seam
        seam &= ndimage.minimum_filter(instances, 3) != ndimage.maximum_filter(instances, 3)
    return np.where((best < 1.0) & ~seam, instances, 0).astype(np.int32), best


def _fused(rng: np.random.Generator, count: int, share: float) -> InstanceArray:
    """The number that each gland goes by: its own, or that of another it is fused with."""
    numbers = np.arange(count + 1, dtype=np.int32)
    for number in range(2, count + 1):
        if rng.random() < share:
            numbers[number] = numbers[int(rng.integers(1, number))]
    return numbers


def _bones(
    rng: np.random.Generator, habit: Habit, centre: npt.NDArray[np.float64], radius: float
) -> npt.NDArray[np.float64]:
    """Line pieces (n, 2, 2) as ends (row, column)."""
    angle = habit.angle + rng.normal(0.0, habit.disorder)
    length = radius * float(rng.uniform(*habit.elongation))
    if habit.growth == "branching" or rng.random() < habit.branching:
        arms = int(rng.integers(2, 5))
        angles = angle + np.arange(arms) * 2.0 * np.pi / arms + rng.normal(0.0, 0.4, arms)
        ends = centre + (length + radius) * rng.uniform(0.4, 1.3, (arms, 1)) * np.stack(
            [np.sin(angles), np.cos(angles)], 1
        )
        return np.stack([np.broadcast_to(centre, ends.shape), ends], axis=1)
    along = 0.5 * length * np.array([np.sin(angle), np.cos(angle)])
    return np.array([[centre - along, centre + along]])


def _distance(rows: FloatArray, columns: FloatArray, bones: npt.NDArray[np.float64]) -> FloatArray:
    """Distance of each pixel to the nearest line piece."""
    nearest = np.full(rows.shape, np.inf, np.float32)
    for (row, column), (to_row, to_column) in bones.astype(np.float32):
        d_row, d_column = to_row - row, to_column - column
        length2 = max(float(d_row**2 + d_column**2), 1e-6)
        y, x = rows - row, columns - column
        along = np.clip((y * d_row + x * d_column) / np.float32(length2), 0.0, 1.0)
        np.minimum(nearest, np.hypot(y - along * d_row, x - along * d_column), out=nearest)
    return nearest


def _sheets(rng: np.random.Generator, size_px: int, habit: Habit) -> BoolArray:
    """Solid growth: what is above a level of noise, cut by thin strands of stroma."""
    grain = habit.radius_px * rng.uniform(0.45, 0.9)
    stretch = float(rng.uniform(1.0, 2.2))
    field = noise(rng, size_px, grain * stretch, grain, habit.angle)
    field += 0.10 * habit.ragged_px * noise(rng, size_px, 4.0, 4.0)
    share = habit.sheet_share if habit.growth == "sheets" else 0.15 * habit.sheet_share
    solid = field > np.quantile(field, 1.0 - share)
    if rng.random() < 0.5:
        strands = np.abs(noise(rng, size_px, grain, 0.6 * grain, habit.angle + rng.normal(0.0, 0.5)))
        solid &= strands > rng.uniform(0.01, 0.10)
    smallest = int(180 * habit.scale**2)
    gaps, count = ndimage.label(~solid)
    small = np.bincount(gaps.ravel(), minlength=count + 1) < smallest
    small[0] = False
    filled: BoolArray = solid | small[gaps]
    return filled


def _glass(rng: np.random.Generator, size_px: int, habit: Habit) -> BoolArray:
    """Bare slide: beyond the edge of the tissue, and in tears."""
    rows, columns = np.mgrid[0:size_px, 0:size_px].astype(np.float32) - np.float32(size_px / 2)
    glass = np.zeros((size_px, size_px), bool)
    if habit.edge:
        angle = rng.uniform(0.0, 2.0 * np.pi)
        away = rows * np.float32(np.sin(angle)) + columns * np.float32(np.cos(angle))
        away += rng.uniform(6.0, 22.0) * noise(rng, size_px, 30.0, 30.0) + 1.5 * noise(rng, size_px, 3.0, 3.0)
        glass |= away > size_px * rng.uniform(0.05, 0.36)
    for _ in range(habit.tears):
        angle, offset = rng.uniform(0.0, np.pi), rng.uniform(-0.35, 0.35) * size_px
        across = rows * np.float32(np.cos(angle)) - columns * np.float32(np.sin(angle)) + np.float32(offset)
        across += 14.0 * noise(rng, size_px, 40.0, 40.0) + 1.2 * noise(rng, size_px, 3.0, 3.0)
        glass |= np.abs(across) < rng.uniform(1.5, 7.0) * np.clip(1.0 + noise(rng, size_px, 25.0, 25.0), 0.0, None)
    return glass
