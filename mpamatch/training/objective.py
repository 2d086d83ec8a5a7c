"""The losses of a share, by method: what is shown to the network, what it should say, and the terms before weights.

Every method is a configuration of this one pass, so that none has a loop of its own:

- ``fixmatch``: one strong view learns the moving average's confident labels of the weak view (Sohn et al. 2020);
- ``unimatch-ema``: one or two strong views, of which two drop complementary channels (UniMatch V2, Yang et al. 2024);
- ``unimatch``: the student's own labels; two strong views and a pass with perturbed features (UniMatch, 2023);
- ``mean-teacher``: the squared distance to the average's probabilities (Tarvainen and Valpola 2017);
- ``cps``: two networks that learn each other's labels (Chen et al. 2021);
- ``mpamatch*``: the streams of ``unimatch-ema`` (or, by the recipe, of ``unimatch``), and L_P (arXiv 2508.19574).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mpamatch.domain.recipe import Recipe
from mpamatch.network.devices import autocast
from mpamatch.network.losses import Join, probability_loss, pseudo_label_loss, supervised_loss
from mpamatch.network.model import Segmented, Segmenter, channel_dropout, channel_gains_pair
from mpamatch.network.prototype_losses import text_pull
from mpamatch.training.batches import LabelledBatch, PoolBatch
from mpamatch.training.prototype_term import Cells, bank_sums, choose, confident_mask, prototype_loss
from mpamatch.training.pseudo_labels import ClassCounts, PseudoLabels, pseudo_labels
from mpamatch.training.shares import Share, Whole

_FLIPS: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))
# UniMatch's own: half of L_u is the perturbed pass, the two strong views share the rest.
_PERTURBED_SHARE = 0.5


@dataclass(frozen=True)
class StepViews:
    """A share with its views; None where it has no slot of that kind or the step takes no pool."""

    share: Share
    labelled: LabelledBatch | None
    pool: PoolBatch | None


@dataclass(frozen=True)
class StepSetting:
    """What a step does: ``progress`` in 0..1, thresholds by class (C,), and how far L_P's two parts are ramped up."""

    step: int
    progress: float
    taus: Tensor
    labelled_prototypes: float = 0.0
    pool_prototypes: float = 0.0
    text: Tensor | None = None


@dataclass(frozen=True)
class Terms:
    """A share's part of the batch's losses before weights, and what is counted along the way.

    ``bank`` (C, K, D + 1) are the sums for the bank, None where it learns nothing; ``cells`` those it may be reseeded
    from; ``counts`` None where the share has no pool.
    """

    x: Tensor
    u: Tensor
    image: Tensor
    text: Tensor
    counts: ClassCounts | None = None
    bank: Tensor | None = None
    cells: Cells | None = None


@dataclass(frozen=True)
class _Shown:
    """What went through: rows of labelled views, then weak ones where the student labels them, then strong ones."""

    logits: Tensor
    embedded: Tensor | None
    labelled: int
    weak: int
    views: int = field(default=0)


