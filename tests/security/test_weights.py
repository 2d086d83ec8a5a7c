"""A file that pretends to be weights is refused unread: nothing in it can run.

Against CVE-2025-5173 (LSML), CVE-2025-58756, GHSA-89gg-p5r5-q6r4 and GHSA-qxq5-qhx6-94qw (MONAI): `torch.load` of a
checkpoint from elsewhere. The pickles here would make a file when they were read.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from mpamatch.errors import BadInput, MpamatchError
from mpamatch.files.model_archive import unpack_model

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def hostile(mark: Path) -> dict[str, bytes]:
    """A bare pickle, and the same as `torch.save` writes it."""
    saved = io.BytesIO()
    torch.save({"conv.weight": Touch(mark)}, saved)
    return {"pickle": pickle.dumps(Touch(mark)), "torch": saved.getvalue()}


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_in_a_model_is_refused_and_never_run(tmp_path: Path, kind: str) -> None:
    from mpamatch.network.weights import load_model
    from mpamatch.training.checkpoints import load_checkpoint

    mark, content = tmp_path / "it ran", hostile(tmp_path / "it ran")[kind]
    archive = tmp_path / "model.tar"
    with tarfile.open(archive, "w") as made:
        for name, part in (("config.json", b"{}"), ("model.safetensors", content)):
            info = tarfile.TarInfo(name)
            info.size = len(part)
            made.addfile(info, io.BytesIO(part))
    unpack_model(archive, tmp_path / "model")  # carried as bytes, and looked at when it is loaded
    with pytest.raises(MpamatchError):
        load_model(tmp_path / "model")

    step = tmp_path / "checkpoints" / "step-000001"
    step.mkdir(parents=True)
    (step / "state.json").write_text('{"step": 1}')
    (step / "tensors.safetensors").write_bytes(content)
    assert load_checkpoint(tmp_path / "checkpoints") is None

    (tmp_path / "renamed.safetensors").write_bytes(content)
    with pytest.raises(MpamatchError):
        unpack_model(tmp_path / "renamed.safetensors", tmp_path / "other")
    assert not mark.exists()
    pickle.loads(hostile(mark)["pickle"])  # noqa: S301 - the trap works: only nobody stepped into it
    assert mark.exists()


def test_even_a_weight_file_with_the_right_checksum_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one `torch.load` of the product: behind a checksum, and without leave to build objects."""
    from mpamatch.network.encoders import WeightSource, packaged

    mark = tmp_path / "it ran"
    package = tmp_path / "weights_of_someone"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "w.pth").write_bytes(hostile(mark)["torch"])
    monkeypatch.syspath_prepend(str(tmp_path))
    right = hashlib.sha256((package / "w.pth").read_bytes()).hexdigest()
    from_someone = {"package": "weights_of_someone", "file": "w.pth", "origin": "x", "licence": "x"}
    source = WeightSource(**from_someone, sha256=right)
    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights.only"):
        packaged.packaged_state(source, torch.nn.Identity())
    with pytest.raises(BadInput, match="checksum"):
        packaged.checked_file(WeightSource(**from_someone, sha256="0" * 64))
    assert not mark.exists()
