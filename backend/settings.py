"""Where and how this installation runs; the one reader of the environment.

Order: environment (`MPAMATCH_...`), then a TOML file, then what `mpamatch up` recorded of the servers it started
(`STATE/run/endpoints.json`), then the defaults below. What a training does is no setting but a recipe.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from backend.host_names import known_names
from mpamatch.domain.recipe import Method
from mpamatch.errors import BadInput, Unavailable

PREFIX = "MPAMATCH_"
CONFIG_NAME = "mpamatch.toml"
MASK = "********"


class Endpoints(BaseModel):
    """The addresses in use on one state folder: written by `up`, read by every other process on that state."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    database_url: str | None = None
    broker_url: str | None = None
    api_url: str | None = None
    label_studio_url: str | None = None
    label_studio_project: int | None = None
    project_url: str | None = None


class Settings(BaseSettings):
    """Every setting of an installation. Frozen; secrets do not show in `repr`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    state: Path = Field(Path("var"), description="folder that holds everything this installation writes")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log line kept")
    log_format: Literal["text", "json"] = Field("text", description="how log lines are written: for people or machines")
    log_size_mb: int = Field(20, ge=1, description="a log file larger than this is set aside when its part starts")

    disk_low_gb: float = Field(
        5.0, ge=0, description="free disk space below which `doctor` warns; fails at a fifth of it"
    )

    database_url: str | None = Field(None, repr=False, description="PostgreSQL as an SQLAlchemy URL; unset: embedded")
    broker_url: str | None = Field(None, repr=False, description="Redis URL of the broker; unset: embedded")
    blobs_url: str | None = Field(
        None, description="where blobs are kept: a folder or s3://BUCKET/PREFIX; unset: the folder blobs in the state"
    )
    blobs_endpoint: str | None = Field(None, description="address of an S3 server other than Amazon's")
    blobs_region: str = Field("us-east-1", description="region of the S3 bucket")
    blobs_key_id: SecretStr | None = Field(
        None, description="access key of the S3 server; unset: the AWS_ variables or the machine's role"
    )
    blobs_secret: SecretStr | None = Field(None, description="secret of that access key")
    blobs_timeout_s: float = Field(30.0, gt=0, description="longest wait for an S3 server, retries included")
    blobs_cache_mb: int = Field(
        2048, ge=0, description="disk for blobs of an S3 server that a training needs as files, kept for the next one"
    )

    api_host: str = Field("127.0.0.1", description="address the API listens on")
    api_port: int = Field(9090, ge=1, le=65535, description="first port to try for the API")
    public_url: str | None = Field(None, description="how Label Studio and browsers reach the API; unset: its address")
    backend_url: str | None = Field(
        None, description="how Label Studio reaches the API where browsers do it otherwise; unset: public_url"
    )
    hosts: str = Field(
        "",
        description="more names under which the API and the dashboard answer, with commas; those of public_url and"
        " backend_url are known",
    )
    header_limit_kb: int = Field(32, ge=8, description="largest head of a request: its address and all its headers")
    body_limit_mb: int = Field(16, ge=1, description="largest request body")
    predict_body_limit_mb: int = Field(64, ge=1, description="largest request body of /predict")
    predict_wait_s: float = Field(8.0, ge=0, description="how long /predict waits for a prediction in the making")
    session_hours: float = Field(12.0, gt=0, description="how long a sign-in to the dashboard lasts")
    entry_lease_s: float = Field(1800.0, gt=0, description="how long a tile that the REST queue gave out is held")
    event_streams: int = Field(32, ge=1, description="most streams of events that one API process has open at once")
    event_poll_s: float = Field(1.0, gt=0, description="seconds between two looks of a stream at what happened")
    event_stream_s: float = Field(
        3600.0, gt=0, description="a stream of events ends after this long, and its client connects again"
    )
    metrics_token: SecretStr | None = Field(
        None,
        min_length=16,
        description="token that reads /metrics from anywhere, under a known name (see hosts); unset: it is read on this"
        " machine only",
    )
    image_url_days: float = Field(7.0, gt=0, description="how long a signed image address is valid")

    label_studio_url: str | None = Field(None, description="Label Studio in use; unset: `up` starts its own")
    label_studio_public_url: str | None = Field(
        None, description="how browsers reach Label Studio where we do it otherwise; unset: label_studio_url"
    )
    label_studio_token: SecretStr | None = Field(None, description="token for Label Studio (legacy or personal access)")
    label_studio_host: str = Field("127.0.0.1", description="address our own Label Studio listens on")
    label_studio_port: int = Field(8080, ge=1, le=65535, description="first port to try for our own Label Studio")
    label_studio_command: str | None = Field(
        None, description="the label-studio program; unset: .venv-label-studio beside the product, else the PATH"
    )
    open_page_s: float = Field(
        3600.0, ge=0, description="how long a task counts as open on somebody's page after its picture was asked for"
    )
    label_studio_timeout_s: float = Field(60.0, gt=0, description="longest wait for one answer of Label Studio")

    device: str = Field(
        "auto",
        description="where torch computes: auto, cpu, mps, cuda or cuda:N; auto takes a GPU where there is one",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="what training computes in; auto: bfloat16 on a GPU that has it, else float32"
    )
    train_devices: int = Field(
        1, ge=1, description="processes that train one run together, each on a GPU of its own (or all on the CPU)"
    )
    threads: int | None = Field(None, ge=1, description="threads of each torch process; unset: cores shared out")
    weights_dir: Path | None = Field(
        None, description="folder of encoder weights that are had from their vendors, as NAME.safetensors, .pth or .bin"
    )
    sweep_s: float = Field(15.0, gt=0, description="seconds between two looks at what is due")
    compare_s: float = Field(
        300.0, gt=0, description="seconds between two comparisons of all annotations with Label Studio, for deletions"
    )
    lease_s: float = Field(60.0, gt=0, description="a worker's claim on a row ends this long after its last sign")
    heartbeat_s: float = Field(2.0, gt=0, description="seconds between two signs of life of a running job")
    job_attempts: int = Field(3, ge=1, description="a job that ended its worker this often is given up")
    worker_grace_s: float = Field(16.0, ge=0, description="time a worker has to stop cleanly before it is ended")

    head_size: int = Field(50, ge=1, description="tiles of the queue that exist as tasks in Label Studio")
    tau: float = Field(0.95, gt=0, lt=1, description="confidence below which a pixel belongs to a region")
    retrain_after_tiles: int = Field(12, ge=1, description="changed tiles that start a run")
    debounce_s: float = Field(10.0, ge=0, description="quiet time after the last change before a run starts")
    train_profile: str = Field("demo", description="size of the training that a run uses")
    train_method: Method | None = Field(
        None, description="how the runs of a new project train, as unimatch-ema; unset: the shipped method"
    )

    demo_images: int = Field(48, ge=2, description="drawn images of the demo project")
    demo_size_px: int = Field(512, ge=64, description="width and height of a drawn image")
    demo_masks: int = Field(12, ge=0, description="drawn images that come with their mask")
    demo_seed: int = Field(7, ge=0, description="seed of the drawn images")

    @field_validator("state")
    @classmethod
    def _absolute(cls, state: Path) -> Path:
        return Path(os.path.abspath(state.expanduser()))

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
            raise ValueError("input should be 'auto', 'cpu', 'mps', 'cuda' or 'cuda:N'")
        return device

    @field_validator("blobs_url")
    @classmethod
    def _known_place(cls, url: str | None) -> str | None:
        """A wrong scheme would become a folder of that name, and an account in an address would be shown."""
        scheme, separator, rest = (url or "").partition("://")
        if separator and (scheme != "s3" or not rest.partition("/")[0] or "@" in rest):
            raise ValueError("give a folder or s3://BUCKET/PREFIX, and the key as blobs_key_id and blobs_secret")
        return url

    @field_validator("public_url", "backend_url", "label_studio_url", "label_studio_public_url")
    @classmethod
    def _one_spelling(cls, url: str | None) -> str | None:
        """Addresses are joined with paths and compared: a slash at the end is none."""
        return None if url is None else url.strip().rstrip("/")

    @field_validator("blobs_endpoint")
    @classmethod
    def _plain_endpoint(cls, url: str | None) -> str | None:
        if url is not None and (not url.startswith(("http://", "https://")) or "@" in url):
            raise ValueError("give http://HOST:PORT or https://HOST, and the key as blobs_key_id and blobs_secret")
        return url

    @property
    def blobs_in_bucket(self) -> bool:
        """Whether blobs are kept by an S3 server."""
        return self.blobs_url is not None and self.blobs_url.startswith("s3://")

    @property
    def blobs_folder(self) -> Path:
        """The folder of the blobs; only when `blobs_url` is a folder or unset."""
        return Path(self.blobs_url) if self.blobs_url else self.state / "blobs"

    @property
    def host_names(self) -> frozenset[str]:
        """The names under which API and dashboard answer."""
        return known_names(
            api_host=self.api_host, public_url=self.public_url, backend_url=self.backend_url, more=self.hosts
        )

    @property
    def api_address(self) -> str:
        """How browsers reach the API: `public_url`, else its own address."""
        return (self.public_url or f"http://{self.api_host}:{self.api_port}").rstrip("/")

    @property
    def backend_address(self) -> str:
        """How Label Studio reaches the API: `backend_url`, else as browsers do."""
        return (self.backend_url or self.api_address).rstrip("/")

    def require_database_url(self) -> str:
        """The database in use, or `Unavailable` when nothing is configured and nothing runs."""
        return self.database_url or self._nothing_runs("database")

    def require_broker_url(self) -> str:
        """The broker in use, or `Unavailable` when nothing is configured and nothing runs."""
        return self.broker_url or self._nothing_runs("broker")

    def _nothing_runs(self, part: str) -> str:
        remedy = f"start `mpamatch up`, or set {PREFIX}{part.upper()}_URL"
        raise Unavailable(part, f"nothing runs on the state folder {self.state}", remedy)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment over what `load_settings` hands in (file, running servers); no .env, no secrets folder."""
        return (env_settings, init_settings)


