"""The terms of the training loss, one function each; logits and targets in, scalars out.

Sources: L_x and L_u of UniMatch (Yang et al. 2023) as used by MPAMatch (arXiv 2508.19574). Denominators count valid
pixels, never only the confident ones, so that few confident pixels make a small loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mpamatch.domain.classes import IGNORE

_DICE_SMOOTHING = 1.0


def supervised_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """L_x = 0.5 cross-entropy + 0.5 Dice over pixels that carry a label.

    ``logits`` (B, C, H, W), ``mask`` int64 (B, H, W) with 255 for no supervision. Without any labelled pixel the
    result is 0 and still part of the graph.
    """
    seen = mask != IGNORE
    count = seen.sum().clamp(min=1)
    cross_entropy = functional.cross_entropy(logits.float(), mask, ignore_index=IGNORE, reduction="sum") / count
    return 0.5 * cross_entropy + 0.5 * dice_loss(logits, mask)


def dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Soft Dice over the valid pixels of the batch, mean over classes present in the labels or predicted there."""
    class_count = logits.shape[1]
    seen = mask != IGNORE
    truth = functional.one_hot(torch.where(seen, mask, 0), class_count).permute(0, 3, 1, 2)
    truth = truth * seen[:, None]
    shares = logits.float().softmax(dim=1) * seen[:, None]
    overlap = (shares * truth).sum(dim=(0, 2, 3))
    total = shares.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    dice = 1 - (2 * overlap + _DICE_SMOOTHING) / (total + _DICE_SMOOTHING)
    predicted = functional.one_hot(logits.detach().argmax(dim=1), class_count).permute(0, 3, 1, 2) * seen[:, None]
    present = (truth.sum(dim=(0, 2, 3)) + predicted.sum(dim=(0, 2, 3))) > 0
    return (dice * present).sum() / present.sum().clamp(min=1)


def pseudo_label_loss(logits: Tensor, pseudo_label: Tensor, confidence: Tensor, valid: Tensor, tau: float) -> Tensor:
    """One strong view's part of L_u: cross-entropy where confidence >= tau, over the number of valid pixels.

    ``logits`` (B, C, H, W); ``pseudo_label`` int64, ``confidence`` float and ``valid`` bool, each (B, H, W).
    """
    loss = functional.cross_entropy(logits.float(), pseudo_label, reduction="none")
    passed = (confidence >= tau) & valid
    return (loss * passed).sum() / valid.sum().clamp(min=1)


def confident_share(confidence: Tensor, valid: Tensor, tau: float) -> Tensor:
    """The mask ratio: share of valid pixels whose confidence reaches tau."""
    return ((confidence >= tau) & valid).sum() / valid.sum().clamp(min=1)
