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


def test_only_the_latest_is_kept(tmp_path: Path) -> None:
    for step in (3, 9, 100):
        save_checkpoint(tmp_path / "c", _state(step))
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["step-000100"]


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
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["step-000009"]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", _state(3))
    damaged = tmp_path / "c" / "step-000010"
    damaged.mkdir()
    (damaged / "state.json").write_text('{"step": 10}')
    (damaged / "tensors.safetensors").write_bytes(b"\1" * 40)
    state = load_checkpoint(tmp_path / "c")
    assert state is not None
    assert state.values["step"] == 3
