import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from backend.actions import first_project
from backend.commands import registered
from backend.settings import Settings
from backend.store import masks, projects
from backend.store.tables import Project, Task
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy
from mpamatch.errors import BadInput, Conflict, NotFound
from mpamatch.files.images import encode_png
from mpamatch.files.masks import write_mask
from mpamatch.files.model_archive import unpack_model
from mpamatch.files.rasters import decode_raster
from tests.builders import add_images, installation, picture

pytestmark = pytest.mark.database


@pytest.mark.parametrize(
    ("names", "start", "kind", "kept"),
    [
        (["background", "tumour"], "auto", "starter", "starter"),
        (["background", "stroma", "gland"], "auto", "blank", "encoder"),
        (["background", "gland"], "blank", "blank", "blank"),
    ],
)
def test_a_new_project_serves_the_starter_where_it_fits_and_keeps_what_it_began_with(
    database_url: str, tmp_path: Path, names: list[str], start: str, kind: str, kept: str
) -> None:
    made = installation(database_url, tmp_path, train=0, audit=0)
    settings = Settings(state=tmp_path, database_url=database_url, broker_url="x")
    row = first_project.ensure_row(made.database, settings, "Biopsies", names, start=start)
    again = first_project.ensure_row(made.database, settings, "Biopsies", names)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, row.id))
        assert (champion.kind, champion.provisional) == (kind, True)
        if kind == "starter":
            unpack_model(made.blobs.path(str(champion.blob)), tmp_path / "model")
            assert load_classes(tmp_path / "model") == names
        else:
            assert champion.blob is None
    assert again.id == row.id
    assert projects.policy_of(again).start == kept


def test_a_new_project_trains_by_the_method_that_is_set(database_url: str, tmp_path: Path) -> None:
    made = installation(database_url, tmp_path, train=0, audit=0)
    settings = Settings(state=tmp_path, database_url=database_url, broker_url="x", train_method="supervised")
    row = first_project.ensure_row(made.database, settings, "Biopsies", ["background", "tumour"], start="blank")
    assert projects.policy_of(row).train_method == "supervised"


def load_classes(folder: Path) -> list[str]:
    return [c["name"] for c in json.loads((folder / "config.json").read_text())["classes"]]


