import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from mpamatch.network.prototypes import (
    PrototypeBank,
    assign,
    health,
    momentum,
    nearer_than_others,
    replacement,
    row_sums,
    similarities,
    sinkhorn,
    spherical_kmeans,
)

pytestmark = pytest.mark.torch


def _unit(count: int, channels: int = 8, seed: int = 0) -> torch.Tensor:
    return functional.normalize(torch.randn(count, channels, generator=torch.Generator().manual_seed(seed)), dim=1)


def _bank(classes: int = 2, per_class: int = 3, channels: int = 8, seed: int = 5) -> PrototypeBank:
    bank = PrototypeBank(classes, per_class, channels)
    bank.rows.copy_(_unit(classes * per_class, channels, seed).view(classes, per_class, channels))
    bank.active.fill_(True)
    bank.usage.fill_(1 / per_class)
    return bank


@pytest.mark.method_line(1)
def test_a_moving_average_equals_a_loop_in_numpy() -> None:
    bank, points, classes = _bank(), _unit(40, seed=1), torch.arange(40) % 2
    weights = torch.rand(40, generator=torch.Generator().manual_seed(2))
    rows = assign(similarities(points, bank), classes, "nearest")
    before, updates = bank.rows.double().numpy().copy(), int(bank.updates)
    sums = row_sums(points, classes, rows, weights, bank.rows.shape)
    bank.update(sums[..., :-1], sums[..., -1], 0.99)
    m = min(1 - 1 / (updates + 10), 0.99)
    for c in range(2):
        for k in range(3):
            s = np.zeros(8)
            for i in range(40):
                if int(classes[i]) == c and int(rows[i]) == k:
                    s += float(weights[i]) * points[i].double().numpy()
            expected = before[c, k]
            if np.linalg.norm(s) > 0:
                expected = m * before[c, k] + (1 - m) * s / np.linalg.norm(s)
                expected /= np.linalg.norm(expected)
            assert np.allclose(bank.rows[c, k].numpy(), expected, atol=1e-6)


@pytest.mark.method_line(2)
def test_momentum_grows_and_the_start_outlives_the_first_update() -> None:
    assert momentum(0, 0.999) == 0.9
    assert momentum(10, 0.999) == 0.95
    assert momentum(1_000_000, 0.999) == 0.999
    bank = _bank(per_class=1)
    start = bank.rows.clone()
    opposite = torch.cat([-start, torch.ones(2, 1, 1)], dim=2)
    bank.update(opposite[..., :-1], opposite[..., -1], 0.99)
    assert float((bank.rows * start).sum(dim=-1).min()) > 0.99


@pytest.mark.method_line(3)
def test_nearest_is_the_least_euclidean_distance_within_the_own_class() -> None:
    bank, points = _bank(), _unit(60, seed=3)
    classes = torch.arange(60) % 2
    rows = assign(similarities(points, bank), classes, "nearest")
    for point, index, row in zip(points.numpy(), classes.tolist(), rows.tolist(), strict=True):
        distances = np.linalg.norm(bank.rows[index].numpy() - point, axis=1)
        assert row == int(distances.argmin())


@pytest.mark.method_line(4)
def test_sinkhorn_has_even_sums_and_equals_a_loop_in_logarithms() -> None:
    cosine = torch.randn(50, 4, generator=torch.Generator().manual_seed(4)) * 0.3
    plan = sinkhorn(cosine, rounds=100).numpy()
    assert np.allclose(plan.sum(axis=0), 1 / 4, atol=1e-3)
    assert np.allclose(plan.sum(axis=1), 1 / 50, atol=1e-3)
    log = cosine.double().numpy() / 0.05
    f, g = np.zeros(50), np.zeros(4)
    for _ in range(100):
        g = -np.log(4) - np.logaddexp.reduce(log + f[:, None], axis=0)
        f = -np.log(50) - np.logaddexp.reduce(log + g[None], axis=1)
    assert np.allclose(plan, np.exp(log + f[:, None] + g[None]), atol=1e-9)


