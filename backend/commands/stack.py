"""What the embedded profile consists of: each part's command, environment, readiness and place in the stop order."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from backend.commands.gpus import VISIBLE, hand_out
from backend.commands.supervisor import Part
from backend.label_studio_server import EmbeddedLabelStudio, answers, listening_ports
from backend.servers import EmbeddedPostgres, EmbeddedRedis
from backend.settings import Settings, inherited_environment

BEAT, WORKERS, API, LABEL_STUDIO, BROKER, DATABASE = range(6)
TORCH_QUEUES = ("predict", "train")
QUEUES = ("io", *TORCH_QUEUES)


def child_environment(state: Path, around: Mapping[str, str]) -> dict[str, str]:
    """`around`, with everything a program writes for its user inside the state, and loopback never through a proxy."""
    home = state / "home"
    folders = {"HOME": home, "XDG_CONFIG_HOME": home / ".config", "XDG_CACHE_HOME": home / ".cache"}
    folders |= {"XDG_DATA_HOME": home / ".local" / "share", "XDG_STATE_HOME": home / ".local" / "state"}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    made = dict(around) | {name: str(folder) for name, folder in folders.items()}
    made |= {"PYTHONUNBUFFERED": "1", "MPAMATCH_STATE": str(state)}
    for name in ("NO_PROXY", "no_proxy"):
        made[name] = ",".join(word for word in (around.get(name), "127.0.0.1", "localhost") if word)
    return made


def thread_environment(threads: int) -> dict[str, str]:
    """Thread counts, and barriers that sleep: spinning ones cost a factor of ten when other work wants the cores."""
    count = str(threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, count) | {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


def torch_threads(settings: Settings, workers: int = len(TORCH_QUEUES)) -> int:
    """Threads of each torch worker: the setting, else the cores shared among the ``workers``."""
    if settings.threads is not None:
        return settings.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)


def database_part(server: EmbeddedPostgres) -> Part:
    """The embedded PostgreSQL."""
    return Part(
        role=server.role,
        command=server.command,
        environment=server.environment(),
        stop_rank=DATABASE,
        ready=lambda pid: server.ready(),
        prepare=server.prepare,
        stop_signal=server.stop_signal,
        die_with=server.stop_signal,
        account=server.account,
        grace_s=8.0,
        vital=True,
    )


def broker_part(server: EmbeddedRedis) -> Part:
    """The embedded Redis."""
    return Part(
        role=server.role,
        command=server.command,
        environment=server.environment(),
        stop_rank=BROKER,
        ready=lambda pid: server.ready(),
        prepare=server.prepare,
        stop_signal=server.stop_signal,
        die_with=server.stop_signal,
        vital=True,
    )


def label_studio_part(server: EmbeddedLabelStudio, state: Path) -> Part:
    """Our own Label Studio; its first start makes its tables, which takes about half a minute."""
    return Part(
        role=server.role,
        command=server.command,
        environment=server.environment(child_environment(state, inherited_environment())),
        stop_rank=LABEL_STUDIO,
        ready=server.ready,
        ready_timeout_s=300.0,
        prepare=server.prepare,
        stop_signal=server.stop_signal,
    )


def api_part(settings: Settings, port: int) -> Part:
    """The API, on one thread of arithmetic: it only moves data."""
    environment = child_environment(settings.state, inherited_environment()) | thread_environment(1)
    # Few heaps: the handlers' many threads would otherwise keep one each.
    environment["MALLOC_ARENA_MAX"] = "2"
    host = "127.0.0.1" if settings.api_host == "0.0.0.0" else settings.api_host
    return Part(
        role="api",
        command=[*program(), "serve", "--host", settings.api_host, "--port", str(port)],
        environment=environment,
        stop_rank=API,
        ready=lambda pid: port in listening_ports(pid) and answers(host, port, "/health"),
        vital=True,
    )


def worker_part(settings: Settings, queue: str) -> Part:
    """The worker of one queue."""
    threads = torch_threads(settings) if queue in TORCH_QUEUES else 1
    return Part(
        role=f"worker-{queue}",
        command=[*program(), "worker", "--queues", queue, "--name", queue],
        environment=child_environment(settings.state, inherited_environment()) | thread_environment(threads),
        stop_rank=WORKERS,
        grace_s=settings.worker_grace_s,
        nice=5 if queue == "train" else None,
    )


def train_parts(settings: Settings, gpus: Sequence[str]) -> list[Part]:
    """One train worker for each GPU, or for as many GPUs as a run takes; one in all where there is none.

    All serve the queue of trainings, so that a free one takes the next run. Each sees only its GPUs.
    """
    slices = hand_out(() if settings.device in ("cpu", "mps") else gpus, settings.train_devices)
    if len(slices) == 1:
        return [worker_part(settings, "train")]
    threads = thread_environment(torch_threads(settings, len(slices) + 1))
    first = worker_part(settings, "train")
    parts = []
    for number, seen in enumerate(slices):
        name = "train" if number == 0 else f"train-{number}"
        parts.append(
            replace(
                first,
                role=f"worker-{name}",
                command=[*program(), "worker", "--queues", "train", "--name", name],
                environment={**first.environment, **threads, VISIBLE: ",".join(seen)},
            )
        )
    return parts


def beat_part(settings: Settings) -> Part:
    """The clock that wakes the sweep."""
    return Part(
        role="beat",
        command=[*program(), "worker", "--beat"],
        environment=child_environment(settings.state, inherited_environment()) | thread_environment(1),
        stop_rank=BEAT,
        stop_signal=signal.SIGTERM,
        grace_s=2.0,
    )


def program() -> list[str]:
    """How to run `mpamatch` with this very interpreter, installed script or not."""
    script = Path(sys.executable).with_name("mpamatch")
    return [sys.executable, str(script)] if script.exists() else [sys.executable, "-m", "mpamatch.cli"]
