import math

import numpy as np
import pytest
import torch

from mpamatch.network.losses import dice_loss, pseudo_label_loss, supervised_loss

pytestmark = pytest.mark.torch

_TAUS = torch.full((3,), 0.95)


def _random(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 8, 8, generator=generator, requires_grad=True)
    mask = torch.randint(0, 3, (2, 8, 8), generator=generator)
    mask[0, :3] = 255
    return logits, mask


def test_supervised_loss_equals_a_loop_over_pixels() -> None:
    logits, mask = _random()
    x, y = logits.detach().double().numpy(), mask.numpy()
    shares = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    seen = np.argwhere(y != 255)
    cross = -np.mean([math.log(shares[b, y[b, i, j], i, j]) for b, i, j in seen])
    dice = []
    for c in range(3):
        overlap = sum(shares[b, c, i, j] for b, i, j in seen if y[b, i, j] == c)
        total = sum(shares[b, c, i, j] + (y[b, i, j] == c) for b, i, j in seen)
        dice.append(1 - (2 * overlap + 1) / (total + 1))
    assert float(supervised_loss(logits.detach(), mask)) == pytest.approx(
        0.5 * cross + 0.5 * float(np.mean(dice)), abs=1e-5
    )


@pytest.mark.method_line(12)
def test_labels_that_are_not_there_change_nothing() -> None:
    logits, mask = _random()
    changed = logits.detach().clone()
    changed[0, :, :3] += 5
    assert torch.equal(supervised_loss(logits, mask), supervised_loss(changed, mask))


@pytest.mark.method_line(10)
def test_no_label_at_all_is_zero_and_has_a_gradient() -> None:
    logits, mask = _random()
    loss = supervised_loss(logits, torch.full_like(mask, 255))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert bool((logits.grad == 0).all())


def test_a_class_neither_labelled_nor_predicted_does_not_weigh() -> None:
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 1] = 4
    mask = torch.ones(1, 4, 4, dtype=torch.int64)
    shares = logits.softmax(1)[0, 1, 0, 0]
    expected = 1 - (2 * 16 * shares + 1) / (16 * shares + 16 + 1)
    assert float(dice_loss(logits, mask)) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.method_line(11)
def test_the_unlabelled_loss_divides_by_valid_pixels_not_confident_ones() -> None:
    logits, _ = _random()
    label = torch.zeros(2, 8, 8, dtype=torch.int64)
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    confidence = torch.zeros(2, 8, 8)
    confidence[0] = 0.99
    flat = torch.zeros_like(logits)
    whole = pseudo_label_loss(flat, label, confidence, valid, _TAUS)
    confidence[0, 4:] = 0.5
    half = pseudo_label_loss(flat, label, confidence, valid, _TAUS)
    assert float(half) == pytest.approx(float(whole) / 2)
    assert float(whole) == pytest.approx(math.log(3) / 2, abs=1e-6)


@pytest.mark.method_line(9)
def test_nothing_confident_is_exactly_zero_with_the_graph_intact() -> None:
    logits, _ = _random()
    label, valid = torch.zeros(2, 8, 8, dtype=torch.int64), torch.ones(2, 8, 8, dtype=torch.bool)
    loss = pseudo_label_loss(logits, label, torch.zeros(2, 8, 8), valid, _TAUS)
    loss.backward()
    assert float(loss.detach()) == 0
    loss = pseudo_label_loss(logits, label, torch.ones(2, 8, 8), ~valid, _TAUS)
    assert float(loss.detach()) == 0
