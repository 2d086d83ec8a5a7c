"""The method in the order of its parts: labelled views, pool views, teacher, one forward, losses, step, EMA.

Sources: UniMatch and UniMatch V2 (Yang et al. 2023, 2024), FixMatch (Sohn et al. 2020), schedule of MPAMatch
(arXiv 2508.19574). Reads no clock and writes no file: it yields a report for each step, and its state goes in and out
as tensors and plain values, so that a resumed run equals an unbroken one bit for bit on the CPU.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mpamatch.domain.classes import IGNORE
from mpamatch.domain.recipe import Recipe
from mpamatch.errors import BadInput
from mpamatch.network.losses import confident_share, pseudo_label_loss, supervised_loss
from mpamatch.network.model import Segmenter, channel_gains_pair
from mpamatch.training.batches import PoolBatch, Streams


@dataclass(frozen=True)
class StepReport:
    """One finished step: ``step`` counts from 1; losses before weights; ``mask_ratio`` None without pool."""

    step: int
    steps: int
    x: float
    u: float
    total: float
    mask_ratio: float | None
    unlabelled_weight: float
    gradient_norm: float
    skipped: bool


@dataclass(frozen=True)
class LoopState:
    """All that a resumed run needs: tensors by name, and plain values."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


class TrainingLoop:
    """One run of a recipe over its streams. ``warm`` shortens it and, by the recipe, skips the ramp."""

    def __init__(
        self, model: Segmenter, streams: Streams, recipe: Recipe, *, pool_tiles: int, warm: bool, seed: int
    ) -> None:
        self.model = model
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self.recipe = recipe
        self.steps = recipe.steps(warm=warm)
        self.step = 0
        self._streams = streams
        self._seed = seed
        self._warm = warm
        self._uses_pool = recipe.uses_pool and pool_tiles > 0
        self._optimiser = _optimiser(model, recipe)
        self._rates = [group["lr"] for group in self._optimiser.param_groups]
        self._skipped: list[int] = []
        self._device = next(model.parameters()).device

    def run(self) -> Iterator[StepReport]:
        """The remaining steps, one report each. Raises BadInput when too many losses are not finite."""
        while self.step < self.steps:
            yield self._one_step()

    @property
    def first_pool_step(self) -> int:
        """The first step that looks at the pool (equal to ``steps`` when none does)."""
        return next((s for s in range(self.steps) if self._unlabelled_weight(s) > 0), self.steps)

    def state(self) -> LoopState:
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"teacher.{name}": t for name, t in self.teacher.state_dict().items()}
        for index, values in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{key}": value for key, value in values.items()}
        return LoopState(tensors, {"step": self.step, "steps": self.steps, "skipped": list(self._skipped)})

    def restore(self, state: LoopState) -> None:
        """Go on from a state of the same run. Raises BadInput when it is another run's."""
        if state.values["steps"] != self.steps:
            raise BadInput("checkpoint", f"made for {state.values['steps']} steps, not {self.steps}", "start a new run")
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "teacher": {}, "optimiser": {}}
        for name, tensor in state.tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        self.teacher.load_state_dict(parts["teacher"])
        self._restore_optimiser(parts["optimiser"])
        self.step = int(state.values["step"])
        self._skipped = [int(s) for s in state.values["skipped"]]

    def _restore_optimiser(self, tensors: Mapping[str, Tensor]) -> None:
        parameters = [p for group in self._optimiser.param_groups for p in group["params"]]
        for name, tensor in tensors.items():
            index, key = name.split(".")
            parameter = parameters[int(index)]
            # Moments keep the parameter's memory layout, or sums would be taken in another order.
            like = torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor.clone()
            self._optimiser.state[parameter][key] = like

    def _one_step(self) -> StepReport:
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * learning_rate_factor(self.step, self.steps, self.recipe)
        self.model.train()
        statistics = [b.clone() for b in self.model.buffers()]
        weight = self._unlabelled_weight(self.step)
        loss_x, loss_u, ratio = self._losses(weight)
        total = self._supervised_weight * loss_x + weight * loss_u
        norm = self._descend(total)
        skipped = norm is None
        if skipped:
            for buffer, before in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(before)
            self._note_skip()
        else:
            update_teacher(self.teacher, self.model, min(1 - 1 / (self.step + 1), self.recipe.ema_decay))
        self.step += 1
        return StepReport(
            step=self.step,
            steps=self.steps,
            x=float(loss_x.detach()),
            u=float(loss_u.detach()),
            total=float(total.detach()),
            mask_ratio=None if ratio is None else float(ratio),
            unlabelled_weight=weight,
            gradient_norm=math.nan if norm is None else norm,
            skipped=skipped,
        )

    def _losses(self, weight: float) -> tuple[Tensor, Tensor, Tensor | None]:
        """L_x, L_u and the mask ratio; before the ramp the pool is not even read."""
        labelled = self._streams.labelled_batch(self.step)
        masks = labelled.masks.to(self._device)
        if weight == 0:
            logits = self.model(self._placed(labelled.images))
            return supervised_loss(logits, masks), logits.new_zeros(()), None
        pool = self._streams.pool_batch(self.step)
        pseudo_label, confidence = self._pseudo_labels(pool)
        count = len(labelled.images)
        views = torch.cat([labelled.images, *pool.strong])
        logits = self.model(self._placed(views), self._channel_gains(count, pool))
        terms = []
        for view, part in enumerate(logits[count:].split(pool.size)):
            label, share, valid = (pool.mixed(t, view).to(self._device) for t in (pseudo_label, confidence, pool.valid))
            terms.append(pseudo_label_loss(part, label, share, valid, self.recipe.tau))
        ratio = confident_share(confidence[: pool.size], pool.valid[: pool.size], self.recipe.tau)
        return supervised_loss(logits[:count], masks), torch.stack(terms).mean(), ratio

    @torch.no_grad()
    def _pseudo_labels(self, pool: PoolBatch) -> tuple[Tensor, Tensor]:
        """The teacher's classes and confidence on the weak views; a person's labels replace them where they exist."""
        weak = self._placed(pool.weak)
        flips: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))
        shares = torch.stack(
            [self.teacher(weak.flip(f)).float().softmax(dim=1).flip(f) for f in flips[: self.recipe.teacher_flips]]
        ).mean(dim=0)
        confidence, pseudo_label = (t.cpu() for t in shares.max(dim=1))
        known = pool.labels != IGNORE
        return torch.where(known, pool.labels, pseudo_label), confidence.masked_fill(known, 1.0)

    def _channel_gains(self, labelled: int, pool: PoolBatch) -> list[Tensor] | None:
        """Dropout of channels for a pair of strong views; labelled views stay whole."""
        if len(pool.strong) < 2:
            return None
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self.step)
        first, second = channel_gains_pair(self.model.record, pool.size, generator)
        return [
            torch.cat([torch.ones(labelled, a.shape[1]), a, b]).to(self._device)
            for a, b in zip(first, second, strict=True)
        ]

    def _descend(self, total: Tensor) -> float | None:
        """Gradient, clipping, step; the gradient's norm, or None when something was not finite and nothing moved."""
        self._optimiser.zero_grad(set_to_none=True)
        if not bool(torch.isfinite(total)):
            return None
        total.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm))
        if not math.isfinite(norm):
            return None
        self._optimiser.step()
        return norm

    def _note_skip(self) -> None:
        window = self.recipe.non_finite_window
        self._skipped = [s for s in self._skipped if s > self.step - window] + [self.step]
        if len(self._skipped) >= self.recipe.non_finite_limit:
            problem = f"loss not finite in {len(self._skipped)} of the last {window} steps"
            raise BadInput("run", problem, "lower recipe.lr and check the images")

    @property
    def _supervised_weight(self) -> float:
        return self.recipe.beta if self._uses_pool else 1.0

    def _unlabelled_weight(self, step: int) -> float:
        if not self._uses_pool:
            return 0.0
        if self._warm and not self.recipe.ramp_when_warm:
            return self.recipe.gamma
        return self.recipe.gamma * ramp(step / self.steps, self.recipe.ramp_start, self.recipe.ramp_end)

    def _placed(self, images: Tensor) -> Tensor:
        return images.to(self._device, memory_format=torch.channels_last)


