"""The stain table: unit vectors, haematoxylin apart from eosin, and a look that spans it."""

from __future__ import annotations

import numpy as np
import pytest

from mpamatch.datasets.drawn.stains import STAINS, Stain, draw_look


@pytest.mark.parametrize("stain", STAINS, ids=lambda stain: stain.source)
def test_each_stain_has_two_vectors_of_length_one_that_differ(stain: Stain) -> None:
    blue, pink = np.array(stain.haematoxylin), np.array(stain.eosin)
    assert np.linalg.norm(blue) == pytest.approx(1.0, abs=0.02)
    assert np.linalg.norm(pink) == pytest.approx(1.0, abs=0.02)
    assert blue[0] / blue[1] > pink[0] / pink[1]  # haematoxylin takes more red light than eosin does


def test_looks_reach_from_pale_to_dark_and_from_blue_to_pink() -> None:
    looks = [draw_look(np.random.default_rng(seed)) for seed in range(400)]
    dark = np.array([np.linalg.norm(look.haematoxylin) for look in looks])
    assert dark.min() < 1.4
    assert dark.max() > 4.2
    redness = np.array([look.haematoxylin[0] / look.haematoxylin[1] for look in looks])
    assert redness.min() < 0.5
    assert redness.max() > 0.9
    glass = np.array([look.glass for look in looks])
    assert glass.min() < 0.87
    assert np.ptp(glass, axis=1).max() > 0.05  # some slides have a tint
