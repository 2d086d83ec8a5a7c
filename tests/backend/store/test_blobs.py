"""One suite for every store of blobs: what a folder promises, a bucket promises too."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError

from backend.settings import Settings
from backend.store.blob_bucket import BlobBucket
from backend.store.blobs import BlobFolder, BlobStore
from backend.store.open_blobs import open_blobs
from mpamatch.errors import BadInput, NotFound, Unavailable
from tests.object_store import SECRET, ObjectStore, free_port

TISSUE = hashlib.sha256(b"tissue").hexdigest()


@dataclass(frozen=True)
class Place:
    """A store, and how something behind its back changes what it holds."""

    blobs: BlobStore
    spoil: Callable[[str, bytes], None]
    open_again: Callable[[], BlobStore]


def _folder(state: Path) -> Place:
    settings = Settings(state=state)
    blobs = open_blobs(settings)
    assert isinstance(blobs, BlobFolder)
    return Place(
        blobs, lambda digest, content: _ignore(blobs.path(digest).write_bytes(content)), lambda: open_blobs(settings)
    )


def _bucket(state: Path, values: dict[str, Any]) -> Place:
    settings = Settings(state=state, **values)
    blobs = open_blobs(settings)
    assert isinstance(blobs, BlobBucket)
    return Place(
        blobs,
        lambda digest, content: _ignore(obstore.put(blobs._store, f"{digest[:2]}/{digest}", content)),
        lambda: open_blobs(settings),
    )


def _ignore(_: object) -> None: ...


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.processes)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return _folder(tmp_path)
    return _bucket(tmp_path, request.getfixturevalue("s3_settings"))


def test_a_blob_comes_back_as_it_was_and_is_stored_once(place: Place) -> None:
    digest = place.blobs.put(b"tissue")
    assert place.blobs.put(b"tissue") == digest == TISSUE
    assert place.blobs.get(digest) == b"tissue"
    assert place.blobs.exists(digest)
    assert [e.digest for e in place.blobs.entries()] == [digest]
    assert place.open_again().get(digest) == b"tissue"


def test_a_flipped_bit_is_an_error_and_not_another_mask_until_the_same_bytes_come_again(place: Place) -> None:
    digest = place.blobs.put(b"tissue")
    for torn in (b"tissuf", b"tis", b""):
        place.spoil(digest, torn)
        with pytest.raises(BadInput, match="damaged"):
            place.blobs.get(digest)
    place.blobs.put(b"tissue")
    assert place.blobs.get(digest) == b"tissue"


def test_a_place_without_any_blob_is_no_lost_blob_and_a_single_missing_one_is(place: Place) -> None:
    assert not place.blobs.exists(TISSUE)
    with pytest.raises(Unavailable, match="missing or empty"):
        place.blobs.get(TISSUE)
    place.blobs.put(b"others")
    with pytest.raises(NotFound, match="is missing"):
        place.blobs.get(TISSUE)


def test_an_empty_place_is_fine_unless_something_should_be_there(place: Place) -> None:
    place.blobs.check(filled=False)
    with pytest.raises(Unavailable, match="missing or empty"):
        place.blobs.check(filled=True)
    place.blobs.put(b"others")
    place.blobs.check(filled=True)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "0" * 63, "/" + "0" * 63, "0" * 64 + "\n"])
def test_only_digests_are_names(place: Place, tmp_path: Path, name: str) -> None:
    for ask in (place.blobs.get, place.blobs.exists, place.blobs.delete):
        with pytest.raises(NotFound, match="not a SHA-256"):
            ask(name)
    with pytest.raises(NotFound):
        place.blobs.local(name, tmp_path)


def test_what_is_listed_is_what_is_there_and_a_removed_blob_is_gone(place: Place) -> None:
    digests = {place.blobs.put(bytes([n]) * (n + 1)) for n in range(8)}
    listed = {e.digest: e for e in place.blobs.entries()}
    assert set(listed) == digests
    assert sorted(e.size_bytes for e in listed.values()) == list(range(1, 9))
    assert all(e.written_at.tzinfo is not None for e in listed.values())
    gone = digests.pop()
    for _ in range(2):
        place.blobs.delete(gone)
    assert {e.digest for e in place.blobs.entries()} == digests
    with pytest.raises(NotFound):
        place.blobs.get(gone)


def test_writers_of_the_same_bytes_do_not_disturb_each_other_or_a_reader(place: Place) -> None:
    content = b"x" * 300_000
    digest = place.blobs.put(content)
    wrong: list[object] = []

    def work() -> None:
        blobs = place.open_again()
        for _ in range(5):
            if blobs.put(content) != digest or blobs.get(digest) != content:
                wrong.append(digest)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert len(list(place.blobs.entries())) == 1


def test_a_local_file_holds_the_blob(place: Place, tmp_path: Path) -> None:
    digest = place.blobs.put(b"tissue")
    for _ in range(2):
        assert place.blobs.local(digest, tmp_path / "files").read_bytes() == b"tissue"


def test_a_folder_that_is_not_mounted_is_no_lost_blob(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path / "blobs")
    digest = blobs.put(b"tissue")
    blobs.folder.rename(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="missing or empty"):
        blobs.get(digest)


def test_a_full_disk_leaves_no_half_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Unavailable, match="No space left"):
        BlobFolder(tmp_path).put(b"tissue")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_what_a_killed_writer_left_is_not_listed(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path)
    path = blobs.path(blobs.put(b"tissue"))
    path.with_name(".part-abc").write_bytes(b"tis")
    assert len(list(blobs.entries())) == 1


@pytest.mark.processes
def test_a_bucket_that_does_not_exist_is_no_lost_blob(tmp_path: Path, s3_server: ObjectStore) -> None:
    blobs = open_blobs(Settings(state=tmp_path, **s3_server.settings("nowhere-at-all")))
    with pytest.raises(Unavailable, match="nowhere-at-all"):
        blobs.get(TISSUE)
    with pytest.raises(Unavailable, match="nowhere-at-all"):
        blobs.put(b"tissue")
    with pytest.raises(Unavailable, match="nowhere-at-all"):
        list(blobs.entries())


@pytest.mark.processes
def test_a_blob_that_is_there_is_not_written_again(tmp_path: Path, s3_settings: dict[str, Any]) -> None:
    place = _bucket(tmp_path, s3_settings)
    assert isinstance(place.blobs, BlobBucket)
    digest = place.blobs.put(b"tissue")
    with pytest.raises(AlreadyExistsError):  # the server honours the condition, so that this suite means something
        obstore.put(place.blobs._store, f"{digest[:2]}/{digest}", b"tissue", mode="create")
    before = obstore.head(place.blobs._store, f"{digest[:2]}/{digest}")
    place.open_again().put(b"tissue")
    assert obstore.head(place.blobs._store, f"{digest[:2]}/{digest}")["last_modified"] == before["last_modified"]


@pytest.mark.processes
def test_a_server_that_is_down_is_unavailable_says_no_secret_and_is_used_again_once_it_is_back(tmp_path: Path) -> None:
    server = ObjectStore(free_port())
    values = {**server.settings("tissue-alone"), "blobs_timeout_s": 1.0}
    blobs = open_blobs(Settings(state=tmp_path, **values))
    for ask in (lambda: blobs.get(TISSUE), lambda: blobs.put(b"tissue"), lambda: list(blobs.entries())):
        with pytest.raises(Unavailable, match="does not answer") as caught:
            ask()
        assert SECRET not in str(caught.value)
    server.start()
    try:
        bucket = server.make_bucket()
        blobs = open_blobs(Settings(state=tmp_path, **server.settings(bucket)))
        assert blobs.get(blobs.put(b"tissue")) == b"tissue"
        server.stop()
        with pytest.raises(Unavailable):
            blobs.get(TISSUE)
        server.start()
        with pytest.raises(Unavailable):  # the memory of the server is gone with it: an empty place, not a lost blob
            blobs.get(TISSUE)
    finally:
        server.stop()


def test_a_file_that_the_disk_does_not_give_is_no_lost_blob(tmp_path: Path) -> None:
    """What is set aside as lost or damaged would stay so, although the disk may answer again."""
    blobs = BlobFolder(tmp_path)
    digest = blobs.put(b"one")
    blobs.path(digest).unlink()
    blobs.path(digest).mkdir()
    with pytest.raises(Unavailable, match="could not be read"):
        blobs.get(digest)
    with pytest.raises(Unavailable, match="could not be written"):
        blobs.put(b"one")
