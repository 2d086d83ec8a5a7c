"""The prototype branch of a segmenter: pixel embeddings, the bank of image prototypes, and the texts' projection."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mpamatch.network.prototype_attention import PrototypeAttention
from mpamatch.network.prototypes import PrototypeBank

_MOST_SCALE = math.log(100.0)


@dataclass(frozen=True)
class BranchShape:
    """Sizes of a branch: ``per_class`` 0 for no image prototypes, ``text_width`` 0 for no texts.

    ``attention``: whether the decoder looks at the prototypes.
    """

    channels: int
    per_class: int
    text_width: int
    attention: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class PrototypeBranch(nn.Module):
    """Embeddings of the decoder's feature at a quarter of the size, and what they are compared with.

    The head is two 1x1 convolutions (ProtoSeg's form), its output of unit length. ``text_vectors`` (C, d_t) are the
    texts as they were last encoded; ``projection`` turns them into prototypes and starts orthogonal, which keeps their
    geometry. ``text_scale`` is the logarithm of one over the texts' temperature, learned and kept below 100.
    """

    text_vectors: Tensor

    def __init__(self, coming: int, class_count: int, shape: BranchShape, text_temperature: float = 0.07) -> None:
        super().__init__()
        self.shape = shape
        self.class_count = class_count
        self.head = nn.Sequential(
            nn.Conv2d(coming, shape.channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(shape.channels, shape.channels, 1),
        )
        self.bank = PrototypeBank(class_count, shape.per_class, shape.channels) if shape.per_class else None
        self.projection: nn.Linear | None = None
        if shape.text_width:
            self.projection = nn.Linear(shape.text_width, shape.channels, bias=False)
            nn.init.orthogonal_(self.projection.weight)
            self.text_scale = nn.Parameter(torch.tensor(math.log(1 / text_temperature)))
            self.register_buffer("text_vectors", torch.zeros(class_count, shape.text_width))
        self.attention = PrototypeAttention(coming, shape.channels) if shape.attention else None

    def embed(self, quarter: Tensor) -> Tensor:
        """Feature (B, q, h, w) -> unit embeddings float32 (B, D, h, w)."""
        return functional.normalize(self.head(quarter).float(), dim=1)

    def text_prototypes(self, vectors: Tensor | None = None) -> Tensor:
        """Unit prototypes (C, D) of the texts; from ``vectors`` (C, d_t), by default those last encoded."""
        assert self.projection is not None
        return functional.normalize(self.projection(self.text_vectors if vectors is None else vectors).float(), dim=1)

    def text_parameters(self) -> list[nn.Parameter]:
        """What the branch learns of the texts: the projection and the scale; nothing without texts."""
        return [] if self.projection is None else [*self.projection.parameters(), self.text_scale]

    def refine(self, feature: Tensor) -> Tensor:
        """The decoder's feature (B, q, h, w) after a look at every prototype that there is so far."""
        if self.attention is None:
            return feature
        rows, active = [], []
        if self.bank is not None:
            rows.append(self.bank.rows.flatten(0, 1))
            active.append(self.bank.active.flatten())
        if self.projection is not None:
            rows.append(self.text_prototypes().detach())
            # Compared, not asked directly: ONNX's exporter cuts numbers to whole ones before it looks for any.
            active.append((self.text_vectors != 0).any(dim=1))
        changed: Tensor = self.attention(feature, torch.cat(rows), torch.cat(active))
        return changed

    @property
    def text_temperature(self) -> Tensor:
        return torch.exp(-self.text_scale.clamp(max=_MOST_SCALE))