class SettingRow(NamedTuple):
    """One line of `mpamatch settings`."""

    name: str
    value: str
    source: Literal["environment", "file", "running", "default"]
    help: str


def load_settings(*, running: bool = True) -> Settings:
    """The settings; with `running`, addresses of servers that `up` started fill what is not configured.

    Raises `BadInput` naming the setting and what is wrong with it.
    """
    given = _file_values()
    settings = _build(given)
    if not running:
        return settings
    found = _running_values(settings)
    return _build({**found, **given}) if found else settings


def setting_rows(settings: Settings) -> tuple[SettingRow, ...]:
    """Every setting with its value (secrets masked), where the value comes from, and what it means."""
    in_file = _file_values()
    in_run = _running_values(settings)
    rows = []
    for name, field in Settings.model_fields.items():
        source: Literal["environment", "file", "running", "default"] = "default"
        if os.environ.get(PREFIX + name.upper()) or os.environ.get(PREFIX.lower() + name):
            source = "environment"
        elif name in in_file:
            source = "file"
        elif name in in_run:
            source = "running"
        rows.append(SettingRow(name, shown(getattr(settings, name)), source, field.description or ""))
    return tuple(rows)


def shown(value: object) -> str:
    """A value as people may see it: secrets and passwords inside URLs masked, nothing as an empty string."""
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return MASK
    text = str(value)
    scheme, separator, rest = text.partition("://")
    if separator and "@" in rest.split("/")[0]:
        account, _, host = rest.rpartition("@")
        user, colon, _ = account.partition(":")
        return f"{scheme}://{user}{colon}{MASK if colon else ''}@{host}"
    return text


