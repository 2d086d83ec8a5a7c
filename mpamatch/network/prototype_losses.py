"""What pulls a pixel's embedding to its class's prototype and pushes it from those of other classes.

MPAMatch (arXiv 2508.19574) names the two terms PAL and PCL; its equations are not public, so the forms here are those
of their ancestors in ProtoSeg (Zhou et al. 2022): InfoNCE over prototypes, and a squared pull. Identical prototypes
give no gradient in the first, as the paper says of PCL. Prototypes of images get no gradient, those of texts do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from mpamatch.domain.recipe import PrototypeForm
from mpamatch.network.prototypes import PrototypeBank


def contrast(cosine: Tensor, classes: Tensor, rows: Tensor, temperature: Tensor | float, form: PrototypeForm) -> Tensor:
    """PCL of each pixel, (N,): how much its own prototype stands out.

    ``cosine`` (N, C, K), -inf for inactive rows; ``classes`` and ``rows`` int64 (N,) name each pixel's prototype, which
    must be active. ``other-classes``: against every row of other classes; ``all-rows``: against every other row (PPC
    of ProtoSeg); ``class``: cross-entropy over classes, each by its best row.
    """
    scaled = cosine / temperature
    if form == "class":
        best = scaled.max(dim=2).values
        return best.logsumexp(dim=1) - best.gather(1, classes[:, None]).squeeze(1)
    pixels = torch.arange(len(classes), device=cosine.device)
    own = scaled[pixels, classes, rows]
    if form == "all-rows":
        return scaled.flatten(1).logsumexp(dim=1) - own
    others = scaled.scatter(1, classes[:, None, None].expand(-1, 1, scaled.shape[2]), -math.inf)
    return torch.cat([own[:, None], others.flatten(1)], dim=1).logsumexp(dim=1) - own


def pull(cosine: Tensor, classes: Tensor, rows: Tensor) -> Tensor:
    """PAL of each pixel, (N,): (1 - cosine with its own prototype) squared."""
    pixels = torch.arange(len(classes), device=cosine.device)
    return (1 - cosine[pixels, classes, rows]) ** 2


def text_pull(bank: PrototypeBank, text: Tensor) -> Tensor:
    """How far the ``text`` prototypes (C, D) lie from what images show of their classes, a scalar; 0 before any row.

    The mean over classes with a row of the squared distance to the normalised mean of the rows; only texts get a
    gradient. Source: UniSemAlign (arXiv 2604.09169).
    """
    known = bank.ready
    if not bool(known.any()):
        return text.sum() * 0.0
    means = functional.normalize((bank.rows * bank.active[..., None]).sum(dim=1), dim=1)
    return ((means - text)[known] ** 2).sum(dim=1).mean()


def posterior(cosine: Tensor, temperature: Tensor | float) -> Tensor:
    """Class probabilities (N, C) by each class's best row; classes without an active row get 0."""
    return (cosine.max(dim=2).values / temperature).softmax(dim=1)
