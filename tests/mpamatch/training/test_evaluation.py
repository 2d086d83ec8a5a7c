from dataclasses import replace

import numpy as np
import pytest
import torch

from mpamatch.domain.classes import ABSTAIN, IGNORE
from mpamatch.inference import Predictor
from mpamatch.network.encoders import encoder_record
from mpamatch.network.model import build_segmenter
from mpamatch.network.weights import LoadedModel, ModelConfig, WorkingScale
from mpamatch.training.evaluation import evaluate, fit_temperature, labelled_loss
from mpamatch.training.views import Tile
from tests.mpamatch.tissue import CLASSES, draw, quick_recipe

pytestmark = pytest.mark.torch


class _Oracle(torch.nn.Module):
    """Says class 1 where the image is dark, with a given logit; nothing else."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = torch.nn.Parameter(torch.tensor(logit))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dark = (x[:, 0] < 0).float() * 2 - 1
        return torch.stack([-dark, dark], dim=1) * self.logit / 2


def _loaded(logit: float) -> LoadedModel:
    config = ModelConfig("test-m1", CLASSES, encoder_record("tiny"), WorkingScale(1.0), quick_recipe())
    return LoadedModel(_Oracle(logit), config)  # type: ignore[arg-type]


def _tile(wrong: float, seed: int = 0, side_px: int = 64) -> Tile:
    """Half dark, half light; the mask agrees but for a share ``wrong`` of its pixels."""
    image = np.full((side_px, side_px, 3), 230, np.uint8)
    image[:, : side_px // 2] = 30
    mask = (image[..., 0] < 128).astype(np.uint8)
    flip = np.random.default_rng(seed).random(mask.shape) < wrong
    return Tile(image, np.where(flip, 1 - mask, mask).astype(np.uint8))


def test_figures_are_pooled_over_images_and_ignore_what_has_no_label() -> None:
    right, half = _tile(0.0), _tile(0.5)
    half.mask[:, :] = 1 - right.mask
    half.mask[:32] = IGNORE
    pairs = [("a", right.image, right.mask), ("b", half.image, half.mask)]
    figures = evaluate(Predictor(_loaded(10.0)), CLASSES, pairs, tau=0.95).to_json()
    assert figures["images"] == 2
    assert figures["mdice"] == pytest.approx(2 / 3)  # 4096 pixels right, 2048 wrong, evenly over both classes
    assert figures["foreground_dice"] == pytest.approx(2 / 3)
    assert figures["miou"] == pytest.approx(0.5)
    assert [row["mdice"] for row in figures["per_image"]] == [1.0, 0.0]
    assert [row["class"] for row in figures["per_class"]] == ["background", "gland"]
    assert figures["ece"] == pytest.approx(1 / 3, abs=1e-3)
    assert (figures["confident_share"], figures["confident_accuracy"]) == (1.0, pytest.approx(2 / 3))


def test_nothing_to_score_gives_no_figure() -> None:
    figures = evaluate(Predictor(_loaded(10.0)), CLASSES, [], tau=0.95).to_json()
    assert figures["images"] == 0
    assert np.isnan(figures["mdice"])


def test_the_three_ways_of_averaging_are_told_apart() -> None:
    """Image a is right; image b is all dark and half of it is gland, so its background is never found."""
    right, half = _tile(0.0), _tile(0.0)
    half.image[:] = 30
    pairs = [("a", right.image, right.mask), ("b", half.image, half.mask)]
    figures = evaluate(Predictor(_loaded(10.0)), CLASSES, pairs, tau=0.95, objects=True).to_json()
    pooled = [2 * 2048 / (4096 + 2048), 2 * 4096 / (6144 + 4096)]
    assert figures["mdice"] == pytest.approx(np.mean(pooled))
    assert figures["foreground_dice"] == pytest.approx(pooled[1])
    mean = figures["per_image_mean"]
    assert mean["mdice"] == pytest.approx((1 + (0 + 2 / 3) / 2) / 2)
    assert mean["foreground_dice"] == pytest.approx((1 + 2 / 3) / 2)
    assert mean["miou"] == pytest.approx((1 + (0 + 0.5) / 2) / 2)
    assert mean["object_dice"] == pytest.approx((1 + 2 / 3) / 2)
    # In b the far edge of the prediction is 32 px from the true one: more than 5 % of the border is that far.
    assert mean["hd95_px"] == pytest.approx((0 + 32) / 2, abs=1)
    assert figures["per_class"][1]["object_dice"] == mean["object_dice"]
    assert "object_dice" not in figures["per_class"][0]


def test_object_figures_are_left_out_unless_asked_for() -> None:
    tile = _tile(0.0)
    figures = evaluate(Predictor(_loaded(10.0)), CLASSES, [("a", tile.image, tile.mask)], tau=0.95).to_json()
    assert set(figures["per_image_mean"]) == {"mdice", "foreground_dice", "miou"}
    assert set(figures["per_class"][1]) == {"class", "dice", "iou", "pixels"}


@pytest.mark.method_line(47)
def test_figures_do_not_depend_on_how_many_patches_go_at_once_nor_on_the_order_of_images() -> None:
    record = encoder_record("tiny")
    config = ModelConfig("test-m1", CLASSES, record, WorkingScale(1.0), quick_recipe())
    module = build_segmenter(record, 2, seed=0, pretrained=False).eval()
    drawn = [(str(seed), *draw(seed, side_px=150)) for seed in range(3)]
    runs = [
        evaluate(Predictor(LoadedModel(module, config), batch), CLASSES, pairs, tau=0.6, objects=True).to_json()
        for batch, pairs in ((1, drawn), (8, drawn), (3, drawn[::-1]))
    ]
    assert 0 < runs[0]["foreground_dice"] < 1  # an untrained network, but both classes are predicted
    for key in ("mdice", "miou", "foreground_dice", "ece", "confident_share"):
        assert [run[key] for run in runs] == pytest.approx([runs[0][key]] * 3, abs=1e-4)
    for key, value in runs[0]["per_image_mean"].items():
        assert [run["per_image_mean"][key] for run in runs] == pytest.approx([value] * 3, rel=1e-3)


@pytest.mark.method_line(41)
@pytest.mark.parametrize(("logit", "wrong"), [(0.5, 0.1), (2.0, 0.3), (4.0, 0.05), (8.0, 0.2), (8.0, 0.45)])
def test_the_fitted_temperature_never_raises_the_loss_on_what_it_was_fitted_on(logit: float, wrong: float) -> None:
    tile = _tile(wrong, seed=3)
    temperature = fit_temperature(_loaded(logit), [tile], units=2)
    right = float(((tile.image[..., 0] < 128) == tile.mask).mean())

    def loss(t: float) -> float:
        return float(right * np.log1p(np.exp(-logit / t)) + (1 - right) * np.log1p(np.exp(logit / t)))

    assert loss(temperature) <= loss(1.0) + 1e-6
    assert temperature >= 1.0


@pytest.mark.method_line(41)
def test_an_overconfident_model_is_softened_and_the_likelihood_never_falls() -> None:
    tiles = [_tile(0.2, seed) for seed in range(4)]
    loaded = _loaded(6.0)
    temperature = fit_temperature(loaded, tiles, units=10**6)
    assert temperature == pytest.approx(6.0 / np.log(0.8 / 0.2), rel=0.06)

    def loss(t: float) -> float:
        share = 1 / (1 + np.exp(-6.0 / t))
        return float(-(0.8 * np.log(share) + 0.2 * np.log(1 - share)))

    assert loss(temperature) <= loss(1.0)


def test_where_a_person_could_not_tell_nothing_is_judged() -> None:
    tile, other = _tile(0.2), _tile(0.2)
    tile.mask[:16], other.mask[:16] = ABSTAIN, IGNORE
    temperatures = [fit_temperature(_loaded(6.0), [t], units=100) for t in (tile, other)]
    assert temperatures[0] == temperatures[1] > 1
    assert labelled_loss(_loaded(6.0), [tile]) == labelled_loss(_loaded(6.0), [other])


def test_the_loss_on_labels_is_that_of_training_over_all_their_pixels() -> None:
    right, wrong, blank = _tile(0.0), _tile(0.0), _tile(0.0, side_px=96)
    wrong.mask[:] = 1 - wrong.mask
    blank.mask[:] = IGNORE

    def loss(share: float, cross_entropy: float) -> float:
        """Of half the pixels each class; ``share`` is the mean probability of what is right."""
        return 0.5 * cross_entropy + 0.5 * (1 - share)

    share = 1 / (1 + np.exp(-2.0))
    plain, other = -np.log(share), -np.log(1 - share)
    assert labelled_loss(_loaded(2.0), [right]) == pytest.approx(loss(share, plain), abs=1e-3)
    assert labelled_loss(_loaded(2.0), [wrong, blank]) == pytest.approx(loss(1 - share, other), abs=1e-3)
    both = labelled_loss(_loaded(2.0), [right, blank, wrong])
    assert both == pytest.approx(loss(0.5, (plain + other) / 2), abs=1e-3)
    for nothing in ([], [blank]):
        assert np.isnan(labelled_loss(_loaded(2.0), nothing))
    assert np.isnan(labelled_loss(_loaded(float("nan")), [right]))


def test_the_loss_on_labels_is_of_tiles_as_they_are_and_finite_for_who_is_sure_and_wrong() -> None:
    """Tiles come at the working scale: they do not shrink once more. The oracle looks at single pixels."""
    right, wrong = _tile(0.0, side_px=100), _tile(0.0)
    wrong.mask[:] = 1 - wrong.mask
    halved = replace(_loaded(2.0).config, scale=WorkingScale(2.0))
    assert labelled_loss(replace(_loaded(2.0), config=halved), [right]) == labelled_loss(_loaded(2.0), [right])
    assert 20 < labelled_loss(_loaded(1000.0), [wrong]) < 100


def test_few_units_move_the_temperature_little() -> None:
    tiles = [_tile(0.2)]
    few, many = (fit_temperature(_loaded(6.0), tiles, units=n) for n in (1, 100))
    assert 1 < few < 1.3 < many


def test_a_model_is_never_made_surer_and_no_label_means_one() -> None:
    assert fit_temperature(_loaded(1.0), [_tile(0.0)], units=50) == 1.0
    assert fit_temperature(_loaded(6.0), [], units=0) == 1.0
    blank = _tile(0.0)
    blank.mask[:] = IGNORE
    assert fit_temperature(_loaded(6.0), [blank], units=5) == 1.0


def test_tiles_of_any_size_can_be_fitted_on() -> None:
    for side_px in (1, 33, 100, 150):
        assert fit_temperature(_loaded(6.0), [_tile(0.2, side_px=side_px)], units=5) >= 1.0
