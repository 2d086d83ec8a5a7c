"""The processes that train one run together: started by torchrun, one per device, each with the same weights.

Every process makes its own share of a step's gradient; the sums are taken here, and each then takes the same step. So
the weights never differ, and nothing but sums is exchanged. One process alone exchanges nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Longer than the slowest step or reading of files; a peer that died is noticed at once by its closed connection.
_SILENCE = timedelta(minutes=10)


class Peers:
    """One process among ``count``; rank 0 alone writes files and tells."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank = rank
        self.count = count

    @property
    def first(self) -> bool:
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of a small CPU tensor over all processes."""
        if self.count > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def together(self, rows: Tensor) -> Tensor:
        """The rows (N, D) of all processes, in the order of their ranks; N may differ from one to the next."""
        if self.count == 1:
            return rows
        sizes = torch.zeros(self.count, dtype=torch.int64)
        sizes[self.rank] = len(rows)
        sizes = self.total(sizes)
        if not bool(sizes.any()):
            return rows
        begin = int(sizes[: self.rank].sum())
        every = torch.zeros(int(sizes.sum()), rows.shape[1])
        every[begin : begin + len(rows)] = rows.cpu()
        return self.total(every).to(rows.device)

    def of_first(self, values: Tensor) -> Tensor:
        """The first process's values, of the same shape in all, for every one; each must ask."""
        if self.count == 1:
            return values
        return self.total(values.cpu() if self.first else torch.zeros(values.shape, dtype=values.dtype)).to(values)

    def any(self, flag: bool) -> bool:
        """Whether any process says so; every process must ask."""
        return flag if self.count == 1 else bool(self.total(torch.tensor(float(flag))) > 0)

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            self.total(torch.zeros(1))

    @torch.no_grad()
    def join_gradients(self, models: Sequence[nn.Module]) -> None:
        """Every gradient becomes the sum over all processes; float buffers (batch norms' statistics) their mean.

        What no process has a gradient of stays without one: by a gradient of zeros an optimiser still moves.
        """
        if self.count == 1:
            return
        parameters = [p for model in models for p in model.parameters() if p.requires_grad]
        held = self.total(torch.tensor([float(p.grad is not None) for p in parameters]))
        parameters = [p for p, holders in zip(parameters, held.tolist(), strict=True) if holders]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        buffers = [b for model in models for b in model.buffers() if b.is_floating_point()]
        summed: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([t.reshape(-1) for t in (*summed, *(b / self.count for b in buffers))])
        dist.all_reduce(flat)
        _write_back(flat, [*summed, *buffers])


def _write_back(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    place = 0
    for tensor in tensors:
        tensor.copy_(flat[place : place + tensor.numel()].view(tensor.shape))
        place += tensor.numel()


def launched() -> bool:
    """Whether torchrun started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


def local_place() -> int:
    """The number of this process on its machine; 0 when it is alone."""
    return dist.get_node_local_rank(0) if launched() else 0


@contextmanager
def joined(device: str) -> Iterator[Peers]:
    """The peers of this process; alone unless torchrun started it. ``device`` is the one it computes on."""
    if not launched():
        yield Peers()
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", timeout=_SILENCE)
    try:
        yield Peers(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
