"""What `mpamatch up` and `make run` understand, before anything is started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backend.commands import up as module
from backend.commands.migrate import migrate_database
from backend.commands.up import UpRequest
from mpamatch.errors import BadInput, Unavailable

ROOT = Path(__file__).resolve().parents[3]


def test_class_names_may_have_spaces_and_empty_ones_do_not_count() -> None:
    assert module._names(" background, tumour stroma ,,gland ") == ("background", "tumour stroma", "gland")


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (UpRequest(demo=True, images=Path("."), classes=("a", "b")), "exclude each other"),
        (UpRequest(images=Path("."), classes=("a",)), "names one class alone"),
        (UpRequest(images=Path(".")), "--classes: is missing"),
        (UpRequest(images=Path("."), classes=("a", "b", "c"), start="starter"), "knows two classes"),
        (UpRequest(images=Path("."), classes=("a", "b"), start="hot"), "start 'hot': is unknown"),
        (UpRequest(images=Path("no such folder"), classes=("a", "b")), "--images no such folder: does not exist"),
        (UpRequest(images=Path("."), masks=Path("nowhere"), classes=("a", "b")), "--masks nowhere: does not exist"),
        (UpRequest(label_type="polygon"), "--label-type: is given without a project"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(request_: UpRequest, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        module._checked(request_)


def test_a_folder_without_an_image_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none here")
    with pytest.raises(BadInput, match="holds no PNG, JPEG, TIFF or SVS image; name a folder with images"):
        module._checked(UpRequest(images=tmp_path, classes=("a", "b")))


def test_folders_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(b"looked at when it is registered")
    checked = module._checked(UpRequest(images=Path("."), classes=("a", "b")))
    assert checked.images == tmp_path.resolve()


def test_a_configured_database_that_does_not_answer_is_one_line_without_its_password() -> None:
    with pytest.raises(Unavailable, match="MPAMATCH_DATABASE_URL") as caught:
        migrate_database("postgresql+psycopg://u:very-secret@127.0.0.1:1/x")
    assert "very-secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_several_failures_the_first_is_told() -> None:
    inner = ExceptionGroup("inner", [Unavailable("api", "ended", ""), ValueError("later")])
    assert str(module._first_of(ExceptionGroup("outer", [inner, ValueError("other")]))) == "api: ended"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile with stand-ins for both environments; the stand-in for mpamatch prints its arguments."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / "requirements").mkdir()
    sources = ("requirements/constraints.txt", "requirements/label-studio.txt", "pyproject.toml")
    for name in sources:
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv-label-studio").mkdir()
    for name in (".venv/.made", ".venv-label-studio/.made"):
        (tmp_path / name).write_text("")
    program = tmp_path / ".venv" / "bin" / "mpamatch"
    program.write_text('#!/bin/bash\nprintf "<%s>" "$@"\n')
    program.chmod(0o755)
    return tmp_path


NAMES = ("IMAGES", "MASKS", "CLASSES", "LABELS", "START", "GROUPS", "PYTHON")


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # `make test` runs these: its own flags must not reach the make that is tested.
    around = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", *NAMES)}
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, check=False, env=around)


def test_make_run_starts_the_demonstration(checkout: Path) -> None:
    assert make(checkout, "run").stdout == "<up><--demo>"
    assert make(checkout, "run", "START=blank").stdout == "<up><--demo><--start><blank>"


@pytest.mark.parametrize(
    "folder", ["/my images", "/it's", '/a "b"', "/a$HOME b", "/x; touch hacked", "/$(touch hacked)", "/$(shell id)"]
)
def test_make_run_hands_any_folder_name_over_as_it_is(checkout: Path, folder: str) -> None:
    done = make(checkout, "run", f"IMAGES={folder}", "CLASSES=background,tumour stroma")
    assert done.stdout == f"<up><--images><{folder}><--classes><background,tumour stroma>"
    assert not (checkout / "hacked").exists()


def test_the_label_type_reaches_the_command(checkout: Path) -> None:
    pattern = r"(GT(?:xc)?\d{7})"
    assert make(checkout, "run", f"GROUPS={pattern}").stdout == f"<up><--demo><--group-pattern><{pattern}>"
    assert make(checkout, "run", "LABELS=polygon").stdout == "<up><--demo><--label-type><polygon>"


def test_an_unsuitable_python_is_refused_in_one_line(checkout: Path) -> None:
    (checkout / ".venv" / ".made").unlink()
    old = checkout / "python3.9"
    pretend = "import sys; sys.version_info = (3, 9, 1); exec(sys.stdin.read())"
    old.write_text(f"#!/bin/bash\nexec {sys.executable} -c '{pretend}'\n")
    old.chmod(0o755)
    done = make(checkout, "setup", f"PYTHON={old}")
    assert done.returncode != 0
    assert done.stderr.startswith("Python 3.9.1 will not do: 3.11, 3.12 or 3.13 is needed")
    assert not (checkout / ".venv" / "bin" / "python").exists()
    done = make(checkout, "setup", "PYTHON=no-such-python")
    assert done.stderr.startswith("no-such-python: not found; name a Python 3.11, 3.12 or 3.13")


def test_help_names_every_target(checkout: Path) -> None:
    told = make(checkout, "help").stdout
    for target in ("setup", "run", "test", "check", "bench", "docs", "help"):
        assert f"make {target}" in told
