"""The parts of the reference pages that are made from the code, and from measured figures: `python -m
tests.contracts.reference` writes them anew. A made part stands between two comment lines and is never edited by hand.
"""

from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from backend.settings import PREFIX, Settings, shown
from mpamatch.cli import _entries, _load

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
_BEGIN = "<!-- made: {name} (python -m tests.contracts.reference) -->"
_END = "<!-- end of {name} -->"


class Command(NamedTuple):
    """A command as people type it after `mpamatch`, and what the command line knows of it."""

    name: str
    command: Any


def commands() -> Iterator[Command]:
    """Every command and subcommand, in the order of their names."""
    for name, entry in sorted(_entries().items()):
        command = _load(entry)
        inner = getattr(command, "commands", None)
        if inner is None:
            yield Command(name, command)
        else:
            yield from (Command(f"{name} {word}", inner[word]) for word in sorted(inner))


def takes_json(command: Any) -> bool:
    return any("--json" in parameter.opts for parameter in command.params)


def settings_table() -> str:
    """Every setting with its environment variable, default and meaning."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{shown(field.default)}`"
        rows.append((f"`{name}`", f"`{PREFIX}{name.upper()}`", default, field.description or ""))
    return _table(("setting", "environment", "default", "what it means"), rows)


def command_sections() -> str:
    """One section per command: what it does, its arguments and options."""
    return "\n\n".join(_section(one) for one in commands())


def _section(one: Command) -> str:
    text = "\n\n".join(part.replace("\n", " ") for part in (one.command.help or "").strip().split("\n\n"))
    rows = [_parameter(p) for p in one.command.params if "--help" not in p.opts]
    table = _table(("argument or option", "default", "what it means"), rows) if rows else ""
    return "\n\n".join(part for part in (f"### mpamatch {one.name}", text, table) if part)


def _parameter(parameter: Any) -> tuple[str, str, str]:
    is_option = parameter.opts[0].startswith("-")
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name.upper()]
    default = "" if parameter.default in (None, False, "") else f"`{parameter.default}`"
    meaning = getattr(parameter, "help", None) or ""
    if getattr(parameter, "envvar", None):
        meaning += f" (environment: `{parameter.envvar}`)"
    return " ".join(f"`{name}`" for name in names), "required" if parameter.required else default, meaning


def figures_table(name: str) -> Callable[[], str]:
    """The figures of one benchmark as it was last run, and the machine; without a run, that there is none."""

    def made() -> str:
        path = RESULTS / f"benchmark-{name}.json"
        if not path.is_file():
            return f"Not measured for these docs yet: there is no `{path.relative_to(ROOT).as_posix()}`."
        document = json.loads(path.read_text(encoding="utf-8"))
        machine = document["machine"]
        rows = [
            (f"`{key}`", _number(f["value"]), f["unit"], _number(f["bound"]), f["reference"] or "")
            for key, f in document["figures"].items()
        ]
        where = (
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Python {machine['python']}, "
            f"load {machine['load_1min']} at the end of the run."
        )
        return _table(("figure", "measured", "unit", "bound", "of what"), rows) + "\n\n" + where

    return made


def fault_tests() -> list[tuple[int, str]]:
    """Every test that records a fault, with its row, in the order of the rows."""
    found = []
    for file in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                calls = [n for n in ast.walk(node) if isinstance(n, ast.Call) and _is_recovered(n.func)]
                words = [k for n in calls for k in n.keywords if k.arg == "row"]
                rows = {k.value.value for k in words if isinstance(k.value, ast.Constant)}
                found += [(int(str(row)), f"{file.relative_to(ROOT).as_posix()}::{node.name}") for row in rows]
    return sorted(found)


def _is_recovered(called: ast.expr) -> bool:
    return isinstance(called, ast.Attribute) and called.attr == "recovered"


def faults_table() -> str:
    """Every test of a fault, with what it saw when it was last recorded; nothing where it was not."""
    path = RESULTS / "reliability.json"
    recorded = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    rows = []
    for row, test in fault_tests():
        seen = {name: f for name, f in recorded.items() if name.partition("[")[0] == test}
        if not seen:
            rows.append((str(row), "", f"`{test}`", "", ""))
        for name, f in sorted(seen.items()):
            rows.append((str(row), f["fault"], f"`{name}`", f["seen"], f"{f['recovered_s']:.0f}"))
    return _table(("row", "fault", "test", "seen", "seconds to recover"), rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


MADE: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "docs/settings.md": {"settings": settings_table},
    "docs/commands.md": {"commands": command_sections},
    "docs/benchmarks.md": {
        "serving": figures_table("serving"),
        "regions": figures_table("regions"),
        "inference": figures_table("inference"),
        "codecs": figures_table("codecs"),
        "queue": figures_table("queue"),
        "publishing": figures_table("publishing"),
        "training": figures_table("training"),
    },
    "docs/reliability.md": {"faults": faults_table},
}


def filled(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """A page with its made parts as they should be. Raises ValueError when a part has no place in it."""
    for name, make in parts.items():
        begin, end = _BEGIN.format(name=name), _END.format(name=name)
        if begin not in text or end not in text:
            raise ValueError(f"no place for {name}: the lines {begin} and {end}")
        before, after = text.split(begin)[0], text.split(end)[1]
        text = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return text


def main() -> None:
    for path, parts in MADE.items():
        page = ROOT / path
        page.write_text(filled(page.read_text(encoding="utf-8"), parts), encoding="utf-8")


def entry_names() -> set[str]:
    """The commands that pyproject.toml lists."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return set(settings["project"]["entry-points"]["mpamatch.commands"])


if __name__ == "__main__":
    main()
