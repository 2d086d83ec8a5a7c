"""A restore never runs or overwrites anything: what is damaged, changed, newer or in the way is refused whole."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from backend.actions.restore_backup import restore_backup
from backend.store.backup_manifest import MANIFEST
from backend.store.backup_source import open_source
from backend.store.blobs import BlobFolder
from backend.store.sessions import Database
from mpamatch.errors import BadInput, Conflict, MpamatchError, NotFound
from tests.backend.actions.backup.kept import backed_up, content, row_count
from tests.builders import Installation

pytestmark = pytest.mark.database


def test_a_database_with_rows_or_of_somebody_else_is_refused(made: Installation, tmp_path: Path) -> None:
    backed_up(made, tmp_path / "backups")
    before = content(made.database)
    source = open_source(tmp_path / "backups")
    url = made.database.engine.url.render_as_string(hide_password=False)
    with pytest.raises(Conflict, match=r"is not empty: there are rows in \w+; restore into a new state folder"):
        restore_backup(url, BlobFolder(tmp_path / "blobs"), tmp_path / "second", source)
    assert content(made.database) == before


def test_tables_of_somebody_else_are_left_alone(made: Installation, empty_database_url: str, tmp_path: Path) -> None:
    backed_up(made, tmp_path / "backups")
    other = Database(empty_database_url)
    with other.transaction() as session:
        session.execute(text("CREATE TABLE invoices (id bigint)"))
    with pytest.raises(Conflict, match="holds other tables"):
        restore_backup(
            empty_database_url, BlobFolder(tmp_path / "b"), tmp_path / "second", open_source(tmp_path / "backups")
        )
    assert inspect(other.engine).get_table_names() == ["invoices"]
    other.close()


def test_a_backup_of_a_newer_version_is_refused(made: Installation, empty_database_url: str, tmp_path: Path) -> None:
    report = backed_up(made, tmp_path / "backups")
    manifest = json.loads((report.path / MANIFEST).read_text())
    manifest["schema"] = "9999"
    manifest["product"] = "99.0"
    (report.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Conflict, match=r"is of version 99\.0"):
        restore_backup(empty_database_url, BlobFolder(tmp_path / "b"), tmp_path / "second", open_source(report.path))
    assert inspect(Database(empty_database_url).engine).get_table_names() == []


def _damage_rows(folder: Path) -> None:
    path = folder / "rows" / "tile.copy.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _damage_blob(folder: Path) -> None:
    path = next(p for p in (folder.parent / "blobs").rglob("*") if p.is_file())
    path.write_bytes(b"other")


def _lose_part(folder: Path) -> None:
    (folder / "rows" / "mask.copy.gz").unlink()


def _link_part(folder: Path) -> None:
    path = folder / "state" / "key"
    path.rename(folder / "elsewhere")
    path.symlink_to(folder / "elsewhere")


def _name_outside(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["parts"]["label-studio/../../../outside"] = manifest["parts"]["state/key"]
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _add_column(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["tables"]["tile"]["columns"][0] = "id; drop table project"
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _leave_table_out(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["tables"]["mask"]
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _claim_less(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["parts"]["rows/tile.copy.gz"]["raw_bytes"] = 5
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _claim_rows(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["tables"]["tile"]["rows"] += 1
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _other_log(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["projects"][0]["chain_head"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _other_log_of_the_installation(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["chain_head"] is not None
    manifest["chain_head"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _pack_nonsense(folder: Path) -> None:
    """What cannot be unpacked, with a manifest that says so."""
    path = folder / "rows" / "tile.copy.gz"
    content = path.read_bytes()[:10] + b"\xff" * 40  # a header, and a block of a kind that there is none of
    path.write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["parts"]["rows/tile.copy.gz"] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


DAMAGES = {
    _damage_rows: r"rows/tile.copy.gz: is not what the manifest says",
    _pack_nonsense: r"rows/tile.copy.gz: cannot be unpacked",
    _damage_blob: r"blob \w+: is damaged",
    _lose_part: r"rows/mask.copy.gz: cannot be read",
    _link_part: r"key: is a link",
    _name_outside: r"which is no part of a backup",
    _add_column: r"table 'id; drop table project'",
    _leave_table_out: r"has other tables or columns \(mask\)",
    _claim_less: r"rows/tile.copy.gz: holds \d+ bytes, not 5",
    _claim_rows: r"has 6 rows of tile, its manifest says 7",
    _other_log: r"project test-glands: .*without the head that was kept",
    _other_log_of_the_installation: r"the installation: .*without the head that was kept",
}


def test_a_damaged_or_changed_backup_leaves_nothing_and_a_whole_one_works_after_it(
    made: Installation, empty_database_url: str, tmp_path: Path
) -> None:
    report = backed_up(made, tmp_path / "backups")
    state = tmp_path / "second"
    for damage, line in DAMAGES.items():
        shutil.copytree(tmp_path / "backups", tmp_path / "spoilt")
        damage(tmp_path / "spoilt" / report.path.name)
        with pytest.raises(MpamatchError, match=line):
            restore_backup(empty_database_url, BlobFolder(state / "blobs"), state, open_source(tmp_path / "spoilt"))
        assert row_count(empty_database_url) == 0
        assert not (state / "key").exists()
        assert not (tmp_path / "outside").exists()
        shutil.rmtree(tmp_path / "spoilt")
    restore_backup(empty_database_url, BlobFolder(state / "blobs"), state, open_source(tmp_path / "backups"))
    assert (state / "key").exists()


MEMBERS = [
    ("../outside", tarfile.REGTYPE, "no part of a backup"),
    ("/etc/outside", tarfile.REGTYPE, "no part of a backup"),
    ("state/key", tarfile.SYMTYPE, "is no plain file"),
    ("label-studio/x", tarfile.CHRTYPE, "is no plain file"),
    (MANIFEST, tarfile.REGTYPE, "twice there"),
]


def test_a_tar_with_a_member_that_is_not_ours_is_refused(made: Installation, tmp_path: Path) -> None:
    backed_up(made, tmp_path / "one.tar")
    for name, kind, line in MEMBERS:
        shutil.copyfile(tmp_path / "one.tar", tmp_path / "spoilt.tar")
        with tarfile.open(tmp_path / "spoilt.tar", "a") as tar:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member, io.BytesIO())
        with pytest.raises(BadInput, match=line):
            open_source(tmp_path / "spoilt.tar")


def test_what_is_no_backup_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no tar")
    (tmp_path / "empty").mkdir()
    for name, kind in [("text", BadInput), ("empty", BadInput), ("nowhere", NotFound)]:
        with pytest.raises(kind):
            open_source(tmp_path / name)
