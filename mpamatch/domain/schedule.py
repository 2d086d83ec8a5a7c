"""When a project trains again: labels, times and a policy in, a decision with its reasons out.

No clock here: ``now`` is an argument, so the same facts always give the same decision. Only a request (by hand or
from Label Studio) skips the waiting; nothing starts a second run beside an open one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from mpamatch.errors import BadInput

Request = Literal["manual", "label-studio"]
Trigger = Literal["labels", "manual", "label-studio"]


@dataclass(frozen=True)
class RetrainFacts:
    """What the database knows at one moment.

    ``changed_tiles``: tiles whose mask changed since the snapshot of the last run; ``first_change_at`` and
    ``last_change_at``: the oldest and newest of these changes; ``labelled_tiles``: train tiles with a mask;
    ``requested``: who asked, None if nobody did.
    """

    changed_tiles: int
    last_change_at: datetime | None
    open_run: bool
    requested: Request | None
    labelled_tiles: int
    last_run_at: datetime | None = None
    first_change_at: datetime | None = None


@dataclass(frozen=True)
class TriggerPolicy:
    """``after_tiles`` changed tiles start a run once no change came for ``debounce_s``, and after ``patience_s`` at
    the latest, since a busy team never pauses; below ``min_labelled`` labelled tiles there is nothing to learn from."""

    after_tiles: int = 12
    debounce_s: float = 10.0
    min_labelled: int = 2
    patience_s: float = 300.0

    def __post_init__(self) -> None:
        waits = (self.debounce_s, self.patience_s)
        if self.after_tiles < 1 or self.min_labelled < 1 or not all(0 <= wait < math.inf for wait in waits):
            raise BadInput("trigger policy", f"out of range: {self}", "counts are at least 1, waits 0 s or more")


@dataclass(frozen=True)
class RetrainDecision:
    """``not_before`` is set when waiting alone would start a run, and says when to ask again."""

    start: bool
    trigger: Trigger | None
    reasons: tuple[str, ...]
    not_before: datetime | None = None


def decide(now: datetime, facts: RetrainFacts, policy: TriggerPolicy) -> RetrainDecision:
    """Whether to open a run now. All times carry a time zone. Raises BadInput for naive times."""
    _check_times(now, facts)
    if facts.open_run:
        return _wait(f"a run is open; {_tiles(facts.changed_tiles)} changed meanwhile will go to the next one")
    if facts.labelled_tiles < policy.min_labelled:
        return _wait(f"{_tiles(facts.labelled_tiles)} labelled, {policy.min_labelled} needed before a first run")
    if facts.requested is not None:
        asked = "by hand" if facts.requested == "manual" else "from Label Studio"
        reason = f"asked for {asked}, {_tiles(facts.labelled_tiles)} labelled"
        return RetrainDecision(True, facts.requested, (reason,))
    return _by_labels(now, facts, policy)


def _by_labels(now: datetime, facts: RetrainFacts, policy: TriggerPolicy) -> RetrainDecision:
    if facts.changed_tiles < policy.after_tiles:
        return _wait(f"{_tiles(facts.changed_tiles)} changed since the last run, {policy.after_tiles} start one")
    changed = f"{_tiles(facts.changed_tiles)} changed since the last run (>= {policy.after_tiles})"
    settled_at = _settled_at(now, facts, policy)
    if settled_at > now:
        waiting = f"labels still coming in: waiting for {policy.debounce_s:g} s without a change"
        return RetrainDecision(False, None, (changed, waiting), settled_at)
    return RetrainDecision(True, "labels", (changed,))


def _settled_at(now: datetime, facts: RetrainFacts, policy: TriggerPolicy) -> datetime:
    debounce = timedelta(seconds=policy.debounce_s)
    # A clock that stepped back must not hold a run for longer than the debounce itself.
    moments = [now + debounce]
    if facts.last_change_at is not None:
        moments.append(facts.last_change_at + debounce)
    if facts.first_change_at is not None:
        moments.append(facts.first_change_at + max(debounce, timedelta(seconds=policy.patience_s)))
    return min(moments) if len(moments) > 1 else now


def _wait(reason: str) -> RetrainDecision:
    return RetrainDecision(False, None, (reason,))


def _tiles(count: int) -> str:
    return f"{count} tile" if count == 1 else f"{count} tiles"


def _check_times(now: datetime, facts: RetrainFacts) -> None:
    moments = {"now": now, "last_change_at": facts.last_change_at, "last_run_at": facts.last_run_at}
    for name, moment in (moments | {"first_change_at": facts.first_change_at}).items():
        if moment is not None and moment.tzinfo is None:
            raise BadInput(name, "has no time zone", "use aware times, e.g. in UTC")
