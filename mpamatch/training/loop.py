"""A run's steps: views, losses of each share, one gradient, a step of the optimiser, and what follows the weights.

What follows are the moving average that predictions come from (the teacher), the bank of image prototypes and the
thresholds. Sources: UniMatch and UniMatch V2 (Yang et al. 2023, 2024), schedule of MPAMatch (arXiv 2508.19574). Reads
no clock and writes no file: it yields a report for each step, and its state goes in and out as tensors and plain
values, so that a resumed run equals an unbroken one bit for bit on the CPU.

A step's batch may be cut into shares: one for each process of the run, and smaller ones once memory ran out. Their
gradients add up to the batch's. Batch norms see one share at a time, and so does Dice once memory ran out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mpamatch.domain.classes import IGNORE
from mpamatch.domain.recipe import Recipe
from mpamatch.errors import BadInput, Unavailable
from mpamatch.network.devices import out_of_memory, release_memory
from mpamatch.network.model import Segmenter, build_segmenter
from mpamatch.network.prototypes import health
from mpamatch.network.text import ClassTexts
from mpamatch.network.tuning import make_teacher, parameter_groups, prepare_tuning, text_groups
from mpamatch.training.bank_care import bank_of, begin_bank, update_bank
from mpamatch.training.batches import Streams
from mpamatch.training.kept_back import KeptBack, PseudoLabelCheck
from mpamatch.training.moving_average import MovingAverage
from mpamatch.training.objective import Objective, StepSetting, StepViews
from mpamatch.training.peers import Peers
from mpamatch.training.pseudo_labels import ClassCounts, first_taus, next_taus
from mpamatch.training.ramps import Ramps, learning_rate_factor
from mpamatch.training.shares import Whole, most_slots, shares_of
from mpamatch.training.step_sums import DiceSums, StepReport, StepSums

_HEALTH_EVERY = 50


class NotFinite(BadInput):
    """Too many losses of a loop were not finite."""


@dataclass(frozen=True)
class LoopState:
    """All that a resumed run needs: tensors by name, and plain values."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


