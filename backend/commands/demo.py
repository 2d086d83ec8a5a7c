"""`mpamatch demo`: rounds of label, retrain, gate on the running system, with an oracle in the annotator's chair."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from backend.actions import first_project, oracle
from backend.actions.register_images import RegisterItem, register
from backend.commands.demo_report import draw_curve, print_table
from backend.commands.demo_stack import running_stack
from backend.commands.opened import Opened, opened, progress_bar
from backend.labelstudio.client import LabelStudioClient
from backend.store import models, predictions, projects, queue, runs, tasks
from backend.store.tables import Project
from mpamatch.datasets import Dataset, open_dataset, phantom
from mpamatch.domain.starting import STARTS
from mpamatch.errors import BadInput, Unavailable

TILES_A_ROUND = 12
STAGE_LIMIT_S = 1800.0
POLL_S = 1.0


@dataclass
class Round:
    """What one round did. ``round`` 0 is before any label."""

    round: int
    labels: int
    champion: str
    champion_dice: float | None
    candidate_dice: float | None = None
    verdict: str | None = None
    head: int = 0
    pool_tiles: int | None = None
    mask_ratio: float | None = None
    reasons: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def demo(
    dataset: Annotated[
        str, typer.Option(help="phantom (drawn tissue), or another data set of docs/datasets.md")
    ] = "phantom",
    root: Annotated[Path | None, typer.Option(help="folder of the published data set")] = None,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="rounds of label, retrain, gate")] = 3,
    start: Annotated[str, typer.Option(help="what serves first: blank, starter or encoder")] = "blank",
    out: Annotated[Path | None, typer.Option(help="folder for the JSON and the picture; unset: in the state")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Run the loop for some rounds; starts its own stack when none runs on this state, and stops what it started."""
    if start not in STARTS:
        raise BadInput(f"--start {start}", "is not known", f"one of {', '.join(STARTS)}")
    console = Console(stderr=True)
    with running_stack(console), opened() as here:
        data = _dataset(here, dataset, root)
        report = _Demo(here, data, console, start).run(rounds)
        folder = out or here.settings.state / "demo" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"demo-{dataset}-{start}.json").write_text(json.dumps(report, indent=2))
    draw_curve(report, folder / f"demo-{dataset}-{start}.png")
    if as_json:
        print(json.dumps(report))
    else:
        print_table(report)
        print(f"written to {folder}")


def _dataset(here: Opened, name: str, root: Path | None) -> Dataset:
    if name == "phantom":
        folder = here.settings.state / "demo" / "phantom"
        if not folder.exists():
            phantom.write_folder(folder, tiles=72, groups=18, size_px=256, masked=72, seed=here.settings.demo_seed)
        return open_dataset("phantom", folder)
    if root is None:
        raise BadInput(f"--dataset {name}", "needs its folder", "give it with --root DIR")
    return open_dataset(name, root.expanduser().resolve())


