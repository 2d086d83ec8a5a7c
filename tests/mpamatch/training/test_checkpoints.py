import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mpamatch.training import checkpoints
from mpamatch.training.checkpoints import load_checkpoint, save_checkpoint
from mpamatch.training.loop import LoopState

pytestmark = pytest.mark.torch


def _state(step: int) -> LoopState:
    weight = torch.full((2, 3, 4, 4), float(step)).to(memory_format=torch.channels_last)
    return LoopState({"model.weight": weight, "model.count": torch.tensor(step)}, {"step": step, "loss": 0.1 + step})


def test_a_checkpoint_comes_back_exactly(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", _state(3))
    state = load_checkpoint(tmp_path / "c")
    assert state is not None
    assert state.values == {"step": 3, "loss": 3.1}
    assert torch.equal(state.tensors["model.weight"], _state(3).tensors["model.weight"])
    assert int(state.tensors["model.count"]) == 3


def test_the_latest_two_are_kept(tmp_path: Path) -> None:
    for step in (3, 9, 100):
        save_checkpoint(tmp_path / "c", _state(step))
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["step-000009", "step-000100"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "c") is None
    (tmp_path / "c").mkdir()
    assert load_checkpoint(tmp_path / "c") is None


@pytest.mark.parametrize("dying_in", ["sync_to_disk", "save_file", "dump_json"])
def test_a_kill_while_writing_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying_in: str
) -> None:
    save_checkpoint(tmp_path / "c", _state(3))

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, dying_in, die)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "c", _state(9))
    monkeypatch.undo()
    state = load_checkpoint(tmp_path / "c")
    assert state is not None
    assert state.values["step"] == 3
    save_checkpoint(tmp_path / "c", _state(9))
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["step-000003", "step-000009"]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", _state(3))
    damaged = tmp_path / "c" / "step-000010"
    damaged.mkdir()
    (damaged / "state.json").write_text('{"sha256": {}, "values": "{}"}')
    (damaged / "tensors.safetensors").write_bytes(b"\1" * 40)
    state = load_checkpoint(tmp_path / "c")
    assert state is not None
    assert state.values["step"] == 3


@pytest.mark.parametrize("part", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flipped", "torn", "gone"])
def test_a_checkpoint_flipped_or_torn_on_the_disk_is_never_resumed_from(tmp_path: Path, part: str, damage: str) -> None:
    save_checkpoint(tmp_path / "c", _state(3))
    latest = save_checkpoint(tmp_path / "c", _state(9)) / part
    content = bytearray(latest.read_bytes())
    # The last byte is a weight in the tensors, and a digit of the loss before the closing marks in the values.
    content[-1 if part == "tensors.safetensors" else content.rindex(b"9.1")] ^= 1
    latest.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    if damage == "gone":
        latest.unlink()
    state = load_checkpoint(tmp_path / "c")
    assert state is not None
    assert state.values["step"] == 3


def test_a_full_disk_is_said_in_one_line_and_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow: the disk answers a write with an error, as a full one does."""
    save_checkpoint(tmp_path / "c", _state(3))
    code = """
import resource, signal, sys
from pathlib import Path
from tests.mpamatch.training.test_checkpoints import _state
from mpamatch.training.checkpoints import save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    save_checkpoint(Path(sys.argv[1]), _state(9))
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "c")], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("NotWritten checkpoint step-000009: could not be written")
    assert len(done.stdout.splitlines()) == 1
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["step-000003"]
    assert load_checkpoint(tmp_path / "c") is not None
