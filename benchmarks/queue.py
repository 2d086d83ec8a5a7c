"""The queue at its largest: a new order of a million regions, and the next tile for eight annotators meanwhile.

On the embedded PostgreSQL, with every commit flushed to the disk. The new order is made by a process of its own, as the
worker does, on one core that it shares with the database; its memory is the process's highest. The annotators ask a few
times a second each, through the code behind `queue next`: at rest, and again while orders are made on every core.

With `--peers PYTHON`, a Python that has `baal` and `scikit-activeml`, their batch strategies and ours choose 50 of
10,000 predicted maps. With `--label-studio URL TOKEN`, Label Studio's own next task is timed at 1,000 and 10,000 tasks;
with `--monai-label PYTHON`, a Python that has `monailabel`, its strategy `random` at as many images.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Run as a file: the repository's root takes the place of this folder, where `queue` is not the standard library's.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil

from backend.actions.rank_queue import rank_queue
from backend.servers import EmbeddedPostgres
from backend.store import leases, projects
from backend.store.blobs import BlobFolder
from backend.store.sessions import Database
from benchmarks._label_studio_next import next_task_ms
from benchmarks._large_queue import LargeQueue, make_rows
from benchmarks._maps import COPIES, LABELLED, SCENES, WHO, make_maps
from benchmarks.report import Figure, show
from migrations.run import upgrade

TILES = 250_000
GIB = 2**30
OTHERS_SIZES = (1_000, 10_000)
MAPS, MONAI_LABEL = (Path(__file__).resolve().parent / name for name in ("_maps.py", "_monai_label.py"))
# BLAS takes every core otherwise; the figure is one core's.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Load:
    """How much: tiles, orders to take the median of, annotators, and how often each asks for how long at rest."""

    tiles: int = TILES
    orders: int = 3
    annotators: int = 8
    per_s: float = 5.0
    rest_s: float = 20.0


def measure(load: Load = Load()) -> dict[str, Figure]:
    """Every figure of the product, in one run."""
    with _postgres() as (server, state):
        url = server.create_database("bench")
        upgrade(url)
        database = Database(url, pool_size=load.annotators)
        try:
            made = make_rows(database, BlobFolder(state / "blobs"), load.tiles)
            return _figures(server, database, url, state, made, load)
        finally:
            database.close()


def _figures(
    server: EmbeddedPostgres, database: Database, url: str, state: Path, made: LargeQueue, load: Load
) -> dict[str, Figure]:
    size = f"{made.regions:,} regions on {made.tiles:,} tiles"
    one_core = sorted(os.sched_getaffinity(0))[:1]
    with _on_cores(one_core):
        runs = [_rerank(url, state, made.project_id, number) for number in range(load.orders)]
    cpu_s = [one["cpu_s"] + one["server_cpu_s"] for one in runs]
    rest = _asked(database, made.project_id, load, until=time.monotonic() + load.rest_s)
    busy = _while_ranking(database, url, state, made.project_id, load)
    seconds, memory = [one["seconds"] for one in runs], [one["peak_bytes"] / GIB for one in runs]
    return {
        "rerank_s": Figure(statistics.median(seconds), "s", 8.0, f"{size}, read, ranked and written, one core"),
        "rerank_cpu_s": Figure(
            statistics.median(cpu_s), "s", None, "processor time of the same, the database's included"
        ),
        "rerank_gib": Figure(max(memory), "GiB", 1.0, "highest memory of the process, everything it imports included"),
        "next_p95_ms": Figure(_percentile(rest, 95), "ms", 10.0, f"{load.annotators} annotators, {len(rest)} claims"),
        "next_p50_ms": Figure(_percentile(rest, 50), "ms", None, "the same"),
        "next_during_rerank_p95_ms": Figure(
            _percentile(busy, 95), "ms", 100.0, f"while new orders are made, {len(busy)} claims"
        ),
        "next_during_rerank_max_ms": Figure(max(busy), "ms", None, "the flip to a new order included"),
    }


@contextmanager
def _postgres() -> Iterator[tuple[EmbeddedPostgres, Path]]:
    state = Path(tempfile.mkdtemp(prefix="mpamatch-bench-"))
    server = EmbeddedPostgres(state)
    child = server.start()
    try:
        yield server, state
    finally:
        server.stop(child)
        shutil.rmtree(state, ignore_errors=True)


@contextmanager
def _on_cores(cores: Sequence[int]) -> Iterator[None]:
    """This process and all below it, the database's among them, on these cores for a while."""
    before = sorted(os.sched_getaffinity(0))
    _pin(cores)
    try:
        yield
    finally:
        _pin(before)