class _Demo:
    """One demonstration: a fresh project, its known masks, and the rounds."""

    def __init__(self, here: Opened, data: Dataset, console: Console, start: str) -> None:
        self.here = here
        self.start = start
        self.console = console
        self.project = self._new_project(data)
        settings = here.settings
        if settings.label_studio_url is None or settings.label_studio_token is None:
            raise Unavailable("Label Studio", "does not run", "start it with `mpamatch up`")
        self.client = LabelStudioClient(settings.label_studio_url, settings.label_studio_token.get_secret_value())
        readers: dict[Path, Callable[[], np.ndarray]] = {i.image: _reader(data, i) for i in data.items("all")}
        with here.database.transaction() as session:
            self.tiles = oracle.known_tiles(session, self.project, readers)
            self.classes = projects.classes_of(self.project)
        self.dataset = data.name
        self.labels = 0

    def _new_project(self, data: Dataset) -> Project:
        here = self.here
        with here.database.transaction() as session:
            taken = {p.key for p in projects.all_of(session)}
        title = next(t for n in range(1, 10_000) if projects.slug(t := f"Demo {data.name} {n}") not in taken)
        project = first_project.ensure_row(here.database, here.settings, title, data.class_names, start=self.start)
        splits = {"train": "train", "val": "audit"}
        items = [
            RegisterItem(path=i.image, group=i.group, split=splits[published])
            for published in ("train", "val")
            for i in data.items(published)  # type: ignore[arg-type]
        ]
        with progress_bar("registering") as bar:
            report = register(here.database, here.blobs, project.id, items, progress=bar)
        for problem in report.problems:
            self.console.print(problem, markup=False)
        first_project.connect_all(here.settings, here.database)
        here.wakeups.sync(project.id, full=True)
        here.wakeups.predict()
        return project

    def run(self, rounds: int) -> dict[str, Any]:
        """Round 0, then label, retrain, gate, roll out, score."""
        began = time.monotonic()
        self._wait("the first head", self._settled)
        done = [self._round_zero(time.monotonic() - began)]
        for number in range(1, rounds + 1):
            done.append(self._round(number))
            last = done[-1]
            self.console.print(
                f"round {number}: {last.verdict}, champion {last.champion}, Dice {last.champion_dice:.3f}", markup=False
            )
        audit = sum(t.split == "audit" for t in self.tiles.values())
        return {
            "dataset": self.dataset,
            "start": self.start,
            "project": self.project.key,
            "audit_tiles": audit,
            "rounds": [asdict(r) for r in done],
        }

    def _round_zero(self, seconds: float) -> Round:
        version, dice, head = self._standing()
        return Round(0, 0, version, dice, head=head, seconds={"first_head": round(seconds, 1)})

    def _round(self, number: int) -> Round:
        seconds: dict[str, float] = {}
        began = time.monotonic()
        chosen = self._label()
        seconds["label"] = round(time.monotonic() - began, 1)
        run_number = self._timed(
            seconds, "train", "training", lambda: self._run_state(number, ("judging", "done", "failed"))
        )
        self._timed(seconds, "gate", "the gate", lambda: self._run_state(run_number, ("done", "failed", "cancelled")))
        self._timed(seconds, "rollout", "the new head", self._settled)
        return self._summary(number, run_number, chosen, seconds)

    def _label(self) -> int:
        with self.here.database.transaction() as session:
            listed = queue.listing(session, projects.get(session, self.project.id), 1000)
        chosen = oracle.choose(listed, TILES_A_ROUND)
        if len(chosen) < TILES_A_ROUND:
            raise BadInput(self.dataset, f"only {len(chosen)} tiles are left to label", "ask for fewer rounds")
        for entry in chosen:
            oracle.label(self.client, entry, self.tiles[entry.tile_id], self.classes)
        self.labels += len(chosen)
        return len(chosen)

    def _run_state(self, number: int, states: tuple[str, ...]) -> int | None:
        with self.here.database.transaction() as session:
            run = runs.latest(session, self.project.id)
            return run.number if run is not None and run.number >= number and run.state in states else None

    def _settled(self) -> bool | None:
        """Whether Label Studio shows the champion's version, in the order made from it, with its head full."""
        with self.here.database.transaction() as session:
            project = projects.get(session, self.project.id)
            champion = projects.champion(session, project)
            current = (project.ls_model_version, project.ranked_model_id) == (champion.version, champion.id)
            if not current or predictions.missing_for(session, project.id, champion.id, live_tasks_only=False):
                return None
            head = queue.head(session, project, projects.policy_of(project).head_size)
            shown = {t.tile_id for t in tasks.live(session, project.id) if t.model_version == champion.version}
            return True if all(e.tile_id in shown for e in head) else None

    def _standing(self) -> tuple[str, float | None, int]:
        with self.here.database.transaction() as session:
            project = projects.get(session, self.project.id)
            version = projects.champion(session, project).version
            dice = oracle.audit_dice(session, self.here.blobs, project, version, self.tiles)
            return version, dice, len(tasks.live(session, project.id))

    def _summary(self, number: int, run_number: int, labels: int, seconds: dict[str, float]) -> Round:
        with self.here.database.transaction() as session:
            run = runs.by_number(session, self.project.id, run_number)
            candidate = models.candidate_of(session, run.id)
            verdict = {} if candidate is None else candidate.verdict or {}
            metrics = run.metrics or {}
            problem = run.problem
        if candidate is None:
            raise Unavailable(f"run {run_number}", problem or "made no model", "see the log of the train worker")
        version, dice, head = self._standing()
        return Round(
            round=number,
            labels=labels,
            champion=version,
            champion_dice=dice,
            candidate_dice=(verdict.get("figures") or {}).get("candidate_dice"),
            verdict="promote" if verdict.get("promote") else "keep",
            head=head,
            pool_tiles=metrics.get("pool_tiles"),
            mask_ratio=metrics.get("mask_ratio"),
            reasons=list(verdict.get("reasons", [])),
            seconds=seconds,
        )

    def _timed(self, seconds: dict[str, float], stage: str, what: str, look: Callable[[], Any]) -> Any:
        began = time.monotonic()
        found = self._wait(what, look)
        seconds[stage] = round(time.monotonic() - began, 1)
        return found

    def _wait(self, what: str, look: Callable[[], Any]) -> Any:
        """Look until there is an answer; says what is awaited. Raises Unavailable after half an hour."""
        deadline = time.monotonic() + STAGE_LIMIT_S
        with self.console.status(f"waiting for {what}") as line:
            while True:
                found = look()
                if found is not None:
                    return found
                if time.monotonic() > deadline:
                    raise Unavailable(what, "did not come within half an hour", "see the logs of the workers")
                line.update(f"waiting for {what}{self._eta()}")
                time.sleep(POLL_S)

    def _eta(self) -> str:
        with self.here.database.transaction() as session:
            run = runs.open_run(session, self.project.id)
            progress = {} if run is None else run.progress or {}
        if not progress.get("steps"):
            return ""
        return f" (step {progress.get('step')} of {progress['steps']}, {progress.get('eta_s') or 0:.0f} s left)"


def _reader(data: Dataset, item: Any) -> Callable[[], np.ndarray]:
    return lambda: data.read_mask(item)
