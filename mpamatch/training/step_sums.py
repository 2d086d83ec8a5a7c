"""What a step adds up over its shares and over the processes of its run, and what is told of it when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mpamatch.network.prototypes import Health
from mpamatch.training.objective import Terms
from mpamatch.training.peers import Peers
from mpamatch.training.prototype_term import Cells


@dataclass(frozen=True)
class StepReport:
    """One finished step: ``step`` counts from 1; losses before weights; ``mask_ratio`` None without pool.

    ``image`` and ``text`` are the two sides of L_P, None while it is off. Weights are those in force; L_P has one for
    cells of labelled and one for those of pool tiles. ``tiles`` is how many a step learns from. ``class_mask_ratio`` is
    the mask ratio by class; ``health`` that of the prototypes, every 50 steps. ``parts`` is in how many pieces a
    process takes its share of the batch: 1 while memory is enough. Where a run has several loops, ``behind`` are the
    steps of those before this one, and ``others`` all steps of the run that are none of this loop's ``steps``.
    """

    step: int
    steps: int
    x: float
    u: float
    total: float
    mask_ratio: float | None
    unlabelled_weight: float
    gradient_norm: float
    skipped: bool
    parts: int = 1
    image: float | None = None
    text: float | None = None
    labelled_weight: float = 1.0
    prototype_weight: float = 0.0
    pool_prototype_weight: float = 0.0
    tiles: int = 0
    class_mask_ratio: tuple[float | None, ...] = ()
    health: Health | None = None
    behind: int = 0
    others: int = 0

    @property
    def told_step(self) -> int:
        """The step as people see it: every step of the run counts."""
        return self.step + self.behind

    @property
    def told_steps(self) -> int:
        return self.steps + self.others


@dataclass
class StepSums:
    """A step's losses before weights, its counts and what the bank is to learn, over the shares so far."""

    x: float = 0.0
    u: float = 0.0
    image: float = 0.0
    text: float = 0.0
    total: float = 0.0
    counts: Tensor | None = None
    bank: Tensor | None = None
    cells: list[Cells] = field(default_factory=list)

    def add(self, terms: Terms, total: float) -> None:
        self.x += float(terms.x.detach())
        self.u += float(terms.u.detach())
        self.image += float(terms.image.detach())
        self.text += float(terms.text.detach())
        self.total += total
        if terms.counts is not None:
            self.counts = terms.counts.sums if self.counts is None else self.counts + terms.counts.sums
        if terms.bank is not None:
            self.bank = terms.bank if self.bank is None else self.bank + terms.bank
        if terms.cells is not None:
            self.cells.append(terms.cells)

    def joined(self, peers: Peers, class_count: int, bank_shape: torch.Size | None) -> StepSums:
        """The sums over all processes, each of which must come here; ``cells`` stay those of this one.

        ``bank_shape`` (C, K, D) is that of the bank's rows, None without one.
        """
        values = torch.tensor([self.x, self.u, self.image, self.text, self.total], dtype=torch.float64)
        every = StepSums(*peers.total(values).tolist())
        every.cells = self.cells
        every.counts = peers.total(torch.zeros(3, class_count).double() if self.counts is None else self.counts)
        if bank_shape is not None:
            empty = torch.zeros(*bank_shape[:2], bank_shape[2] + 1)
            every.bank = peers.total(empty if self.bank is None else self.bank.cpu())
        return every


class DiceSums:
    """The sums that Dice takes over all processes in a step: one for each network, whatever befalls a process.

    One that has no labelled slot, or ran out of memory before it came so far, adds nothing in its turn.
    """

    def __init__(self, peers: Peers, class_count: int, networks: int) -> None:
        self._peers, self._shape, self._left = peers, (3, class_count), networks

    def __call__(self, sums: Tensor) -> Tensor:
        self._left -= 1
        return self._peers.total(sums)

    def finish(self) -> None:
        while self._left:
            self(torch.zeros(self._shape))
