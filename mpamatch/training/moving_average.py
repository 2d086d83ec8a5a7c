"""The moving average of a model's weights: what labels the pool, and what is kept in the end.

Source: mean teachers (Tarvainen and Valpola 2017), with the decay that grows from a plain copy as in UniMatch V2.
"""

from __future__ import annotations

import torch
from torch import nn

# Prototypes are averages already, and their rows are to keep their length.
_COPIED = ("branch.bank.", "branch.text_vectors")


class MovingAverage:
    """``teacher`` follows ``student``, tensor by tensor; what the two share is left alone."""

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        mine, theirs = teacher.state_dict(), student.state_dict()
        apart = [name for name, tensor in mine.items() if tensor.data_ptr() != theirs[name].data_ptr()]
        averaged = [n for n in apart if mine[n].is_floating_point() and not n.startswith(_COPIED)]
        copied = sorted(set(apart) - set(averaged))
        self._averaged = [mine[n] for n in averaged], [theirs[n] for n in averaged]
        self._copied = [mine[n] for n in copied], [theirs[n] for n in copied]

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """teacher := decay * teacher + (1 - decay) * student, for weights and float buffers.

        Counters and prototypes are copied.
        """
        if self._averaged[0]:
            torch._foreach_lerp_(*self._averaged, 1 - decay)
        if self._copied[0]:
            torch._foreach_copy_(*self._copied)
