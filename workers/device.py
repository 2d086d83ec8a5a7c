"""The device and threads of a torch process, set once before anything computes."""

from __future__ import annotations

import torch

from backend.settings import Settings
from mpamatch.network import devices


def choose_device(settings: Settings) -> str:
    """The device of a predict worker: as set, or the best there is. Raises BadInput when it is not there."""
    return devices.choose_device(settings.device, devices.probe())


def set_threads(settings: Settings) -> None:
    """Bound torch's threads: more runnable threads than cores cost a factor of ten."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
