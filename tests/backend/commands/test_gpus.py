"""Which GPUs are seen, and one train worker for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.commands import stack
from backend.commands.gpus import VISIBLE, hand_out, visible_gpus
from backend.settings import Settings


def _nodes(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("value", "gpus"),
    [
        ("", ()),
        ("-1", ()),
        ("0", ("0",)),
        ("2, 3", ("2", "3")),
        ("0,-1,1", ("0",)),
        ("GPU-8a,GPU-9", ("GPU-8a", "GPU-9")),
    ],
)
def test_the_environment_says_which_gpus_may_be_used(tmp_path: Path, value: str, gpus: tuple[str, ...]) -> None:
    assert visible_gpus({VISIBLE: value}, _nodes(tmp_path, "nvidia0", "nvidia1")) == gpus


def test_without_a_word_every_device_node_is_one(tmp_path: Path) -> None:
    nodes = _nodes(tmp_path, "nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null")
    assert visible_gpus({}, nodes) == ("0", "1")
    assert visible_gpus({}, tmp_path / "nowhere") == ()


@pytest.mark.parametrize("count", range(6))
@pytest.mark.parametrize("per_run", [1, 2, 4])
def test_no_gpu_is_given_to_two_workers_and_there_is_always_one_worker(count: int, per_run: int) -> None:
    gpus = tuple(map(str, range(count)))
    slices = hand_out(gpus, per_run)
    given = [gpu for one in slices for gpu in one]
    assert len(slices) == max(1, count // per_run)
    assert len(set(given)) == len(given)
    assert all(len(one) == per_run for one in slices) or len(slices) == 1


def _parts(tmp_path: Path, gpus: tuple[str, ...], **values: object) -> list[tuple[str, str, str | None]]:
    settings = Settings(state=tmp_path, **values)  # type: ignore[arg-type]
    found = stack.train_parts(settings, gpus)
    return [(p.role, p.command[p.command.index("--queues") + 1], p.environment.get(VISIBLE)) for p in found]


def test_each_gpu_has_a_train_worker_and_all_serve_one_queue(tmp_path: Path) -> None:
    assert _parts(tmp_path, ("0", "1")) == [
        ("worker-train", "train", "0"),
        ("worker-train-1", "train", "1"),
    ]
    assert _parts(tmp_path, ("0", "1", "2", "3"), train_devices=2) == [
        ("worker-train", "train", "0,1"),
        ("worker-train-1", "train", "2,3"),
    ]


@pytest.mark.parametrize(
    ("gpus", "values"), [((), {}), (("0",), {}), (("0", "1"), {"train_devices": 2}), (("0", "1"), {"device": "cpu"})]
)
def test_one_worker_is_enough_where_one_run_takes_all(
    tmp_path: Path, gpus: tuple[str, ...], values: dict[str, object]
) -> None:
    ((role, queues, _),) = _parts(tmp_path, gpus, **values)
    assert (role, queues) == ("worker-train", "train")
