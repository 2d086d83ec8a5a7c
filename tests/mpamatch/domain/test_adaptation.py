from dataclasses import replace

import pytest

from mpamatch.domain.adaptation import MOST_TILES, AdaptationFacts, check_adaptable, draw_tiles
from mpamatch.domain.gate import GatePolicy
from mpamatch.errors import Conflict

FACTS = AdaptationFacts("glands-m3", has_weights=True, audit_tiles=12, audit_groups=4, any_unlabelled=True)


def test_a_champion_with_weights_a_judge_and_a_pool_can_be_adapted():
    check_adaptable(FACTS, GatePolicy())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"has_weights": False}, "champion glands-m3: has no weights"),
        ({"audit_tiles": 0, "audit_groups": 0}, "audit tiles: 0 labelled of 0 groups"),
        ({"audit_tiles": 11}, "the gate needs 12 tiles of 4 groups"),
        ({"audit_groups": 3}, "12 labelled of 3 groups"),
        ({"any_unlabelled": False}, "pool: holds no unlabelled train tile"),
    ],
)
def test_what_cannot_be_adapted_or_judged_is_refused_in_one_line_with_a_remedy(changes, said):
    with pytest.raises(Conflict) as refused:
        check_adaptable(replace(FACTS, **changes), GatePolicy())
    assert said in str(refused.value)
    assert refused.value.remedy
    assert "\n" not in str(refused.value)


def test_a_small_pool_is_read_whole_and_a_large_one_by_the_seed():
    assert draw_tiles([3, 1, 2], 0) == {1, 2, 3}
    many = range(4 * MOST_TILES)
    drawn = draw_tiles(many, 7)
    assert len(drawn) == MOST_TILES
    assert drawn == draw_tiles(reversed(many), 7)
    assert drawn != draw_tiles(many, 8)