def test_sinkhorn_spreads_what_nearest_leaves_to_one_row() -> None:
    bank = _bank(classes=2)
    points = functional.normalize(bank.rows[0, 0] + 0.3 * _unit(60, seed=8), dim=1)
    classes = torch.zeros(60, dtype=torch.int64)
    cosine = similarities(points, bank)
    assert set(assign(cosine, classes, "nearest").tolist()) == {0}
    assert torch.bincount(assign(cosine, classes, "sinkhorn"), minlength=3).min() >= 10
    few = assign(cosine[:23], classes[:23], "sinkhorn")  # fewer than eight for each row
    assert torch.equal(few, assign(cosine[:23], classes[:23], "nearest"))


def test_pixels_that_are_no_numbers_are_given_to_some_row() -> None:
    """A step whose loss is not finite is skipped; finding its rows must not end the run before that."""
    cosine = similarities(torch.full((40, 8), torch.nan), _bank())
    for method in ("nearest", "sinkhorn"):
        rows = assign(cosine, torch.zeros(40, dtype=torch.int64), method)  # type: ignore[arg-type]
        assert bool(((rows >= 0) & (rows < 3)).all())


def test_sums_of_shares_make_the_sums_of_the_whole() -> None:
    bank, points, classes = _bank(), _unit(30, seed=1), torch.arange(30) % 2
    rows = assign(similarities(points, bank), classes, "nearest")
    weights = torch.linspace(0.1, 1, 30)
    whole = row_sums(points, classes, rows, weights, bank.rows.shape)
    halves = [row_sums(points[h], classes[h], rows[h], weights[h], bank.rows.shape) for h in (slice(17), slice(17, 30))]
    assert torch.allclose(whole, halves[0] + halves[1], atol=1e-6)


def test_averaging_banks_as_published_is_not_one_bank() -> None:
    """ProtoSeg's code updates a bank in each process and averages them; where a process lacks a class it differs."""
    points = _unit(8, seed=3)
    one, first, second = _bank(per_class=1), _bank(per_class=1), _bank(per_class=1)
    classes = torch.zeros(8, dtype=torch.int64)

    def update(bank: PrototypeBank, chosen: torch.Tensor) -> None:
        rows = torch.zeros(len(chosen), dtype=torch.int64)
        sums = row_sums(chosen, classes[: len(chosen)], rows, torch.ones(len(chosen)), bank.rows.shape)
        bank.update(sums[..., :-1], sums[..., -1], 0.99)

    update(one, points)
    update(first, points)
    update(second, points[:0])
    averaged = (first.rows[0, 0] + second.rows[0, 0]) / 2
    assert not torch.allclose(averaged, one.rows[0, 0], atol=1e-4)
    assert float(averaged.norm()) < 1 - 1e-5
    assert float(one.rows[0, 0].norm()) == pytest.approx(1, abs=1e-6)


