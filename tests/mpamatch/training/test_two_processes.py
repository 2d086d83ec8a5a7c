"""Two processes with a batch of one each are one process with a batch of two: gradients, bank and weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.torch, pytest.mark.processes, pytest.mark.timeout(600)]

# A small rate: AdamW moves by the sign of a gradient, also where that is rounding noise. Gradients are looked at too.
PROGRAM = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from mpamatch.network.branch import BranchShape
from mpamatch.network.encoders import encoder_record
from mpamatch.network.model import add_branch, build_segmenter
from mpamatch.training.batches import Sample, Streams, TileReader
from mpamatch.training.loop import TrainingLoop
from mpamatch.training.peers import joined
from tests.mpamatch.tissue import quick_recipe, write_tile
from tests.mpamatch.training.frozen_norms import freeze_batch_norms

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
recipe = quick_recipe("mpamatch-image", tau=0.4, steps_cold=5, labelled_batch=2, unlabelled_batch=2, strong_views=2,
                      ramp_start=0.0, ramp_end=0.0, lr=1e-6, prototype_start=0.2, prototype_ramp_end=0.3,
                      prototype_pool_start=0.2, reseed_after=1)
record = encoder_record("tiny")
rows = [write_tile(folder, t) for t in range(3)]
others = [write_tile(folder, 1000 + n, seed=50 + n) for n in range(4)]
streams = Streams(
    [Sample(r["tile"], r["group"], Path(r["image"]), Path(r["mask"])) for r in rows],
    [Sample(r["tile"], r["group"], Path(r["image"])) for r in others],
    recipe=recipe, reader=TileReader(1.0, 2), mean=record.mean, std=record.std, seed=0,
)
model = build_segmenter(record, 2, seed=0)
add_branch(model, BranchShape(16, 3, 0), seed=0)
freeze_batch_norms(model)
gradients = []
real = TrainingLoop._descend
def descend(self, total):
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.model.parameters()]
    gradients.append(torch.cat([g.flatten() for g in found]))
    return real(self, total)
TrainingLoop._descend = descend
with joined("cpu") as peers:
    loop = TrainingLoop(model, streams, recipe, pool_tiles=4, warm=False, seed=0, peers=peers)
    reports = list(loop.run())
    if peers.first:
        state = {name: t for name, t in loop.state().tensors.items() if name.startswith("model.")}
        moved = {name: t for name, t in loop.state().tensors.items() if name.endswith(".step")}
        losses = [[r.x, r.u, r.image or 0.0, r.mask_ratio] for r in reports]
        torch.save({"state": state, "gradients": torch.stack(gradients), "losses": losses, "moved": moved}, out)
"""


def _run(folder: Path, processes: int) -> dict[str, Any]:
    program, out = folder / f"program{processes}.py", folder / f"out{processes}.pt"
    program.write_text(PROGRAM)
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
        command += ["--nproc-per-node", str(processes)]
    root = str(Path(__file__).resolve().parents[3])
    threads = {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, str(program), str(folder / f"tiles{processes}"), str(out)],
        env={**os.environ, **threads}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(torch.load(out, weights_only=True))


@pytest.mark.method_line(34)
def test_two_processes_with_one_tile_each_are_one_process_with_two(tmp_path: Path) -> None:
    one, two = _run(tmp_path, 1), _run(tmp_path, 2)
    for ours, theirs in zip(two["losses"], one["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert one["losses"][-1][2] > 0
    difference = (two["gradients"] - one["gradients"]).norm(dim=1) / one["gradients"].norm(dim=1)
    # Sums in another order differ in their last digits; where a pixel lies that close to tau or between two rows, it
    # falls to the other side. One step of five may show one such pixel.
    assert int((difference > 1e-4).sum()) <= 1
    assert float(difference.max()) < 2e-3
    for name, tensor in one["state"].items():
        assert torch.allclose(two["state"][name].double(), tensor.double(), atol=1e-5, rtol=1e-5), name
    # A step in which a parameter has no gradient is none for it, in however many processes.
    assert {float(count) for count in one["moved"].values()} == {4.0, 5.0}
    assert two["moved"] == one["moved"]
    bank = one["state"]["model.branch.bank.rows"]
    assert not torch.equal(bank[0], bank[1])
