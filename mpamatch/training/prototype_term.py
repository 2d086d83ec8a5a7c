"""L_P of a share: labelled cells and confident pool cells against the prototypes, and what the bank learns of them.

The loss of an image is the mean over its chosen cells, that of a batch the mean over its images: so the parts of
shares and processes add up to the whole. Weights and schedule: MPAMatch (arXiv 2508.19574) where it tells them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mpamatch.domain.classes import IGNORE
from mpamatch.domain.recipe import Recipe
from mpamatch.network.branch import PrototypeBranch
from mpamatch.network.prototype_losses import contrast, posterior, pull
from mpamatch.network.prototypes import assign, nearer_than_others, row_sums, similarities
from mpamatch.network.quarter_labels import QUARTER, choose_cells, quarter_labels

# Pool cells count half: a pseudo-label may be wrong.
_POOL_TRUST = 0.5
# Before this share of the run the head is no judge of which labelled cells are typical.
_HEAD_JUDGES_FROM = 0.1


@dataclass(frozen=True)
class Cells:
    """Chosen cells of some images: ``embeddings`` (N, D), ``classes`` and ``image`` int64 (N,), ``purity`` (N,).

    ``guess`` int64 (N,) is what the head says there; ``images`` how many images the whole batch has; ``pooled`` tells
    pool cells from labelled ones.
    """

    embeddings: Tensor
    classes: Tensor
    image: Tensor
    purity: Tensor
    guess: Tensor
    images: int
    pooled: bool


@dataclass(frozen=True)
class PrototypeLoss:
    """The two sides of L_P before weights; 0 where a side is off or has no cell."""

    image: Tensor
    text: Tensor


def choose(
    embedded: Tensor, logits: Tensor, mask: Tensor, *, images: int, most: int, seeds: Iterator[int], pooled: bool
) -> Cells:
    """Cells of images whose ``mask`` int64 (B, S, S) holds labels, or confident pseudo-labels and 255 elsewhere.

    ``embedded`` (B, D, S/4, S/4), ``logits`` (B, C, S, S); ``images`` in the whole batch; at most ``most`` cells of
    each image, drawn by the next of ``seeds``.
    """
    label, purity = quarter_labels(mask, logits.shape[1])
    guess = functional.avg_pool2d(logits.detach().float(), QUARTER).argmax(dim=1)
    places, image = [], []
    cells_per_image = label[0].numel()
    for index, one in enumerate(label):
        chosen = choose_cells(one, most, torch.Generator().manual_seed(next(seeds)))
        places.append(chosen + index * cells_per_image)
        image.append(torch.full_like(chosen, index))
    place = torch.cat(places)
    flat = embedded.permute(0, 2, 3, 1).reshape(-1, embedded.shape[1])
    return Cells(
        embeddings=flat[place],
        classes=label.flatten()[place],
        image=torch.cat(image),
        purity=purity.flatten()[place],
        guess=guess.flatten()[place],
        images=images,
        pooled=pooled,
    )


def prototype_loss(cells: Cells, branch: PrototypeBranch, recipe: Recipe, text: Tensor | None) -> PrototypeLoss:
    """PCL + pull_weight x PAL against image prototypes, and against ``text`` prototypes (C, D) where given."""
    nothing = cells.embeddings.sum() * 0.0
    image_side = text_side = nothing
    if branch.bank is not None and recipe.uses_image_prototypes:
        known = branch.bank.ready[cells.classes]
        if bool(known.any()):
            cosine = similarities(cells.embeddings[known], branch.bank)
            classes = cells.classes[known]
            rows = assign(cosine, classes, recipe.assignment)
            each = contrast(cosine, classes, rows, recipe.prototype_temperature, recipe.prototype_form)
            image_side = _mean_over_images(each + recipe.pull_weight * pull(cosine, classes, rows), cells, known)
    if text is not None and len(cells.classes):
        cosine = torch.einsum("nd,cd->nc", cells.embeddings, text)[..., None]
        rows = torch.zeros_like(cells.classes)
        each = contrast(cosine, cells.classes, rows, branch.text_temperature, recipe.prototype_form)
        everywhere = torch.ones_like(cells.classes, dtype=torch.bool)
        text_side = _mean_over_images(each + recipe.pull_weight * pull(cosine, cells.classes, rows), cells, everywhere)
    return PrototypeLoss(image_side, text_side)


def _mean_over_images(each: Tensor, cells: Cells, chosen: Tensor) -> Tensor:
    image = cells.image[chosen]
    size = int(cells.image.max()) + 1
    sums = each.new_zeros(size).index_add(0, image, each)
    counts = torch.bincount(image, minlength=size).clamp(min=1)
    return (sums / counts).sum() / cells.images


@torch.no_grad()
def bank_sums(cells: Cells, branch: PrototypeBranch, recipe: Recipe, progress: float) -> Tensor:
    """What these cells add to the bank, (C, K, D + 1) as :func:`row_sums`.

    Only pure cells count. Labelled ones must be what the head says they are, once it is a judge; pool ones too, and
    the image prototypes must agree. With ``split`` reseeding, a cell that another class's row is nearer to is barred.
    """
    bank = branch.bank
    assert bank is not None
    embeddings = cells.embeddings.detach().float()
    kept = (cells.purity >= recipe.prototype_purity) & bank.ready[cells.classes]
    if cells.pooled or progress >= _HEAD_JUDGES_FROM:
        kept &= cells.guess == cells.classes
    embeddings, classes = embeddings[kept], cells.classes[kept]
    cosine = similarities(embeddings, bank)
    fits = torch.ones_like(classes, dtype=torch.bool)
    if cells.pooled:
        fits &= posterior(cosine, recipe.prototype_temperature).argmax(dim=1) == classes
    if recipe.reseeding == "split":
        fits &= nearer_than_others(cosine, classes)
    embeddings, classes, cosine = embeddings[fits], classes[fits], cosine[fits]
    rows = assign(cosine, classes, recipe.assignment)
    weights = torch.full_like(classes, _POOL_TRUST if cells.pooled else 1.0, dtype=torch.float32)
    return row_sums(embeddings, classes, rows, weights, bank.rows.shape)


def confident_mask(pseudo_label: Tensor, passed: Tensor) -> Tensor:
    """Pseudo-labels (B, S, S) with 255 where they did not pass, for :func:`choose`."""
    return pseudo_label.masked_fill(~passed, IGNORE)