def test_seeding_finds_clusters_and_leaves_a_class_without_pixels_inactive() -> None:
    centres = _unit(3, channels=16, seed=7)
    points = functional.normalize(centres.repeat(40, 1) + 0.05 * torch.randn(120, 16), dim=1)
    bank = PrototypeBank(3, 3, 16)
    bank.seed(points, torch.zeros(120, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert bank.ready.tolist() == [True, False, False]
    assert float((bank.rows[0] @ centres.T).max(dim=0).values.min()) > 0.98
    bank.seed(points[:6], torch.ones(6, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert bank.active[1].tolist() == [True, False, False]  # six pixels, one row
    kept = bank.rows[0].clone()
    bank.seed(-points, torch.zeros(120, dtype=torch.int64), torch.Generator().manual_seed(1))
    assert torch.equal(bank.rows[0], kept)


def test_clusters_depend_on_the_generator_alone() -> None:
    points = _unit(50, seed=9)
    first, second = (spherical_kmeans(points, 4, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.allclose(first.norm(dim=1), torch.ones(4), atol=1e-6)
    same = spherical_kmeans(points[:1].expand(10, -1), 3, torch.Generator().manual_seed(3))
    assert bool(torch.isfinite(same).all())


def _idle_bank() -> PrototypeBank:
    bank = _bank(per_class=2)
    sums = torch.cat([bank.rows, torch.ones(2, 2, 1)], dim=2)
    sums[0, 1] = 0
    for _ in range(600):
        bank.update(sums[..., :-1], sums[..., -1], 0.99)
    return bank


@pytest.mark.method_line(35)
def test_a_dead_row_is_reseeded_once_and_the_same_way() -> None:
    bank = _idle_bank()
    assert bank.dead(after=200) == [(0, 1)]
    points = functional.normalize(bank.rows[0, 0] + 0.2 * _unit(100, seed=11), dim=1)
    classes = torch.zeros(100, dtype=torch.int64)
    found = [replacement(bank, (0, 1), points, classes, "split", seed=1) for _ in range(2)]
    assert found[0] is not None
    assert found[1] is not None
    assert torch.equal(found[0], found[1])
    bank.reseed((0, 1), found[0])
    assert bank.dead(after=200) == []
    assert float(bank.usage[0, 1]) == 0.5


def test_a_class_that_is_not_seen_does_not_die() -> None:
    bank = _bank()
    nothing = torch.zeros(2, 3, 9)
    for _ in range(300):
        bank.update(nothing[..., :-1], nothing[..., -1], 0.99)
    assert bank.dead(after=200) == []


def test_the_farthest_pixel_is_what_another_class_looks_like_and_split_avoids_it() -> None:
    """White lumen labelled as gland lies where background is: the rule of the published code picks just that."""
    bank = _idle_bank()
    gland = functional.normalize(bank.rows[0, 0] + 0.2 * _unit(50, seed=12), dim=1)
    lumen = functional.normalize(bank.rows[1, 0] + 0.05 * _unit(50, seed=13), dim=1)
    points, classes = torch.cat([gland, lumen]), torch.zeros(100, dtype=torch.int64)
    barred = nearer_than_others(similarities(points, bank), classes)
    assert not bool(barred[50:].any())
    upstream = points[similarities(points, bank)[:, 0].max(dim=1).values.argmin()]
    assert float(upstream @ bank.rows[1, 0]) > 0.95
    for how in ("split", "farthest"):
        row = replacement(bank, (0, 1), points, classes, how, seed=0)  # type: ignore[arg-type]
        assert row is not None
        assert float(row @ bank.rows[1, 0]) < 0.9
    assert replacement(bank, (0, 1), lumen, classes[:50], "split", seed=0) is None


@pytest.mark.method_line(37)
def test_the_monitors_tell_collapse_from_health() -> None:
    apart = PrototypeBank(2, 2, 8)
    apart.rows.copy_(torch.eye(8)[:4].view(2, 2, 8))
    apart.active.fill_(True)
    apart.usage.fill_(0.5)
    good = health(apart)
    assert good is not None
    assert (good.within, good.between, good.most_between) == (0, 0, 0)
    assert good.used == pytest.approx(2)
    assert not good.collapsed
    same = PrototypeBank(2, 2, 8)
    same.rows[..., 0] = 1
    same.active.fill_(True)
    same.usage.copy_(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    bad = health(same)
    assert bad is not None
    assert (bad.within, bad.between, bad.most_between) == (1, 1, 1)
    assert bad.used == pytest.approx((1 + 2) / 2)
    assert bad.collapsed
    assert health(PrototypeBank(2, 2, 8)) is None
    alone = PrototypeBank(2, 1, 8)
    alone.rows[..., 0] = 1
    alone.active[0] = True
    alone.usage.fill_(1)
    figures = health(alone)
    assert figures is not None
    assert math.isnan(figures.between)
    assert not figures.collapsed


@pytest.mark.method_line(37)
def test_a_class_of_one_row_is_no_collapse_beside_one_of_several() -> None:
    bank = PrototypeBank(2, 3, 8)
    bank.rows.copy_(torch.eye(8)[:6].view(2, 3, 8))
    bank.active.copy_(torch.tensor([[True, True, True], [True, False, False]]))
    bank.usage.copy_(torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0]]))
    uneven = health(bank)
    assert uneven is not None
    assert uneven.used == pytest.approx((3 + 1) / 2)
    assert not uneven.collapsed
    bank.usage[0] = torch.tensor([0.98, 0.01, 0.01])
    hardly = health(bank)
    assert hardly is not None
    assert hardly.collapsed
