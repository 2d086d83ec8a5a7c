import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.store.blob_cache import BlobCache
from mpamatch.errors import BadInput, Unavailable


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _never() -> bytes:
    raise AssertionError("it was fetched again")


def _fetch(content: bytes) -> Callable[[], bytes]:
    return lambda: content


def test_what_was_fetched_once_is_not_fetched_again(tmp_path: Path) -> None:
    digest = _digest(b"tissue")
    BlobCache(tmp_path / "cache", 1000).place(digest, tmp_path / "a" / digest, _fetch(b"tissue"))
    BlobCache(tmp_path / "cache", 1000).place(digest, tmp_path / "b" / digest, _never)
    assert (tmp_path / "b" / digest).read_bytes() == b"tissue"


def test_a_torn_file_of_the_cache_is_not_trusted(tmp_path: Path) -> None:
    digest, cache = _digest(b"tissue"), BlobCache(tmp_path / "cache", 1000)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / digest).write_bytes(b"tis")
    cache.place(digest, tmp_path / digest, _fetch(b"tissue"))
    assert (tmp_path / digest).read_bytes() == b"tissue"


def test_the_longest_unused_leaves_when_the_room_is_used_up_but_not_from_whoever_holds_it(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache", 1000)
    contents = [bytes([n]) * 300 for n in range(6)]
    for number, content in enumerate(contents):
        digest = _digest(content)
        cache.place(digest, tmp_path / "held" / digest, _fetch(content))
        os.utime(tmp_path / "cache" / digest, (1000 + number, 1000 + number))
    kept = list((tmp_path / "cache").iterdir())
    assert sum(p.stat().st_size for p in kept) <= 1000
    assert _digest(contents[-1]) in {p.name for p in kept}
    assert _digest(contents[0]) not in {p.name for p in kept}
    assert all((tmp_path / "held" / _digest(c)).read_bytes() == c for c in contents)


def test_a_file_larger_than_the_cache_is_handed_out_and_not_kept(tmp_path: Path) -> None:
    digest = _digest(b"x" * 50)
    BlobCache(tmp_path / "cache", 10).place(digest, tmp_path / digest, _fetch(b"x" * 50))
    assert (tmp_path / digest).read_bytes() == b"x" * 50
    assert not (tmp_path / "cache").exists()


def test_a_blob_that_cannot_be_fetched_leaves_nothing(tmp_path: Path) -> None:
    def torn() -> bytes:
        raise BadInput("blob", "is damaged")

    with pytest.raises(BadInput):
        BlobCache(tmp_path / "cache", 10).place("0" * 64, tmp_path / "x", torn)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_full_disk_is_unavailable_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(Unavailable, match="No space left"):
        BlobCache(tmp_path / "cache", 10).place(_digest(b"t"), tmp_path / "x", _fetch(b"t"))
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
