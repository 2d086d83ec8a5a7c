"""`mpamatch backup` and `mpamatch restore` as an operator types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.commands.backup import label_studio_part
from backend.commands.up import up
from backend.settings import Settings
from backend.store import masks
from backend.store.sessions import Database
from mpamatch.cli import main
from mpamatch.errors import Conflict
from tests.builders import installation


@pytest.mark.database
def test_with_servers_of_others_a_backup_goes_into_an_empty_database_and_into_no_other(
    database_url: str,
    empty_database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "first").mkdir()
    made = installation(database_url, tmp_path / "first", train=2, audit=1, masked=True)
    monkeypatch.setenv("MPAMATCH_STATE", str(tmp_path / "first"))
    monkeypatch.setenv("MPAMATCH_DATABASE_URL", database_url)
    with pytest.raises(SystemExit, match="0"):
        main(["backup", str(tmp_path / "one.tar"), "--json"])
    written = json.loads(capsys.readouterr().out)
    assert (written["label_studio"], written["tables"]["mask"], written["missing"]) == ("none", 3, [])

    monkeypatch.setenv("MPAMATCH_STATE", str(tmp_path / "second"))
    with pytest.raises(SystemExit, match="1"):
        main(["restore", str(tmp_path / "one.tar")])
    assert "is not empty: there are rows in" in capsys.readouterr().err
    monkeypatch.setenv("MPAMATCH_DATABASE_URL", empty_database_url)
    with pytest.raises(SystemExit, match="0"):
        main(["restore", str(tmp_path / "one.tar"), "--json"])
    assert json.loads(capsys.readouterr().out)["tables"] == written["tables"]
    again = Database(empty_database_url)
    with again.transaction() as session:
        assert len(masks.current(session, made.project_id)) == 3
    again.close()
    made.database.close()


def test_our_own_label_studio_comes_along_only_with_the_secrets_that_it_holds(tmp_path: Path) -> None:
    settings = Settings(state=tmp_path)
    assert label_studio_part(settings, wanted=True) == "none"
    assert label_studio_part(settings.model_copy(update={"label_studio_url": "http://a"}), wanted=True) == "external"
    (tmp_path / "label-studio").mkdir()
    assert label_studio_part(settings, wanted=True) == "included"
    assert label_studio_part(settings, wanted=False) == "left out"


def test_nothing_starts_on_a_state_whose_restore_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPAMATCH_STATE", str(tmp_path))
    (tmp_path / "restoring").mkdir()
    with pytest.raises(Conflict, match="holds a restore that was cut; run the same `mpamatch restore` again"):
        up(demo=False, images=None, masks=None, classes="", no_label_studio=True, as_json=False)
