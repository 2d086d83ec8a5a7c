"""Prototype cross-attention: pixels look at prototypes, and take from them what a gate lets through.

Source: MPAMatch (arXiv 2508.19574), "decoder features -> prototype cross-attention -> logits". The gate is one factor
per channel that starts at 0, so that an untrained module changes nothing, bit for bit, and may be added to a model
that was trained without it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class PrototypeAttention(nn.Module):
    """f + gamma * A(f): queries are the pixels of ``channels``, keys and values the rows of ``key_width``.

    ``width`` is that of queries, keys and values over all ``heads``.
    """

    def __init__(self, channels: int, key_width: int, width: int = 128, heads: int = 4) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of {heads} heads")
        self.heads = heads
        self.query = nn.Conv2d(channels, width, 1)
        self.key = nn.Linear(key_width, width)
        self.value = nn.Linear(key_width, width)
        self.back = nn.Conv2d(width, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(channels))

    def forward(self, feature: Tensor, rows: Tensor, active: Tensor) -> Tensor:
        """``feature`` (B, C, h, w), ``rows`` (R, D) and which of them are ``active``, bool (R,) -> (B, C, h, w).

        Rows get no gradient, and those that are not active no attention; without any active row nothing is added.
        """
        count = len(feature)
        query = self._split(self.query(feature).flatten(2).transpose(1, 2))
        key, value = (
            self._split(part(rows.detach())[None]).expand(count, -1, -1, -1) for part in (self.key, self.value)
        )
        # With no row to look at the softmax would be no number: all are opened then, and the answer is taken as 0.
        some = active.any()
        looked = functional.scaled_dot_product_attention(query, key, value, attn_mask=(active | ~some)[None])
        merged = looked.transpose(1, 2).flatten(2).transpose(1, 2).reshape(count, -1, *feature.shape[-2:])
        added = torch.where(some, self.back(merged), 0.0)
        changed: Tensor = feature + self.gamma[:, None, None] * added
        return changed

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, heads, N, width / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