def _pin(cores: Sequence[int]) -> None:
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            process.cpu_affinity(list(cores))
        except psutil.NoSuchProcess:
            continue


# A new order


def _rerank(url: str, state: Path, project_id: int, number: int) -> dict[str, float]:
    """In a process of its own: how long one order took, and the process's highest memory."""
    words = [sys.executable, str(Path(__file__).resolve()), "--rank", url, str(state), str(project_id), str(number)]
    before = _servers_cpu_s()
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, env={**os.environ, **_ONE_THREAD})
    return {**json.loads(done.stdout), "server_cpu_s": _servers_cpu_s() - before}


def _servers_cpu_s() -> float:
    """Processor time of the database: of its processes, and of those that have ended below them."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True) if process.is_running()]
    return sum(one.user + one.system + one.children_user + one.children_system for one in times)


def rank_once(url: str, state: Path, project_id: int, number: int) -> dict[str, float]:
    """Make a new order: each ``number`` asks for another tau, so that there is one to make."""
    database = Database(url)
    with database.transaction() as session:
        changes = {"tau": 0.95 - (number % 40) / 100}
        projects.change_policy(session, projects.get(session, project_id), changes, actor="benchmark")
    began, cpu = time.perf_counter(), time.process_time()
    made = rank_queue(database, project_id, blobs=BlobFolder(state / "blobs"))
    seconds = time.perf_counter() - began
    if not made:
        raise RuntimeError("there was nothing to rank")
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"seconds": seconds, "cpu_s": time.process_time() - cpu, "peak_bytes": used.ru_maxrss * 1024.0}


# The next tile


def _while_ranking(database: Database, url: str, state: Path, project_id: int, load: Load) -> list[float]:
    ended = threading.Event()
    found: list[float] = []
    asking = threading.Thread(target=lambda: found.extend(_asked(database, project_id, load, ended=ended)))
    asking.start()
    for number in range(load.orders):
        _rerank(url, state, project_id, 20 + number)
    ended.set()
    asking.join()
    return found


def _asked(
    database: Database,
    project_id: int,
    load: Load,
    *,
    until: float = float("inf"),
    ended: threading.Event | None = None,
) -> list[float]:
    """Milliseconds of each claim of all annotators, each on a connection of its own."""
    stop = ended or threading.Event()
    found: list[list[float]] = [[] for _ in range(load.annotators)]

    def ask(person: int) -> None:
        pause = random.Random(person)
        while time.monotonic() < until and not stop.is_set():
            time.sleep(pause.expovariate(load.per_s))
            began = time.perf_counter()
            with database.transaction() as session:
                rows = leases.claim(
                    session, project_id, holder=f"person-{person}", count=1, now=datetime.now(UTC), lease_s=60.0
                )
                if not rows or not rows[0].reasons:
                    raise RuntimeError("nothing was handed out, or it does not say why")
            found[person].append((time.perf_counter() - began) * 1000)

    people = [threading.Thread(target=ask, args=(person,)) for person in range(load.annotators)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    return [one for mine in found for one in mine]


# Others


def peers(python: str, scenes: int = SCENES) -> dict[str, Figure]:
    """Seconds, memory and near copies of a batch of 50, by each strategy in a process of its own.

    A strategy that fails is named on stderr and left out.
    """
    folder = Path(tempfile.mkdtemp(prefix="mpamatch-maps-"))
    try:
        make_maps(folder, scenes)
        figures: dict[str, Figure] = {}
        for who, (_, names) in WHO.items():
            read = "by their embeddings alone" if who == "skactiveml" else "reading them included"
            of = f"50 of {scenes * COPIES - LABELLED:,} maps, one thread, {read}"
            for name in names:
                one = _in_child(sys.executable if who == "ours" else python, MAPS, str(folder), who, name)
                if one is None:
                    continue
                key = f"batch_{who}_{name.lower()}"
                figures[f"{key}_s"] = Figure(one["seconds"], "s", None, of)
                figures[f"{key}_mib"] = Figure(one["peak_mib"], "MiB", None, "highest memory, imports included")
                figures[f"{key}_copies"] = Figure(
                    one["copies"], "of 50", None, "near copies of a label or another pick"
                )
        return figures
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def monai_label(python: str, sizes: Sequence[int] = OTHERS_SIZES, repeats: int = 50) -> dict[str, Figure]:
    """Its strategy `random`, alone and as its endpoint calls it. A size that fails is named on stderr and left out."""
    figures: dict[str, Figure] = {}
    for images in sizes:
        one = _in_child(python, MONAI_LABEL, str(images), str(repeats))
        if one is None:
            continue
        of = f"monailabel {one['version']}, {images:,} images in a local datastore, {repeats} calls"
        chosen, noted = (_percentile(one[key], 95) for key in ("chosen_ms", "noted_ms"))
        figures[f"monai_label_random_{images}_p95_ms"] = Figure(chosen, "ms", None, f"{of}; its choice alone")
        figures[f"monai_label_next_{images}_p95_ms"] = Figure(noted, "ms", None, f"{of}; with its note of the choice")
    return figures


def _in_child(python: str, script: Path, *words: str) -> dict[str, Any] | None:
    """What a script prints in a process of its own; None when it fails, which is said on stderr."""
    done = subprocess.run(
        [python, str(script), *words], capture_output=True, text=True, check=False, env={**os.environ, **_ONE_THREAD}
    )
    if done.returncode:
        print(f"{script.name} {' '.join(words)}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return dict(json.loads(done.stdout.splitlines()[-1]))


def label_studio(url: str, token: str) -> dict[str, Figure]:
    """Its own next task, by the order of scores that we set up there."""
    return {
        f"label_studio_next_{tasks}_p95_ms": Figure(
            _percentile(next_task_ms(url, token, tasks, repeats=50), 95), "ms", None, f"{tasks:,} tasks, 50 calls"
        )
        for tasks in OTHERS_SIZES
    }


def _percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--tiles", type=int, default=TILES, help="tiles of the pool; four regions on each")
    parser.add_argument("--peers", metavar="PYTHON", help="a Python with baal and scikit-activeml to compare with")
    parser.add_argument("--scenes", type=int, default=SCENES, help="scenes of the maps for --peers; ten maps of each")
    parser.add_argument("--monai-label", metavar="PYTHON", help="a Python with monailabel, to time its next sample too")
    parser.add_argument("--label-studio", nargs=2, metavar=("URL", "TOKEN"), help="time its own next task too")
    parser.add_argument("--rank", nargs=4, metavar=("URL", "STATE", "PROJECT", "NUMBER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        url, state, project_id, number = options.rank
        print(json.dumps(rank_once(url, Path(state), int(project_id), int(number))))
        return
    figures = measure(Load(tiles=options.tiles))
    if options.peers:
        figures |= peers(options.peers, options.scenes)
    if options.monai_label:
        figures |= monai_label(options.monai_label)
    if options.label_studio:
        figures |= label_studio(*options.label_studio)
    show(figures, as_json=options.json)


if __name__ == "__main__":
    main()
