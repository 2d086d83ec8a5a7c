"""Read the compose files as `docker compose` does, as far as ours go: merge, then put values in for variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "docker-compose.yml"
CPU = ROOT / "docker-compose.cpu.yml"
# $$ | ${NAME} | ${NAME:-default} | ${NAME:?message} | a dollar that is none of these
_VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<word>[^}]*))?\}|(?P<bad>))")


class _Loader(yaml.SafeLoader):
    """Plain YAML, and the tag by which compose takes back what an earlier file says."""


_Loader.add_constructor("!reset", lambda loader, node: None)


class MissingVariable(Exception):
    """A required variable is unset or empty."""


@dataclass(frozen=True)
class Service:
    """One service with its values put in: what to run and with which environment."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    whole: Mapping[str, Any]


def parsed(path: Path = COMPOSE) -> dict[str, Any]:
    """The file with its anchors resolved, its variables as they stand."""
    found: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    return found


def services(variables: Mapping[str, str], path: Path = COMPOSE) -> dict[str, Service]:
    """Every service by name. Raises MissingVariable as compose would."""
    made = {}
    for name, whole in parsed(path)["services"].items():
        filled = with_values(whole, variables)
        environment = {key: str(value) for key, value in filled.get("environment", {}).items()}
        made[name] = Service(name, tuple(map(str, filled.get("command", ()))), environment, filled)
    return made


def with_values(found: Any, variables: Mapping[str, str]) -> Any:
    """Values for variables in every text of a tree."""
    if isinstance(found, dict):
        return {key: with_values(value, variables) for key, value in found.items()}
    if isinstance(found, list):
        return [with_values(value, variables) for value in found]
    return _VARIABLE.sub(lambda match: _value(match, variables), found) if isinstance(found, str) else found


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if match["dollar"]:
        return "$"
    if match["bad"] is not None:
        raise ValueError(f"a dollar that stands for nothing: {match.string!r}")
    value = variables.get(match["name"], "")
    if value or match["kind"] is None:
        return value
    if match["kind"] == "?":
        raise MissingVariable(f"{match['name']}: {match['word']}")
    return match["word"]


def variables_of(path: Path = COMPOSE) -> dict[str, str | None]:
    """Every variable of the file with its default; None where it must be given."""
    names: dict[str, str | None] = {}
    for match in _VARIABLE.finditer(path.read_text(encoding="utf-8")):
        if match["name"]:
            names[match["name"]] = match["word"] if match["kind"] == "-" else None
    return names
