"""A run folder: ``run.json`` in; progress, checkpoint, model and result out. Resumes where it was stopped.

A run that adapts is done in one go and starts again where it was stopped. The train worker and the command line start
the same function. One process at a time holds a folder; of several that
train one run together, each goes through all of this, and the first alone writes. What a run does is in
:mod:`mpamatch.training.run`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from safetensors import SafetensorError

from mpamatch.errors import Conflict, NotFound, NotWritten
from mpamatch.network.devices import choose_device, choose_precision, probe
from mpamatch.network.weights import dump_json
from mpamatch.training.adapt_run import AdaptRun
from mpamatch.training.peers import Peers, joined, local_place
from mpamatch.training.run import Compute, Event, Run
from mpamatch.training.run_files import PROGRESS_NAME, RESULT_NAME
from mpamatch.training.run_spec import read_run

_LOCK_TRIES, _LOCK_PAUSE_S = 20, 0.25


def train_run(
    folder: Path,
    *,
    clock: Callable[[], float],
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[Event], None] = lambda event: None,
    before_share: Callable[[int, int], None] = lambda step, parts: None,
) -> dict[str, Any]:
    """Train the run of a folder, from its checkpoint where there is one, and return (and write) its result.

    Started by torchrun, it is one of several processes that do so together; only the first returns a result, the
    others an empty one. ``before_share`` is that of :class:`TrainingLoop`.

    ``stop`` is asked after each step: when it says yes the run is checkpointed and Cancelled is raised. ``tell``
    gets each event that goes to ``progress.jsonl``. A finished run is not trained again. Raises BadInput, NotFound,
    Conflict when another process trains the same folder, and Unavailable when memory is not enough for one tile,
    NotWritten when the disk takes no more.
    """
    place = local_place()
    with ExitStack() as held:
        if place == 0:
            held.enter_context(_alone(folder))
        finished = folder / RESULT_NAME
        if finished.is_file():
            return dict(json.loads(finished.read_text(encoding="utf-8"))) if place == 0 else {}
        spec = read_run(folder)
        machine = probe()
        device = choose_device(spec.device, machine, place=place)
        precision = choose_precision(spec.precision, device, machine)
        if spec.adapt and place != 0:
            return {}  # seconds to a minute or two of work for one process: nobody waits for the others
        peers = Peers() if spec.adapt else held.enter_context(joined(device))
        peers.wait()
        try:
            progress = folder / PROGRESS_NAME if peers.first else Path(os.devnull)
            with progress.open("a", encoding="utf-8") as lines:
                say = _Teller(lines, tell)
                if spec.adapt:
                    result = AdaptRun(folder, spec, clock, stop, say, device).adapt()
                else:
                    compute = Compute(device, precision, peers, before_share)
                    result = Run(folder, spec, clock, stop, say, compute).train()
            if peers.first:
                _write_whole(finished, dump_json(result))
        except (OSError, SafetensorError) as error:
            why = getattr(error, "strerror", None) or error
            remedy = "free disk space and start it again: it resumes from its checkpoint"
            raise NotWritten(f"run {folder.name}", f"could not be written ({why})", remedy) from error
        return result


class _Teller:
    """Says an event to the progress file and to whoever listens."""

    def __init__(self, lines: TextIO, tell: Callable[[Event], None]) -> None:
        self._lines, self._tell = lines, tell

    def __call__(self, event: str, **values: Any) -> None:
        row = json.loads(dump_json({"event": event, **values}))
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()
        self._tell(row)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that a run that is still stopping and its successor never write at once."""
    if not folder.is_dir():
        raise NotFound(str(folder), "no such folder", "give a run folder")
    with (folder / "lock").open("w") as lock:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE_S)
        else:
            raise Conflict(str(folder), "another process trains this run", "wait until it has stopped")
        yield


def _write_whole(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