def endpoints_path(state: Path) -> Path:
    """The file that names the running servers of this state."""
    return state / "run" / "endpoints.json"


def load_endpoints(state: Path) -> Endpoints | None:
    """What `up` recorded for this state, or None when nothing runs there (or the file is unreadable)."""
    try:
        return Endpoints.model_validate_json(endpoints_path(state).read_bytes())
    except (OSError, ValidationError):
        return None


def save_endpoints(state: Path, endpoints: Endpoints) -> None:
    """Record the addresses in use, readable by the owner alone, by rename."""
    write_private(endpoints_path(state), endpoints.model_dump_json(indent=2))


def clear_endpoints(state: Path) -> None:
    """Forget the addresses: nothing runs any more."""
    endpoints_path(state).unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read (0600), whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Neither a pid in its name (containers on one state share them) nor anything but 0600 from its first moment on.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    temporary = Path(name)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def inherited_environment() -> dict[str, str]:
    """A copy of this process's environment, for the children that it starts."""
    return dict(os.environ)


def _build(values: dict[str, Any]) -> Settings:
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        remedy = f"correct {PREFIX}{name.upper()} or the line in {CONFIG_NAME}"
        said = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"setting {name}", said[:1].lower() + said[1:], remedy) from None


def _config_path() -> Path | None:
    named = os.environ.get(PREFIX + "CONFIG")
    path = Path(named) if named else Path(CONFIG_NAME)
    if named and not path.is_file():
        raise BadInput(named, "no such settings file", f"correct {PREFIX}CONFIG")
    return path if path.is_file() else None


def _file_values() -> dict[str, Any]:
    path = _config_path()
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(str(path), f"not a TOML file: {error}", "correct the line") from None
    return values


def _running_values(settings: Settings) -> dict[str, Any]:
    """What the running servers answer for settings that nobody configured."""
    endpoints = load_endpoints(settings.state)
    if endpoints is None:
        return {}
    found: dict[str, Any] = {
        "database_url": endpoints.database_url,
        "broker_url": endpoints.broker_url,
        "public_url": endpoints.api_url,
    }
    if endpoints.label_studio_url:
        found["label_studio_url"] = endpoints.label_studio_url
        found["label_studio_token"] = _own_token(settings.state)
    return {name: value for name, value in found.items() if value is not None}


def _own_token(state: Path) -> str | None:
    """The token of the Label Studio that `up` started, from the state's own credentials."""
    try:
        return str(json.loads((state / "secrets.json").read_text(encoding="utf-8"))["label_studio_token"])
    except (OSError, ValueError, KeyError):
        return None
