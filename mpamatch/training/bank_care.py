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

    One pass over the labelled tiles; where random crops missed a class that has labels, more of them, up to 16 batches.
    What is missed even so begins with the first step that shows it: see :func:`update_bank`.

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
        bank.seed(*found, _start_generator(seed))
        # Devices may round otherwise, and clusters make much of little: all begin with the rows of the first.
        bank.rows.copy_(peers.of_first(bank.rows))


def _pure_cells(
    model: Segmenter, streams: Streams, recipe: Recipe, parts: int, before_pass: Callable[[int], None]
) -> tuple[Tensor, Tensor] | None:
    """Embeddings (N, D) and classes (N,) of pure cells of labelled views; None when memory ran out."""
    device = next(model.parameters()).device
    count = -(-streams.labelled_tiles // recipe.labelled_batch)
    embeddings: list[Tensor] = []
    classes: list[Tensor] = []
    before = [b.clone() for b in model.buffers()]
    try:
        with torch.no_grad():
            for step in range(_MOST_START_BATCHES):
                if step >= count and not _lacking(model, streams, classes):
                    break
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


def _lacking(model: Segmenter, streams: Streams, found: Sequence[Tensor]) -> bool:
    """Whether a class that has labels has neither a row nor a pure cell among those found."""
    bank = bank_of(model)
    assert bank is not None
    begun = set(bank.ready.nonzero().flatten().tolist()) | set(torch.cat(list(found)).unique().tolist())
    # Masks are read only where this can matter: mostly every class of the run was seen.
    return len(begun) < len(bank.ready) and not streams.labelled_classes() <= begun


def _cells_of(model: Segmenter, views: Tensor, masks: Tensor, recipe: Recipe, seeds: Iterator[int]) -> Cells:
    images = views.contiguous(memory_format=torch.channels_last)
    done = model.segment(model.features(images), images.shape[-1])
    assert model.branch is not None
    return choose(
        model.branch.embed(done.quarter), done.logits, masks,
        images=len(images), most=recipe.prototype_pixels, seeds=seeds, pooled=False,
    )  # fmt: skip


def update_bank(bank: PrototypeBank, sums: StepSums, recipe: Recipe, *, steps: int, seed: int, peers: Peers) -> None:
    """One moving average of what a step's cells add up to; then rows that were hardly used for long are replaced.

    ``steps`` is how many the run has: rows of a long one keep more of what they were.

    A class that has no row yet begins with the step's own pure labelled cells. Every process must come here with the
    same sums.
    """
    if sums.bank is None:
        return
    if bool((sums.bank[..., -1] > 0).any()):
        _learn(bank, sums, recipe, steps=steps, seed=seed, peers=peers)
    if not bool(bank.ready.all()):
        _begin_late(bank, sums.cells, recipe, seed=seed, peers=peers)


def _learn(bank: PrototypeBank, sums: StepSums, recipe: Recipe, *, steps: int, seed: int, peers: Peers) -> None:
    assert sums.bank is not None
    learnt = sums.bank.to(bank.rows.device)
    bank.update(learnt[..., :-1], learnt[..., -1], recipe.most_prototype_momentum(steps))
    for place in bank.dead(recipe.reseed_after):
        _reseed(bank, place, sums.cells, recipe, seed, peers)


def _begin_late(bank: PrototypeBank, cells: Sequence[Cells], recipe: Recipe, *, seed: int, peers: Peers) -> None:
    """Rows for classes without one, from what all processes saw of them; every one must come here."""
    missing = ~bank.ready
    pure = [missing[c.classes] & (c.purity >= recipe.prototype_purity) for c in cells]
    rows = _seen_by_all(bank, [_with_classes(c)[p] for c, p in zip(cells, pure, strict=True)], peers)
    if len(rows):
        bank.seed(rows[:, :-1], rows[:, -1].long(), _start_generator(seed))
        bank.rows.copy_(peers.of_first(bank.rows))


def _start_generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + _START_SEED)


def _with_classes(cells: Cells) -> Tensor:
    """Embeddings of cells with their classes in a last column, (N, D + 1)."""
    return torch.cat([cells.embeddings.detach().float(), cells.classes[:, None].float()], dim=1)


def _seen_by_all(bank: PrototypeBank, rows: Sequence[Tensor], peers: Peers) -> Tensor:
    nothing = torch.zeros(0, bank.rows.shape[2] + 1, device=bank.rows.device)
    return peers.together(torch.cat([nothing, *rows]))


def _reseed(
    bank: PrototypeBank, place: tuple[int, int], cells: Sequence[Cells], recipe: Recipe, seed: int, peers: Peers
) -> None:
    """A new row from what all processes saw; every one must come here."""
    rows = _seen_by_all(bank, [_with_classes(c) for c in cells], peers)
    row = replacement(bank, place, rows[:, :-1], rows[:, -1].long(), recipe.reseeding, seed)
    if row is not None:
        bank.reseed(place, row)
