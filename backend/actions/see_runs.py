"""Runs and what the gate said of their candidates, as plain values for people to look at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.store import models, runs
from backend.store.tables import Event, Model, Project, Run


@dataclass(frozen=True)
class Judged:
    """One candidate with its verdict. Dice are means over classes on the audit masks of that moment.

    ``lower`` and ``upper`` bound the difference to the champion of that moment; None where there were too few masks.
    ``adapted``: the model it was adapted from, None for one that was trained.
    """

    version: str
    run: int | None
    promoted: bool
    provisional: bool
    serves: bool
    candidate_dice: float | None
    champion_dice: float | None
    lower: float | None
    upper: float | None
    audit_tiles: int
    labelled: int | None
    adapted: str | None
    reasons: tuple[str, ...]
    at: datetime


@dataclass(frozen=True)
class SeenRun:
    """One run. ``labelled`` and ``pool``: tiles in its snapshot; ``verdict`` None until judged. ``adapts``: it trains
    nothing, learns no label, and has no losses.

    ``notes`` are what its training found worth saying; ``pseudo_labels`` how right these last were on labelled tiles
    that the run kept back, empty where nothing was looked at.
    """

    number: int
    state: str
    trigger: str
    adapts: bool
    version: str
    reasons: tuple[str, ...]
    problem: str | None
    step: int | None
    steps: int | None
    eta_s: float | None
    losses: dict[str, float]
    mask_ratio: float | None
    pseudo_labels: dict[str, Any]
    seconds: float | None
    attempt: int
    crashes: int
    recipe: dict[str, Any]
    recipe_hash: str
    labelled: int | None
    pool: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    is_open: bool
    verdict: Judged | None
    folder: str
    has_curves: bool
    audit_dice: float | None
    prototypes: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Losses:
    """The losses of a run over its steps, as its worker wrote them: name -> ((step, value), ...)."""

    steps: int
    lines: dict[str, tuple[tuple[int, float], ...]]


PER_PAGE = 50


def see_learning(session: Session, project: Project) -> tuple[Judged, ...]:
    """Every verdict, oldest first."""
    numbers = {r.id: r.number for r in session.scalars(select(Run).where(Run.project_id == project.id))}
    snapshots = _snapshots(session, project.id)
    return tuple(
        _judged(model, numbers.get(model.run_id or 0), snapshots.get(model.run_id or 0, {}))
        for model in models.all_of(session, project.id)
        if model.verdict is not None
    )


def see_runs(session: Session, project: Project, *, page: int = 1) -> tuple[tuple[SeenRun, ...], bool]:
    """One page of runs, the newest first, and whether older ones follow."""
    found = session.scalars(
        select(Run)
        .where(Run.project_id == project.id)
        .order_by(Run.id.desc())
        .offset((page - 1) * PER_PAGE)
        .limit(PER_PAGE + 1)
    ).all()
    candidates = {
        m.run_id: m for m in session.scalars(select(Model).where(Model.run_id.in_([run.id for run in found])))
    }
    snapshots = _snapshots(session, project.id)
    seen = tuple(_seen(run, candidates.get(run.id), snapshots.get(run.id, {})) for run in found[:PER_PAGE])
    return seen, len(found) > PER_PAGE


def see_run(session: Session, project: Project, number: int) -> SeenRun:
    """Raises NotFound."""
    run = runs.by_number(session, project.id, number)
    return _seen(run, models.candidate_of(session, run.id), _snapshots(session, project.id).get(run.id, {}))


def read_losses(folder: Path, *, most: int = 240) -> Losses | None:
    """The losses that a run wrote into its folder, thinned out; None where that folder is on another machine."""
    try:
        text = (folder / "progress.jsonl").read_text(encoding="utf-8")
    except OSError:
        return None
    by_step: dict[int, dict[str, float]] = {}
    steps = 0
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the last line may be half written
        if isinstance(row, dict) and row.get("event") == "step" and isinstance(row.get("losses"), dict):
            by_step[int(row["step"])] = row["losses"]  # a resumed run tells some steps again
            steps = int(row["steps"])
    if not by_step:
        return None
    ordered = sorted(by_step)
    kept = ordered[:: max(1, -(-len(ordered) // most))]
    names = sorted({name for losses in by_step.values() for name in losses})
    lines = {
        name: tuple((s, float(by_step[s][name])) for s in kept if by_step[s].get(name) is not None) for name in names
    }
    return Losses(steps=steps, lines=lines)


def _snapshots(session: Session, project_id: int) -> dict[int, dict[str, Any]]:
    """How many tiles each run was given: from the log of what happened, since a snapshot itself is a large blob."""
    rows = session.execute(
        select(Event.subject, Event.after).where(Event.project_id == project_id, Event.what == "run queued")
    )
    found = {}
    for subject, after in rows:
        number = subject.partition(":")[2]
        if number.isdigit() and after is not None and "labelled" in after:
            found[int(number)] = after
    return found


def _judged(model: Model, run: int | None, snapshot: dict[str, Any]) -> Judged:
    verdict = model.verdict or {}
    figures = verdict.get("figures") or {}
    return Judged(
        version=model.version,
        run=run,
        promoted=bool(verdict.get("promote")),
        provisional=bool(verdict.get("provisional")),
        serves=model.state == "champion",
        candidate_dice=figures.get("candidate_dice"),
        champion_dice=figures.get("champion_dice"),
        lower=figures.get("lower"),
        upper=figures.get("upper"),
        audit_tiles=int(figures.get("audit_tiles") or 0),
        labelled=snapshot.get("labelled"),
        adapted=((model.metrics or {}).get("adapted") or {}).get("from"),
        reasons=tuple(verdict.get("reasons") or ()),
        at=model.created_at,
    )


def _seen(run: Run, candidate: Model | None, snapshot: dict[str, Any]) -> SeenRun:
    progress, metrics = run.progress or {}, run.metrics or {}
    judged = candidate is not None and candidate.verdict is not None
    return SeenRun(
        number=run.number,
        state=run.state,
        trigger=run.trigger,
        adapts=run.trigger == runs.ADAPT,
        version=run.version,
        reasons=tuple(run.reasons),
        problem=run.problem,
        step=progress.get("step"),
        steps=progress.get("steps"),
        eta_s=progress.get("eta_s") if run.state == "training" else None,
        losses={k: v for k, v in (progress.get("losses") or {}).items() if v is not None},
        mask_ratio=metrics.get("mask_ratio", progress.get("mask_ratio")),
        pseudo_labels=metrics.get("pseudo_labels") or progress.get("pseudo_labels") or {},
        seconds=metrics.get("seconds"),
        attempt=run.attempt,
        crashes=run.crashes,
        recipe=run.recipe,
        recipe_hash=run.recipe_hash,
        labelled=snapshot.get("labelled"),
        pool=snapshot.get("pool"),
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        cancel_requested=run.cancel_requested,
        is_open=run.state in runs.OPEN,
        verdict=_judged(candidate, run.number, snapshot) if judged and candidate is not None else None,
        folder=f"{run.version}-r{run.id}",
        has_curves=run.curves_blob is not None,
        audit_dice=(metrics.get("audit") or {}).get("mdice"),
        prototypes=metrics.get("prototypes") or progress.get("prototypes") or {},
        notes=tuple(metrics.get("notes") or progress.get("notes") or ()),
    )
