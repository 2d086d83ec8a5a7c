from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mpamatch.domain.gate import GatePolicy, TileScore, judge
from mpamatch.domain.metrics import dice_per_class
from mpamatch.errors import BadInput

POLICY = GatePolicy()


def score(tile: int, group: str, hits: float, *, pixels: int = 10_000, background: float = 0.5) -> TileScore:
    """A two-class tile where the share ``hits`` of each class is found."""
    of_background = int(pixels * background)
    of_tissue = pixels - of_background
    a, b = round(of_background * hits), round(of_tissue * hits)
    return TileScore(tile, group, np.array([[a, of_background - a], [of_tissue - b, b]], dtype=np.int64))


def audit(hits, groups: int = 6, tiles: int = 4) -> list[TileScore]:
    values = hits if callable(hits) else lambda g, t: hits
    return [score(g * 100 + t, f"case-{g}", values(g, t)) for g in range(groups) for t in range(tiles)]


def verdict(candidate, champion, best=None, policy=POLICY, kind="judged", seed=1, **more):
    return judge(candidate, champion, best, policy, seed=seed, champion_kind=kind, **more)


def test_a_better_candidate_is_promoted_with_its_figures():
    found = verdict(audit(0.9), audit(0.8))
    assert found.promote
    assert not found.provisional
    assert found.figures["rule"] == "bound"
    assert found.figures["difference"] == pytest.approx(0.1, abs=1e-6)
    assert found.figures["lower"] > 0


def test_a_worse_candidate_is_kept_out_and_the_reason_names_the_bound():
    found = verdict(audit(0.7), audit(0.8))
    assert not found.promote
    assert "not above -0.010" in found.reasons[0]


def test_an_equal_candidate_is_promoted():
    assert verdict(audit(0.8), audit(0.8)).promote


def test_the_margin_lets_a_hair_less_through_and_no_more():
    assert verdict(audit(0.795), audit(0.8)).promote
    assert not verdict(audit(0.785), audit(0.8)).promote


def test_small_losses_do_not_add_up_because_the_best_so_far_counts_too():
    found = verdict(audit(0.785), audit(0.79), audit(0.8))
    assert not found.promote
    assert verdict(audit(0.785), audit(0.79), audit(0.79)).promote
    assert any("best champion so far" in reason for reason in found.reasons)
    assert found.figures["lower_vs_best"] < found.figures["lower"]


def test_a_gain_that_rests_on_one_case_has_a_wide_bound():
    """Tiles of one case are not independent: with cases as the unit one lucky case proves nothing."""
    lucky = audit(lambda g, t: 0.95 if g == 0 else 0.79, groups=6, tiles=20)
    champion = audit(0.8, groups=6, tiles=20)
    found = verdict(lucky, champion)
    assert found.figures["difference"] > 0.01
    assert found.figures["lower"] < -0.005
    spread = audit(lambda g, t: 0.95 if t < 4 else 0.79, groups=6, tiles=20)
    assert verdict(spread, champion).figures["lower"] > found.figures["lower"]


def test_the_bound_agrees_with_a_plain_bootstrap_in_a_loop():
    rng = np.random.default_rng(5)
    candidate = audit(lambda g, t: 0.8 + 0.1 * rng.random() + 0.01 * g, tiles=5)
    champion = audit(lambda g, t: 0.8 + 0.1 * rng.random(), tiles=5)
    figures = verdict(candidate, champion).figures
    by_group: dict[str, list[tuple[TileScore, TileScore]]] = {}
    for mine, other in zip(candidate, champion, strict=True):
        by_group.setdefault(mine.group, []).append((mine, other))
    names, differences = sorted(by_group), []
    for _ in range(3000):
        totals = [np.zeros((2, 2)), np.zeros((2, 2))]
        for name in rng.choice(names, len(names)):
            tiles = by_group[str(name)]
            for at in rng.integers(0, len(tiles), len(tiles)):
                for total, tile in zip(totals, tiles[at], strict=True):
                    total += tile.confusion
        differences.append(dice_per_class(totals[0]).mean() - dice_per_class(totals[1]).mean())
    assert figures["lower"] == pytest.approx(np.quantile(differences, 0.1), abs=0.002)
    assert figures["upper"] == pytest.approx(np.quantile(differences, 0.9), abs=0.002)


