import math

import numpy as np
import pytest
from scipy.optimize import least_squares

from mpamatch.domain.cost import CostModel
from mpamatch.domain.cost_fit import CostFit, CostFits, Work, robust_line, worth_an_order
from mpamatch.domain.cost_fit import fit_costs as fit_by

DEFAULT = CostModel(px_per_click=10.0)


def fit_costs(work: list[Work]) -> CostFits:
    return fit_by(work, counted_by=DEFAULT)


def labels(
    person: str | None, seconds_fixed: float, seconds_per_click: float, *, count: int = 60, seed: int = 0
) -> list[Work]:
    rng = np.random.default_rng(seed)
    clicks = rng.gamma(2, 8, count)
    seconds = np.maximum(seconds_fixed + seconds_per_click * clicks + rng.normal(0, 2, count), 0.5)
    return [Work(person, float(c), float(s)) for c, s in zip(clicks, seconds, strict=True)]


def lunches(work: list[Work], every: int) -> list[Work]:
    return [Work(w.person, w.clicks, w.seconds + 2700) if n % every == 0 else w for n, w in enumerate(work)]


@pytest.mark.parametrize(("seconds_fixed", "seconds_per_click"), [(4.0, 1.5), (10.0, 0.4), (0.0, 2.0)])
def test_the_line_is_found_though_every_sixth_label_waited_for_lunch(
    seconds_fixed: float, seconds_per_click: float
) -> None:
    work = lunches(labels("a", seconds_fixed, seconds_per_click, count=120), 6)
    plain = np.polyfit([w.clicks for w in work], [w.seconds for w in work], 1)
    assert plain[1] > seconds_fixed + 100  # what plain least squares makes of it
    found = fit_costs(work).overall
    assert found.fitted
    assert found.model.seconds_fixed == pytest.approx(seconds_fixed, abs=1.2)
    assert found.model.seconds_per_click == pytest.approx(seconds_per_click, abs=0.08)
    assert found.model.px_per_click == 10.0  # by what clicks are counted is not fitted
    assert found.spread_s == pytest.approx(2, abs=0.8)


def test_without_outliers_it_is_close_to_least_squares() -> None:
    work = labels("a", 5, 1.2, count=200)
    slope, base = np.polyfit([w.clicks for w in work], [w.seconds for w in work], 1)
    found = fit_costs(work).overall.model
    assert (found.seconds_fixed, found.seconds_per_click) == pytest.approx((base, slope), rel=0.1)


def test_few_labels_leave_the_defaults_and_say_so() -> None:
    found = fit_costs(labels("a", 30, 9, count=19))
    assert found.overall.model == DEFAULT
    assert found.overall.why == "19 of 20 labels with a time: the defaults hold"
    assert found.model_for("a").seconds(10.0) == pytest.approx(14)
    assert fit_costs([]).overall == CostFit(DEFAULT, None, 0, "0 of 20 labels with a time: the defaults hold")


def test_each_person_has_a_fit_and_a_newcomer_that_of_all() -> None:
    work = [*labels("a", 3, 1, seed=1), *labels("b", 20, 3, seed=2), *labels("c", 3, 1, count=5, seed=3)]
    found = fit_costs(work)
    assert found.model_for("a").seconds_per_click == pytest.approx(1, abs=0.1)
    assert found.model_for("b").seconds_per_click == pytest.approx(3, abs=0.15)
    assert found.by_person["c"].why == "5 of 20 labels with a time: as for all"
    for newcomer in ("c", "new", None):
        assert found.model_for(newcomer) == found.overall.model


def test_labels_that_are_all_alike_tell_no_slope() -> None:
    found = fit_costs([Work("a", 5.0, 9.0 + n % 3) for n in range(40)]).overall
    assert not found.fitted
    assert found.why == "all labels took about 5 clicks: the defaults hold"


