"""The `mpamatch` command: its subcommands are found as entry points and loaded when they are needed.

An entry of the group ``mpamatch.commands`` is a function or a Typer app. A command whose package is not installed
or does not import says so when it is called, and never breaks the others. Nothing here imports torch.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mpamatch.errors import MpamatchError, Unavailable

GROUP = "mpamatch.commands"


class LazyCommands(TyperGroup):
    """A group whose commands are entry points; each is imported when it is run or when help lists it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(_entries())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = _entries().get(cmd_name)
        return None if entry is None else _load(entry)


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _load(entry: EntryPoint) -> Any:
    try:
        target = entry.load()
        app = target if isinstance(target, typer.Typer) else _app_of(target)
        command = typer.main.get_command(app)
    except Exception as error:  # whatever a package does at import, the other commands go on
        return _broken(entry, error)
    command.name = entry.name
    return command


def _app_of(function: Any) -> typer.Typer:
    app = typer.Typer(add_completion=False)
    app.command(help=inspect.getdoc(function))(function)
    return app


def _broken(entry: EntryPoint, error: Exception) -> Any:
    """A command that only says why the real one cannot run; it takes any arguments."""
    package = entry.value.partition(".")[0]
    app = typer.Typer(add_completion=False)

    @app.command(
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
        help=f"(not available: {type(error).__name__} in {entry.value})",
    )
    def fail(context: typer.Context) -> None:
        raise Unavailable(
            f"command {entry.name}", f"does not load: {error}", f"check that all that {package} needs is installed"
        )

    command = typer.main.get_command(app)
    command.name = entry.name
    return command


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits 0 when all went well, 1 with one line on an error, 2 on wrong usage."""
    app = typer.Typer(
        cls=LazyCommands,
        name="mpamatch",
        help="Semi-supervised segmentation of tissue, and the loop around a Label Studio that keeps it learning.",
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    try:
        typer.main.get_command(app)(args=None if arguments is None else list(arguments), prog_name="mpamatch")
    except MpamatchError as error:
        print(f"mpamatch: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.filename is None:  # nobody's file: a fault of ours, to be seen whole
            raise
        print(f"mpamatch: {error.filename}: {error.strerror}; check the path and its permissions", file=sys.stderr)
        sys.exit(1)


def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=lambda asked: _say_version(asked), help="Its version.")
    ] = False,
) -> None:
    """What the bare command takes."""


def _say_version(asked: bool) -> None:
    if asked:
        print(f"mpamatch {importlib.metadata.version('mpamatch')}")
        raise typer.Exit
