import pytest
import torch

from mpamatch.errors import BadInput
from mpamatch.network.devices import (
    Machine,
    autocast,
    choose_device,
    choose_precision,
    device_lost,
    out_of_memory,
    probe,
    release_memory,
)

pytestmark = pytest.mark.torch
NONE = Machine(gpus=0, bfloat16=False, mps=False)
OLD = Machine(gpus=1, bfloat16=False, mps=False)
TWO = Machine(gpus=2, bfloat16=True, mps=False)


@pytest.mark.parametrize(
    ("wanted", "machine", "place", "device"),
    [
        ("auto", NONE, 0, "cpu"),
        ("auto", NONE, 1, "cpu"),
        ("auto", TWO, 0, "cuda:0"),
        ("auto", TWO, 1, "cuda:1"),
        ("cuda", TWO, 1, "cuda:1"),
        ("cuda:1", TWO, 0, "cuda:1"),
        ("cpu", TWO, 1, "cpu"),
        ("mps", Machine(0, False, mps=True), 0, "mps"),
    ],
)
def test_a_process_takes_what_is_wanted_or_the_best_there_is(
    wanted: str, machine: Machine, place: int, device: str
) -> None:
    assert choose_device(wanted, machine, place=place) == device


@pytest.mark.parametrize(
    ("wanted", "machine", "place"),
    [("cuda", NONE, 0), ("cuda:2", TWO, 0), ("auto", TWO, 2), ("cuda:0", TWO, 1), ("mps", NONE, 0)],
)
def test_what_is_not_there_is_refused_with_a_remedy(wanted: str, machine: Machine, place: int) -> None:
    with pytest.raises(BadInput) as caught:
        choose_device(wanted, machine, place=place)
    assert "MPAMATCH_" in caught.value.remedy


@pytest.mark.parametrize(
    ("wanted", "device", "machine", "precision"),
    [
        ("auto", "cpu", NONE, torch.float32),
        ("auto", "cuda:0", TWO, torch.bfloat16),
        ("auto", "cuda:0", OLD, torch.float32),
        ("auto", "cpu", TWO, torch.float32),
        ("auto", "mps", Machine(0, False, True), torch.float32),
        ("float32", "cuda:0", TWO, torch.float32),
        ("bfloat16", "cpu", NONE, torch.bfloat16),
    ],
)
def test_bfloat16_is_for_gpus_that_have_it_unless_said_otherwise(
    wanted: str, device: str, machine: Machine, precision: torch.dtype
) -> None:
    assert choose_precision(wanted, device, machine) == precision


@pytest.mark.parametrize(("wanted", "device"), [("bfloat16", "cuda:0"), ("float16", "cpu")])
def test_a_precision_that_cannot_be_is_refused(wanted: str, device: str) -> None:
    with pytest.raises(BadInput):
        choose_precision(wanted, device, OLD)


def test_autocast_lowers_the_pass_and_nothing_without_need() -> None:
    layer = torch.nn.Linear(2, 2)
    with autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(1, 2)).dtype == torch.bfloat16
    with autocast("cpu", torch.float32):
        assert layer(torch.ones(1, 2)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]
LOST = [
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable; device unavailable"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
]


@pytest.mark.parametrize("error", MEMORY)
def test_a_lack_of_memory_is_known_and_is_no_lost_device(error: Exception) -> None:
    assert out_of_memory(error)
    assert not device_lost(error)


@pytest.mark.parametrize("error", LOST)
def test_a_lost_device_is_known_and_is_no_lack_of_memory(error: Exception) -> None:
    assert device_lost(error)
    assert not out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("out of memory"), KeyError("cuda")])
def test_other_errors_are_neither(error: Exception) -> None:
    assert not out_of_memory(error)
    assert not device_lost(error)


def test_this_machine_can_be_asked_and_its_memory_given_back() -> None:
    machine = probe()
    assert machine.gpus >= 0
    release_memory(choose_device("auto", machine))
