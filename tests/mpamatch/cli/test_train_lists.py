"""What `mpamatch train --dataset` takes as labelled, and what it refuses because it would judge what it learnt."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import mpamatch.cli as cli
from tests.mpamatch.datasets.test_datasets import make_ebhi, make_glas, put, put_lists
from tests.mpamatch.tissue import QUICK

pytestmark = pytest.mark.torch
KNOBS = [part for name, value in QUICK.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture(autouse=True)
def _commands(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {n: EntryPoint(n, f"mpamatch.cli.{n}:{n}", cli.GROUP) for n in ("train", "lists")}
    monkeypatch.setattr(cli, "_entries", lambda: found)
    monkeypatch.setattr("mpamatch.cli.lifetime.signal.signal", lambda number, handler: None)
    # What is written for the run is looked at; training it is another test's.
    monkeypatch.setattr("mpamatch.cli.train._train_folder", lambda *arguments, **more: None)


def _train(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in ("train", *arguments, *KNOBS)])
    return int(left.value.code or 0), capsys.readouterr().err


@pytest.mark.method_line(45)
def test_a_patient_in_both_lists_is_refused_by_name_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = make_glas(tmp_path / "glas")
    put_lists(root, ["train_10", "testA_1"], ["train_2"])
    code, err = _train(capsys, "--dataset", "glas", "--root", root, "--out", tmp_path / "out")
    assert code == 1
    assert err.splitlines() == [
        "mpamatch: image train_10: its 'patient 4' is also that of train_2, which judges; "
        "keep whole groups (patients, cases) in one split"
    ]
    assert not (tmp_path / "out").exists()


def test_lists_of_whole_patients_are_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = make_glas(tmp_path / "glas")
    put_lists(root, ["train_10", "train_2", "testA_1"], ["testA_3"])
    code, err = _train(capsys, "--dataset", "glas", "--root", root, "--labelled", 2, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert {row["group"] for row in run["labelled"]} == {"patient 4", "patient 6"}  # one image of each patient
    assert len(run["pool"]) == 3


def test_a_plain_folder_may_have_its_lists_in_one_class_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("a", "b", "c"):
        put(tmp_path / "in" / "normal" / f"{name}.png")
        put(tmp_path / "in" / "normal" / f"{name}_mask.png", 1)
    put_lists(tmp_path / "in", ["normal/a.png", "normal/b.png"], ["normal/c.png"])
    code, err = _train(capsys, "--images", tmp_path / "in", "--out", tmp_path / "out")
    assert (code, err) == (0, "")


def test_labelled_images_are_spread_over_the_class_folders(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = make_ebhi(tmp_path / "ebhi")
    for n in range(4):
        put(root / "EBHI-SEG" / "Polyp" / "image" / f"GT200190{n}-1-400-001.png")
        put(root / "EBHI-SEG" / "Polyp" / "label" / f"GT200190{n}-1-400-001.png", 1)
    put_lists(root, [f"Polyp/image/GT200190{n}-1-400-001.png" for n in range(4)], [])
    normal = "Normal/image/GTXC2012525-1-400-001.png"
    cancer = "Adenocarcinoma/image/GTxc2013084-2-400-003.png"
    with (root / "splits" / "train.txt").open("a") as stream:
        stream.write(f"\n{normal}\n{cancer}\n")
    code, _ = _train(capsys, "--dataset", "ebhi", "--root", root, "--labelled", 3, "--out", tmp_path / "out")
    assert code == 0
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert {Path(row["image"]).parts[-3] for row in run["labelled"]} == {"Polyp", "Normal", "Adenocarcinoma"}


def _lists(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in ("lists", *arguments)])
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out, captured.err


def test_lists_are_drawn_once_and_trained_on_by_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = make_glas(tmp_path / "glas")
    put_lists(root, ["train_10", "train_2", "testA_1"], ["testA_3"])
    source = ["--dataset", "glas", "--root", root]
    code, out, _ = _lists(capsys, *source, "--share", "0.67", "--seed", 3)
    assert code == 0
    document = json.loads(out)
    assert (document["dataset"], document["seed"], document["audit"]) == ("glas", 3, ["testA_3"])
    assert (len(document["labelled"]), len(document["pool"])) == (2, 1)
    code, _, _ = _lists(capsys, *source, "--labelled", 2, "--seed", 3, "--out", tmp_path / "lists.json")
    assert json.loads((tmp_path / "lists.json").read_text()) == document
    # One image less in the pool than the train split has: the lists decide, not the split.
    (tmp_path / "lists.json").write_text(json.dumps(document | {"pool": []}))
    code, err = _train(capsys, *source, "--lists", tmp_path / "lists.json", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert sorted(Path(row["image"]).stem for row in run["labelled"]) == document["labelled"]
    assert sorted(Path(row["image"]).stem for row in run["pool"]) == document["labelled"]


@pytest.mark.method_line(45)
def test_lists_that_part_a_patient_or_name_what_is_not_here_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = make_glas(tmp_path / "glas")
    path = tmp_path / "lists.json"
    document = {"dataset": "glas", "protocol": "by hand", "seed": 0, "labelled": ["train_2"], "pool": []}
    for change, said in (
        ({"audit": ["train_10"]}, "image train_2: its 'patient 4' is also that of train_10, which judges"),
        ({"pool": ["train_77"]}, "1 of 2 images are not here, such as train_77"),
        ({"dataset": "crag"}, "is of crag, the images are of glas"),
        ({"labelled": None}, "not a document of lists"),
    ):
        path.write_text(json.dumps(document | change))
        code, err = _train(capsys, "--dataset", "glas", "--root", root, "--lists", path, "--out", tmp_path / "out")
        assert (code, err.count("\n")) == (1, 1)
        assert said in err
    # A published partition by image promises no patients.
    path.write_text(json.dumps(document | {"audit": ["train_10"], "protocol": "glas-10"}))
    assert _train(capsys, "--dataset", "glas", "--root", root, "--lists", path, "--out", tmp_path / "out")[0] == 0


def test_a_protocol_of_a_whole_set_and_two_ways_of_counting(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = ["--dataset", "glas", "--root", make_glas(tmp_path / "glas")]
    code, _, err = _lists(capsys, *source, "--protocol", "glas-10")
    assert (code, err.count("\n")) == (1, 1)
    assert "needs 85 official train and 80 test images of glas; 2 and 2 are here" in err
    assert _lists(capsys, *source, "--labelled", 2, "--share", 0.1)[0] == 2
    assert _lists(capsys, *source)[0] == 2
