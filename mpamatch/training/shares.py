"""How the batch of a step is cut: among the processes that train one run, and again when memory runs out.

A share is some slots of the batch. What a slot shows depends on its number alone, so that the shares of a step show
together what one process would have seen at once.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Share:
    """The labelled slots and the pool slots that go through the network at once."""

    labelled: range
    pool: range


@dataclass(frozen=True)
class Whole:
    """What a loss over one share must know of the whole batch: int64 counts of pixels, and how many tiles are labelled.

    ``seen`` are labelled pixels; ``valid`` those that count in each strong view; ``weak`` those of the weak views.
    """

    tiles: int
    seen: Tensor
    valid: tuple[Tensor, ...]
    weak: Tensor


def cut(slots: range, count: int) -> list[range]:
    """``slots`` in ``count`` runs of equal length, give or take one; some are empty when there are fewer slots.

    >>> cut(range(5), 2)
    [range(0, 2), range(2, 5)]
    """
    bounds = [slots.start + len(slots) * n // count for n in range(count + 1)]
    return [range(a, b) for a, b in itertools.pairwise(bounds)]


def shares_of(labelled: int, pool: int, *, rank: int, count: int, parts: int) -> tuple[Share, ...]:
    """The shares of process ``rank`` of ``count``, in ``parts``; those without any slot are left out.

    >>> shares_of(4, 4, rank=1, count=2, parts=1)
    (Share(labelled=range(2, 4), pool=range(2, 4)),)
    """
    mine = (cut(range(size), count)[rank] for size in (labelled, pool))
    pairs = zip(*(cut(slots, parts) for slots in mine), strict=True)
    return tuple(Share(a, b) for a, b in pairs if len(a) or len(b))


def most_slots(labelled: int, pool: int, *, count: int) -> int:
    """The most slots of one kind that a process of ``count`` has: as many parts leave one in each.

    >>> most_slots(4, 4, count=2)
    2
    """
    return max(-(-labelled // count), -(-pool // count))
