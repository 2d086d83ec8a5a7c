import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mpamatch.network.prototype_attention import PrototypeAttention

pytestmark = pytest.mark.torch


def _module() -> PrototypeAttention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PrototypeAttention(6, 5, width=8, heads=2)


def _drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.method_line(27)
def test_an_untrained_module_changes_nothing_and_its_gate_has_a_gradient() -> None:
    module, feature = _module(), _drawn(2, 6, 4, 4)
    changed = module(feature, _drawn(7, 5), torch.ones(7, dtype=torch.bool))
    assert changed.view(torch.int32).equal(feature.view(torch.int32))
    (changed * _drawn(2, 6, 4, 4, seed=2)).sum().backward()
    assert module.gamma.grad is not None
    assert bool((module.gamma.grad != 0).all())


def test_attention_is_that_of_a_loop_over_pixels_heads_and_active_rows() -> None:
    module, feature, rows = _module(), _drawn(2, 6, 3, 4), _drawn(7, 5)
    module.gamma.data = _drawn(6, seed=3)
    active = torch.tensor([True, False, True, True, False, False, True])
    with torch.no_grad():
        ours = module(feature, rows, active).numpy()
    weights = {name: p.detach().numpy().astype(np.float64) for name, p in module.named_parameters()}
    keys, values = (rows.numpy() @ weights[f"{n}.weight"].T + weights[f"{n}.bias"] for n in ("key", "value"))
    expected = feature.numpy().astype(np.float64)
    for image, y, x in np.ndindex(2, 3, 4):
        query = weights["query.weight"][:, :, 0, 0] @ feature[image, :, y, x].numpy() + weights["query.bias"]
        answer = np.zeros(8)
        for head in (slice(0, 4), slice(4, 8)):
            scores = {r: query[head] @ keys[r, head] / math.sqrt(4) for r in range(7) if active[r]}
            total = sum(np.exp(s) for s in scores.values())
            answer[head] = sum(np.exp(s) / total * values[r, head] for r, s in scores.items())
        back = weights["back.weight"][:, :, 0, 0] @ answer + weights["back.bias"]
        expected[image, :, y, x] += weights["gamma"] * back
    assert np.allclose(ours, expected, atol=1e-5)


def test_without_an_active_row_nothing_is_added_and_nothing_is_no_number() -> None:
    module, feature = _module(), _drawn(2, 6, 4, 4).requires_grad_()
    module.gamma.data.fill_(1.0)
    changed = module(feature, torch.zeros(7, 5), torch.zeros(7, dtype=torch.bool))
    assert torch.equal(changed, feature)
    changed.sum().backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in (*module.parameters(), feature))


def test_rows_get_no_gradient_and_sleeping_rows_no_attention() -> None:
    module, rows = _module(), _drawn(3, 5).requires_grad_()
    module.gamma.data.fill_(1.0)
    active = torch.tensor([True, True, False])
    changed = module(_drawn(1, 6, 4, 4), rows, active)
    changed.sum().backward()
    assert rows.grad is None
    other = rows.detach().clone()
    other[2] += 100
    assert torch.equal(module(_drawn(1, 6, 4, 4), other, active), changed)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="no multiple"):
        PrototypeAttention(6, 5, width=9, heads=2)
