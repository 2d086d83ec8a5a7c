"""The compose files: valid by the published schema, closed by default, and in step with the product."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import check_jsonschema
import jsonschema
import pytest

from backend import label_studio_turns
from backend.commands import stack
from backend.credentials import Credentials
from backend.label_studio_server import GUARDED_NETWORKS, EmbeddedLabelStudio
from backend.settings import PREFIX, Settings
from tests import compose
from tests.compose import COMPOSE, CPU, ROOT, MissingVariable, parsed, services, variables_of

OURS = ("migrate", "api", "io", "predict", "train", "beat")
GIVEN = {
    "POSTGRES_PASSWORD": "a",
    "DATABASE_PASSWORD": "b",
    "REDIS_PASSWORD": "c",
    "LABEL_STUDIO_LOGIN": "someone@example.com",
    "LABEL_STUDIO_PASSWORD": "d",
    "LABEL_STUDIO_TOKEN": "0" * 40,
}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """The Compose Specification's own schema, which comes with check-jsonschema."""
    folder = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor"
    found: dict[str, Any] = json.loads((folder / "compose-spec.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("path", [COMPOSE, CPU], ids=lambda p: p.name)
def test_the_file_is_valid_by_the_published_schema(schema: dict[str, Any], path: Path) -> None:
    jsonschema.Draft202012Validator(schema).validate(parsed(path))


def test_the_schema_notices_a_word_that_compose_does_not_know(schema: dict[str, Any]) -> None:
    broken = parsed()
    broken["services"]["api"]["helthcheck"] = broken["services"]["api"].pop("healthcheck")
    with pytest.raises(jsonschema.ValidationError, match="helthcheck"):
        jsonschema.Draft202012Validator(schema).validate(broken)


@pytest.mark.parametrize("files", [[COMPOSE], [COMPOSE, CPU]], ids=["alone", "without GPUs"])
def test_compose_itself_reads_the_file_where_it_is_installed(files: list[Path], tmp_path: Path) -> None:
    known = shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    if known != 0:
        pytest.skip("docker compose is not installed; the schema and the flow test hold the file without it")
    given = tmp_path / "given.env"
    given.write_text("".join(f"{name}={value}\n" for name, value in GIVEN.items()))
    words = [word for path in files for word in ("--file", str(path))]
    done = subprocess.run(
        ["docker", "compose", *words, "--env-file", str(given), "config", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)["services"]
    assert {name: tuple(read[name].get("command") or ()) for name in OURS} == {
        name: service.command for name, service in services(GIVEN).items() if name in OURS
    }


def test_every_part_of_the_product_is_a_service() -> None:
    found = services(GIVEN)
    assert set(found) == {"postgres", "redis", "label-studio", *OURS}
    queues = {found[name].command[found[name].command.index("--queues") + 1] for name in stack.QUEUES}
    assert queues == set(stack.QUEUES)


@pytest.mark.parametrize("name", sorted(GIVEN))
def test_no_secret_has_a_default(name: str) -> None:
    with pytest.raises(MissingVariable, match=name):
        services({**GIVEN, name: ""})


def test_the_example_names_every_variable_and_gives_no_secret() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    lines = {m[2]: (m[1], m[3]) for m in re.finditer(r"^(#?)([A-Z_]+)=(.*)$", text, re.MULTILINE)}
    for name, default in variables_of().items():
        commented, value = lines.pop(name)
        if default is None:
            assert (commented, value) == ("", ""), name
        else:
            assert (commented, value) == ("#", default), name
    assert set(lines) == {"COMPOSE_FILE"}
    assert lines["COMPOSE_FILE"] == ("#", f"{COMPOSE.name}:{CPU.name}")


def test_what_holds_secrets_never_enters_an_image_or_the_repository() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {".env", "mpamatch.env"} <= set(ignored)
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in allowed
    assert not [line for line in allowed if line.startswith("!") and "env" in line]


def test_ports_are_bound_to_the_loopback_and_the_servers_have_none() -> None:
    ports = {name: service.whole.get("ports", []) for name, service in services(GIVEN).items()}
    assert {name for name, found in ports.items() if found} == {"api", "label-studio"}
    assert all(port.startswith("127.0.0.1:") for found in ports.values() for port in found)


def test_our_own_parts_run_without_rights_on_a_file_system_that_they_cannot_write() -> None:
    for name in OURS:
        whole = services(GIVEN)[name].whole
        assert whole["read_only"] is True, name
        assert whole["cap_drop"] == ["ALL"], name
    assert services(GIVEN)["redis"].whole["user"] == "redis", "a shell as first word would leave it root"
    assert all("no-new-privileges:true" in s.whole["security_opt"] for s in services(GIVEN).values())
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    shipped = {stage.split()[2]: stage for stage in stages[1:] if "build" not in stage.split()[2]}
    assert {name for name, stage in shipped.items() if "USER 10001:10001" in stage} == {"app", "label-studio"}


def test_everything_comes_back_is_watched_and_waits_for_its_needs() -> None:
    for name, service in services(GIVEN).items():
        assert service.whole["restart"] == ("on-failure" if name == "migrate" else "unless-stopped"), name
        assert service.whole["healthcheck"].get("test") or name == "migrate", name
    for name in set(OURS) - {"migrate"}:
        needs = {other: need["condition"] for other, need in services(GIVEN)[name].whole["depends_on"].items()}
        assert needs == {
            "migrate": "service_completed_successfully",
            "postgres": "service_healthy",
            "redis": "service_healthy",
        }


def test_every_setting_in_the_file_is_one_that_the_product_knows() -> None:
    for name in OURS:
        settings = {key.removeprefix(PREFIX).lower() for key in services(GIVEN)[name].environment if PREFIX in key}
        assert settings <= set(Settings.model_fields), name


def test_the_api_answers_under_every_name_by_which_others_in_the_file_call_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in services(GIVEN)["api"].environment.items():
        monkeypatch.setenv(key, value)
    settings = Settings()
    assert settings.backend_address == "http://api:9090"
    called = [settings.backend_address, settings.api_address]  # Label Studio and a Prometheus beside it; browsers
    called += re.findall(r"https?://[^'/]+", " ".join(services(GIVEN)["api"].whole["healthcheck"]["test"]))
    assert len(called) == 3
    assert {urlsplit(url).hostname for url in called} <= settings.host_names


def test_a_worker_has_time_to_put_back_what_it_holds() -> None:
    from workers.jobs.train import STOP_GRACE_S

    for name in stack.QUEUES:
        grace_s = float(services(GIVEN)[name].whole["stop_grace_period"].removesuffix("s"))
        assert grace_s > max(STOP_GRACE_S, Settings().worker_grace_s)


def test_label_studio_gets_the_switches_that_our_own_one_gets(tmp_path: Path) -> None:
    embedded = EmbeddedLabelStudio(
        tmp_path, program=tmp_path, host="127.0.0.1", port=1, credentials=Credentials("a", "b", "c")
    ).environment({})
    here = services(GIVEN)["label-studio"].environment
    assert set(here) == set(embedded)
    # Addresses, folders, credentials and the guard's networks are of each place; every switch is the same.
    own = {"BASE_DATA_DIR", "DATABASE_NAME", "HOST", "USERNAME", "PASSWORD", "USER_TOKEN"}
    own = {f"LABEL_STUDIO_{name}" for name in (*own, "USER_ADDITIONAL_BANNED_SUBNETS")} | {"PYTHONPATH"}
    assert {name: here[name] for name in set(here) - own} == {name: embedded[name] for name in set(here) - own}


def test_people_take_turns_in_the_label_studio_of_the_containers_too() -> None:
    folder = services(GIVEN)["label-studio"].environment["PYTHONPATH"]
    recipe = (ROOT / "Dockerfile").read_text(encoding="utf-8").split("AS label-studio\n")[1]
    module = Path(label_studio_turns.__file__).relative_to(ROOT)
    assert f"COPY {module.as_posix()} {folder}/sitecustomize.py\n" in recipe


def test_label_studio_s_guard_lets_through_the_containers_own_network_and_no_other() -> None:
    (network,) = parsed()["networks"]["inside"]["ipam"]["config"]
    own = ipaddress.ip_network(network["subnet"])
    listed = services(GIVEN)["label-studio"].environment["LABEL_STUDIO_USER_ADDITIONAL_BANNED_SUBNETS"]
    assert " " not in listed
    closed = [ipaddress.ip_network(one) for one in listed.split(",")]
    whole = [ipaddress.ip_network(one) for one in (*GUARDED_NETWORKS, "127.0.0.0/8", "::1/128")]
    for version in (4, 6):
        parts = [n for n in whole if n.version == version]
        rest = [n for n in parts if version == 6 or not own.subnet_of(n)]  # type: ignore[arg-type]
        split = [p for n in parts if n not in rest for p in n.address_exclude(own)]  # type: ignore[arg-type]
        expected = ipaddress.collapse_addresses([*rest, *split])
        assert sorted(ipaddress.collapse_addresses([n for n in closed if n.version == version])) == sorted(expected)


def test_each_part_that_computes_reserves_a_gpu_and_a_machine_without_takes_that_back() -> None:
    reserved = {name for name, service in parsed()["services"].items() if service.get("deploy")}
    assert reserved == set(stack.TORCH_QUEUES)
    for name in reserved:
        (device,) = parsed()["services"][name]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    without = parsed(CPU)["services"]
    assert set(without) == reserved
    assert all(service == {"environment": {"MPAMATCH_DEVICE": "cpu"}, "deploy": None} for service in without.values())
    assert CPU.read_text(encoding="utf-8").count("deploy: !reset null") == len(reserved)


def test_the_images_are_made_of_what_the_product_is_tested_with() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    packages = {p.name for p in ROOT.iterdir() if p.is_dir() and (p / "__init__.py").exists()} - {"tests"}
    copied = set(re.findall(r"^COPY (\w+) \1$", text, re.MULTILINE))
    assert {"mpamatch", "backend", "workers", "migrations"} == copied
    assert packages - {"benchmarks"} <= copied
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert all(f"!{name}" in allowed for name in copied)
    pin = next(
        line
        for line in (ROOT / "requirements" / "label-studio.txt").read_text(encoding="utf-8").splitlines()
        if line.startswith("label-studio==")
    )
    assert parsed()["services"]["label-studio"]["image"].rpartition(":")[2] == pin.partition("==")[2]
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert parsed()["services"]["api"]["image"] == f"mpamatch:{version[1]}"


def test_variables_are_put_in_as_compose_does() -> None:
    given = {"FULL": "x", "EMPTY": ""}
    for text, expected in {
        "${FULL}": "x",
        "a ${EMPTY:-b} $$c": "a b $c",
        "${FULL:-b}": "x",
        "${NONE}": "",
    }.items():
        assert compose.with_values([text], given) == [expected]
    with pytest.raises(MissingVariable):
        compose.with_values("${EMPTY:?say it}", given)
    with pytest.raises(ValueError, match="stands for nothing"):
        compose.with_values("a $ b", given)
