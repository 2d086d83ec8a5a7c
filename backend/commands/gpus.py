"""Which GPUs this machine shows, without torch, and which of them each train worker gets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
_NODE = re.compile(r"nvidia\d+")


def visible_gpus(environment: Mapping[str, str], nodes: Path = Path("/dev")) -> tuple[str, ...]:
    """The GPUs as CUDA names them: those that the environment allows, else one number for each device node.

    >>> visible_gpus({"CUDA_VISIBLE_DEVICES": "2,3"})
    ('2', '3')
    """
    if VISIBLE in environment:
        named = (name.strip() for name in environment[VISIBLE].split(","))
        found = []
        for name in named:  # CUDA reads up to the first that is none: -1 or nothing
            if not name or name == "-1":
                break
            found.append(name)
        return tuple(found)
    count = sum(1 for node in nodes.iterdir() if _NODE.fullmatch(node.name)) if nodes.is_dir() else 0
    return tuple(str(number) for number in range(count))


def hand_out(gpus: Sequence[str], per_run: int) -> tuple[tuple[str, ...], ...]:
    """The GPUs of each train worker: ``per_run`` to each, every worker another's; what is left over goes to none.

    One worker without any where there is none, and one with all where there are fewer than a run wants.

    >>> hand_out(("0", "1", "2"), 1), hand_out(("0", "1", "2"), 2), hand_out((), 1)
    ((('0',), ('1',), ('2',)), (('0', '1'),), ((),))
    """
    if len(gpus) <= per_run:
        return (tuple(gpus),)
    return tuple(tuple(gpus[n : n + per_run]) for n in range(0, len(gpus) - per_run + 1, per_run))
