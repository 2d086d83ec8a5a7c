"""The care of a run's image prototypes: how the bank begins, what it learns of a step, how dead rows are replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from mpamatch.domain.recipe import Recipe
from mpamatch.errors import Unavailable
from mpamatch.network.devices import out_of_memory, release_memory
from mpamatch.network.model import Segmenter
from mpamatch.network.prototypes import PrototypeBank, replacement
from mpamatch.training.batches import Streams
from mpamatch.training.peers import Peers
from mpamatch.training.prototype_term import Cells, choose
from mpamatch.training.step_sums import StepSums

_MOST_START_BATCHES = 16
_START_SEED = 11


def bank_of(model: Segmenter) -> PrototypeBank | None:
    """The bank of a segmenter's branch, where it has one."""
    return None if model.branch is None else model.branch.bank


def begin_bank(
    model: Segmenter,
    streams: Streams,
    recipe: Recipe,
    *,
    seed: int,
    peers: Peers,
    before_pass: Callable[[int], None] = lambda parts: None,
) -> None:
    """Seed the rows of classes that have none, from labelled views in order, through the network as it is.

    Batches are halved for as long as memory runs out; each process finds its own size. ``before_pass(parts)`` is
    called before each pass through the network. Raises Unavailable when not even one view fits.
    """
    bank = bank_of(model)
    if bank is None or model.branch is None or bool(bank.ready.all()):
        return
    parts = 1
    while (found := _pure_cells(model, streams, recipe, parts, before_pass)) is None:
        release_memory(bank.rows.device)
        if parts >= recipe.labelled_batch:
            problem = f"a single view of {recipe.crop_px} px does not fit in the memory of {bank.rows.device}"
            remedy = "free its memory, lower recipe.crop_px, or set MPAMATCH_DEVICE=cpu"
            raise Unavailable("prototypes", problem, remedy)
        parts = min(recipe.labelled_batch, 2 * parts)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed * 1_000_003 + _START_SEED)
        bank.seed(*found, generator)
        # Devices may round otherwise, and clusters make much of little: all begin with the rows of the first.
        bank.rows.copy_(peers.of_first(bank.rows))


def _pure_cells(
    model: Segmenter, streams: Streams, recipe: Recipe, parts: int, before_pass: Callable[[int], None]
) -> tuple[Tensor, Tensor] | None:
    """Embeddings (N, D) and classes (N,) of pure cells of the first labelled views; None when memory ran out."""
    device = next(model.parameters()).device
    count = -(-streams.labelled_tiles // recipe.labelled_batch)
    embeddings, classes = [], []
    before = [b.clone() for b in model.buffers()]
    try:
        with torch.no_grad():
            for step in range(min(_MOST_START_BATCHES, count)):
                batch = streams.labelled_batch(step)
                seeds = iter(range(step * len(batch.images), (step + 1) * len(batch.images)))
                for views, masks in zip(batch.images.chunk(parts), batch.masks.chunk(parts), strict=True):
                    before_pass(parts)
                    cells = _cells_of(model, views.to(device), masks.to(device), recipe, seeds)
                    pure = cells.purity >= recipe.prototype_purity
                    embeddings.append(cells.embeddings[pure])
                    classes.append(cells.classes[pure])
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return None
    finally:
        with torch.no_grad():
            for buffer, kept in zip(model.buffers(), before, strict=True):
                buffer.copy_(kept)
    return torch.cat(embeddings), torch.cat(classes)


def _cells_of(model: Segmenter, views: Tensor, masks: Tensor, recipe: Recipe, seeds: Iterator[int]) -> Cells:
    images = views.contiguous(memory_format=torch.channels_last)
    done = model.segment(model.features(images), images.shape[-1])
    assert model.branch is not None
    return choose(
        model.branch.embed(done.quarter), done.logits, masks,
        images=len(images), most=recipe.prototype_pixels, seeds=seeds, pooled=False,
    )  # fmt: skip


def update_bank(bank: PrototypeBank, sums: StepSums, recipe: Recipe, *, seed: int, peers: Peers) -> None:
    """One moving average of what a step's cells add up to; then rows that were hardly used for long are replaced.

    Every process must come here with the same sums.
    """
    if sums.bank is None or not bool((sums.bank[..., -1] > 0).any()):
        return
    learnt = sums.bank.to(bank.rows.device)
    bank.update(learnt[..., :-1], learnt[..., -1], recipe.prototype_momentum)
    for place in bank.dead(recipe.reseed_after):
        _reseed(bank, place, sums.cells, recipe, seed, peers)


def _reseed(
    bank: PrototypeBank, place: tuple[int, int], cells: Sequence[Cells], recipe: Recipe, seed: int, peers: Peers
) -> None:
    """A new row from what all processes saw; every one must come here."""
    seen = [torch.cat([c.embeddings.detach().float(), c.classes[:, None].float()], dim=1) for c in cells]
    nothing = torch.zeros(0, bank.rows.shape[2] + 1, device=bank.rows.device)
    rows = peers.together(torch.cat([nothing, *seen]))
    row = replacement(bank, place, rows[:, :-1], rows[:, -1].long(), recipe.reseeding, seed)
    if row is not None:
        bank.reseed(place, row)
