"""The terms of the training loss, one function each; logits and targets in, scalars out.

Sources: L_x and L_u of UniMatch (Yang et al. 2023) as used by MPAMatch (arXiv 2508.19574). Denominators count valid
pixels, never only the confident ones, so that few confident pixels make a small loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional

from mpamatch.domain.classes import IGNORE

_DICE_SMOOTHING = 1.0


Join = Callable[[Tensor], Tensor]
"""Adds up the sums of all processes; every one must call it, once in a step."""


def supervised_loss(
    logits: Tensor, mask: Tensor, seen: Tensor | None = None, tiles: int | None = None, join: Join | None = None
) -> Tensor:
    """L_x = 0.5 cross-entropy + 0.5 Dice over pixels that carry a label.

    ``logits`` (B, C, H, W), ``mask`` int64 (B, H, W) with 255 for no supervision. Without any labelled pixel the
    result is 0 and still part of the graph. With ``seen`` labelled pixels and ``tiles`` of a whole batch the result is
    the part of its loss that these B tiles make; parts add up. Dice is no sum over tiles: with ``join`` it is that of
    the whole batch, its gradient the part that goes through these tiles; without, a mean over parts.
    """
    count = ((mask != IGNORE).sum() if seen is None else seen).clamp(min=1)
    cross_entropy = functional.cross_entropy(logits.float(), mask, ignore_index=IGNORE, reduction="sum") / count
    part = 1.0 if tiles is None else len(mask) / tiles
    dice = dice_loss(logits, mask, join)
    term = part * dice if join is None else dice + (part - 1) * dice.detach()
    return 0.5 * cross_entropy + 0.5 * term


def dice_loss(logits: Tensor, mask: Tensor, join: Join | None = None) -> Tensor:
    """Soft Dice over the valid pixels of the batch, mean over classes present in the labels or predicted there.

    With ``join`` the batch is that of all processes; only what these logits (B, C, H, W) add has a gradient.
    """
    overlap, total, present = _dice_sums(logits, mask)
    if join is not None:
        mine = torch.stack([overlap.detach(), total.detach(), present])
        others = join(mine.cpu()).to(mine) - mine
        overlap, total, present = overlap + others[0], total + others[1], present + others[2]
    return _dice(overlap, total, present)


def pooled_supervised_loss(batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """L_x over the pixels of all batches of logits and masks as if they were one; nan without a labelled pixel."""
    cross_entropy, count, sums = 0.0, 0, None
    for logits, mask in batches:
        seen = int((mask != IGNORE).sum())
        if seen:
            cross_entropy += float(functional.cross_entropy(logits, mask, ignore_index=IGNORE, reduction="sum"))
            count += seen
            more = torch.stack(_dice_sums(logits, mask)).double()
            sums = more if sums is None else sums + more
    return math.nan if sums is None else 0.5 * cross_entropy / count + 0.5 * float(_dice(*sums))


def _dice_sums(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By class, float (C,): overlap, both areas together, and pixels that are labelled or predicted so."""
    class_count = logits.shape[1]
    seen = mask != IGNORE
    truth = functional.one_hot(torch.where(seen, mask, 0), class_count).permute(0, 3, 1, 2)
    truth = truth * seen[:, None]
    shares = logits.float().softmax(dim=1) * seen[:, None]
    overlap = (shares * truth).sum(dim=(0, 2, 3))
    total = shares.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    predicted = functional.one_hot(logits.detach().argmax(dim=1), class_count).permute(0, 3, 1, 2) * seen[:, None]
    present = (truth.sum(dim=(0, 2, 3)) + predicted.sum(dim=(0, 2, 3))).float()
    return overlap, total, present


def _dice(overlap: Tensor, total: Tensor, present: Tensor) -> Tensor:
    present = present > 0
    dice = 1 - (2 * overlap + _DICE_SMOOTHING) / (total + _DICE_SMOOTHING)
    return (dice * present).sum() / present.sum().clamp(min=1)


def pseudo_label_loss(
    logits: Tensor, pseudo_label: Tensor, confidence: Tensor, valid: Tensor, taus: Tensor, count: Tensor | None = None
) -> Tensor:
    """One view's part of L_u: cross-entropy where confidence reaches its class's tau, over the number of valid pixels.

    ``logits`` (B, C, H, W); ``pseudo_label`` int64, ``confidence`` float and ``valid`` bool, each (B, H, W); ``taus``
    (C,). ``count`` is the number of valid pixels where these are only some tiles of a batch.
    """
    loss = functional.cross_entropy(logits.float(), pseudo_label, reduction="none")
    passed = (confidence >= taus[pseudo_label]) & valid
    return (loss * passed).sum() / (valid.sum() if count is None else count).clamp(min=1)


def probability_loss(logits: Tensor, shares: Tensor, valid: Tensor, count: Tensor | None = None) -> Tensor:
    """Squared distance of probabilities, mean over classes and valid pixels (Tarvainen and Valpola 2017).

    ``logits`` (B, C, H, W), ``shares`` the teacher's probabilities (B, H, W, C), ``valid`` bool (B, H, W).
    """
    distance = ((logits.float().softmax(dim=1).permute(0, 2, 3, 1) - shares) ** 2).mean(dim=-1)
    return (distance * valid).sum() / (valid.sum() if count is None else count).clamp(min=1)
