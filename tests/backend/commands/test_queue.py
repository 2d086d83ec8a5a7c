"""`mpamatch queue`: taking, answering, taking back and writing out, as people type it."""

from __future__ import annotations

import csv
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from backend.actions.rank_queue import rank_queue
from backend.clock import utc_now
from backend.store import masks, projects
from backend.store.tables import QueueEntry, Tile
from mpamatch.cli import main
from mpamatch.files.masks import write_mask
from mpamatch.files.rasters import decode_raster
from tests.builders import Installation, disc, installation, predict_all

pytestmark = pytest.mark.database


@pytest.fixture
def made(database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    made = installation(database_url, tmp_path, train=4, audit=1)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
    predict_all(made, champion)
    rank_queue(made.database, made.project_id)
    for name, value in (("STATE", str(tmp_path)), ("DATABASE_URL", database_url), ("BROKER_URL", redis_url)):
        monkeypatch.setenv(f"MPAMATCH_{name}", value)
    return made


@pytest.fixture
def call(made: Installation, capsys: pytest.CaptureFixture[str]) -> Any:
    """One command; its exit code, what it printed (read, with ``--json``), and what it said on stderr."""

    def called(*arguments: str) -> tuple[int, Any, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        said = capsys.readouterr()
        code = int(ended.value.code or 0)
        return code, json.loads(said.out) if "--json" in arguments and not code else said.out, said.err

    return called


def take(call: Any) -> str:
    (entry,) = call("queue", "next", "--holder", "ann", "--json")[1]
    return str(entry["tile_id"])


def end_lease(made: Installation, tile: str) -> None:
    with made.database.transaction() as session:
        session.execute(update(QueueEntry).where(QueueEntry.tile_id == int(tile)).values(lease_until=utc_now()))


def test_a_tile_is_held_longer_drawn_and_taken_back(made: Installation, call: Any, tmp_path: Path) -> None:
    tile, drawn = take(call), tmp_path / "drawn.png"
    drawn.write_bytes(write_mask(disc(x=20)))
    held = ("--attempt", "1", "--holder", "ann")
    assert datetime.fromisoformat(call("queue", "renew", tile, *held, "--json")[1]["held_until"]) > utc_now()
    code, said, _ = call("queue", "submit", tile, *held, "--mask", str(drawn), "--json")
    assert (code, said["state"], said["by"]) == (0, "present", "command:ann")
    with made.database.transaction() as session:
        mask = masks.newest_counting(session, int(tile))
    assert mask is not None
    assert (decode_raster(made.blobs.get(mask.blob)) == disc(x=20)).all()
    assert call("queue", "progress", "--json")[1]["by"][0]["holder"] == "command:ann"
    assert call("queue", "progress", "--json")[1]["labelled"] == 1
    said_to_people = call("queue", "progress")[1]
    assert "command:ann" in said_to_people
    assert ("annotated" in said_to_people, "labelled" in said_to_people) == (True, False)
    back = call("queue", "take-back", str(said["annotation"]))
    assert back[1].startswith(f"tile {tile}: deleted")
    assert take(call) == tile


def test_an_artefact_and_cannot_tell_need_no_mask_and_a_mask_needs_a_file(made: Installation, call: Any) -> None:
    one, other = take(call), take(call)
    held = ("--attempt", "1", "--holder", "ann")
    code, _, err = call("queue", "submit", one, *held)
    assert (code, "mask: is missing" in err) == (1, True)
    code, _, err = call("queue", "submit", one, *held, "--mask", "/nowhere.png")
    assert (code, "cannot be read" in err) == (1, True)
    assert call("queue", "submit", one, *held, "--scope", "artefact", "--json")[1]["scope"] == "artefact"
    assert call("queue", "submit", other, *held, "--scope", "cannot tell")[1].startswith(f"tile {other}: present")
    with made.database.transaction() as session:
        assert session.get_one(Tile, int(one)).state == "artefact"


def test_a_late_answer_names_its_draft_and_how_to_let_it_count(made: Installation, call: Any) -> None:
    tile = take(call)
    end_lease(made, tile)
    assert call("queue", "next", "--holder", "ben", "--json")[1][0]["tile_id"] == int(tile)
    code, _, err = call("queue", "submit", tile, "--attempt", "1", "--holder", "ann", "--scope", "artefact")
    assert code == 1
    (draft,) = call("queue", "drafts", "--json")[1]
    assert f"mpamatch queue use-draft {draft['draft']}" in err
    assert (draft["tile_id"], draft["by"]) == (int(tile), "command:ann")
    assert call("queue", "use-draft", str(draft["draft"]))[0] == 1  # ben is at work on it
    call("queue", "release", tile, "--attempt", "2", "--holder", "ben")
    assert call("queue", "use-draft", str(draft["draft"]), "--json")[1]["state"] == "present"
    assert call("queue", "drafts", "--json")[1] == []


def test_who_finds_nothing_to_take_is_told_where_it_is(made: Installation, call: Any) -> None:
    waiting = call("queue", "progress", "--json")[1]["waiting"]
    for _ in range(waiting):
        _, taken, err = call("queue", "next", "--json")
        assert (len(taken), err) == (1, "")
    _, taken, err = call("queue", "next", "--json")
    assert taken == []
    assert "held by somebody" in err
    with made.database.transaction() as session:
        session.execute(update(QueueEntry).values(lease_until=None, lease_holder=None))
    assert f"{waiting} of the tiles that wait stand in Label Studio" in call("queue", "next")[2]
    with made.database.transaction() as session:
        session.execute(update(QueueEntry).values(state="done"))
    assert "no tile waits" in call("queue", "next")[2]


def test_the_order_is_written_as_one_table_or_as_one_file_per_image(
    made: Installation, call: Any, tmp_path: Path
) -> None:
    table, folder = tmp_path / "out" / "queue.csv", tmp_path / "out" / "qupath"
    said = call("queue", "export", str(table))[1]
    assert said.strip() == f"the order is in {table}; made the folder {table.parent}"
    with table.open(newline="", encoding="utf-8") as lines:
        assert [line["rank"] for line in csv.DictReader(lines)] == ["1", "2", "3", "4", "5"]
    said = call("queue", "export", str(folder), "--format", "geojson", "--json")[1]
    assert sorted(Path(path).name for path in said["files"]) == [f"image-{n}.geojson" for n in range(5)]
    assert json.loads((folder / "image-0.geojson").read_text())["image"]["name"] == "image-0"
    again = call("queue", "export", str(folder), "--format", "geojson", "--replace")[1]
    assert again.strip() == f"the order is in 5 files, one for each image, in {folder}"


@pytest.mark.parametrize("form", ["csv", "geojson"])
def test_an_export_writes_over_nothing_unless_it_is_told_to(
    made: Installation, call: Any, tmp_path: Path, form: str
) -> None:
    out = tmp_path / ("queue.csv" if form == "csv" else "qupath")
    mine = out if form == "csv" else out / "image-3.geojson"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    code, said, err = call("queue", "export", str(out), "--format", form)
    assert (code, said, err.count("\n")) == (1, "", 1)
    assert f"{mine}: exists already; name another place, or give --replace to write over it" in err
    assert (mine.read_text(), (out / "image-0.geojson").exists()) == ("mine", False)
    assert call("queue", "export", str(out), "--format", form, "--replace")[0] == 0
    assert mine.read_text() != "mine"


def test_an_export_says_where_a_file_is_meant_and_where_a_folder(made: Installation, call: Any, tmp_path: Path) -> None:
    file = tmp_path / "queue.csv"
    file.write_text("mine")
    code, _, err = call("queue", "export", str(file), "--format", "geojson", "--replace")
    assert (code, err.strip()) == (
        1,
        f"mpamatch: {file}: is a file, and GeoJSON is one file for each image; name a folder for them",
    )
    code, _, err = call("queue", "export", str(tmp_path), "--replace")
    assert (code, "is a folder, and CSV is one file; name a file in it" in err) == (1, True)
    with made.database.transaction() as session:
        session.execute(update(QueueEntry).values(state="done"))
    assert call("queue", "export", str(tmp_path / "none"), "--format", "geojson")[1].startswith("no file was written")
    assert (file.read_text(), (tmp_path / "none").exists()) == ("mine", False)
