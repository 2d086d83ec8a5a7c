"""The texts of a run's classes as vectors: fixed ones, ones with a learned part, and learned ones without words.

A frozen text tower is held outside of the module tree: it is neither trained nor saved with a checkpoint, and a copy
of the module shares it. What is saved is what learns. Source of the learned context: CoOp (Zhou et al., 2022), with
the settings of MPAMatch (arXiv 2508.19574): one vector, shared by the classes, normal with deviation 0.02.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONTEXT_STD = 0.02
LEARNED_WIDTH = 384
"""Width of vectors that are learned without words: that of the default encoder, so that both have equal room."""


class TextTower(Protocol):
    """A frozen encoder of texts that takes vectors between its start token and the words."""

    width: int
    token_width: int

    def tokens(self, texts: Sequence[str], context_tokens: int) -> Tensor:
        """Token ids, int64 (n, L), padded; texts are cut so that ``context_tokens`` vectors have room."""
        ...

    def embed(self, ids: Tensor, context: Tensor | None) -> Tensor:
        """Vectors (n, width), not normalised; ``context`` is (n, k, token_width) or None for the plain texts."""
        ...


class ClassTexts(nn.Module, ABC):
    """The texts of a run's classes as vectors: ``forward()`` gives float32 (C, width), rows of length 1.

    ``learnable`` says whether forward depends on trainable parameters; ``identity`` is what a model's provenance keeps:
    provider, weights and their licence, digest of the texts, context.
    """

    width: int
    learnable: bool
    identity: Mapping[str, Any]

    def __init__(self, width: int, identity: Mapping[str, Any], *, learnable: bool) -> None:
        super().__init__()
        self.width = width
        self.identity = dict(identity)
        self.learnable = learnable

    @abstractmethod
    def forward(self) -> Tensor:
        """float32 (C, width), rows of length 1."""


class FixedTexts(ClassTexts):
    """Given vectors (C, d), with a learned residual from 0 where ``residual`` is asked for."""

    vectors: Tensor

    def __init__(self, vectors: Tensor, identity: Mapping[str, Any], *, residual: bool = False) -> None:
        super().__init__(vectors.shape[1], identity, learnable=residual)
        self.register_buffer("vectors", F.normalize(vectors.float(), dim=1), persistent=False)
        self.residual = nn.Parameter(torch.zeros_like(self.vectors)) if residual else None

    def forward(self) -> Tensor:
        return self.vectors if self.residual is None else F.normalize(self.vectors + self.residual, dim=1)


class LearnedTexts(ClassTexts):
    """One free vector per class and no words at all, drawn evenly over directions: the control for their worth."""

    def __init__(self, classes: int, identity: Mapping[str, Any], seed: int, width: int = LEARNED_WIDTH) -> None:
        super().__init__(width, identity, learnable=True)
        self.table = nn.Parameter(F.normalize(_drawn((classes, width), 1.0, seed), dim=1))

    def forward(self) -> Tensor:
        return F.normalize(self.table, dim=1)


class ContextTexts(ClassTexts):
    """Texts behind learned context vectors, through a frozen tower at every call.

    ``context`` is a parameter (1 or C, context_tokens, token_width): shared, or one group per class.
    """

    ids: Tensor
    mean_over_texts: Tensor

    def __init__(
        self,
        tower: nn.Module,
        texts: Sequence[Sequence[str]],
        identity: Mapping[str, Any],
        *,
        context_tokens: int,
        context_per_class: bool,
        seed: int,
    ) -> None:
        tower.eval().requires_grad_(False)
        super().__init__(_as_tower(tower).width, identity, learnable=True)
        self._frozen = _Frozen(tower)
        groups = len(texts) if context_per_class else 1
        shape = (groups, context_tokens, _as_tower(tower).token_width)
        self.context = nn.Parameter(_drawn(shape, CONTEXT_STD, seed))
        ids = _as_tower(tower).tokens([text for of_class in texts for text in of_class], context_tokens)
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("mean_over_texts", mean_matrix([len(t) for t in texts]), persistent=False)

    def forward(self) -> Tensor:
        owner = self.mean_over_texts.argmax(dim=0)
        groups = self.context[owner] if len(self.context) > 1 else self.context.expand(len(owner), -1, -1)
        with torch.autocast(self.context.device.type, enabled=False):
            rows = self._frozen.tower.embed(self.ids, groups)  # type: ignore[operator]
            return class_means(rows, self.mean_over_texts)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ContextTexts:
        super()._apply(fn, recurse)
        self._frozen.tower._apply(fn)
        return self


@torch.no_grad()
def class_vectors(tower: nn.Module, texts: Sequence[Sequence[str]]) -> Tensor:
    """The plain texts of each class as one vector: float32 (C, width), rows of length 1."""
    tower.eval()
    ids = _as_tower(tower).tokens([text for of_class in texts for text in of_class], 0)
    return class_means(_as_tower(tower).embed(ids, None), mean_matrix([len(t) for t in texts]))


def mean_matrix(counts: Sequence[int]) -> Tensor:
    """(C, n) rows that average the texts of each class, which stand in order."""
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return F.one_hot(owner, len(counts)).T.float() / torch.tensor(counts).float()[:, None]


def class_means(rows: Tensor, mean_over_texts: Tensor) -> Tensor:
    """Normalise each text, average those of a class, normalise again (as CONCH does for zero-shot classes)."""
    return F.normalize(mean_over_texts @ F.normalize(rows.float(), dim=1), dim=1)


class _Frozen:
    """Keeps a tower out of parameters, state and copies."""

    def __init__(self, tower: nn.Module) -> None:
        self.tower = tower

    def __deepcopy__(self, memo: dict[int, Any]) -> _Frozen:
        return self


def _as_tower(module: nn.Module) -> TextTower:
    return module  # type: ignore[return-value]


def _drawn(shape: tuple[int, ...], std: float, seed: int) -> Tensor:
    """Normal values from a seed, the same on any device, leaving torch's own generator where it was."""
    values = np.random.default_rng([seed, *b"text"]).normal(0.0, std, shape)
    return torch.from_numpy(values.astype(np.float32))
