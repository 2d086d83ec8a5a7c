"""`mpamatch register` on a real database and broker: which project it means, and what it says when none is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.store import projects
from mpamatch.cli import main
from mpamatch.files.images import encode_png
from tests.builders import Installation, installation, picture

pytestmark = pytest.mark.database


@pytest.fixture
def made(database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    for name, value in (("STATE", str(tmp_path)), ("DATABASE_URL", database_url), ("BROKER_URL", redis_url)):
        monkeypatch.setenv(f"MPAMATCH_{name}", value)
    return installation(database_url, tmp_path, train=0, audit=0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "biopsies"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode_png(picture(1)))
    return folder


@pytest.fixture
def call(made: Installation, images: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """The folder of one image is registered; the exit code, and what was said on stderr."""

    def called(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["register", str(images), *arguments])
        return int(ended.value.code or 0), capsys.readouterr().err

    return called


def test_a_new_project_without_classes_is_told_to_name_them(made: Installation, call: Any) -> None:
    code, err = call("--project", "New Glands")
    assert (code, err.count("\n")) == (1, 1)
    assert "project 'new-glands': does not exist, and no classes are given to make it" in err
    assert "give --classes background,gland, or the --project that you mean: mpamatch projects list" in err
    assert call("--project", "New Glands", "--classes", "background,gland")[0] == 0
    assert call("--project", "New Glands")[0] == 0
    with made.database.transaction() as session:
        assert [row.key for row in projects.all_of(session)] == ["test-glands", "new-glands"]


def test_other_classes_than_the_project_has_are_refused_with_both_ways_on(made: Installation, call: Any) -> None:
    code, err = call("--project", "test-glands", "--classes", "background,tumour")
    assert (code, err.count("\n")) == (1, 1)
    assert "project 'test-glands': has the classes background, gland; give --classes background,gland, or make" in err
    assert "`mpamatch register FOLDER --project NAME --classes background,tumour`" in err


def test_a_name_that_is_too_short_is_refused_under_the_name_of_its_option(made: Installation, call: Any) -> None:
    code, err = call("--project", "ab", "--classes", "background,gland")
    assert code == 1
    assert "project 'ab': has a name shorter than three characters; give a longer --project" in err
