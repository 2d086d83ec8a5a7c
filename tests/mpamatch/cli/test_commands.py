import re
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import typer

import mpamatch.cli as cli
from mpamatch.errors import BadInput


def _entries(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    found = {name: EntryPoint(name, value, cli.GROUP) for name, value in values.items()}
    monkeypatch.setattr(cli, "_entries", lambda: found)


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    return int(left.value.code or 0)


def refuse() -> None:
    """Refuse to work."""
    raise BadInput("thing", "is wrong", "mend it")


app = typer.Typer()


@app.command()
def one(number: int) -> None:
    """Print a number."""
    print(f"one {number}")


@app.command()
def two() -> None:
    """Do nothing."""


HERE = "tests.mpamatch.cli.test_commands"


def test_a_function_and_an_app_are_both_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    _entries(monkeypatch, many=f"{HERE}:app", refuse=f"{HERE}:refuse")
    assert _run("many", "one", "3") == 0
    assert capsys.readouterr().out == "one 3\n"


def test_our_errors_are_one_line_on_stderr_and_exit_code_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    _entries(monkeypatch, refuse=f"{HERE}:refuse")
    assert _run("refuse") == 1
    assert capsys.readouterr().err == "mpamatch: thing: is wrong; mend it\n"


def test_the_version_is_said_without_a_command(capsys: pytest.CaptureFixture) -> None:
    assert _run("--version") == 0
    assert re.fullmatch(r"mpamatch \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_wrong_usage_is_exit_code_two(monkeypatch: pytest.MonkeyPatch) -> None:
    _entries(monkeypatch, many=f"{HERE}:app")
    assert _run("many", "one", "x") == 2
    assert _run("nothing") == 2


def test_a_command_that_does_not_import_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    _entries(monkeypatch, broken="no_such_package.x:y", absent=f"{HERE}:nowhere", many=f"{HERE}:app")
    assert _run("--help") == 0
    listed = capsys.readouterr().out
    assert "broken" in listed
    assert "many" in listed
    assert _run("many", "one", "1") == 0
    assert _run("broken", "--any", "thing") == 1
    assert "no_such_package" in capsys.readouterr().err
    assert _run("absent") == 1


@pytest.mark.parametrize("arguments", ["--help", "train --help", "predict --help", "evaluate --help", "recipe --json"])
def test_help_and_recipe_start_without_torch(arguments: str) -> None:
    program = f"""
import sys
from importlib.metadata import EntryPoint
import mpamatch.cli as cli
names = ("train", "predict", "evaluate", "recipe")
found = {{n: EntryPoint(n, f"mpamatch.cli.{{n}}:{{n}}", cli.GROUP) for n in names}}
cli._entries = lambda: found
try:
    cli.main({arguments.split()!r})
finally:
    assert "torch" not in sys.modules
    assert "timm" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
