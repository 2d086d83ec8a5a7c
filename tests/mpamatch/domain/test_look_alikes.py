"""What looks like an artefact: against cosines worked out one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpamatch.domain.look_alikes import LookAlikes, Marks, look_alikes
from mpamatch.domain.novelty import Embed, TileEmbeddings
from mpamatch.errors import BadInput

VECTOR = hnp.arrays(np.float16, 5, elements=st.floats(-8, 8, width=16))
VECTORS = st.dictionaries(st.integers(1, 40), VECTOR, max_size=8)
Vectors = Mapping[int, np.ndarray]


class Kept:
    """Embeddings by tile; a region's row stands behind each, which says nothing of the tile."""

    def __init__(self, of: Vectors) -> None:
        self.of = of
        self.asked: list[int] = []

    def __call__(self, tile_ids: np.ndarray) -> TileEmbeddings:
        self.asked += tile_ids.tolist()
        size = len(next(iter(self.of.values()), np.zeros(1)))
        found = [self.of.get(tile) for tile in tile_ids.tolist()]
        rows = [np.zeros((0, size)) if one is None else np.stack([one, np.ones(size)]) for one in found]
        starts = np.cumsum([0, *(len(one) for one in rows)])
        return TileEmbeddings(np.concatenate([np.zeros((0, size)), *rows]).astype(np.float32), starts)


def alike(
    candidates: Vectors, artefacts: Vectors, cosine: float, accepted: Vectors | None = None, embed: Embed | None = None
) -> dict[int, tuple[int, float]]:
    """By tile: the artefact that it looks like, and the cosine. Ids of all three are different."""
    ids = [np.array(list(of), np.int64) for of in (candidates, artefacts, accepted or {})]
    kept = embed or Kept({**candidates, **artefacts, **(accepted or {})})
    found = look_alikes(ids[0], Marks(np.sort(ids[1]), np.sort(ids[2])), kept, cosine)
    assert found.tile_ids.tolist() == sorted(found.tile_ids.tolist())
    rows = zip(found.artefacts.tolist(), found.cosines.tolist(), strict=True)
    return dict(zip(found.tile_ids.tolist(), rows, strict=True))


def plain_cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    """In plain arithmetic; None where one of them has no direction."""
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    lengths = [math.sqrt(sum(float(x) ** 2 for x in v)) for v in (a, b)]
    return None if 0 in lengths else dot / (lengths[0] * lengths[1])


@given(VECTORS, VECTORS, VECTORS, st.floats(0.1, 0.99))
def test_what_sinks_is_what_cosines_one_by_one_say(
    candidates: Vectors, artefacts: Vectors, accepted: Vectors, cosine: float
) -> None:
    artefacts, accepted = ({n + more: v for n, v in of.items()} for of, more in ((artefacts, 100), (accepted, 200)))
    found = alike(candidates, artefacts, cosine, accepted)
    for number, vector in candidates.items():
        near = {i: c for i, a in artefacts.items() if (c := plain_cosine(vector, a)) is not None}
        good = [c for a in accepted.values() if (c := plain_cosine(vector, a)) is not None]
        highest = max(near.values(), default=-2.0)
        if abs(highest - cosine) < 1e-5 or any(abs(highest - c) < 1e-5 for c in good):
            continue  # single precision may fall to either side
        assert (number in found) == (highest > cosine and all(highest > c for c in good))
        if number in found:
            artefact, nearness = found[number]
            assert nearness == pytest.approx(highest, abs=1e-5)
            assert near[artefact] == pytest.approx(highest, abs=1e-5)


def test_a_copy_looks_like_the_artefact_with_the_lower_number() -> None:
    mark = np.array([1, 2, 3], np.float16)
    assert alike({7: mark}, {9: mark, 3: mark * 2}, 0.95) == {7: (3, pytest.approx(1.0))}


def test_what_people_accepted_keeps_its_likes_where_they_are() -> None:
    mark, good, between = np.array([1.0, 0.2]), np.array([1.0, 0.0]), np.array([1.0, 0.05])
    assert set(alike({1: between}, {2: mark}, 0.95)) == {1}
    assert alike({1: between}, {2: mark}, 0.95, {3: good}) == {}
    assert alike({1: mark}, {2: mark}, 0.95, {3: mark}) == {}, "as much alike is enough to stay"


def test_what_has_no_embedding_or_one_of_zeros_is_like_nothing() -> None:
    ones = np.ones(3)
    assert alike({1: np.zeros(3)}, {2: ones}, 0.0) == {}
    assert alike({1: ones}, {2: np.zeros(3)}, 0.0) == {}
    for known in ({1: ones}, {2: ones}, {}):
        assert alike({1: ones}, {2: ones}, 0.5, {3: ones}, Kept(known)) == {}


def test_nothing_is_read_without_a_mark_nor_what_was_accepted_where_nothing_is_near() -> None:
    x, y = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    kept = Kept({1: x, 2: y, 3: x})
    assert alike({1: x}, {}, 0.5, {3: x}, kept) == {}
    assert kept.asked == []
    assert alike({1: x}, {2: y}, 0.5, {3: x}, kept) == {}
    assert kept.asked == [2, 1]


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(BadInput, match="no number"):
        alike({1: np.array([np.nan, 1.0])}, {2: np.ones(2)}, 0.5)


def test_many_candidates_are_compared_in_parts_like_few() -> None:
    rng = np.random.default_rng(5)
    candidates = {int(n): rng.normal(size=4) for n in rng.permutation(np.arange(1, 5002))}
    artefacts = {20_000: rng.normal(size=4), 20_001: rng.normal(size=4)}
    accepted = {30_000: rng.normal(size=4)}
    kept = Kept(candidates | artefacts | accepted)
    whole = alike(candidates, artefacts, 0.8, accepted, kept)
    one_by_one = {i: a for i, v in candidates.items() for a in alike({i: v}, artefacts, 0.8, accepted, kept).values()}
    assert whole.keys() == one_by_one.keys()
    for number, (artefact, cosine) in whole.items():
        assert one_by_one[number] == (artefact, pytest.approx(cosine, abs=2e-5))
    assert len(whole) > 100
    assert len(LookAlikes.nothing()) == 0
