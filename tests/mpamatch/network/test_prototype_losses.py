import numpy as np
import pytest
import torch
from torch.nn import functional

from mpamatch.domain.classes import IGNORE
from mpamatch.network.branch import BranchShape, PrototypeBranch
from mpamatch.network.prototype_losses import contrast, posterior, pull, text_pull
from mpamatch.network.prototypes import PrototypeBank, assign, similarities
from mpamatch.network.quarter_labels import choose_cells, quarter_labels

pytestmark = pytest.mark.torch


def _unit(count: int, channels: int = 8, seed: int = 0) -> torch.Tensor:
    return functional.normalize(torch.randn(count, channels, generator=torch.Generator().manual_seed(seed)), dim=1)


def _bank(rows: torch.Tensor) -> PrototypeBank:
    bank = PrototypeBank(*rows.shape)
    bank.rows.copy_(rows)
    bank.active.fill_(True)
    return bank


def _case(classes: int = 3, per_class: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    bank = _bank(_unit(classes * per_class, seed=1).view(classes, per_class, 8))
    points, labels = _unit(30, seed=2).requires_grad_(), torch.arange(30) % classes
    cosine = similarities(points, bank)
    return points, cosine, labels, assign(cosine, labels, "nearest")


@pytest.mark.method_line(8)
def test_contrast_equals_sums_of_exponentials_in_float64() -> None:
    _, cosine, labels, rows = _case()
    loss = contrast(cosine, labels, rows, 0.1, "other-classes").detach()
    every = contrast(cosine, labels, rows, 0.1, "all-rows").detach()
    for i, (c, k) in enumerate(zip(labels.tolist(), rows.tolist(), strict=True)):
        z = np.exp(cosine[i].detach().double().numpy() / 0.1)
        others = sum(z[other].sum() for other in range(3) if other != c)
        assert float(loss[i]) == pytest.approx(-np.log(z[c, k] / (z[c, k] + others)), rel=1e-5, abs=1e-6)
        flat = functional.cross_entropy(cosine[i].flatten()[None] / 0.1, torch.tensor([c * 2 + k]))
        assert float(every[i]) == pytest.approx(float(flat.detach()), rel=1e-5, abs=1e-6)


def test_the_class_form_is_cross_entropy_over_best_rows() -> None:
    _, cosine, labels, rows = _case()
    expected = functional.cross_entropy(cosine.max(dim=2).values / 0.1, labels, reduction="none")
    assert torch.allclose(contrast(cosine, labels, rows, 0.1, "class"), expected, atol=1e-5)


@pytest.mark.method_line(7)
def test_identical_prototypes_give_contrast_no_gradient() -> None:
    same = _unit(1, seed=1).expand(6, -1).reshape(3, 2, 8)
    points, labels = _unit(12, seed=2).requires_grad_(), torch.arange(12) % 3
    cosine = similarities(points, _bank(same))
    contrast(cosine, labels, torch.zeros_like(labels), 0.1, "other-classes").mean().backward()
    assert points.grad is not None
    assert float(points.grad.abs().max()) < 1e-6
    points.grad = None
    cosine = similarities(points, _bank(same))
    pull(cosine, labels, torch.zeros_like(labels)).mean().backward()
    assert float(points.grad.abs().max()) > 1e-3


@pytest.mark.method_line(5)
def test_prototypes_of_images_get_no_gradient_and_stay_to_the_bit() -> None:
    bank = _bank(_unit(6, seed=1).view(3, 2, 8))
    before = bank.rows.clone()
    points, labels = _unit(30, seed=2).requires_grad_(), torch.arange(30) % 3
    cosine = similarities(points, bank)
    rows = assign(cosine, labels, "nearest")
    (contrast(cosine, labels, rows, 0.1, "other-classes") + pull(cosine, labels, rows)).mean().backward()
    assert bank.rows.grad is None
    assert not bank.rows.requires_grad
    assert torch.equal(bank.rows, before)


@pytest.mark.method_line(6)
def test_embeddings_projection_and_texts_get_gradient() -> None:
    branch = PrototypeBranch(4, 3, BranchShape(channels=8, per_class=2, text_width=6))
    texts = _unit(3, channels=6, seed=4).requires_grad_()
    embedded = branch.embed(torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0)))
    points = embedded.permute(0, 2, 3, 1).reshape(-1, 8)
    labels = torch.arange(25) % 3
    cosine = (points @ branch.text_prototypes(texts).T)[..., None]
    rows = torch.zeros_like(labels)
    loss = contrast(cosine, labels, rows, branch.text_temperature, "other-classes") + pull(cosine, labels, rows)
    loss.mean().backward()
    assert branch.projection is not None
    for tensor in (*branch.head.parameters(), branch.projection.weight, branch.text_scale, texts):
        assert tensor.grad is not None
        assert float(tensor.grad.abs().sum()) > 0


