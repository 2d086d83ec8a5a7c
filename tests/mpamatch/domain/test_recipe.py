import pytest

from mpamatch.domain.recipe import METHODS, PROFILES, Recipe
from mpamatch.errors import BadInput


def test_the_default_recipe_uses_the_pool_and_is_driven_by_the_model() -> None:
    assert Recipe().uses_pool
    assert Recipe().strategy == "mpamatch"


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_comes_back_from_json_with_the_same_hash(profile: str, method: str) -> None:
    recipe = Recipe.for_profile(profile, method, lr=1)
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.sha256() == recipe.sha256()


def test_any_changed_knob_changes_the_hash() -> None:
    assert Recipe(tau=0.9).sha256() != Recipe().sha256()


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"tau": 1.5}, "recipe.tau"),
        ({"tau": float("nan")}, "recipe.tau"),
        ({"lr": "fast"}, "recipe.lr"),
        ({"steps_cold": True}, "recipe.steps_cold"),
        ({"steps_cold": 2.5}, "recipe.steps_cold"),
        ({"crop_px": 100}, "recipe.crop_px"),
        ({"method": "magic"}, "recipe.method"),
        ({"ramp_start": 0.9}, "recipe.ramp_start"),
        ({"steps": 3}, "recipe.steps"),
    ],
)
def test_a_wrong_knob_is_refused_by_name(knobs: dict[str, object], named: str) -> None:
    with pytest.raises(BadInput) as refusal:
        Recipe.from_json(knobs)
    assert refusal.value.item == named


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(BadInput):
        Recipe.for_profile("huge")


def test_large_images_are_halved_and_small_ones_kept() -> None:
    demo, small = Recipe.for_profile("demo"), Recipe.for_profile("small")
    assert (demo.reduction_for(224), demo.reduction_for(775)) == (1.0, 2.0)
    assert (small.reduction_for(224), small.reduction_for(775)) == (2.0, 4.0)
    assert Recipe(reduction=3.0).reduction_for(10_000) == 3.0


def test_fixmatch_has_one_strong_view_whatever_the_knob() -> None:
    assert Recipe(method="fixmatch", strong_views=2).views_per_tile == 1
    assert Recipe(method="unimatch-ema", strong_views=2).views_per_tile == 2
