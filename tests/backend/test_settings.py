"""Settings: one reader, a clear order, one line for a mistake, no secret shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from backend.credentials import credentials_path, ensure_credentials, load_credentials
from backend.settings import (
    Endpoints,
    Settings,
    clear_endpoints,
    endpoints_path,
    load_endpoints,
    load_settings,
    save_endpoints,
    setting_rows,
    shown,
)
from mpamatch.errors import BadInput, Unavailable


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith("MPAMATCH_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_without_anything_the_state_is_var_here_and_nothing_is_said_to_run(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.state == tmp_path / "var"
    assert settings.api_address == "http://127.0.0.1:9090"
    assert settings.blobs_folder == tmp_path / "var" / "blobs"
    with pytest.raises(Unavailable, match=r"nothing runs on the state folder.*mpamatch up"):
        settings.require_database_url()
    with pytest.raises(Unavailable, match="MPAMATCH_BROKER_URL"):
        settings.require_broker_url()


def test_the_environment_wins_over_the_file_and_the_file_over_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_endpoints(
        tmp_path / "var",
        Endpoints(database_url="postgresql://running", broker_url="redis://running", api_url="http://127.0.0.1:9191"),
    )
    (tmp_path / "mpamatch.toml").write_text('broker_url = "redis://file"\nhead_size = 7\ntau = 0.9\n')
    monkeypatch.setenv("MPAMATCH_TAU", "0.8")
    settings = load_settings()
    assert settings.database_url == "postgresql://running"
    assert settings.broker_url == "redis://file"
    assert settings.head_size == 7
    assert settings.tau == 0.8
    assert settings.api_address == "http://127.0.0.1:9191"
    monkeypatch.setenv("MPAMATCH_DATABASE_URL", "postgresql://environment")
    assert load_settings().database_url == "postgresql://environment"
    sources = {row.name: row.source for row in setting_rows(load_settings())}
    assert sources["database_url"] == "environment"
    assert sources["broker_url"] == "file"
    assert sources["public_url"] == "running"
    assert sources["device"] == "default"


def test_the_starter_sees_only_what_is_configured(tmp_path: Path) -> None:
    save_endpoints(tmp_path / "var", Endpoints(database_url="postgresql://stale"))
    assert load_settings(running=False).database_url is None
    assert load_settings().database_url == "postgresql://stale"
    clear_endpoints(tmp_path / "var")
    assert load_settings().database_url is None


def test_the_state_named_in_the_environment_finds_its_own_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_endpoints(tmp_path / "other", Endpoints(broker_url="redis://other", label_studio_url="http://127.0.0.1:8080"))
    token = ensure_credentials(tmp_path / "other").label_studio_token
    monkeypatch.setenv("MPAMATCH_STATE", "other")
    settings = load_settings()
    assert settings.broker_url == "redis://other"
    assert settings.label_studio_token is not None
    assert settings.label_studio_token.get_secret_value() == token
    assert token not in repr(settings)


def test_label_studio_reaches_the_api_as_browsers_do_unless_told_otherwise(tmp_path: Path) -> None:
    assert Settings(state=tmp_path).backend_address == "http://127.0.0.1:9090"
    outside = Settings(state=tmp_path, public_url="https://mpamatch.example.org/")
    assert outside.backend_address == outside.api_address == "https://mpamatch.example.org"
    both = outside.model_copy(update={"backend_url": "http://api:9090/"})
    assert (both.backend_address, both.api_address) == ("http://api:9090", "https://mpamatch.example.org")


@pytest.mark.parametrize("name", ["public_url", "backend_url", "label_studio_url", "label_studio_public_url"])
def test_an_address_has_one_spelling(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MPAMATCH_{name.upper()}", "https://studio.example.org/sub/ ")
    assert getattr(load_settings(), name) == "https://studio.example.org/sub"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("MPAMATCH_TAU", "2", "setting tau: input should be less than 1"),
        ("MPAMATCH_API_PORT", "many", "setting api_port: input should be a valid integer"),
        ("MPAMATCH_DEVICE", "abacus", "setting device: input should be 'auto'"),
        ("MPAMATCH_TRAIN_METHOD", "guess", "setting train_method: input should be 'supervised'"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_setting(
    name: str, value: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=problem) as caught:
        load_settings()
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_misspelt_name_or_a_broken_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mpamatch.toml"
    file.write_text("taau = 0.9\n")
    with pytest.raises(BadInput, match="setting taau"):
        load_settings()
    file.write_text("tau = = 1\n")
    with pytest.raises(BadInput, match="not a TOML file"):
        load_settings()
    monkeypatch.setenv("MPAMATCH_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(BadInput, match="no such settings file"):
        load_settings()


def test_settings_do_not_change() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.tau = 0.5  # type: ignore[misc]


def test_every_setting_says_what_it_means() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("postgresql+psycopg://anna:secret@db:5432/x", "postgresql+psycopg://anna:********@db:5432/x"),
        ("redis://:pa@ss@host/0", "redis://:********@host/0"),
        ("postgresql+psycopg://mpamatch@/mpamatch?host=/tmp/s", "postgresql+psycopg://mpamatch@/mpamatch?host=/tmp/s"),
        ("http://127.0.0.1:9090", "http://127.0.0.1:9090"),
        (None, ""),
        (0.95, "0.95"),
    ],
)
def test_passwords_in_addresses_are_masked(value: object, seen: str) -> None:
    assert shown(value) == seen


def test_secrets_are_masked_in_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPAMATCH_LABEL_STUDIO_TOKEN", "very-secret")
    monkeypatch.setenv("MPAMATCH_DATABASE_URL", "postgresql://u:very-secret@h/d")
    assert "very-secret" not in json.dumps(setting_rows(load_settings()))


def test_endpoints_and_credentials_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    save_endpoints(tmp_path, Endpoints(database_url="postgresql://x"))
    made = ensure_credentials(tmp_path)
    assert ensure_credentials(tmp_path) == made
    assert len(made.label_studio_token) == 40
    assert set(made.label_studio_token) <= set("0123456789abcdef")
    assert made.label_studio_password not in repr(made)
    for path in (endpoints_path(tmp_path), credentials_path(tmp_path)):
        assert path.stat().st_mode & 0o777 == 0o600


def test_broken_endpoints_mean_that_nothing_runs_and_broken_credentials_are_an_error(tmp_path: Path) -> None:
    endpoints_path(tmp_path).parent.mkdir()
    endpoints_path(tmp_path).write_text('{"database_url": 3')
    assert load_endpoints(tmp_path) is None
    credentials_path(tmp_path).write_text("{}")
    with pytest.raises(BadInput, match=r"secrets\.json"):
        load_credentials(tmp_path)


def test_reading_settings_loads_neither_torch_nor_a_database_driver() -> None:
    code = "import sys, backend.settings\nprint({'torch', 'sqlalchemy', 'celery', 'psycopg'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("url", ["gs://bucket", "s3://", "s3://key:secret@bucket/x", "http://host/blobs"])
def test_blobs_are_kept_in_a_folder_or_a_bucket_and_no_address_carries_a_key(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("MPAMATCH_BLOBS_URL", url)
    with pytest.raises(BadInput, match="blobs_url") as caught:
        load_settings()
    assert "secret@" not in str(caught.value)


def test_the_key_of_a_bucket_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPAMATCH_BLOBS_URL", "s3://bucket/prefix")
    monkeypatch.setenv("MPAMATCH_BLOBS_KEY_ID", "my-key")
    monkeypatch.setenv("MPAMATCH_BLOBS_SECRET", "my-secret")
    settings = load_settings()
    assert settings.blobs_in_bucket
    shown = repr(settings) + repr(setting_rows(settings))
    assert "my-key" not in shown
    assert "my-secret" not in shown