def ramp(progress: float, start: float, end: float) -> float:
    """Sigmoid ramp exp(-5 (1 - r)^2) over start..end of the run, exactly 0 before it.

    >>> ramp(0.1, 0.2, 0.4), ramp(0.4, 0.2, 0.4)
    (0.0, 1.0)
    """
    if progress < start:
        return 0.0
    if progress >= end:
        return 1.0
    return math.exp(-5 * (1 - (progress - start) / (end - start)) ** 2)


def learning_rate_factor(step: int, steps: int, recipe: Recipe) -> float:
    """Linear warm-up, then polynomial decay; ``step`` counts from 0."""
    warmup = round(recipe.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    return float((1 - (step - warmup) / max(1, steps - warmup)) ** recipe.poly_power)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """teacher := decay * teacher + (1 - decay) * student, for weights and float buffers; counters are copied."""
    mine, theirs = list(teacher.state_dict().values()), list(student.state_dict().values())
    floating = [(a, b) for a, b in zip(mine, theirs, strict=True) if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floating], [b for _, b in floating], 1 - decay)
    for a, b in zip(mine, theirs, strict=True):
        if not a.is_floating_point():
            a.copy_(b)


def _optimiser(model: Segmenter, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; the encoder learns more slowly, and only matrices and kernels decay."""
    groups = []
    for part, factor in ((model.encoder, recipe.encoder_lr_factor), (model.decoder, 1.0), (model.head, 1.0)):
        parameters = list(part.parameters())
        for decays in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1) == decays]
            decay = recipe.weight_decay if decays else 0.0
            groups.append({"params": chosen, "lr": recipe.lr * factor, "weight_decay": decay})
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.999), foreach=True)