def three_classes(tile: int, group: str, rows: list[list[int]]) -> TileScore:
    return TileScore(tile, group, np.array(rows, dtype=np.int64))


def test_a_class_that_falls_keeps_a_candidate_out_although_its_mean_rose():
    better = [[900, 50, 50], [50, 900, 50], [300, 0, 700]]
    before = [[800, 100, 100], [300, 600, 100], [100, 0, 900]]
    candidate = [three_classes(t, f"g{t % 6}", better) for t in range(24)]
    champion = [three_classes(t, f"g{t % 6}", before) for t in range(24)]
    found = verdict(candidate, champion)
    assert found.figures["difference"] > 0
    assert not found.promote
    assert found.figures["fallen_classes"] == [2]
    assert any("class 2 fell" in reason for reason in found.reasons)
    assert verdict(candidate, champion, policy=replace(POLICY, class_fall=0.2)).promote


def test_a_blank_champion_has_no_class_to_defend():
    """It answers background everywhere, so any candidate that finds tissue loses some background."""
    blank = [TileScore(t, f"g{t % 6}", np.array([[5000, 0], [5000, 0]])) for t in range(24)]
    candidate = [TileScore(t, f"g{t % 6}", np.array([[2600, 2400], [500, 4500]])) for t in range(24)]
    assert verdict(candidate, blank, kind="blank").promote
    assert not verdict(candidate, blank, kind="judged").promote


def test_too_few_audit_tiles_let_the_point_estimate_decide_and_mark_the_champion_provisional():
    few = verdict(audit(0.81, groups=2), audit(0.8, groups=2))
    assert few.promote
    assert few.provisional
    assert few.figures["rule"] == "point"
    worse = verdict(audit(0.79, groups=2), audit(0.8, groups=2))
    assert not worse.promote
    assert verdict(audit(0.8, groups=2), audit(0.8, groups=2)).promote


@pytest.mark.parametrize(
    ("groups", "tiles", "rule"), [(4, 3, "bound"), (3, 4, "point"), (11, 1, "point"), (12, 1, "bound")]
)
def test_a_bound_needs_twelve_tiles_of_four_groups(groups, tiles, rule):
    found = verdict(audit(0.8, groups, tiles), audit(0.8, groups, tiles))
    assert found.figures["rule"] == rule


@pytest.mark.parametrize(
    ("kind", "promoted"), [("blank", True), ("starter", True), ("provisional", True), ("judged", False)]
)
def test_without_audit_masks_only_an_unproven_champion_gives_way(kind, promoted):
    found = verdict([], [], kind=kind)
    assert found.promote is promoted
    assert found.provisional is promoted
    assert found.figures["rule"] == "no-audit"
    assert "no audit tile" in found.reasons[0]


@pytest.mark.parametrize("kind", ["starter", "provisional", "judged"])
def test_a_collapsed_candidate_never_replaces_a_trained_champion(kind):
    collapsed = [TileScore(t, f"g{t % 6}", np.array([[9000, 0], [1000, 0]])) for t in range(24)]
    weak = [TileScore(t, f"g{t % 6}", np.array([[100, 8900], [900, 100]])) for t in range(24)]
    found = verdict(collapsed, weak, kind=kind)
    assert not found.promote
    assert found.figures["collapsed"]
    assert "one class everywhere" in found.reasons[0]
    assert not verdict(collapsed[:3], weak[:3], kind=kind).promote


def test_a_collapse_that_the_caller_saw_counts_without_audit_masks_too():
    assert not verdict([], [], kind="provisional", collapsed=True).promote
    assert verdict([], [], kind="blank", collapsed=True).promote


