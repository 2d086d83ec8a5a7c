from pathlib import Path

import pytest

import mpamatch.cli as cli
from mpamatch.datasets import open_dataset


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    return int(left.value.code or 0)


def test_drawn_tiles_can_be_trained_on_by_the_name_of_their_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("draw", "--out", str(tmp_path), "--tiles", "3", "--size", "32", "--seed", "5") == 0
    assert "3 tiles of 32 px" in capsys.readouterr().out
    items = open_dataset("phantom", tmp_path).items()
    assert len(items) == 3
    assert all(item.mask is not None for item in items)


def test_an_unknown_variety_is_named_with_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("draw", "--out", str(tmp_path / "drawn"), "--variety", "odd") == 1
    assert "plain, wide" in capsys.readouterr().err
