"""Labels and pixels at a quarter of the image's size, where embeddings live."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mpamatch.domain.classes import IGNORE

QUARTER = 4
_BAND_CELLS = 2
_BAND_WEIGHT = 2.0


def quarter_labels(mask: Tensor, class_count: int) -> tuple[Tensor, Tensor]:
    """A mask int64 (B, S, S) as cells (B, S/4, S/4): class and purity; 255 and 0 where no class holds a cell.

    A cell takes the class that has at least half of its pixels with a label, if no more than half have none. Its purity
    is that share.
    """
    known = mask != IGNORE
    ids = torch.arange(class_count, device=mask.device).view(1, -1, 1, 1)
    shares = functional.avg_pool2d(((mask[:, None] == ids) & known[:, None]).float(), QUARTER)
    seen = shares.sum(dim=1)
    best, label = (shares / seen.clamp(min=1e-6)[:, None]).max(dim=1)
    held = (best >= 0.5) & (seen >= 0.5)
    return label.masked_fill(~held, IGNORE), best.masked_fill(~held, 0.0)


def choose_cells(label: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Flat indices of at most ``most`` labelled cells of one image (h, w), sorted; all when there are no more.

    Else classes get equal shares as far as they have cells, drawn without replacement; cells within two of another
    class are twice as likely. ``generator`` lives on the CPU.
    """
    cells = (label.flatten() != IGNORE).nonzero().flatten()
    if len(cells) <= most:
        return cells
    classes = label.flatten()[cells].cpu()
    weights = (1.0 + (_BAND_WEIGHT - 1.0) * _near_border(label).flatten()[cells].float()).cpu().double()
    # The largest of u ** (1 / w) are a weighted draw without replacement (Efraimidis and Spirakis 2006).
    keys = torch.rand(len(cells), generator=generator, dtype=torch.float64).log() / weights
    chosen = []
    left = most
    by_size = sorted((int((classes == c).sum()), c) for c in classes.unique().tolist())
    for place, (size, index) in enumerate(by_size):
        quota = min(size, left // (len(by_size) - place))
        mine = (classes == index).nonzero().flatten()
        chosen.append(mine[keys[mine].topk(quota).indices])
        left -= quota
    return cells[torch.cat(chosen).sort().values.to(cells.device)]


def _near_border(label: Tensor) -> Tensor:
    """Cells (h, w) that have a cell of another class within two."""
    shown = label.float()[None, None]
    size = 2 * _BAND_CELLS + 1
    known = label != IGNORE
    low = -functional.max_pool2d(-shown.masked_fill(~known, 1e6), size, 1, _BAND_CELLS)
    high = functional.max_pool2d(shown.masked_fill(~known, -1e6), size, 1, _BAND_CELLS)
    return (low != high)[0, 0] & known
