"""Where torch computes and in which precision, and what its errors say of memory and of a device that is gone.

What is chosen is decided by values alone; only :func:`probe` asks the machine.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from mpamatch.errors import BadInput

PRECISIONS = ("auto", "float32", "bfloat16")
_NO_MEMORY = ("out of memory", "allocate memory", "alloc_failed")
_LOST = (
    "device-side assert",
    "unspecified launch failure",
    "illegal memory access",
    "device is lost",
    "device unavailable",
    "devices are busy or unavailable",
    "no longer available",
    "fallen off the bus",
    "uncorrectable ecc error",
    "unknown error",
    "driver",
)


@dataclass(frozen=True)
class Machine:
    """What torch finds: how many GPUs it sees, whether they compute in bfloat16, and whether there is an Apple one."""

    gpus: int
    bfloat16: bool
    mps: bool


def probe() -> Machine:
    """Ask torch; a driver that fails to answer counts as no GPU."""
    try:
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        bfloat16 = gpus > 0 and torch.cuda.is_bf16_supported(including_emulation=False)
    except RuntimeError:
        gpus, bfloat16 = 0, False
    return Machine(gpus, bfloat16, torch.backends.mps.is_available())


def choose_device(wanted: str, machine: Machine, *, place: int = 0) -> str:
    """The torch device of a process: as wanted, or the best there is.

    ``place`` is the process's number among those that train one run on this machine: each takes a GPU of its own.
    Raises BadInput when what is wanted is not there.

    >>> choose_device("auto", Machine(gpus=2, bfloat16=True, mps=False), place=1)
    'cuda:1'
    """
    if wanted == "auto":
        wanted = "cuda" if machine.gpus else "cpu"
    kind, _, number = wanted.partition(":")
    if kind == "mps" and not machine.mps:
        raise BadInput("device mps", "is not there", "set MPAMATCH_DEVICE to auto or cpu")
    if kind != "cuda":
        return kind
    index = int(number) if number else place
    if machine.gpus == 0:
        raise BadInput(
            f"device {wanted}", "no GPU is visible", "check the driver, or set MPAMATCH_DEVICE to auto or cpu"
        )
    if index >= machine.gpus or (number and place):
        remedy = "lower MPAMATCH_TRAIN_DEVICES, set MPAMATCH_DEVICE to cuda, or show more GPUs"
        raise BadInput(f"device {wanted}", f"process {place + 1} has none of the {machine.gpus} visible", remedy)
    return f"cuda:{index}"


def choose_precision(wanted: str, device: str, machine: Machine) -> torch.dtype:
    """What training computes in: bfloat16 on a GPU that has it, float32 elsewhere, unless said otherwise.

    >>> choose_precision("auto", "cpu", Machine(gpus=0, bfloat16=False, mps=False))
    torch.float32
    """
    if wanted not in PRECISIONS:
        raise BadInput(f"precision {wanted}", "unknown", f"one of {', '.join(PRECISIONS)}")
    if wanted == "auto":
        wanted = "bfloat16" if device.startswith("cuda") and machine.bfloat16 else "float32"
    if wanted == "bfloat16" and device.startswith("cuda") and not machine.bfloat16:
        raise BadInput("precision bfloat16", f"{device} does not have it", "set MPAMATCH_PRECISION to auto")
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def autocast(device: str, precision: torch.dtype) -> AbstractContextManager[object]:
    """Forward passes in a lower precision; weights, losses and the optimiser stay in float32."""
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=precision)


@contextlib.contextmanager
def deterministic(device: str) -> Iterator[None]:
    """Bit-exact kernels on the CPU; some that are needed have no such form on a GPU."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(device == "cpu" or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU, in one of its libraries or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _NO_MEMORY)


def device_lost(error: BaseException) -> bool:
    """Whether a GPU failed under a computation. No process that used it can go on; a new one may."""
    if out_of_memory(error):
        return False
    if isinstance(error, getattr(torch, "AcceleratorError", ())):  # torch 2.8 and later
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and "cuda" in text and any(word in text for word in _LOST)


def peak_memory_mib(device: str = "cpu") -> float:
    """The most memory this process has held, in MiB: what its tensors took on a GPU, else its resident memory.

    Linux's getrusage also counts the parent at the time of the fork; the status file does not.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def release_memory(device: str | torch.device) -> None:
    """Give back what nothing refers to any more; the allocator of a GPU would keep it for later."""
    gc.collect()
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        torch.cuda.empty_cache()
