from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mpamatch.experiments.simulation.curves import Curve, common_end


def rounds(values: list[float], clicks: list[float]) -> list[dict[str, Any]]:
    """Rows as cells keep them; of one image with 100 pixels."""
    rows = []
    for place, (value, at) in enumerate(zip(values, clicks, strict=True)):
        scored = {"mdice": value, "per_image": [{"image": "a", "confusion": [[50, 0], [50 - place, place]]}]}
        rows.append({"clicks": at, "seconds": 2 * at, "area_share": at / 1000, "val": scored, "pool": scored})
    return rows


def test_a_curve_s_mean_is_over_what_was_paid() -> None:
    curve = Curve.of(rounds([0.5, 0.7, 0.8], [0.0, 100.0, 200.0]))
    assert curve.mean("clicks", 200.0) == pytest.approx((0.6 + 0.75) / 2)
    assert curve.mean("clicks", 100.0) == pytest.approx(0.6)
    assert curve.mean("seconds", 200.0) == pytest.approx(0.6)
    assert curve.mean("clicks", 0.0) == 0.5
    assert curve.confusions["val"].shape == (3, 1, 2, 2)


def test_where_a_target_is_reached() -> None:
    curve = Curve.of(rounds([0.5, 0.7, 0.6, 0.8], [0.0, 100.0, 200.0, 300.0]))
    assert curve.reaches(0.5) == 0
    assert curve.reaches(0.6) == pytest.approx(50)
    assert curve.reaches(0.75) == pytest.approx(275)
    assert curve.reaches(0.81) is None


def test_the_common_range_ends_with_the_shortest_curve() -> None:
    long, short = (Curve.of(rounds([0.5, 0.6], [0.0, end])) for end in (120.0, 80.0))
    assert common_end([long, short], "clicks") == 80
    assert common_end([], "clicks") == 0
    assert long.scored("clicks", 80.0, "val").end == 80
    assert np.array_equal(long.at["seconds"], [0, 240])
