import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.store.secrets import KeyRing
from mpamatch.errors import BadInput, Unavailable


def test_a_sealed_secret_opens_with_its_own_key_only(tmp_path: Path) -> None:
    keys = KeyRing.at(tmp_path / "key")
    sealed = keys.seal("password")
    assert b"password" not in sealed
    assert KeyRing.at(tmp_path / "key").open(sealed) == "password"
    with pytest.raises(Unavailable, match="key file"):
        KeyRing.at(tmp_path / "other").open(sealed)


def test_the_key_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    KeyRing.at(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_many_first_starts_at_once_agree_on_one_key(tmp_path: Path) -> None:
    """Threads share a pid, as containers on one folder may."""
    ready = threading.Barrier(8)

    def start(_: int) -> str:
        ready.wait()
        return KeyRing.at(tmp_path / "key").key_id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(start, range(8)))) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_a_signature_holds_for_its_message_and_key_only(tmp_path: Path) -> None:
    keys, others = KeyRing.at(tmp_path / "key"), KeyRing.at(tmp_path / "other")
    assert keys.signed_by_us("7:100", keys.sign("7:100"))
    assert not keys.signed_by_us("8:100", keys.sign("7:100"))
    assert not keys.signed_by_us("7:100", others.sign("7:100"))
    assert not keys.signed_by_us("7:100", "")


def test_a_new_key_opens_what_the_one_before_sealed_and_signs_under_its_own_name(tmp_path: Path) -> None:
    keys = KeyRing.at(tmp_path / "key")
    sealed, signed, old_id = keys.seal("password"), keys.sign("7:100"), keys.key_id
    keys.rotate()
    assert keys.key_id != old_id
    assert keys.open(sealed) == "password"
    assert keys.signed_by_us("7:100", signed, key_id=old_id)
    assert not keys.signed_by_us("7:100", signed, key_id=keys.key_id)
    assert not keys.signed_by_us("7:100", signed)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_the_key_before_the_last_is_forgotten(tmp_path: Path) -> None:
    keys = KeyRing.at(tmp_path / "key")
    sealed, signed, old_id = keys.seal("password"), keys.sign("7:100"), keys.key_id
    keys.rotate()
    keys.rotate()
    assert not keys.signed_by_us("7:100", signed, key_id=old_id)
    with pytest.raises(Unavailable):
        keys.open(sealed)


def test_a_running_process_follows_the_file(tmp_path: Path) -> None:
    running, rotating = KeyRing.at(tmp_path / "key"), KeyRing.at(tmp_path / "key")
    rotating.rotate()
    assert running.key_id == rotating.key_id
    assert running.open(rotating.seal("password")) == "password"
    old_id, signed = running.key_id, running.sign("7:100")
    rotating.rotate()
    rotating.drop_old()
    assert not running.signed_by_us("7:100", signed, key_id=old_id)


def test_a_file_that_holds_no_key_is_said(tmp_path: Path) -> None:
    for content in (b"", b"\n", b"not a key", b"\xff"):
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(BadInput, match="holds no key"):
            KeyRing.at(tmp_path / "key")
