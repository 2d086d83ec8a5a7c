"""The lining of drawn glands, whatever their outline: columns of cells, mucin, nuclei, lumens and what lies in them.

Everything hangs on the distance to the outline. The nearest point of the outline tells a pixel its column of cells, so
that columns stand upright on any curve; the distance tells how high in its column it lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from mpamatch.datasets.drawn.density import Density
from mpamatch.datasets.drawn.habit import Habit
from mpamatch.datasets.drawn.layout import InstanceArray, Layout
from mpamatch.datasets.drawn.stamps import ellipses, stamped
from mpamatch.datasets.drawn.textures import (
    BoolArray,
    FloatArray,
    IdArray,
    bent,
    borders,
    noise,
    plane_cells,
    scattered,
)


@dataclass(frozen=True)
class _Columns:
    """The cells that stand on the outline: their feet (n, 2) as x, y, and for each pixel its column and its depth."""

    feet: npt.NDArray[np.float64]
    of: IdArray
    depth: FloatArray


def draw_glands(rng: np.random.Generator, density: Density, layout: Layout, habit: Habit) -> None:
    """Lay every gland of the layout into ``density``."""
    gland = layout.instances > 0
    if not gland.any():
        return
    size = density.size_px
    columns = _columns(rng, layout, habit)
    height, solid = _heights(rng, columns, layout.instances, habit)
    lumen = _lumens(rng, columns, layout, habit, height, solid)
    level = np.asarray(columns.depth / np.maximum(height, 1.0), np.float32)
    cells = gland & ~lumen
    _cytoplasm(rng, density, cells, level, habit)
    _outer_seam(rng, density, layout, columns.depth, habit)
    _mucin(rng, density, columns, cells & ~solid, level, habit)
    _fill_lumens(rng, density, lumen, habit)
    chromatin = noise(rng, size, 1.1 * habit.scale, 1.1 * habit.scale)
    density.nuclei(_palisade(rng, columns, height, habit) * cells, habit.nucleus_strength, chromatin)
    deep = cells & (columns.depth > 0.55 * height) & (solid | (level > 1.15))
    if deep.any():
        density.nuclei(_unordered(rng, size, deep, habit) * cells, 0.9 * habit.nucleus_strength, chromatin)
    _guests(rng, density, cells, habit)


def _outline(layout: Layout) -> BoolArray:
    """Pixels of a gland beside another gland or stroma. Where it meets glass it is open: no cell stands there."""
    ids = layout.instances
    padded = np.pad(np.where(layout.glass, -1, ids), 1, mode="edge")
    middle = padded[1:-1, 1:-1]
    edge = np.zeros(ids.shape, bool)
    for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        edge |= (neighbour != middle) & (neighbour >= 0)
    return edge & (ids > 0)


def _columns(rng: np.random.Generator, layout: Layout, habit: Habit) -> _Columns:
    outline = _outline(layout)
    gland = layout.instances > 0
    if not outline.any():  # one gland fills the tile: everything is deep
        deep = np.full(gland.shape, 1e3, np.float32)
        return _Columns(np.empty((0, 2)), np.zeros(gland.shape, np.intp), deep)
    distance, nearest = ndimage.distance_transform_edt(~outline, return_indices=True)
    rows, columns = np.nonzero(outline)
    wide = rng.uniform(1.3, 2.2) if habit.mucin == "petals" else rng.uniform(0.95, 1.35)
    spacing = max(2.0, 2.1 * habit.nucleus_short_px * wide)
    chosen = _apart(rng, rows, columns, layout.instances, spacing)
    feet = np.stack([columns[chosen], rows[chosen]], axis=1).astype(np.float64)
    _, owner = cKDTree(feet).query(np.stack([columns, rows], axis=1))
    on_outline = np.zeros(gland.shape, np.intp)
    on_outline[rows, columns] = owner
    depth = np.where(gland, distance + 0.5, 0.5 - distance).astype(np.float32)
    return _Columns(feet, on_outline[nearest[0], nearest[1]], depth)


def _apart(
    rng: np.random.Generator,
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    instances: InstanceArray,
    spacing_px: float,
) -> list[int]:
    """Some of the points, about ``spacing_px`` apart within each gland, in random order."""
    taken = np.zeros(instances.shape, np.int32)
    owners = instances[rows, columns].tolist()
    reach = max(1, int(0.72 * spacing_px))
    ys, xs = rows.tolist(), columns.tolist()
    chosen = []
    for index in rng.permutation(len(ys)).tolist():
        y, x, owner = ys[index], xs[index], owners[index]
        if taken[y, x] != owner:
            chosen.append(index)
            taken[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1] = owner
    return chosen


def _heights(
    rng: np.random.Generator, columns: _Columns, instances: InstanceArray, habit: Habit
) -> tuple[FloatArray, BoolArray]:
    """How high the epithelium stands at each pixel, and which glands are solid."""
    count = int(instances.max())
    ids = np.arange(1, count + 1)
    deepest = np.atleast_1d(ndimage.maximum(columns.depth, instances, ids))
    share = rng.uniform(0.78, 0.98) if habit.mucin in ("petals", "honeycomb") else rng.uniform(0.5, 0.96)
    wanted = (
        habit.height_px * rng.uniform(0.85, 1.15, count) * (2.2 if habit.mucin in ("petals", "honeycomb") else 1.15)
    )
    height = np.concatenate([[1.0], np.minimum(wanted, np.maximum(3.0, share * deepest))]).astype(np.float32)
    chance = {"sheets": 0.8, "nests": 0.5, "fused": 0.25}.get(habit.growth, 0.06)
    solid = np.concatenate([[False], rng.random(count) < chance])
    uneven = 1.0 + rng.uniform(0.02, 0.16) * rng.standard_normal(max(1, len(columns.feet))).astype(np.float32)
    smooth = noise(rng, instances.shape[0], 6.0 * habit.scale, 6.0 * habit.scale)
    steps = ndimage.gaussian_filter(np.clip(uneven, 0.6, 1.5)[columns.of], 1.3 * habit.scale)
    field = height[instances] * steps * (1.0 + rng.uniform(0.02, 0.14) * smooth)
    return field.astype(np.float32), solid[instances] & (instances > 0)


def _lumens(
    rng: np.random.Generator, columns: _Columns, layout: Layout, habit: Habit, height: FloatArray, solid: BoolArray
) -> BoolArray:
    gland = layout.instances > 0
    size = gland.shape[0]
    if habit.growth in ("sheets", "fused"):
        # Cribriform: round holes wherever the growth is deep enough, by level of noise.
        grain = habit.height_px * rng.uniform(0.3, 0.6)
        holes = noise(rng, size, grain, grain) > rng.uniform(1.1, 2.6)
        cribriform = holes & (columns.depth > 0.55 * height)
        if habit.growth == "sheets":
            return gland & cribriform
        hollow = (layout.core < rng.uniform(0.2, 0.5)) & (columns.depth > 0.8 * height)
        return gland & (cribriform | hollow) & ~solid
    return gland & (columns.depth > height) & ~solid


def _cytoplasm(rng: np.random.Generator, density: Density, cells: BoolArray, level: FloatArray, habit: Habit) -> None:
    size = density.size_px
    fine = noise(rng, size, 1.4, 1.4)
    cloudy = noise(rng, size, 9.0 * habit.scale, 9.0 * habit.scale)
    apical = np.clip(level, 0.0, 1.0)
    blue = habit.cytoplasm_blue * (1.0 - 0.35 * apical + 0.12 * cloudy) + 0.04 * fine
    pink = habit.cytoplasm_pink * (0.9 + 0.15 * apical + 0.08 * cloudy) + 0.04 * fine
    border = cells & (level > 0.9)
    pink = np.where(border, pink + rng.uniform(0.0, 0.12), pink)
    density.haematoxylin[cells] = np.clip(blue, 0.01, None)[cells]
    density.eosin[cells] = np.clip(pink, 0.02, None)[cells]
    density.blood[cells] = 0.0


def _outer_seam(rng: np.random.Generator, density: Density, layout: Layout, depth: FloatArray, habit: Habit) -> None:
    """A pale split where tissue shrank away from the gland, or a rim of denser collagen."""
    between = (layout.instances == 0) & ~layout.glass
    if habit.halo:
        width = rng.uniform(1.0, 5.0) * habit.scale
        ragged = width * (1.0 + 0.9 * noise(rng, density.size_px, 12.0, 12.0))
        seam = between & (depth > -ragged)
        for dye in (density.haematoxylin, density.eosin, density.blood):
            dye[seam] *= 1.0 - habit.halo
    else:
        rim = between & (depth > -rng.uniform(1.5, 4.0) * habit.scale)
        density.eosin[rim] += rng.uniform(-0.06, 0.12)


def _mucin(
    rng: np.random.Generator, density: Density, columns: _Columns, cells: BoolArray, level: FloatArray, habit: Habit
) -> None:
    """Goblet cells: bubbles near the lumen, whole pale columns between thin walls, or a foam of pale cells."""
    if habit.mucin == "none":
        return
    size = density.size_px
    base = rng.uniform(1.6, 2.6) * habit.nucleus_long_px
    tint = rng.uniform(0.0, 0.30) if rng.random() < 0.6 else 0.0
    if habit.mucin == "drops":
        pale = _drops(rng, columns, level, habit, size) * cells
    else:
        if habit.mucin == "petals":
            ids = columns.of
            holds = rng.random(int(ids.max()) + 1) < habit.mucin_share
        else:
            ids, _ = plane_cells(rng, size, rng.uniform(8.0, 15.0) * habit.scale)
            holds = rng.random(size * size) < habit.mucin_share
        walls = borders(ids)
        inside = holds[ids] & ~walls & cells & (columns.depth > base) & (level < rng.uniform(0.9, 1.3))
        fullness = rng.uniform(0.6, 1.0, holds.size).astype(np.float32)[ids]
        pale = ndimage.gaussian_filter(inside * fullness, 0.6)
        density.eosin += 0.10 * (walls & cells)
        density.haematoxylin += 0.08 * (walls & cells)
    pale *= habit.mucin_pale * np.clip(1.0 + 0.10 * noise(rng, size, 2.5, 2.5), 0.0, 1.05)
    density.eosin *= np.clip(1.0 - pale, 0.0, 1.0)
    density.haematoxylin *= np.clip(1.0 - 0.8 * pale, 0.0, 1.0)
    density.haematoxylin += tint * pale


def _drops(rng: np.random.Generator, columns: _Columns, level: FloatArray, habit: Habit, size: int) -> FloatArray:
    at, normal = _upright(columns, rng.uniform(0.45, 0.75) * habit.height_px)
    kept = rng.random(len(at)) < 0.4 * habit.mucin_share
    at, normal = at[kept], normal[kept]
    long = rng.uniform(0.16, 0.34, len(at)) * habit.height_px + 1.0
    short = np.minimum(long, rng.uniform(2.6, 5.5, len(at)) * habit.scale)
    drops = ellipses(rng, at[:, 0], at[:, 1], long, short, np.arctan2(normal[:, 1], normal[:, 0]))
    cover: FloatArray = stamped(size, drops) * (level < 1.05)
    return cover


def _upright(
    columns: _Columns, above_px: float | npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """For each column the point so far above its foot, and the way up; those that would cross another are left out."""
    smooth = ndimage.gaussian_filter(np.clip(columns.depth, -12.0, 60.0), 2.0)
    feet = columns.feet.astype(np.intp)
    d_row, d_column = np.gradient(smooth)
    normal = np.stack([d_column[feet[:, 1], feet[:, 0]], d_row[feet[:, 1], feet[:, 0]]], axis=1).astype(np.float64)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    above = np.broadcast_to(above_px, len(feet))
    points = columns.feet + normal * above[:, None]
    limit = columns.depth.shape[0] - 1
    near = np.clip(np.rint(points), 0, limit).astype(np.intp)
    stands = columns.depth[near[:, 1], near[:, 0]] > 0.62 * above
    return points[stands], normal[stands]


def _palisade(rng: np.random.Generator, columns: _Columns, height: FloatArray, habit: Habit) -> FloatArray:
    """Nuclei upright on the outline, one to several rows high."""
    size = height.shape[0]
    stamps = []
    step = habit.nucleus_long_px * rng.uniform(1.1, 1.7)
    for row in range(habit.rows):
        if not len(columns.feet):
            break
        above = habit.nucleus_long_px * rng.uniform(1.0, 1.5) + row * step
        if row and above > 0.85 * habit.height_px:
            break
        at, normal = _upright(columns, above + rng.normal(0.0, 0.22 * step, len(columns.feet)))
        kept = rng.random(len(at)) < (0.95 if row == 0 else 0.75)
        at, normal = at[kept], normal[kept]
        side = np.stack([-normal[:, 1], normal[:, 0]], axis=1)
        at = at + side * rng.normal(0.0, 0.35 * habit.nucleus_short_px, (len(at), 1))
        long = habit.nucleus_long_px * rng.uniform(0.75, 1.2, len(at))
        short = np.minimum(long, habit.nucleus_short_px * rng.uniform(0.8, 1.15, len(at)))
        tilt = np.arctan2(normal[:, 1], normal[:, 0]) + rng.normal(0.0, 0.22, len(at))
        stamps.append(ellipses(rng, at[:, 0], at[:, 1], long, short, tilt, habit.vesicular))
    return stamped(size, *stamps)


def _unordered(rng: np.random.Generator, size: int, where: BoolArray, habit: Habit) -> FloatArray:
    """Nuclei without a foot to stand on: close together, of uneven size, neighbours alike in direction."""
    crowding = rng.uniform(1.5, 2.9)
    points = scattered(rng, size, crowding * (habit.nucleus_long_px + habit.nucleus_short_px) * 0.5 + 1.0)
    rounded = points.astype(np.intp)
    points = points[where[rounded[:, 1], rounded[:, 0]]]
    rounded = points.astype(np.intp)
    flow = noise(rng, size, 14.0 * habit.scale, 14.0 * habit.scale)[rounded[:, 1], rounded[:, 0]].astype(np.float64)
    uneven = np.exp(rng.normal(0.0, rng.uniform(0.08, 0.28), len(points)))
    short = 1.1 * habit.nucleus_short_px * uneven
    long = np.minimum(np.maximum(short, habit.nucleus_long_px * uneven * 0.85), 14.0)
    tilt = 1.5 * flow + rng.normal(0.0, 0.5, len(points))
    return stamped(
        size, ellipses(rng, points[:, 0], points[:, 1], long, np.minimum(short, long), tilt, habit.vesicular)
    )


def _fill_lumens(rng: np.random.Generator, density: Density, lumen: BoolArray, habit: Habit) -> None:
    """White, with wisps of mucus, pink secretion, or dead cells."""
    size = density.size_px
    density.bare(lumen)
    kind = str(rng.choice(["clear", "mucus", "secretion", "debris"], p=[0.50, 0.22, 0.14, 0.14]))
    soft = ndimage.gaussian_filter(lumen.astype(np.float32), 1.0) * lumen
    wisps = np.clip(bent(rng, noise(rng, size, 3.0 * habit.scale, 1.3 * habit.scale, habit.angle)), 0.0, 2.5)
    density.eosin += 0.02 * soft
    if kind == "mucus":
        density.haematoxylin += rng.uniform(0.02, 0.09) * wisps * soft
        density.eosin += rng.uniform(0.0, 0.08) * wisps * soft
    elif kind == "secretion":
        density.eosin += rng.uniform(0.1, 0.4) * soft * np.clip(0.7 + noise(rng, size, 12.0, 12.0), 0.0, 1.3)
    elif kind == "debris":
        where = lumen & (noise(rng, size, 8.0, 8.0) > -0.3)
        density.eosin += rng.uniform(0.15, 0.45) * where * np.clip(0.6 + 0.4 * noise(rng, size, 2.5, 2.5), 0.0, None)
        dust = _unordered(rng, size, where, habit) * lumen * (rng.random() * 0.7 + 0.3)
        density.haematoxylin += 0.7 * dust * np.clip(0.6 + 0.6 * noise(rng, size, 1.2, 1.2), 0.0, None)


def _guests(rng: np.random.Generator, density: Density, cells: BoolArray, habit: Habit) -> None:
    """Lymphocytes within the epithelium, each in a clear ring, and dead cells."""
    count = int(rng.poisson(6.0))
    at = rng.uniform(0, density.size_px - 1, (count, 2))
    rounded = at.astype(np.intp)
    at = at[cells[rounded[:, 1], rounded[:, 0]]]
    if not len(at):
        return
    size = np.full(len(at), 2.2 * habit.scale)
    turn = np.zeros(len(at))
    ring = stamped(density.size_px, ellipses(rng, at[:, 0], at[:, 1], size * 1.8, size * 1.8, turn)) * cells
    density.eosin *= 1.0 - 0.7 * ring
    density.haematoxylin *= 1.0 - 0.7 * ring
    dark = stamped(density.size_px, ellipses(rng, at[:, 0], at[:, 1], size, size, turn)) * cells
    density.nuclei(dark, 0.9, noise(rng, density.size_px, 1.2, 1.2))
