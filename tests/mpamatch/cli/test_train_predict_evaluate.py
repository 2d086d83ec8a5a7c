import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpamatch.cli as cli
from mpamatch.files.images import encode_png, read_image
from mpamatch.files.masks import read_mask
from mpamatch.files.rasters import encode_raster
from tests.mpamatch.tissue import QUICK, draw

pytestmark = pytest.mark.torch
KNOBS = [part for name, value in QUICK.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture(autouse=True)
def _commands(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("train", "predict", "evaluate", "recipe")
    found = {n: EntryPoint(n, f"mpamatch.cli.{n}:{n}", cli.GROUP) for n in names}
    monkeypatch.setattr(cli, "_entries", lambda: found)
    # A test's own signal handlers stay as they are.
    monkeypatch.setattr("mpamatch.cli.lifetime.signal.signal", lambda number, handler: None)


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tissue")
    for kind in ("images", "masks"):
        (root / kind / "patient a").mkdir(parents=True)
    for n in range(6):
        image, mask = draw(n)
        (root / "images" / "patient a" / f"tile {n}.png").write_bytes(encode_png(image))
        (root / "masks" / "patient a" / f"tile {n}.png").write_bytes(encode_raster(mask))
    return root


def _run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out, captured.err


def _folders(tissue: Path) -> list[object]:
    return ["--images", tissue / "images", "--masks", tissue / "masks"]


@pytest.fixture(scope="module")
def model(tissue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_entries", lambda: {"train": EntryPoint("train", "mpamatch.cli.train:train", cli.GROUP)})
        patch.setattr("mpamatch.cli.lifetime.signal.signal", lambda number, handler: None)
        arguments = ["train", *_folders(tissue), "--labelled", "4", "--out", out, *KNOBS, "--threads", "1"]
        with pytest.raises(SystemExit) as left:
            cli.main([str(a) for a in arguments])
        assert not left.value.code
    return out


def test_training_on_folders_says_where_the_model_lies(
    tissue: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    """The same command again finds its finished run and answers at once, as one JSON document."""
    command = ["train", *_folders(tissue), "--labelled", 4, "--out", model, *KNOBS, "--threads", 1, "--json"]
    code, out, _ = _run(capsys, *command)
    result = json.loads(out)
    assert code == 0
    assert Path(result["model"]) == model / "model"
    assert {"steps", "seconds", "losses", "mask_ratio", "pool_tiles"} <= set(result)
    run = json.loads((model / "run.json").read_text())
    assert (len(run["labelled"]), len(run["pool"])) == (4, 6)


def test_another_run_does_not_overwrite_a_folder(tissue: Path, model: Path, capsys: pytest.CaptureFixture) -> None:
    code, _, err = _run(capsys, "train", *_folders(tissue), "--labelled", 3, "--out", model, *KNOBS)
    assert code == 1
    assert "holds another run" in err


def test_evaluate_prints_the_keys_that_others_read(tissue: Path, model: Path, capsys: pytest.CaptureFixture) -> None:
    code, out, _ = _run(capsys, "evaluate", "--model", model, *_folders(tissue), "--json")
    figures = json.loads(out)
    assert code == 0
    assert {"images", "mdice", "miou", "foreground_dice", "per_class", "per_image", "ece"} <= set(figures)
    assert figures["images"] == 6
    assert 0 <= figures["mdice"] <= 1


def test_predictions_score_as_evaluate_says(
    tissue: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    _, out, _ = _run(capsys, "evaluate", "--model", model, *_folders(tissue), "--json")
    figures: dict[str, Any] = json.loads(out)
    code, out, _ = _run(capsys, "predict", "--model", model, "--images", tissue / "images", "--out", tmp_path, "--json")
    assert code == 0
    assert json.loads(out)["images"] == 6
    overlap = total = 0
    for n in range(6):
        predicted = read_mask(tmp_path / "classes" / "patient a" / f"tile {n}.png", class_count=2)
        truth = draw(n)[1]
        overlap += 2 * int(((predicted == 1) & (truth == 1)).sum())
        total += int((predicted == 1).sum() + (truth == 1).sum())
        confidence = read_image(tmp_path / "confidence" / "patient a" / f"tile {n}.png")
        assert confidence.shape[:2] == truth.shape
        assert confidence.min() >= 127
    assert figures["foreground_dice"] == pytest.approx(overlap / total)
    regions = json.loads((tmp_path / "regions.geojson").read_text())
    assert regions["type"] == "FeatureCollection"
    for feature in regions["features"]:
        assert feature["geometry"]["type"] == "Polygon"
        assert feature["properties"]["image"].startswith("patient a/")


def test_masks_with_more_values_than_classes_are_refused_unless_foreground(
    tissue: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "patient a").mkdir()
    for n in range(6):
        instances = draw(n)[1] * np.uint8(n + 1)
        (tmp_path / "patient a" / f"tile {n}.png").write_bytes(encode_raster(instances))
    command = ["evaluate", "--model", model, "--images", tissue / "images", "--masks", tmp_path, "--json"]
    code, out, err = _run(capsys, *command)
    assert (code, out) == (1, "")
    assert err.startswith("mpamatch: ")
    code, out, _ = _run(capsys, *command, "--foreground")
    assert code == 0
    _, plain, _ = _run(capsys, "evaluate", "--model", model, *_folders(tissue), "--json")
    assert json.loads(out)["mdice"] == json.loads(plain)["mdice"]


@pytest.fixture
def one_mask_too_small(tissue: Path, tmp_path: Path) -> list[object]:
    for n in range(6):
        path = tmp_path / "masks" / "patient a" / f"tile {n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_raster(draw(n)[1][: 40 if n == 3 else 80]))
    return ["--images", tissue / "images", "--masks", tmp_path / "masks"]


def test_a_mask_of_another_size_is_named_and_the_other_images_are_scored(
    one_mask_too_small: list[object], model: Path, capsys: pytest.CaptureFixture
) -> None:
    code, out, err = _run(capsys, "evaluate", "--model", model, *one_mask_too_small, "--json")
    assert code == 1
    assert json.loads(out)["images"] == 5
    assert "tile 3" in err
    assert "mask 80 x 40 px, image 80 x 80 px; give masks of its size" in err


def test_a_mask_of_another_size_is_left_out_of_training(
    one_mask_too_small: list[object], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    code, out, err = _run(capsys, "train", *one_mask_too_small, "--out", tmp_path / "run", *KNOBS, "--json")
    assert code == 0
    result = json.loads(out)
    assert result["labelled_tiles"] == 5
    assert "tile 3 left out" in err


def test_a_place_that_cannot_be_written_is_one_clear_line(
    tissue: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    for command in (
        ["train", *_folders(tissue), "--out", tmp_path / "file" / "run", *KNOBS],
        ["predict", "--model", model, "--images", tissue / "images", "--out", "/proc/none"],
    ):
        code, _, err = _run(capsys, *command)
        assert code == 1
        assert err.splitlines()[-1].endswith("check the path and its permissions")


def test_an_unreadable_image_is_named_and_the_others_are_predicted(
    tissue: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.png").write_bytes(encode_png(draw(0)[0]))
    (tmp_path / "in" / "torn.png").write_bytes(encode_png(draw(1)[0])[:200])
    code, out, err = _run(
        capsys, "predict", "--model", model, "--images", tmp_path / "in", "--out", tmp_path / "out", "--json"
    )
    assert code == 1
    assert json.loads(out)["images"] == 1
    assert "torn.png" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--labelled", "2"],
        ["train", "--out", "x"],
        ["train", "--out", "x", "--dataset", "glas"],
        ["evaluate"],
        ["evaluate", "--model", "nowhere", "--images", "nowhere"],
    ],
)
def test_incomplete_commands_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    code, _, err = _run(capsys, *arguments)
    assert code == 2
    assert "Usage" in err


def test_more_labels_than_images_is_one_clear_line(tissue: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code, _, err = _run(capsys, "train", *_folders(tissue), "--labelled", 7, "--out", tmp_path / "o", *KNOBS)
    assert code == 1
    assert err.count("\n") == 1
    assert "6 images have a mask" in err


def test_a_wrong_knob_is_one_clear_line(tissue: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code, _, err = _run(capsys, "train", *_folders(tissue), "--out", tmp_path / "o", "--set", "tau=7")
    assert code == 1
    assert "recipe.tau" in err


def test_the_recipe_that_is_shipped_uses_the_pool_and_the_model(capsys: pytest.CaptureFixture) -> None:
    code, out, _ = _run(capsys, "recipe", "--json")
    assert code == 0
    assert json.loads(out)["method"] not in ("supervised",)
    assert json.loads(out)["strategy"] not in ("random", "foreground-random")
