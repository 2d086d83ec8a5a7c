import math

import numpy as np
import pytest

from mpamatch.domain.stopping import Next, Step, advise, share_of


def steps(slope: float, *, count: int = 6, noise: float = 0.0, sd: float = 0.002, seed: int = 0) -> list[Step]:
    rng = np.random.default_rng(seed)
    found = []
    for n in range(1, count + 1):
        d = slope * math.log((n + 1) / n) + rng.normal(0, noise)
        found.append(Step(f"m{n}", 12 * n, 12 * (n + 1), d, d - 1.2816 * sd, d + 1.2816 * sd))
    return found


def following(**more) -> Next:
    return Next(**({"head_tiles": 50, "labelled": 84, "clicks_per_tile": 10.0, "worth": 0.01} | more))


def test_a_straight_line_goes_on_as_it_went() -> None:
    found = advise(steps(0.05), following())
    assert found.verdict == "go on"
    assert found.next_head is not None
    assert found.next_head.expected == pytest.approx(0.05 * math.log(134 / 84), abs=1e-9)
    assert found.per_100_clicks is not None
    assert found.per_100_clicks.expected == pytest.approx(0.05 * math.log(94 / 84), abs=1e-9)
    assert found.says == "Go on: the next head of 50 tiles is expected to add 0.023 Dice (0.020 to 0.027)."


def test_a_curve_that_is_flat_for_sure_says_consider_stopping_and_gives_no_order() -> None:
    found = advise(steps(0.005), following())
    assert found.verdict == "consider stopping"
    assert found.says == (
        "The next head of 50 tiles is expected to add 0.002 Dice (-0.001 to 0.006): consider stopping."
    )


def test_noise_makes_it_unclear() -> None:
    found = advise(steps(0.01, noise=0.02, seed=3), following())
    assert found.verdict == "unclear"
    assert found.next_head is not None
    assert found.next_head.low < 0 < 0.01 < found.next_head.high


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "0 verdicts with bounds"),
        (steps(0.05, count=2), "2 verdicts with bounds"),
        ([Step(f"m{n}", 12, 24, 0.1, None, None) for n in range(9)], "0 verdicts with bounds"),
        ([Step(f"m{n}", 0, 24, 0.1, 0.0, 0.2) for n in range(9)], "0 verdicts with bounds"),
        ([Step(f"m{n}", 24, 24, 0.1, 0.0, 0.2) for n in range(9)], "0 verdicts with bounds"),
    ],
)
def test_verdicts_without_bounds_or_without_new_labels_tell_nothing(given: list[Step], said: str) -> None:
    found = advise(given, following())
    assert found.verdict == "too early"
    assert said in found.says
    assert found.next_head is None


def test_verdicts_that_kept_a_candidate_out_count_too() -> None:
    gains = steps(0.05)
    losses = [Step("x", 12 * n, 12 * (n + 1), -0.02, -0.03, -0.01) for n in range(1, 5)]
    with_losses = advise([*gains, *losses], following()).next_head
    assert with_losses is not None
    assert with_losses.expected < advise(gains, following()).next_head.expected  # type: ignore[union-attr]


def test_nothing_that_waits_and_clicks_that_nobody_knows() -> None:
    assert advise(steps(0.05), following(head_tiles=0)).verdict == "too early"
    assert advise(steps(0.05), following(clicks_per_tile=None)).per_100_clicks is None
    assert "of 1 tile " in advise(steps(0.05), following(head_tiles=1)).says


@pytest.mark.parametrize(("patients_sd", "training_sd"), [(0.02, 0.001), (0.0, 0.006)])
def test_nine_in_ten_intervals_hold_the_truth(patients_sd: float, training_sd: float) -> None:
    """Drawn verdicts on eight patients who gain differently, or models whose training is noisy."""
    rng = np.random.default_rng(1)
    labelled = np.array([12 * n for n in range(1, 7)])
    truth, held = 0.02, 0
    for _ in range(200):
        slopes = rng.normal(truth, patients_sd, 8)
        dice = slopes[:, None] * np.log(labelled) + rng.normal(0, training_sd, 6) + rng.normal(0, 0.01, (8, 6))
        by_patient = np.diff(dice, axis=1)
        mean, reach = by_patient.mean(axis=0), 1.2816 * by_patient.std(axis=0, ddof=1) / math.sqrt(8)
        rows = zip(labelled, labelled[1:], mean, mean - reach, mean + reach, strict=False)
        found = advise([Step("m", *map(float, row)) for row in rows], following(labelled=72)).next_head  # type: ignore[arg-type]
        assert found is not None
        held += found.low <= truth * math.log(122 / 72) <= found.high
    assert held >= 180


def test_the_order_of_the_verdicts_does_not_matter() -> None:
    given = steps(0.03, noise=0.01)
    first, other = (advise(one, following()).next_head for one in (given, given[::-1]))
    assert first is not None
    assert other is not None
    assert (first.expected, first.low, first.high) == pytest.approx((other.expected, other.low, other.high))


def test_a_share_of_few_is_uncertain_and_of_all_never_above_one() -> None:
    assert share_of(0, 0).share is None
    for part, whole in ((0, 5), (5, 5), (31, 50)):
        found = share_of(part, whole)
        assert found.low is not None
        assert found.high is not None
        assert 0 <= found.low <= part / whole <= found.high <= 1
    assert share_of(5, 5).low == pytest.approx(0.649, abs=0.001)  # 5 / (5 + 1.645^2)
