"""The ring in words: one station per stage with its number, and what goes on right now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from backend.actions.see_ring import Ring
from backend.dashboard.words import ago, count, lasting, plural, taus


@dataclass(frozen=True)
class Station:
    """One stage. ``busy``: work goes on here now. ``page``: a page of ours that shows more, below the project's."""

    name: str
    value: str
    text: str
    busy: bool = False
    page: str = ""


@dataclass(frozen=True)
class Now:
    """What the ring does at this moment; ``done`` of ``of`` where there is something to count."""

    headline: str
    text: str
    done: float | None = None
    of: float | None = None


def stations(ring: Ring, now: datetime) -> tuple[Station, ...]:
    """All stations in the order of the ring."""
    champion = ring.champion
    run, state = ring.run, "" if ring.run is None else ring.run.state
    return (
        Station("image", count(ring.images), f"of {plural(ring.groups, 'group')}{_aside(ring)}"),
        Station("tile", count(ring.tiles), f"{count(ring.train_tiles)} train, {count(ring.audit_tiles)} audit"),
        Station(
            "prediction",
            f"{count(ring.predicted)} / {count(ring.tiles)}",
            f"tiles seen by {short(champion.version)}",
            busy=ring.predicted < ring.tiles,
        ),
        Station(
            "region",
            count(ring.regions),
            _regions(ring),
        ),
        Station("queue", count(ring.waiting), f"ranked {ago(ring.ranked_at, now)}", page="/queue"),
        Station("head", f"{count(ring.tasks)} / {count(ring.head_size)}", "tasks in Label Studio"),
        Station("annotation", count(ring.annotations), _annotations(ring, now), page="/people"),
        Station(
            "mask",
            count(ring.masked_train + ring.masked_audit),
            f"{count(ring.masked_train)} train, {count(ring.masked_audit)} audit",
        ),
        Station(
            "run",
            f"{count(ring.changed)} / {count(ring.retrain_after)}" if run is None else f"run {run.number}",
            "changed tiles of those that start a run" if run is None else _run_text(ring),
            busy=state in ("queued", "training"),
            page="/runs" if run is None else f"/runs/{run.number}",
        ),
        Station(
            "candidate",
            "–" if ring.candidate is None else short(ring.candidate),
            "none waits" if ring.candidate is None else "waits for its verdict",
        ),
        Station(
            "gate",
            f"{count(ring.promoted)} / {count(ring.judged)}",
            "candidates promoted",
            busy=state == "judging",
            page="#learning",
        ),
        Station("champion", short(champion.version), _champion(ring, now)),
    )


def happening(ring: Ring, now: datetime) -> Now:
    """The one thing to say first."""
    run = ring.run
    if run is not None and run.cancel_requested:
        return Now(f"Run {run.number} is being stopped", "The champion stays as it is.")
    if run is not None and run.adapts and run.state == "training":
        return Now(
            f"Run {run.number} adapts the champion's norms to the pool", "It learns no label.", run.step, run.steps
        )
    if run is not None and run.state == "training":
        if run.step is None or run.steps is None:
            return Now(f"Run {run.number} is training", "It has not told of a step yet.")
        left = "" if run.eta_s is None else f", about {lasting(run.eta_s)} left"
        return Now(f"Run {run.number} is training", f"Step {run.step} of {run.steps}{left}.", run.step, run.steps)
    if run is not None and run.state == "queued":
        return Now(f"Run {run.number} waits for the train worker", "It begins as soon as the worker is free.")
    if run is not None:
        return Now(f"Run {run.number} is being judged", "Candidate and champion predict the audit tiles.")
    if ring.tiles == 0:
        return Now("No tiles yet", "Register a folder of images: mpamatch register FOLDER.")
    if ring.predicted < ring.tiles:
        missing = plural(ring.tiles - ring.predicted, "tile")
        text = f"{missing} left; the order follows when all are seen."
        return Now(f"{short(ring.champion.version)} predicts the pool", text, ring.predicted, ring.tiles)
    if ring.starts:
        return Now("A run is about to start", _sentence(ring.start_reasons))
    done = min(ring.changed, ring.retrain_after)
    return Now("Waiting for labels", _sentence(ring.start_reasons), done, ring.retrain_after)


def short(version: str) -> str:
    """`glands-m7` as `m7`."""
    return version.rpartition("-")[2]


def _sentence(reasons: tuple[str, ...]) -> str:
    text = "; ".join(reasons)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _aside(ring: Ring) -> str:
    return f", {count(ring.quarantined)} set aside" if ring.quarantined else ""


def _annotations(ring: Ring, now: datetime) -> str:
    parts = [f"{count(ring.skipped)} skipped"] if ring.skipped else []
    parts += [f"last {ago(ring.last_annotation_at, now)}"] if ring.last_annotation_at else ["none yet"]
    return ", ".join(parts)


def _regions(ring: Ring) -> str:
    if ring.champion.kind == "blank":
        return "none: the champion is blank"
    whole = f"; and {plural(ring.whole, 'tile')} to review whole" if ring.whole else ""
    return f"below {taus(ring.tau, ring.tau_by_class)}, waiting{whole}"


def _run_text(ring: Ring) -> str:
    run = ring.run
    assert run is not None
    if run.state != "training" or not run.steps:
        return run.state
    left = "" if run.eta_s is None else f", {lasting(run.eta_s)} left"
    return f"{round(100 * (run.step or 0) / run.steps)} %{left}"


def _champion(ring: Ring, now: datetime) -> str:
    champion = ring.champion
    since = f"since {ago(champion.since, now).removesuffix(' ago')}"
    if champion.kind == "blank":
        return "blank: it knows nothing"
    return f"{since}, provisional" if champion.provisional else since