class TrainingLoop:
    """One run of a recipe over its streams. ``warm`` shortens it and, by the recipe, skips the ramps.

    ``texts`` are the words of the classes where the model's branch has a side for them. ``before_share(step, parts)``
    is called before each pass through the network; an error of memory raised there is met as one of the pass itself.
    """

    def __init__(
        self,
        model: Segmenter,
        streams: Streams,
        recipe: Recipe,
        *,
        pool_tiles: int,
        warm: bool,
        seed: int,
        texts: ClassTexts | None = None,
        precision: torch.dtype = torch.float32,
        peers: Peers | None = None,
        before_share: Callable[[int, int], None] = lambda step, parts: None,
    ) -> None:
        prepare_tuning(model, recipe, seed=seed)
        self.model = model
        self.teacher = make_teacher(model)
        self._average = MovingAverage(self.teacher, model)
        self.texts = texts
        self.recipe = recipe
        self.steps = recipe.steps(warm=warm)
        self.step = 0
        self._streams = streams
        self._seed = seed
        self._uses_pool = recipe.uses_pool and pool_tiles > 0
        self._ramps = Ramps(
            recipe,
            self.steps,
            warm=warm,
            uses_pool=self._uses_pool,
            has_branch=model.branch is not None,
            brought_prototypes=_has_prototypes(model),
        )
        self._second = _second_network(model, recipe, seed) if self._uses_pool and recipe.method == "cps" else None
        self._learners = [m for m in (model, self._second, texts) if m is not None]
        self._optimiser = _optimiser(self._learners, recipe)
        self._rates = [group["lr"] for group in self._optimiser.param_groups]
        self._taus = first_taus(recipe, model.class_count)
        self._skipped: list[int] = []
        self._device = next(model.parameters()).device
        self._objective = Objective(
            model, self.teacher, self._second, recipe, seed=seed, device=self._device, precision=precision
        )
        self._peers = peers or Peers()
        self._before_share = before_share
        self._parts = 1

    def run(self) -> Iterator[StepReport]:
        """The remaining steps, one report each.

        Raises NotFinite when too many losses are not finite, Unavailable when not even single tiles fit in memory.
        """
        while self.step < self.steps:
            yield self._one_step()

    @property
    def parts(self) -> int:
        """In how many parts a process takes its share of a batch."""
        return self._parts

    @property
    def first_pool_step(self) -> int:
        """The first step that looks at the pool (equal to ``steps`` when none does)."""
        return self._ramps.first_pool_step

    @property
    def prototype_steps(self) -> int:
        """How many steps of the run have L_P on."""
        return self.steps - self._ramps.first_prototype_step

    def check(self, kept_back: KeptBack) -> PseudoLabelCheck | None:
        """How right the pseudo-labels are now; None where nothing labelled was kept back."""
        return kept_back.check(self._objective.labeller_shares, self._taus, self.step)

    def state(self) -> LoopState:
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"teacher.{name}": t for name, t in self.teacher.state_dict().items()}
        if self._second is not None:
            tensors |= {f"second.{name}": t for name, t in self._second.state_dict().items()}
        tensors |= {f"texts.{name}": tensor for name, tensor in self.text_state().items()}
        tensors["taus.taus"] = self._taus
        for index, values in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{key}": value for key, value in values.items()}
        values = {"step": self.step, "steps": self.steps, "skipped": list(self._skipped), "parts": self._parts}
        return LoopState(tensors, values)

    def text_state(self) -> dict[str, Tensor]:
        """What was learned of the texts: context vectors and the like, by name."""
        if self.texts is None:
            return {}
        return {name: p.detach() for name, p in self.texts.named_parameters() if p.requires_grad}

    def restore(self, state: LoopState) -> None:
        """Go on from a state of the same run. Raises BadInput when it is another run's."""
        if state.values["steps"] != self.steps:
            raise BadInput("checkpoint", f"made for {state.values['steps']} steps, not {self.steps}", "start a new run")
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        self.model.load_state_dict(parts["model"])
        self.teacher.load_state_dict(parts["teacher"])
        if self._second is not None:
            self._second.load_state_dict(parts["second"])
        if self.texts is not None:
            self.texts.load_state_dict(parts.get("texts", {}), strict=False)
        if "taus" in parts:
            self._taus = parts["taus"]["taus"].clone()
        self._restore_optimiser(parts.get("optimiser", {}))
        self.step = int(state.values["step"])
        self._skipped = [int(s) for s in state.values["skipped"]]
        self._parts = int(state.values.get("parts", 1))

    def _restore_optimiser(self, tensors: Mapping[str, Tensor]) -> None:
        parameters = [p for group in self._optimiser.param_groups for p in group["params"]]
        for name, tensor in tensors.items():
            index, key = name.split(".")
            parameter = parameters[int(index)]
            if key != "step" and tensor.shape != parameter.shape:
                problem = "made by another version: its moments fit other parameters"
                raise BadInput("checkpoint", problem, "start a new run")
            # Moments keep the parameter's memory layout, or sums would be taken in another order.
            like = torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor.clone()
            self._optimiser.state[parameter][key] = like

    def _one_step(self) -> StepReport:
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * learning_rate_factor(self.step, self.steps, self.recipe)
        for learner in self._learners:
            learner.train()
        weight, ramped = self._ramps.unlabelled_weight(self.step), self._ramps.prototypes(self.step)
        if self.step == self._ramps.first_prototype_step:
            begin_bank(
                self.model, self._streams, self.recipe,
                seed=self._seed, peers=self._peers, before_pass=lambda parts: self._before_share(self.step, parts),
            )  # fmt: skip
        words = self._encode_texts() if ramped > 0 else None
        setting = StepSetting(
            step=self.step,
            progress=self.step / self.steps,
            taus=self._taus,
            labelled_prototypes=ramped,
            pool_prototypes=self._ramps.pool_prototypes(self.step),
            text=None if words is None else words.detach().requires_grad_(words.requires_grad),
        )
        statistics = [b.clone() for b in self._buffers()]
        while (sums := self._gradients(weight, setting, words)) is None:
            self._reset(statistics)
            self._halve()
        norm = self._descend(sums.total)
        if norm is None:
            self._reset(statistics)
            self._note_skip()
        else:
            self._follow(sums)
        self.step += 1
        return self._report(sums, setting, weight, norm)

    def _report(self, sums: StepSums, setting: StepSetting, weight: float, norm: float | None) -> StepReport:
        counts = None if weight == 0 or sums.counts is None else ClassCounts(sums.counts)
        ramped, recipe, bank = setting.labelled_prototypes > 0, self.recipe, bank_of(self.model)
        look = bank is not None and (self.step % _HEALTH_EVERY == 0 or self.step == self.steps)
        return StepReport(
            step=self.step,
            steps=self.steps,
            x=sums.x,
            u=sums.u,
            total=sums.total,
            mask_ratio=None if counts is None else counts.ratio,
            unlabelled_weight=weight,
            gradient_norm=math.nan if norm is None else norm,
            skipped=norm is None,
            parts=self._parts,
            image=sums.image if ramped and recipe.uses_image_prototypes else None,
            text=sums.text if ramped and recipe.uses_text_prototypes else None,
            labelled_weight=self._ramps.supervised_weight,
            prototype_weight=recipe.prototype_weight * setting.labelled_prototypes,
            pool_prototype_weight=recipe.prototype_weight * setting.pool_prototypes * recipe.prototype_pool_weight,
            tiles=recipe.labelled_batch + (recipe.unlabelled_batch if weight > 0 else 0),
            class_mask_ratio=() if counts is None else counts.ratios,
            health=health(bank) if look and bank is not None else None,
        )

    def _gradients(self, weight: float, setting: StepSetting, words: Tensor | None) -> StepSums | None:
        """The gradient of the whole batch, and its losses; None when a process had not memory enough for its shares."""
        self._optimiser.zero_grad(set_to_none=True)
        if setting.text is not None:
            setting.text.grad = None
        views = self._views(weight)
        whole = self._whole(views)
        sums, short = StepSums(), False
        joining = DiceSums(self._peers, self.model.class_count, len(self._networks)) if self._joins else None
        try:
            for one in views:
                self._before_share(self.step, self._parts)
                if not self._add_share(one, weight, whole, setting, sums, joining):
                    break
            if words is not None and words.requires_grad and setting.text is not None and setting.text.grad is not None:
                words.backward(setting.text.grad, retain_graph=True)  # type: ignore[no-untyped-call]
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            short = True
        if joining is not None:
            joining.finish()
        if self._peers.any(short):
            return None
        if self._peers.count == 1:
            return sums
        self._peers.join_gradients(self._learners)
        bank = bank_of(self.model)
        return sums.joined(self._peers, self.model.class_count, None if bank is None else bank.rows.shape)

    def _add_share(
        self,
        one: StepViews,
        weight: float,
        whole: Whole | None,
        setting: StepSetting,
        sums: StepSums,
        joining: DiceSums | None,
    ) -> bool:
        """Add a share's gradient and losses; False, and no gradient, when its loss is not finite."""
        terms = self._objective.terms(one, whole, setting, joining)
        total = self._ramps.supervised_weight * terms.x + weight * terms.u
        if (side := self._ramps.side_weights) != (0.0, 0.0):
            total = total + self.recipe.prototype_weight * (side[0] * terms.image + side[1] * terms.text)
        sums.add(terms, float(total.detach()))
        if not math.isfinite(sums.total):
            return False
        total.backward()  # type: ignore[no-untyped-call]
        return True

    @property
    def _joins(self) -> bool:
        """Whether Dice is that of all processes: each must come to the same sums, so only while each has one share."""
        return self._peers.count > 1 and self._parts == 1

    @property
    def _networks(self) -> list[Segmenter]:
        return [m for m in (self.model, self._second) if m is not None]

    def _views(self, weight: float) -> list[StepViews]:
        """The views of this process's shares; before the ramp the pool is not even read."""
        recipe = self.recipe
        shares = shares_of(
            recipe.labelled_batch,
            recipe.unlabelled_batch if weight > 0 else 0,
            rank=self._peers.rank,
            count=self._peers.count,
            parts=self._parts,
        )
        return [
            StepViews(
                share,
                self._streams.labelled_batch(self.step, share.labelled) if len(share.labelled) else None,
                self._streams.pool_batch(self.step, share.pool) if len(share.pool) else None,
            )
            for share in shares
        ]

    def _whole(self, views: Sequence[StepViews]) -> Whole | None:
        """Counts over every share of every process; None when there is only one share."""
        if self._peers.count == 1 and self._parts == 1:
            return None
        counts = torch.zeros(2 + self.recipe.views_per_tile, dtype=torch.int64)
        for one in views:
            if one.labelled is not None:
                counts[0] += (one.labelled.masks != IGNORE).sum()
            if one.pool is not None:
                counts[1] += one.pool.valid[: one.pool.size].sum()
                for view in range(self.recipe.views_per_tile):
                    counts[2 + view] += one.pool.mixed(one.pool.valid, view).sum()
        seen, weak, *valid = self._peers.total(counts).to(self._device)
        return Whole(self.recipe.labelled_batch, seen, tuple(valid), weak)

    def _encode_texts(self) -> Tensor | None:
        """The texts' vectors (C, d_t); every ``text_every`` steps anew, in between as they were."""
        branch = self.model.branch
        if self.texts is None or branch is None or branch.projection is None:
            return None
        anew = self.texts.learnable and self.step % self.recipe.text_every == 0
        if not anew and bool(branch.text_vectors.any()):
            return branch.text_vectors.clone()
        vectors: Tensor = self.texts()
        with torch.no_grad():
            branch.text_vectors.copy_(vectors)
        return vectors

    def _follow(self, sums: StepSums) -> None:
        """What follows the weights after a step: the average, the bank, the thresholds."""
        decay = min(1 - 1 / (self.step + 1), self.recipe.ema_decay)
        if (bank := bank_of(self.model)) is not None:
            update_bank(bank, sums, self.recipe, steps=self.steps, seed=self._seed + self.step, peers=self._peers)
        if sums.counts is not None:
            self._taus = next_taus(self._taus, ClassCounts(sums.counts), self.recipe)
        self._average.follow(decay)

    def _descend(self, total: float) -> float | None:
        """Clipping and step; the gradient's norm, or None when something was not finite and nothing moved."""
        if not math.isfinite(total):
            return None
        parameters = [p for learner in self._learners for p in learner.parameters()]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.recipe.clip_norm))
        if not math.isfinite(norm):
            return None
        self._optimiser.step()
        return norm

    def _reset(self, statistics: Sequence[Tensor]) -> None:
        """Forget a pass through the network that came to nothing."""
        self._optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in zip(self._buffers(), statistics, strict=True):
                buffer.copy_(before)

    def _buffers(self) -> list[Tensor]:
        return [b for learner in self._learners for b in learner.buffers()]

    def _halve(self) -> None:
        """Twice as many parts, half as many tiles in each. Raises Unavailable when each has but one."""
        release_memory(self._device)
        recipe, processes = self.recipe, self._peers.count
        slots = most_slots(recipe.labelled_batch, recipe.unlabelled_batch if self._uses_pool else 0, count=processes)
        if self._parts >= slots:
            problem = f"a single tile of {recipe.crop_px} px does not fit in the memory of {self._device}"
            remedy = "free its memory, lower recipe.crop_px, or set MPAMATCH_DEVICE=cpu"
            raise Unavailable("training", problem, remedy)
        self._parts = min(slots, 2 * self._parts)

    def _note_skip(self) -> None:
        window = self.recipe.non_finite_window
        self._skipped = [s for s in self._skipped if s > self.step - window] + [self.step]
        if len(self._skipped) >= self.recipe.non_finite_limit:
            problem = f"loss not finite in {len(self._skipped)} of the last {window} steps"
            raise NotFinite("run", problem, "lower recipe.lr and check the images")


def _has_prototypes(model: Segmenter) -> bool:
    """Whether every side of the model's branch was trained before."""
    branch = model.branch
    if branch is None:
        return False
    bank = branch.bank is None or bool(branch.bank.ready.any())
    return bank and (branch.projection is None or bool(branch.text_vectors.any()))


def _second_network(model: Segmenter, recipe: Recipe, seed: int) -> Segmenter:
    """The other network of ``cps``: the same encoder to begin with, another decoder and head."""
    second = build_segmenter(model.record, model.class_count, seed=seed + 1_000_003, pretrained=False)
    second.encoder = copy.deepcopy(model.encoder)
    prepare_tuning(second, recipe, seed=seed + 1_000_003)
    return second.to(next(model.parameters()).device)


def _optimiser(learners: Sequence[nn.Module], recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; encoders learn more slowly, what belongs to texts at its own rate; only matrices and kernels decay."""
    groups: list[dict[str, Any]] = []
    for learner in learners:
        if isinstance(learner, Segmenter):
            groups += parameter_groups(learner, recipe)
        else:
            groups += text_groups(learner.parameters())
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.999), foreach=True)
