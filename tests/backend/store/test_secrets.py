import stat
from pathlib import Path

import pytest

from backend.store.secrets import KeyRing
from mpamatch.errors import Unavailable


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


def test_a_signature_holds_for_its_message_and_key_only(tmp_path: Path) -> None:
    keys, others = KeyRing.at(tmp_path / "key"), KeyRing.at(tmp_path / "other")
    assert keys.signed_by_us("7:100", keys.sign("7:100"))
    assert not keys.signed_by_us("8:100", keys.sign("7:100"))
    assert not keys.signed_by_us("7:100", others.sign("7:100"))
    assert not keys.signed_by_us("7:100", "")
