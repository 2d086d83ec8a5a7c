from pathlib import Path

import pytest

from backend.store.blobs import BlobFolder
from mpamatch.errors import BadInput, NotFound, Unavailable


def test_a_blob_comes_back_as_it_was_and_is_stored_once(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path)
    digest = blobs.put(b"tissue")
    assert blobs.put(b"tissue") == digest
    assert blobs.get(digest) == b"tissue"
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [digest]


def test_a_flipped_bit_is_an_error_and_not_another_mask(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path)
    digest = blobs.put(b"tissue")
    blobs.path(digest).write_bytes(b"tissuf")
    with pytest.raises(BadInput, match="damaged"):
        blobs.get(digest)
    blobs.put(b"tissue")
    assert blobs.get(digest) == b"tissue"


def test_a_folder_that_is_not_mounted_is_no_lost_blob(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path / "blobs")
    digest = blobs.put(b"tissue")
    blobs.folder.rename(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="missing or empty"):
        blobs.get(digest)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "0" * 63, "/" + "0" * 63])
def test_only_digests_are_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound):
        BlobFolder(tmp_path).path(name)


def test_a_full_disk_leaves_no_half_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Unavailable, match="No space left"):
        BlobFolder(tmp_path).put(b"tissue")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