def test_times_too_short_to_be_any_leave_the_defaults() -> None:
    found = fit_costs([Work("a", float(n % 9), 1e-7 * (1 + n % 9)) for n in range(40)]).overall
    assert (found.model, found.why) == (DEFAULT, "all labels took no time: the defaults hold")


@pytest.mark.parametrize(
    ("now", "worth"),
    [
        (CostModel(seconds_fixed=3.0, seconds_per_click=1.1), False),
        (CostModel(seconds_fixed=3.6, seconds_per_click=1.3), False),  # a fifth more of both
        (CostModel(seconds_fixed=3.0, seconds_per_click=1.5), True),  # more than a third more for 60
        (CostModel(seconds_fixed=4.2, seconds_per_click=1.1), False),  # a third more for one, which no region takes
        (CostModel(seconds_fixed=7.0, seconds_per_click=1.1), True),  # half more for five
        (
            CostModel(seconds_fixed=1.5, seconds_per_click=0.55),
            True,
        ),  # half of both: other seconds, though no other order
    ],
)
def test_a_new_order_is_worth_it_when_a_label_takes_a_third_more_or_less(now: CostModel, worth: bool) -> None:
    live = CostModel(seconds_fixed=3.0, seconds_per_click=1.1)
    for before, after in ((live, now), (now, live)):
        assert worth_an_order(CostFit(after, 2.0, 30), before, most_clicks=60.0) is worth


def test_an_order_is_seldom_made_anew_for_costs_alone_while_labels_come_in() -> None:
    """Times that scatter by 40 % around 5 s and 1.5 s for a click, and one label in ten with a lunch."""
    orders = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        clicks = rng.gamma(2, 8, 160)
        seconds = (5 + 1.5 * clicks) * np.exp(rng.normal(0, 0.4, 160)) + np.where(rng.random(160) < 0.1, 1800, 0)
        work = [Work(None, float(c), float(s)) for c, s in zip(clicks, seconds, strict=True)]
        live, made = CostModel(), 0
        for labels in range(20, 161, 20):
            fit = fit_by(work[:labels], counted_by=CostModel()).overall
            if worth_an_order(fit, live, most_clicks=60.0):
                live, made = fit.model, made + 1
        orders.append(made)
        assert live.departure(CostModel(seconds_fixed=5.0, seconds_per_click=1.5), clicks=(5.0, 60.0)) < 0.5
    assert max(orders) <= 3


def test_times_that_are_none_are_left_out() -> None:
    work = labels("a", 4, 1.5)
    broken = [Work("a", 5.0, value) for value in (0.0, -3.0, math.inf, math.nan)]
    assert fit_costs([*work, *broken]) == fit_costs(work)


def test_the_order_of_the_labels_does_not_matter() -> None:
    work = lunches(labels("a", 4, 1.5, count=30), 7)
    for seed in range(5):
        shuffled = [work[n] for n in np.random.default_rng(seed).permutation(30)]
        assert fit_costs(shuffled) == fit_costs(work)


@pytest.mark.parametrize("seed", range(6))
def test_the_line_is_where_the_loss_is_least(seed: int) -> None:
    """Against scipy's minimiser of the same loss at the same spread."""
    work = lunches(labels("a", 4 * (seed % 3), 1.5, seed=seed), 5)
    x, y = np.array([w.clicks for w in work]), np.array([w.seconds for w in work])
    base, slope, _ = robust_line(x, y)
    huber = least_squares(
        lambda line: line[0] + line[1] * x - y,
        [3.0, 1.1],
        loss="huber",
        f_scale=1.4826 * np.median(np.abs(y - np.median(y))),
        bounds=([0, 0], np.inf),
    )
    spread = 1.4826 * np.median(np.abs(huber.x[0] + huber.x[1] * x - y))
    found = least_squares(
        lambda line: line[0] + line[1] * x - y,
        np.maximum(huber.x, 1e-6),
        loss="cauchy",
        f_scale=spread,
        bounds=([0, 0], np.inf),
    )
    assert (base, slope) == pytest.approx(tuple(found.x), abs=0.02)
