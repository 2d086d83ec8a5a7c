import pytest

from mpamatch.domain.presets import PRESETS
from mpamatch.domain.recipe import METHODS, PROFILES, Recipe
from mpamatch.errors import BadInput


def test_the_default_recipe_uses_the_pool_and_is_driven_by_the_model() -> None:
    assert Recipe().uses_pool
    assert Recipe().method == "mpamatch-image"
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


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        ("unimatch-ema", (0.0, 0.5)),
        ("mpamatch", (0.25, 0.25)),
        ("mpamatch-image", (0.25, 0.25)),
        ("mpamatch-text", (0.25, 0.25)),
    ],
)
def test_prototypes_take_their_quarter_from_the_pool_and_no_baseline_is_handicapped(
    method: str, weights: tuple[float, float]
) -> None:
    recipe = Recipe.for_profile("small", method)
    assert (recipe.prototype_weight, recipe.pool_weight) == weights


def test_without_any_prototype_the_weights_are_unimatch_s_own() -> None:
    assert Recipe(method="mpamatch", alpha=0.0).pool_weight == 0.5
    assert Recipe(method="mpamatch-text", text="none").pool_weight == 0.5


def test_a_knob_of_an_earlier_version_is_read_under_its_name_of_now() -> None:
    assert Recipe.from_json({"segmenter": "tiny"}).encoder == "tiny"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_lies_between_a_profile_and_the_knobs_that_are_asked_for(preset: str) -> None:
    recipe = Recipe.for_profile("small", preset=preset, tau=0.9)
    assert recipe.tau == 0.9
    assert recipe.steps_cold == 600
    assert {name: getattr(recipe, name) for name in PRESETS[preset] if name != "tau"} == {
        name: value for name, value in PRESETS[preset].items() if name != "tau"
    }


def test_the_paper_s_preset_takes_its_weights_and_streams() -> None:
    recipe = Recipe.for_profile("medium", preset="paper")
    assert (recipe.prototype_weight, recipe.beta, recipe.pool_weight, recipe.tau) == (0.25, 0.5, 0.25, 0.95)
    assert recipe.labels_itself
    assert recipe.views_per_tile == 2


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(BadInput, match="known presets"):
        Recipe.for_profile("small", preset="grand")
