"""When a project trains again: labels, times and a policy in, a decision with its reasons out.

No clock here: ``now`` is an argument, so the same facts always give the same decision. A request (by hand or from
Label Studio) is a person's wish: it skips the waiting and the quiet hours. So does the wish to adapt the champion to
the pool; no label is learnt then, so that labels, schedule and other requests stand as before. Nothing starts a second
run beside an open one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from mpamatch.domain.cron import utc_text
from mpamatch.domain.quiet_hours import QuietHours
from mpamatch.errors import BadInput

Request = Literal["manual", "label-studio"]
Trigger = Literal["labels", "manual", "label-studio", "schedule", "adapt"]


LONGEST_WAIT_S = 30 * 86_400.0


@dataclass(frozen=True)
class RetrainFacts:
    """What the database knows at one moment.

    ``changed_tiles``: tiles whose mask changed since the snapshot of the last run; ``first_change_at`` and
    ``last_change_at``: the oldest and newest of these changes; ``labelled_tiles``: train tiles with a mask;
    ``requested``: who asked, None if nobody did. ``returned_tiles``: tiles whose labels only runs have seen that
    ended without a model; ``runs_without_model``: how many such runs came since the last one that was done.
    ``schedule_due``: when the schedule is or was due, None without one; ``periods_due``: how many of its periods
    have come since. ``last_run``: the number of the last run that trained. ``adaptation_requested``: somebody asked
    to adapt the champion, which may stand beside another request.
    """

    changed_tiles: int
    last_change_at: datetime | None
    open_run: bool
    requested: Request | None
    labelled_tiles: int
    last_run_at: datetime | None = None
    first_change_at: datetime | None = None
    returned_tiles: int = 0
    runs_without_model: int = 0
    schedule_due: datetime | None = None
    periods_due: int = 1
    last_run: int | None = None
    adaptation_requested: bool = False

    @property
    def new_tiles(self) -> int:
        """Tiles with labels that no model has learnt from."""
        return self.changed_tiles + self.returned_tiles

    def is_due(self, now: datetime) -> bool:
        """Whether a period of the schedule waits to be answered."""
        return self.schedule_due is not None and self.schedule_due <= now


@dataclass(frozen=True)
class TriggerPolicy:
    """``after_tiles`` changed tiles start a run once no change came for ``debounce_s``, and after ``patience_s`` at
    the latest, since a busy team never pauses; below ``min_labelled`` labelled tiles there is nothing to learn from.
    ``by_labels`` off leaves runs to the schedule and to people. In the ``quiet`` hours none starts by itself.
    ``schedule_always``: the schedule starts a run even when nothing is new."""

    after_tiles: int = 12
    debounce_s: float = 10.0
    min_labelled: int = 2
    patience_s: float = 300.0
    by_labels: bool = True
    quiet: QuietHours | None = None
    schedule_always: bool = False

    def __post_init__(self) -> None:
        waits = (self.debounce_s, self.patience_s)
        if self.after_tiles < 1 or self.min_labelled < 1 or not all(0 <= wait <= LONGEST_WAIT_S for wait in waits):
            raise BadInput("trigger policy", f"out of range: {self}", "counts are at least 1, waits 0 s to 30 days")


@dataclass(frozen=True)
class RetrainDecision:
    """``not_before`` is set when waiting alone would start a run, and says when to ask again.

    ``settles_due``: this answers the period of the schedule that is due, by a run or by saying why there is none.
    """

    start: bool
    trigger: Trigger | None
    reasons: tuple[str, ...]
    not_before: datetime | None = None
    settles_due: bool = False


def decide(now: datetime, facts: RetrainFacts, policy: TriggerPolicy) -> RetrainDecision:
    """Whether to open a run now. All times carry a time zone. Raises BadInput for naive times."""
    _check_times(now, facts)
    due = facts.is_due(now)
    if facts.open_run:
        waiting = [_due_words(facts)] if due else []
        waiting += ["the adaptation that was asked for"] if facts.adaptation_requested else []
        return _wait(
            f"a run is open; {_tiles(facts.changed_tiles)} changed meanwhile will go to the next one",
            *(f"{one} waits until it ends" for one in waiting),
        )
    if facts.adaptation_requested:
        return RetrainDecision(True, "adapt", ("asked to adapt the champion's norms to the pool; no label is learnt",))
    if facts.labelled_tiles < policy.min_labelled:
        least = f"{_tiles(facts.labelled_tiles)} labelled, {policy.min_labelled} needed to train at all"
        # Beside the count that starts one, the least alone reads as if two labels were enough.
        enough = f" ({policy.after_tiles} changed ones start a run by themselves)" if policy.by_labels else ""
        missing = _wait(least + enough)
        return replace(missing, settles_due=due)
    if facts.requested is not None:
        asked = "by hand" if facts.requested == "manual" else "from Label Studio"
        reason = f"asked for {asked}, {_tiles(facts.labelled_tiles)} labelled"
        return RetrainDecision(True, facts.requested, (reason,), settles_due=due)
    decision = _by_schedule(facts, policy) if due else _by_labels(now, facts, policy)
    return _kept_quiet(now, _with_next_due(now, facts, policy, decision), policy.quiet)


def _by_schedule(facts: RetrainFacts, policy: TriggerPolicy) -> RetrainDecision:
    words = _due_words(facts)
    if facts.new_tiles == 0 and not policy.schedule_always:
        since = "" if facts.last_run is None else f" since run {facts.last_run}"
        return RetrainDecision(False, None, (words, f"skipped: nothing new{since}"), settles_due=True)
    news = f"{_tiles(facts.new_tiles)} changed" if facts.new_tiles else "nothing new, and it runs always"
    return RetrainDecision(True, "schedule", (f"{words}, {news}",), settles_due=True)


def _due_words(facts: RetrainFacts) -> str:
    assert facts.schedule_due is not None
    missed = f" ({facts.periods_due} periods passed and count as one)" if facts.periods_due > 1 else ""
    return f"the schedule's period of {utc_text(facts.schedule_due)}{missed}"


def _by_labels(now: datetime, facts: RetrainFacts, policy: TriggerPolicy) -> RetrainDecision:
    if not policy.by_labels:
        return _wait(f"{_tiles(facts.new_tiles)} changed since the last run; labels alone start none here")
    if facts.new_tiles < policy.after_tiles:
        return _wait(f"{_tiles(facts.new_tiles)} changed since the last run, {policy.after_tiles} start one")
    needed = _new_changes_needed(facts, policy)
    if facts.changed_tiles < needed:
        again = f"{_tiles(facts.returned_tiles)} of runs that ended without a model count again"
        return _wait(
            again, f"the next run starts with {_tiles(needed)} more that changed, by the schedule or on request"
        )
    changed = f"{_tiles(facts.new_tiles)} changed since the last run (>= {policy.after_tiles})"
    settled_at = _settled_at(now, facts, policy)
    if settled_at > now:
        waiting = f"labels still coming in: waiting for {policy.debounce_s:g} s without a change"
        return RetrainDecision(False, None, (changed, waiting), settled_at)
    return RetrainDecision(True, "labels", (changed,))


def _new_changes_needed(facts: RetrainFacts, policy: TriggerPolicy) -> int:
    """After a run without a model one new change is enough, then two, four, up to the whole count: what keeps
    failing must not train after every single label."""
    if facts.returned_tiles == 0:
        return 0
    return min(policy.after_tiles, 2 ** min(max(facts.runs_without_model - 1, 0), 30))


def _settled_at(now: datetime, facts: RetrainFacts, policy: TriggerPolicy) -> datetime:
    debounce = timedelta(seconds=policy.debounce_s)
    # A clock that stepped back must not hold a run for longer than the debounce itself.
    moments = [now + debounce]
    if facts.last_change_at is not None:
        moments.append(facts.last_change_at + debounce)
    if facts.first_change_at is not None:
        moments.append(facts.first_change_at + max(debounce, timedelta(seconds=policy.patience_s)))
    return min(moments) if len(moments) > 1 else now


def _with_next_due(
    now: datetime, facts: RetrainFacts, policy: TriggerPolicy, decision: RetrainDecision
) -> RetrainDecision:
    """A decision to wait also says when the schedule would start a run, if that comes first."""
    due = facts.schedule_due
    if decision.start or due is None or due <= now or not (facts.new_tiles or policy.schedule_always):
        return decision
    if decision.not_before is not None and decision.not_before <= due:
        return decision
    return replace(decision, reasons=(*decision.reasons, f"the schedule is due at {utc_text(due)}"), not_before=due)


def _kept_quiet(now: datetime, decision: RetrainDecision, quiet: QuietHours | None) -> RetrainDecision:
    """In quiet hours what would start waits for their end, and a period of the schedule stays unanswered."""
    if quiet is None:
        return decision
    until = quiet.until(now)
    if until is None:
        later = decision.not_before
        return decision if later is None else replace(decision, not_before=quiet.until(later) or later)
    held = f"quiet hours {quiet} ({quiet.zone}) until {utc_text(until)}"
    if not (decision.start or decision.settles_due or decision.not_before):
        return decision
    later = decision.not_before
    if not decision.start and later is not None and later > until:
        return replace(decision, not_before=quiet.until(later) or later)  # they are over before it matters
    not_before = until if decision.start or later is not None else None
    reasons = decision.reasons if decision.start or decision.not_before else ("nothing new for the schedule yet",)
    return RetrainDecision(False, None, (*reasons, held), not_before)


def _wait(*reasons: str) -> RetrainDecision:
    return RetrainDecision(False, None, reasons)


def _tiles(count: int) -> str:
    return f"{count} tile" if count == 1 else f"{count} tiles"


def _check_times(now: datetime, facts: RetrainFacts) -> None:
    moments = {"now": now, "last_change_at": facts.last_change_at, "last_run_at": facts.last_run_at}
    moments |= {"first_change_at": facts.first_change_at, "schedule_due": facts.schedule_due}
    for name, moment in moments.items():
        if moment is not None and moment.tzinfo is None:
            raise BadInput(name, "has no time zone", "use aware times, e.g. in UTC")