def test_a_version_is_found_by_its_name_where_something_runs(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = installation(database_url, tmp_path, train=0, audit=0)
    settings = Settings(state=tmp_path, database_url=database_url, broker_url="x")
    row = first_project.ensure_row(made.database, settings, "Biopsies", ["background", "gland"])
    monkeypatch.setattr(registered, "load_settings", lambda: settings)
    found = registered.find_version(f"{row.key}-m0")
    assert found is not None
    assert load_classes(found) == ["background", "gland"]
    assert registered.find_version("biopsies-m9") is None
    with pytest.raises(NotFound, match="test-glands-m0: is blank and has no weights"):
        registered.find_version("test-glands-m0")
    monkeypatch.setattr(registered, "load_settings", lambda: Settings(state=tmp_path))
    assert registered.find_version(f"{row.key}-m0") is None


def test_one_project_that_is_gone_in_label_studio_keeps_no_other_from_being_connected(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = installation(database_url, tmp_path, train=0, audit=0)
    with made.database.transaction() as session:
        classes = ClassSet.from_names(["background", "gland"])
        other = projects.create(session, title="Another", classes=classes, policy=Policy(), seed=0).id

    def connect(database: Any, keys: Any, client: Any, project_id: int, **more: Any) -> int:
        if project_id == made.project_id:
            raise NotFound("Label Studio project 7", "is gone", "restore it")
        return 8

    monkeypatch.setattr(first_project, "connect_project", connect)
    settings = Settings(
        state=tmp_path, label_studio_url="http://127.0.0.1:1", label_studio_token=SecretStr("a" * 40), broker_url="x"
    )
    assert first_project.connect_all(settings, made.database) == {other: 8}
    assert "is gone" in caplog.text


def test_a_project_is_opened_where_it_is(tmp_path: Path) -> None:
    settings = Settings(state=tmp_path, label_studio_url="http://ls:8080", label_studio_public_url="https://ls.example")
    ours = Project(ls_url="http://ls:8080", ls_elsewhere=False)
    theirs = Project(ls_url="https://studio.example.org", ls_elsewhere=True)
    assert first_project.project_url(settings, ours, 7) == "https://ls.example/projects/7/data"
    assert first_project.project_url(settings, theirs, 7) == "https://studio.example.org/projects/7/data"
    assert first_project.project_url(settings, theirs, None) is None
    assert first_project.project_url(Settings(state=tmp_path), theirs, 7) is not None


def test_a_project_keeps_the_label_type_it_was_made_with(database_url: str, tmp_path: Path) -> None:
    made = installation(database_url, tmp_path, train=0, audit=0)
    settings, classes = Settings(state=tmp_path), ["background", "gland"]
    polygons = first_project.ensure_row(made.database, settings, "Outlines", classes, label_type="polygon")
    assert polygons.label_type == "polygon"
    assert first_project.ensure_row(made.database, settings, "Outlines", classes).id == polygons.id
    again = first_project.ensure_row(made.database, settings, "Outlines", classes, label_type="polygon")
    assert again.id == polygons.id
    with pytest.raises(Conflict, match="is labelled with polygon, not with brush"):
        first_project.ensure_row(made.database, settings, "Outlines", classes, label_type="brush")
    assert first_project.ensure_row(made.database, settings, "Painted", classes).label_type == "brush"


def test_masks_of_instances_come_in_as_foreground_where_that_is_said(database_url: str, tmp_path: Path) -> None:
    made = installation(database_url, tmp_path, train=0, audit=0)
    instances = np.zeros((64, 64), np.uint8)
    instances[5:20, 5:20], instances[30:50, 30:50] = 7, 12
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode_png(picture(1)))
    (folder / "a_anno.png").write_bytes(write_mask(instances))
    settings = Settings(state=tmp_path, database_url=database_url, broker_url="x")
    row = first_project.ensure_row(made.database, settings, "Glands", ["background", "gland"])

    refused = first_project.register_folder(made.database, made.blobs, row, folder)
    assert (refused.images, refused.masks) == (1, 0)
    assert "7" in refused.problems[0]

    taken = first_project.register_folder(made.database, made.blobs, row, folder, foreground=True)
    assert taken.masks == 1
    with made.database.transaction() as session:
        (mask,) = masks.current(session, row.id)
    assert np.array_equal(decode_raster(made.blobs.get(mask.blob)), instances > 0)

    many = first_project.ensure_row(made.database, settings, "Three", ["a", "b", "c"])
    with pytest.raises(BadInput, match="more than two classes"):
        first_project.register_folder(made.database, made.blobs, many, folder, foreground=True)


def test_a_project_keeps_the_start_it_was_made_with(database_url: str, tmp_path: Path) -> None:
    made = installation(database_url, tmp_path / "state", train=1, audit=1)
    settings = Settings(state=made.folder, database_url=database_url)
    classes = ["background", "gland"]
    first_project.ensure_row(made.database, settings, "Begun", classes, start="blank")
    for same in ("blank", "auto"):
        assert first_project.ensure_row(made.database, settings, "Begun", classes, start=same).key == "begun"
    with pytest.raises(Conflict, match="began with blank, not with encoder; leave --start out, or make another"):
        first_project.ensure_row(made.database, settings, "Begun", classes, start="encoder")


def test_a_project_keeps_the_scale_of_tiles_it_was_made_with(database_url: str, tmp_path: Path) -> None:
    made = installation(database_url, tmp_path, train=0, audit=0)
    settings, classes = Settings(state=tmp_path), ["background", "gland"]
    wish = first_project.TileWish(tile_px=512, um_per_px=1.0)
    row = first_project.ensure_row(made.database, settings, "Slides", classes, tiles=wish)
    assert (row.policy["tile_px"], row.policy["tile_um_per_px"]) == (512, 1.0)
    assert first_project.ensure_row(made.database, settings, "Slides", classes).id == row.id
    assert first_project.ensure_row(made.database, settings, "Slides", classes, tiles=wish).id == row.id
    with pytest.raises(Conflict, match="has tiles of 512 px at"):
        first_project.ensure_row(
            made.database, settings, "Slides", classes, tiles=first_project.TileWish(um_per_px=0.5)
        )


def test_images_that_nobody_groups_are_said_to_count_as_a_patient_each(database_url: str, tmp_path: Path) -> None:
    made = installation(database_url, tmp_path / "state", train=0, audit=0)
    folder = tmp_path / "flat"
    folder.mkdir()
    for number, case in enumerate(("17", "17", "23")):
        (folder / f"GT{case}-{number}.png").write_bytes(encode_png(picture(number)))
    report = first_project.register_folder(made.database, made.blobs, made.project(), folder, group_pattern=r"(GT\d+)")
    assert (report.images, report.notes) == (3, [])
    other = installation(database_url, tmp_path / "other", train=0, audit=0, title="Other")
    report = first_project.register_folder(other.database, other.blobs, other.project(), folder)
    assert "3 images: no folder or pattern says whose they are" in report.notes[-1]
    assert "--group-pattern" in report.notes[-1]


def test_waiting_for_tasks_ends_when_one_is_there_or_none_can_come_or_the_time_is_over(
    database_url: str, tmp_path: Path
) -> None:
    made = installation(database_url, tmp_path, train=0, audit=0)
    settings = Settings(state=tmp_path, database_url=database_url)
    assert first_project.await_tasks(settings, "test-glands", limit_s=0), "there is nothing to make a task of"
    add_images(made, train=1, audit=0, masked=False)
    assert not first_project.await_tasks(settings, "test-glands", limit_s=0)
    with made.database.transaction() as session:
        session.add(Task(project_id=made.project_id, tile_id=made.tiles()[0].id, ls_task_id=1, origin="head"))
    assert first_project.await_tasks(settings, "test-glands", limit_s=0)