def test_answering_the_only_class_there_is_is_no_collapse():
    only = [TileScore(t, f"g{t % 6}", np.array([[10_000, 0], [0, 0]])) for t in range(24)]
    found = verdict(only, only)
    assert found.promote
    assert not found.figures["collapsed"]


def test_a_class_that_no_mask_holds_is_left_out_for_both():
    without = [three_classes(t, f"g{t % 6}", [[900, 100, 0], [100, 900, 0], [0, 0, 0]]) for t in range(24)]
    guessed = [three_classes(t, f"g{t % 6}", [[900, 99, 1], [100, 900, 0], [0, 0, 0]]) for t in range(24)]
    found = verdict(guessed, without)
    assert found.promote
    assert abs(found.figures["difference"]) < 0.001
    assert found.figures["per_class"]["candidate"][2] is None


def test_masks_that_supervise_nothing_promote_nothing():
    empty = [TileScore(t, f"g{t}", np.zeros((2, 2), np.int64)) for t in range(3)]
    found = verdict(empty, empty)
    assert not found.promote
    assert not verdict(empty * 1, empty, policy=replace(POLICY, min_tiles=1, min_groups=1)).promote


def test_the_order_of_tiles_changes_nothing_and_a_seed_repeats():
    rng = np.random.default_rng(0)
    candidate = audit(lambda g, t: 0.8 + 0.05 * rng.random())
    champion = audit(0.81)
    found = verdict(candidate, champion)
    assert verdict(candidate[::-1], champion[5:] + champion[:5]) == found
    assert verdict(candidate, champion, seed=2).figures["lower"] != found.figures["lower"]


@pytest.mark.parametrize("tiles", [0, 1, 24])
def test_figures_are_plain_json(tiles):
    candidate = audit(0.8)[:tiles]
    text = json.dumps(verdict(candidate, candidate).figures, allow_nan=False)
    assert json.loads(text)["audit_tiles"] == tiles


def test_scores_of_other_tiles_are_refused():
    with pytest.raises(BadInput, match="different tiles"):
        verdict(audit(0.8), audit(0.8, groups=5))
    with pytest.raises(BadInput, match="twice"):
        verdict(audit(0.8) * 2, audit(0.8) * 2)
    other_mask = [score(s.tile_id, s.group, 0.8, background=0.4) for s in audit(0.8)]
    with pytest.raises(BadInput, match="different masks"):
        verdict(audit(0.8), other_mask)
    with pytest.raises(BadInput, match="shapes"):
        verdict(audit(0.8), [replace(s, confusion=np.zeros((3, 3), np.int64)) for s in audit(0.8)])


@pytest.mark.parametrize("values", [{"margin": -0.1}, {"confidence": 1.0}, {"draws": 0}, {"class_fall": 2.0}])
def test_a_policy_out_of_range_is_refused(values):
    with pytest.raises(BadInput):
        GatePolicy(**values)


@pytest.mark.parametrize("groups", [0, 2])
@pytest.mark.parametrize("kind", ["starter", "provisional", "judged"])
def test_what_must_not_serve_unjudged_stays_out_wherever_there_is_no_bound(groups, kind):
    few = audit(0.9, groups=groups)
    found = verdict(few, audit(0.5, groups=groups), kind=kind, never_provisional=True)
    assert (found.promote, found.provisional) == (False, False)
    if groups or kind != "judged":
        assert verdict(few, audit(0.5, groups=groups), kind=kind).provisional, "another candidate would serve for now"
        assert "without a bound" in found.reasons[-1]


def test_what_must_not_serve_unjudged_is_judged_as_any_other_where_there_is_a_bound():
    for hits in (0.9, 0.4):
        plain = verdict(audit(hits), audit(0.6))
        assert verdict(audit(hits), audit(0.6), never_provisional=True) == plain
        assert plain.promote is (hits > 0.6)