def test_an_inactive_class_is_neither_pushed_from_nor_believed() -> None:
    bank = _bank(_unit(6, seed=1).view(3, 2, 8))
    bank.active[2] = False
    points, labels = _unit(10, seed=2).requires_grad_(), torch.arange(10) % 2
    cosine = similarities(points, bank)
    rows = assign(cosine, labels, "nearest")
    loss = contrast(cosine, labels, rows, 0.1, "other-classes")
    smaller = _bank(bank.rows[:2].clone())
    assert torch.allclose(loss, contrast(similarities(points, smaller), labels, rows, 0.1, "other-classes"))
    loss.mean().backward()
    assert points.grad is not None
    assert bool(torch.isfinite(points.grad).all())
    shares = posterior(cosine, 0.1)
    assert float(shares[:, 2].detach().max()) == 0
    assert torch.allclose(shares.sum(dim=1), torch.ones(10))


def test_one_class_alone_has_nothing_to_be_pushed_from() -> None:
    bank = _bank(_unit(4, seed=1).view(2, 2, 8))
    bank.active[1] = False
    points, labels = _unit(5, seed=2).requires_grad_(), torch.zeros(5, dtype=torch.int64)
    loss = contrast(similarities(points, bank), labels, labels, 0.1, "other-classes")
    loss.sum().backward()
    assert float(loss.detach().abs().max()) < 1e-6
    assert points.grad is not None
    assert bool(torch.isfinite(points.grad).all())


def test_a_projection_keeps_the_geometry_of_texts_at_the_start() -> None:
    branch = PrototypeBranch(4, 3, BranchShape(channels=16, per_class=0, text_width=8))
    texts = _unit(3, channels=8, seed=4)
    after = branch.text_prototypes(texts).detach()
    assert torch.allclose(after @ after.T, texts @ texts.T, atol=1e-5)
    assert float(branch.text_temperature.detach()) == pytest.approx(0.07)
    with torch.no_grad():
        branch.text_scale.fill_(99.0)
    assert float(branch.text_temperature.detach()) == pytest.approx(0.01)


def test_a_cell_takes_the_class_of_half_its_labelled_pixels_and_its_purity() -> None:
    mask = torch.zeros(1, 4, 20, dtype=torch.int64)
    mask[0, :, 4:8] = 1  # pure gland
    mask[0, :3, 8:12] = 1  # 12 of 16
    mask[0, :, 12:16] = IGNORE
    mask[0, 0, 12:16] = 1  # a quarter is labelled: not enough
    mask[0, :2, 16:20] = IGNORE  # half is labelled: enough
    label, purity = quarter_labels(mask, 3)
    assert label.tolist() == [[[0, 1, 1, IGNORE, 0]]]
    assert purity.tolist() == [[[1, 1, 0.75, 0, 1]]]


def test_a_cell_of_three_classes_without_a_half_is_left_out() -> None:
    mask = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]).view(1, 4, 4)
    label, _ = quarter_labels(mask, 3)
    assert label.tolist() == [[[IGNORE]]]


def test_cells_are_drawn_evenly_over_classes_more_at_borders_and_never_twice() -> None:
    label = torch.zeros(40, 40, dtype=torch.int64)
    label[:, 30:] = 1
    label[0] = IGNORE
    drawn = torch.zeros(1600)
    for seed in range(200):
        cells = choose_cells(label, 100, torch.Generator().manual_seed(seed))
        assert len(set(cells.tolist())) == 100
        assert torch.bincount(label.flatten()[cells], minlength=2).tolist() == [50, 50]
        drawn[cells] += 1
    inner, band = drawn.view(40, 40)[2:, :28].mean(), drawn.view(40, 40)[2:, 28:30].mean()
    assert 1.6 < float(band / inner) < 2.4
    assert torch.equal(choose_cells(label, 5000, torch.Generator()), (label.flatten() != IGNORE).nonzero().flatten())


def test_a_small_class_gives_all_it_has() -> None:
    label = torch.zeros(20, 20, dtype=torch.int64)
    label[10, :7] = 1
    cells = choose_cells(label, 60, torch.Generator().manual_seed(0))
    assert torch.bincount(label.flatten()[cells]).tolist() == [53, 7]


def test_texts_are_pulled_to_the_mean_row_of_their_class_and_rows_stay() -> None:
    bank = _bank(_unit(6, seed=1).view(3, 2, 8))
    bank.active[0, 1] = False
    bank.active[2] = False
    text = _unit(3, seed=4).requires_grad_()
    rows, words = bank.rows.double().numpy(), text.detach().double().numpy()
    means = [rows[0, 0], rows[1].mean(axis=0) / np.linalg.norm(rows[1].mean(axis=0))]
    expected = np.mean([((mean - words[c]) ** 2).sum() for c, mean in enumerate(means)])
    loss = text_pull(bank, text)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert text.grad is not None
    assert text.grad.abs().sum(dim=1).gt(0).tolist() == [True, True, False]
    assert float(text_pull(PrototypeBank(3, 2, 8), text).detach()) == 0
