"""The course of a run: the steps of one loop or, where low-rank tuning is guarded, of two and perhaps a third.

Under the guard the first steps train with the encoder frozen, which takes no gradient through it. Their loss on tiles
kept back is noted, and the run begins anew with low-rank changes. After as many steps the two losses are compared:
either that loop goes on, or the frozen one does from where it was. What came before leaves no trace in the one that
goes on: it equals, bit for bit on the CPU, a run that never had a guard, and a run with a frozen encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mpamatch.domain.lora_guard import GuardVerdict
from mpamatch.network.devices import release_memory
from mpamatch.training.loop import LoopState, NotFinite, TrainingLoop
from mpamatch.training.step_sums import StepReport

Phase = Literal["unguarded", "frozen", "low-rank", "judged"]


@dataclass(frozen=True)
class Guard:
    """Compare after ``step`` steps of each loop; ``limit`` is that of :class:`GuardVerdict`.

    ``loss`` of a loop is that of what it would leave, on labelled tiles that it does not train on.
    """

    step: int
    limit: float
    loss: Callable[[TrainingLoop], float]


class Course:
    """All steps of a run, from its start or from the state of an earlier process.

    ``make(frozen)`` gives the run's loop at its very start, as the recipe tunes it or with a frozen encoder. No more
    than one loop is alive at a time. ``loop`` is the one that trains, ``phase`` what for; ``verdict`` is there once the
    guard has decided.
    """

    def __init__(
        self, make: Callable[[bool], TrainingLoop], guard: Guard | None, resumed: LoopState | None = None
    ) -> None:
        """Raises BadInput when ``resumed`` is the state of another run."""
        self._make = make
        self._guard = guard
        self._frozen: LoopState | None = None
        self._frozen_loss = math.nan
        self.verdict: GuardVerdict | None = None
        self.phase: Phase = "unguarded" if guard is None else "frozen"
        if guard is not None and resumed is not None:
            resumed = self._taken_up(resumed)
        self.loop = make(self._trains_frozen)
        if resumed is not None:
            self.loop.restore(resumed)

    def run(self) -> Iterator[StepReport]:
        """The remaining steps, one report each. Raises what :class:`TrainingLoop` does."""
        while self.loop.step < self.loop.steps:
            report = self._take()
            if report is not None:
                yield report

    @property
    def taken(self) -> int:
        """Steps behind the run, of every loop."""
        return self._behind + self.loop.step

    @property
    def planned(self) -> int:
        """Steps of the run in all."""
        return self.loop.steps + self._others

    @property
    def loop_ends(self) -> int:
        """The step of the present loop at which it ends."""
        return self._guard.step if self._guard is not None and self.phase == "frozen" else self.loop.steps

    def state(self) -> LoopState:
        """All that a resumed run needs; that of the loop alone where there is no guard."""
        inner = self.loop.state()
        if self._guard is None:
            return inner
        frozen = self._frozen
        course = {
            "phase": self.phase,
            "loop": dict(inner.values),
            "frozen": None if frozen is None else dict(frozen.values),
            "frozen_loss": self._frozen_loss,
            "verdict": None if self.verdict is None else self.verdict.to_json(),
        }
        tensors = dict(inner.tensors)
        if frozen is not None:
            tensors |= {f"{_FROZEN}{name}": tensor for name, tensor in frozen.tensors.items()}
        return LoopState(tensors, {"step": self.taken, "steps": self.planned, "course": course})

    @property
    def _trains_frozen(self) -> bool:
        return self.phase == "frozen" or (self.verdict is not None and not self.verdict.holds)

    @property
    def _behind(self) -> int:
        """Steps of loops that came before the present one."""
        if self._guard is None or self.phase == "frozen":
            return 0
        return self._guard.step if self.verdict is None or self.verdict.holds else self.verdict.step

    @property
    def _others(self) -> int:
        """Steps of the run that are not the present loop's, or not in its own count."""
        return self._guard.step if self._guard is not None and self.phase == "frozen" else self._behind

    def _take(self) -> StepReport | None:
        """One step, and what it leads to; None where it ended the loop that took it."""
        report: StepReport | None = None
        try:
            report = next(self.loop.run())
        except NotFinite:
            if self.phase != "low-rank":
                raise
        if report is None:  # the error and what it holds are gone by now, so that the loop can go
            self._judge(math.nan)
            return None
        if self._guard is None:
            return report
        report = replace(report, behind=self._behind, others=self._others)
        if self.loop.step == self._guard.step and self.phase == "frozen":
            self._begin_low_rank(self._guard.loss(self.loop))
        elif self.loop.step == self._guard.step and self.phase == "low-rank":
            self._judge(self._guard.loss(self.loop))
        return report

    def _begin_low_rank(self, loss: float) -> None:
        state = self.loop.state()
        # The encoder is as it was at the start, and need not be kept.
        kept = {name: t.detach().to("cpu", copy=True) for name, t in state.tensors.items() if not _of_encoder(name)}
        self._frozen, self._frozen_loss = LoopState(kept, state.values), loss
        self.phase = "low-rank"
        self._change_loop()

    def _judge(self, loss: float) -> None:
        assert self._guard is not None
        assert self._frozen is not None
        self.verdict = GuardVerdict(self.loop.step, self._frozen_loss, loss, self._guard.limit)
        self.phase = "judged"
        if not self.verdict.holds:
            self._change_loop()
            self.loop.restore(LoopState({**self.loop.state().tensors, **self._frozen.tensors}, self._frozen.values))
        self._frozen = None

    def _change_loop(self) -> None:
        device = next(self.loop.model.parameters()).device
        del self.loop
        release_memory(device)
        self.loop = self._make(self._trains_frozen)

    def _taken_up(self, resumed: LoopState) -> LoopState:
        """Where a guarded run was; the state of its loop alone."""
        course: Mapping[str, Any] | None = resumed.values.get("course")
        if course is None:  # begun by a version that had no guard
            self._guard, self.phase = None, "unguarded"
            return resumed
        self.phase, loss = course["phase"], course["frozen_loss"]
        self._frozen_loss = math.nan if loss is None else float(loss)
        self.verdict = None if course["verdict"] is None else GuardVerdict.from_json(course["verdict"])
        kept = {n.removeprefix(_FROZEN): t for n, t in resumed.tensors.items() if n.startswith(_FROZEN)}
        if course["frozen"] is not None:
            self._frozen = LoopState(kept, course["frozen"])
        own = {name: tensor for name, tensor in resumed.tensors.items() if not name.startswith(_FROZEN)}
        return LoopState(own, course["loop"])


_FROZEN = "frozen."


def _of_encoder(name: str) -> bool:
    return name.split(".")[1] == "encoder"
