"""A segmenter whose batch norms no longer look at the batch, so that what is seen at once does not matter."""

from __future__ import annotations

import torch
from torch import nn


def freeze_batch_norms(model: nn.Module) -> None:
    """Statistics of noise, and these for good: without any, signals would fade to numbers that are slow to compute."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    for norm in norms:
        norm.eval()
        norm.train = lambda mode=True, kept=norm: kept  # type: ignore[method-assign,assignment,misc]
