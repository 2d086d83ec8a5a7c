import io
import json
import tarfile
from pathlib import Path

import pytest
import torch

from mpamatch.errors import BadInput, NotFound
from mpamatch.files import model_archive
from mpamatch.files.model_archive import pack_model, unpack_model
from mpamatch.network.encoders import encoder_record
from mpamatch.network.model import build_segmenter
from mpamatch.network.weights import ModelConfig, WorkingScale, load_model, save_model
from tests.mpamatch.tissue import CLASSES, quick_recipe

pytestmark = pytest.mark.torch


def _save(folder: Path, segmenter: str = "tiny", version: str = "test-m1") -> Path:
    record = encoder_record(segmenter)
    config = ModelConfig(version, CLASSES, record, WorkingScale(2.0), quick_recipe(), temperature=1.5)
    save_model(folder, build_segmenter(record, 2, seed=0, pretrained=False), config)
    return folder


def test_a_model_comes_back_with_its_config_and_half_precision_weights(tmp_path: Path) -> None:
    loaded = load_model(_save(tmp_path / "model"))
    fresh = build_segmenter(encoder_record("tiny"), 2, seed=0)
    assert loaded.config.classes == CLASSES
    assert loaded.config.scale == WorkingScale(2.0)
    assert loaded.config.temperature == 1.5
    assert not loaded.module.training
    for name, tensor in loaded.module.state_dict().items():
        assert torch.allclose(tensor.float(), fresh.state_dict()[name].float(), atol=1e-3)


def test_the_light_model_stays_under_twelve_megabytes(tmp_path: Path) -> None:
    folder = _save(tmp_path / "model", "light")
    assert sum(p.stat().st_size for p in folder.iterdir()) < 12e6


def test_a_run_folder_stands_for_the_model_in_it(tmp_path: Path) -> None:
    _save(tmp_path / "model")
    assert load_model(tmp_path).config.version == "test-m1"


def test_saving_again_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    _save(tmp_path / "model")
    _save(tmp_path / "model", version="test-m2")
    assert load_model(tmp_path / "model").config.version == "test-m2"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_equal_models_pack_to_equal_bytes_and_come_back(tmp_path: Path) -> None:
    first, second = pack_model(_save(tmp_path / "a")), pack_model(_save(tmp_path / "b"))
    assert first == second
    (tmp_path / "packed").write_bytes(first)
    unpack_model(tmp_path / "packed", tmp_path / "c")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def _archive(path: Path, members: dict[str, bytes], link: str | None = None) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo("model.safetensors")
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
    return path


@pytest.mark.parametrize(
    "members", [{"../config.json": b"{}"}, {"config.json": b"{}", "evil.py": b""}, {"config.json": b"{}"}, {}]
)
def test_an_archive_with_other_members_is_refused_and_writes_nothing(tmp_path: Path, members: dict[str, bytes]) -> None:
    with pytest.raises(BadInput):
        unpack_model(_archive(tmp_path / "a.tar", members), tmp_path / "out" / "model")
    assert not (tmp_path / "out" / "model").exists()
    assert not (tmp_path / "out" / "model.new").exists()


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        unpack_model(_archive(tmp_path / "a.tar", {}, link="/etc/passwd"), tmp_path / "model")


def test_an_oversized_member_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(pack_model(_save(tmp_path / "a")))
    monkeypatch.setitem(model_archive.LIMITS_BYTES, "model.safetensors", 1000)
    with pytest.raises(BadInput, match="bytes"):
        unpack_model(packed, tmp_path / "b")


def test_a_text_file_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello" * 300)
    with pytest.raises(BadInput):
        unpack_model(tmp_path / "a", tmp_path / "b")


def test_a_config_cannot_name_another_architecture(tmp_path: Path) -> None:
    folder = _save(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["encoder"]["arch"] = "hf-hub:someone/else"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="encoder record"):
        load_model(folder)


@pytest.mark.parametrize("change", [{"format": 99}, {"classes": []}, {"temperature": 0}, {"recipe": {"tau": 7}}])
def test_a_config_out_of_bounds_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    folder = _save(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(BadInput):
        load_model(folder)


def test_damaged_files_are_refused_and_a_missing_model_is_named(tmp_path: Path) -> None:
    folder = _save(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"\0" * 50)
    with pytest.raises(BadInput, match="damaged"):
        load_model(folder)
    (folder / "config.json").write_text("[1, 2")
    with pytest.raises(BadInput, match="not JSON"):
        load_model(folder)
    with pytest.raises(NotFound):
        load_model(tmp_path / "nowhere")


def test_an_image_of_known_scale_shrinks_by_its_micrometres_and_others_by_the_factor() -> None:
    known = WorkingScale(2.0, 1.0)
    assert [known.reduction_at(um) for um in (0.25, 0.5, None)] == [4.0, 2.0, 2.0]
    assert known.reduction_at(10.0) == 0.5
    assert WorkingScale(2.0).reduction_at(0.25) == 2.0
    assert WorkingScale(None).reduction_at(0.25) is None