class Objective:
    """Losses of ``model`` on shares; ``teacher`` is its moving average, ``second`` the other network of ``cps``."""

    def __init__(
        self,
        model: Segmenter,
        teacher: Segmenter,
        second: Segmenter | None,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        self._model, self._teacher, self._second = model, teacher, second
        self._recipe, self._seed = recipe, seed
        self._device, self._precision = device, precision

    def terms(self, one: StepViews, whole: Whole | None, setting: StepSetting, join: Join | None = None) -> Terms:
        """L_x, L_u and L_P of one share, each as its part of the whole batch's.

        ``join``, where each process has one share: adds up what Dice needs of all of them; called once for each
        network that has labelled views.
        """
        pool = one.pool
        # The teacher first: what it needs is given back before the pass that keeps everything for its gradient.
        taught = None if pool is None or self._recipe.labels_itself else self._taught(self._labeller, pool)
        shown = self._show(self._model, one, setting.step)
        if pool is not None and taught is None:
            weak = shown.logits[shown.labelled : shown.labelled + shown.weak]
            taught = pseudo_labels(weak.detach().float().softmax(dim=1), pool)
        loss_x = self._supervised(shown.logits, one.labelled, whole, join)
        loss_u = shown.logits.new_zeros((), dtype=torch.float32)
        counts = None
        if pool is not None and taught is not None:
            counts = ClassCounts.of(taught, pool.valid[: pool.size], setting.taus)
            loss_u = self._unlabelled(shown, pool, taught, whole, setting.taus)
        if self._second is not None:
            more_x, more_u = self._second_terms(one, whole, setting, join)
            loss_x, loss_u = loss_x + more_x, loss_u + more_u
        image, text, bank, cells = self._prototypes(shown, one, taught, setting)
        return Terms(loss_x, loss_u, image, text, counts, bank, cells)

    def _show(self, model: Segmenter, one: StepViews, step: int) -> _Shown:
        """One pass of everything that has a gradient; weak views that the student labels are decoded twice."""
        count = 0 if one.labelled is None else len(one.labelled.images)
        pool = one.pool
        student_labels = pool is not None and self._recipe.labels_itself
        images = [] if one.labelled is None else [one.labelled.images]
        if pool is not None:
            images += ([pool.weak] if student_labels else []) + [*pool.strong]
        x = self._placed(torch.cat(images) if len(images) > 1 else images[0])
        gains = None if pool is None or student_labels else self._channel_gains(count, pool, one.share.pool, step)
        weak = len(pool.weak) if pool is not None and student_labels else 0
        with autocast(str(self._device), self._precision):
            features = model.features(x, gains)
            if pool is not None and student_labels:
                dropped = self._dropped(features, slice(count, count + pool.size), one.share.pool, step)
                features = [torch.cat(pair) for pair in zip(features, dropped, strict=True)]
            done: Segmented = model.segment(features, x.shape[-1])
            embedded = None if model.branch is None else model.branch.embed(done.quarter)
        return _Shown(done.logits, embedded, count, weak, 0 if pool is None else len(pool.strong))

    def _supervised(
        self, logits: Tensor, labelled: LabelledBatch | None, whole: Whole | None, join: Join | None
    ) -> Tensor:
        if labelled is None:
            return logits.new_zeros((), dtype=torch.float32)
        logits, masks = logits[: len(labelled.images)], labelled.masks.to(self._device)
        if whole is None:
            return supervised_loss(logits, masks)
        return supervised_loss(logits, masks, whole.seen, whole.tiles, join)

    def _unlabelled(
        self, shown: _Shown, pool: PoolBatch, taught: PseudoLabels, whole: Whole | None, taus: Tensor
    ) -> Tensor:
        rest = shown.logits[shown.labelled + shown.weak :].split(pool.size)
        terms = []
        for view, logits in enumerate(rest[: len(pool.strong)]):
            counted = None if whole is None else whole.valid[view]
            terms.append(self._view_loss(logits, pool, taught, view, counted, taus))
        strong = torch.stack(terms).mean()
        if not shown.weak:
            return strong
        label, confidence, valid = (
            t[: pool.size].to(self._device) for t in (taught.classes, taught.confidence, pool.valid)
        )
        counted = None if whole is None else whole.weak
        perturbed = pseudo_label_loss(rest[-1], label, confidence, valid, taus.to(self._device), counted)
        return (1 - _PERTURBED_SHARE) * strong + _PERTURBED_SHARE * perturbed

    def _view_loss(
        self, logits: Tensor, pool: PoolBatch, taught: PseudoLabels, view: int, counted: Tensor | None, taus: Tensor
    ) -> Tensor:
        valid = pool.mixed(pool.valid, view).to(self._device)
        if self._recipe.method == "mean-teacher":
            return probability_loss(logits, pool.mixed(taught.shares, view).to(self._device), valid, counted)
        label, confidence = (pool.mixed(t, view).to(self._device) for t in (taught.classes, taught.confidence))
        if self._recipe.method == "cps":  # every label counts, as published
            confidence = torch.ones_like(confidence)
        return pseudo_label_loss(logits, label, confidence, valid, taus.to(self._device), counted)

    def _second_terms(
        self, one: StepViews, whole: Whole | None, setting: StepSetting, join: Join | None
    ) -> tuple[Tensor, Tensor]:
        """L_x and L_u of the second network, which the first one teaches."""
        assert self._second is not None
        shown = self._show(self._second, one, setting.step)
        loss_x = self._supervised(shown.logits, one.labelled, whole, join)
        if one.pool is None:
            return loss_x, shown.logits.new_zeros((), dtype=torch.float32)
        return loss_x, self._unlabelled(shown, one.pool, self._taught(self._model, one.pool), whole, setting.taus)

    def _prototypes(
        self, shown: _Shown, one: StepViews, taught: PseudoLabels | None, setting: StepSetting
    ) -> tuple[Tensor, Tensor, Tensor | None, Cells | None]:
        """Both sides of L_P, and what the bank is to learn."""
        branch, recipe = self._model.branch, self._recipe
        nothing = shown.logits.new_zeros((), dtype=torch.float32)
        if branch is None or shown.embedded is None or recipe.prototype_weight == 0:
            return nothing, nothing, None, None
        if setting.labelled_prototypes == 0 and setting.pool_prototypes == 0:
            return nothing, nothing, None, None
        text = None if setting.text is None else branch.text_prototypes(setting.text)
        chosen = [(setting.labelled_prototypes, c) for c in self._labelled_cells(shown, one, setting)]
        if setting.pool_prototypes > 0 and taught is not None:
            trust = setting.pool_prototypes * recipe.prototype_pool_weight
            chosen += [(trust, c) for c in self._pool_cells(shown, one, taught, setting)]
        image, words, bank = nothing, nothing, None
        if text is not None and branch.bank is not None and recipe.text_pull > 0:
            # No sum over images: each share has the part of its labelled slots.
            part = setting.labelled_prototypes * shown.labelled / recipe.labelled_batch
            words = words + part * recipe.text_pull * text_pull(branch.bank, text)
        for weight, cells in chosen:
            loss = prototype_loss(cells, branch, recipe, text)
            image, words = image + weight * loss.image, words + weight * loss.text
            if branch.bank is not None:
                sums = bank_sums(cells, branch, recipe, setting.progress)
                bank = sums if bank is None else bank + sums
        return image, words, bank, next((c for _, c in chosen if not c.pooled), None)

    def _labelled_cells(self, shown: _Shown, one: StepViews, setting: StepSetting) -> list[Cells]:
        if one.labelled is None or shown.embedded is None:
            return []
        count, recipe = shown.labelled, self._recipe
        mask = one.labelled.masks.to(self._device)
        seeds = self._cell_seeds(setting.step, 0, one.share.labelled)
        found = choose(
            shown.embedded[:count], shown.logits[:count], mask,
            images=recipe.labelled_batch, most=recipe.prototype_pixels, seeds=seeds, pooled=False,
        )  # fmt: skip
        return [found]

    def _pool_cells(self, shown: _Shown, one: StepViews, taught: PseudoLabels, setting: StepSetting) -> list[Cells]:
        pool, recipe = one.pool, self._recipe
        assert pool is not None
        assert shown.embedded is not None
        found, taus = [], setting.taus
        for view in range(shown.views):
            first = shown.labelled + shown.weak + view * pool.size
            rows = slice(first, first + pool.size)
            label, confidence = pool.mixed(taught.classes, view), pool.mixed(taught.confidence, view)
            passed = (confidence >= taus[label]) & pool.mixed(pool.valid, view)
            mask = confident_mask(label, passed).to(self._device)
            seeds = self._cell_seeds(setting.step, 1 + view, one.share.pool)
            cells = choose(
                shown.embedded[rows], shown.logits[rows], mask,
                images=recipe.unlabelled_batch * shown.views, most=recipe.prototype_pixels, seeds=seeds, pooled=True,
            )  # fmt: skip
            found.append(cells)
        return found

    def _cell_seeds(self, step: int, kind: int, slots: range) -> Iterator[int]:
        """A seed for each slot, the same in whatever share it is."""
        first = ((self._seed * 1_000_003 + step) * 8 + kind) * 4_096
        return ((first + slot) % 2**62 for slot in slots)

    def labeller_shares(self, images: Tensor) -> Tensor:
        """Probabilities (B, C, S, S) of normalised images (B, 3, S, S), by who labels the pool for the model."""
        return self._shares(self._model if self._recipe.labels_itself else self._labeller, images)

    @property
    def _labeller(self) -> Segmenter:
        return self._teacher if self._second is None else self._second

    def _taught(self, network: Segmenter, pool: PoolBatch) -> PseudoLabels:
        return pseudo_labels(self._shares(network, pool.weak), pool)

    @torch.no_grad()
    def _shares(self, network: Segmenter, images: Tensor) -> Tensor:
        """What a network in eval mode says of images, over some flips."""
        training = network.training
        network.eval()
        placed = self._placed(images)
        with autocast(str(self._device), self._precision):
            shares = torch.stack(
                [network(placed.flip(f)).float().softmax(dim=1).flip(f) for f in _FLIPS[: self._recipe.teacher_flips]]
            ).mean(dim=0)
        network.train(training)
        return shares

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed * 1_000_003 + step)

    def _channel_gains(self, labelled: int, pool: PoolBatch, slots: range, step: int) -> list[Tensor] | None:
        """Dropout of channels for a pair of strong views; labelled views stay whole."""
        if len(pool.strong) < 2:
            return None
        first, second = channel_gains_pair(self._model.record, self._recipe.unlabelled_batch, self._generator(step))
        return [
            torch.cat([torch.ones(labelled, a.shape[1]), a[list(slots)], b[list(slots)]]).to(self._device)
            for a, b in zip(first, second, strict=True)
        ]

    def _dropped(self, features: Sequence[Tensor], rows: slice, slots: range, step: int) -> list[Tensor]:
        """Features of the weak views with half of their channels dropped (UniMatch's perturbation)."""
        gains = channel_dropout(self._model.record, self._recipe.unlabelled_batch, self._generator(step))
        return [f[rows] * g[list(slots)].to(f)[:, :, None, None] for f, g in zip(features, gains, strict=True)]

    def _placed(self, images: Tensor) -> Tensor:
        return images.to(self._device, memory_format=torch.channels_last)
