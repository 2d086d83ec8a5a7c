"""The care of a run's image prototypes: how the bank begins, what it learns of a step, how dead rows are replaced."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mpamatch.domain.recipe import Recipe
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


def begin_bank(model: Segmenter, streams: Streams, recipe: Recipe, *, seed: int, peers: Peers) -> None:
    """Seed the rows of classes that have none, from labelled views in order, through the network as it is."""
    bank = bank_of(model)
    if bank is None or model.branch is None or bool(bank.ready.all()):
        return
    device = bank.rows.device
    count = -(-streams.labelled_tiles // recipe.labelled_batch)
    embeddings, classes = [], []
    before = [b.clone() for b in model.buffers()]
    with torch.no_grad():
        for step in range(min(_MOST_START_BATCHES, count)):
            batch = streams.labelled_batch(step)
            images = batch.images.to(device, memory_format=torch.channels_last)
            done = model.segment(model.features(images), images.shape[-1])
            embedded = model.branch.embed(done.quarter)
            seeds = iter(range(step * len(images), (step + 1) * len(images)))
            cells = choose(
                embedded, done.logits, batch.masks.to(device),
                images=len(images), most=recipe.prototype_pixels, seeds=seeds, pooled=False,
            )  # fmt: skip
            pure = cells.purity >= recipe.prototype_purity
            embeddings.append(cells.embeddings[pure])
            classes.append(cells.classes[pure])
        for buffer, kept in zip(model.buffers(), before, strict=True):
            buffer.copy_(kept)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + _START_SEED)
        bank.seed(torch.cat(embeddings), torch.cat(classes), generator)
        # Devices may round otherwise, and clusters make much of little: all begin with the rows of the first.
        bank.rows.copy_(peers.of_first(bank.rows))


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
