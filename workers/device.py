"""The device and threads of a torch process, set once before anything computes."""

from __future__ import annotations

import torch

from backend.settings import Settings


def choose_device(settings: Settings) -> str:
    """``cuda``, ``mps`` or ``cpu``: as set, or the best there is."""
    if settings.device != "auto":
        return settings.device
    if torch.cuda.is_available():
        return "cuda"
    return "cpu"


def set_threads(settings: Settings) -> None:
    """Bound torch's threads: more runnable threads than cores cost a factor of ten."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
