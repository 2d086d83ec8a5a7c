from pathlib import Path

import pytest

from mpamatch.errors import BadInput, NotFound
from mpamatch.files.manifest import read_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "sub/c, d.png", "m.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def _manifest(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_rows_name_images_relative_to_the_manifest(folder: Path) -> None:
    text = 'path,group,um_per_px,split,mask\na.png,case 1,0.5,train,m.png\n"sub/c, d.png",case-2,,AUDIT,\n'
    found = read_manifest(_manifest(folder, text))
    assert found.problems == ()
    first, second = found.items
    assert (first.image, first.group, first.um_per_px, first.split) == (folder / "a.png", "case 1", 0.5, "train")
    assert first.mask == folder / "m.png"
    assert (second.image.name, second.um_per_px, second.split, second.mask) == ("c, d.png", None, "audit", None)


def test_columns_may_stand_in_any_order_and_only_the_path_is_needed(folder: Path) -> None:
    text = "\ufeffGROUP , Path\r\ng,a.png\r\n\r\n,b.png\r\n"
    found = read_manifest(_manifest(folder, text))
    assert [(i.image.name, i.group) for i in found.items] == [("a.png", "g"), ("b.png", "b.png")]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("absent.png,g,,", "absent.png is no file"),
        (",g,,", "no path"),
        ("b.png,g,zero,", "um_per_px 'zero'"),
        ("b.png,g,nan,", "um_per_px 'nan'"),
        ("b.png,g,500,", "give a number from 0.02 to 10.0"),
        ("b.png,g,,test", "split 'test'; give train, audit, or nothing"),
        ("b.png,first,,audit", "group first is train on an earlier line"),
        ("a.png,first,,", "a.png stands on line 2 too"),
        ("b.png,g", "2 values for 4 columns"),
        ("b.png,g\x07,,", "cannot be printed"),
    ],
)
def test_a_bad_row_is_one_clear_line_and_the_rest_goes_on(folder: Path, row: str, said: str) -> None:
    text = f"path,group,um_per_px,split\na.png,first,,train\n{row}\nsub/../m.png,last,,\n"
    found = read_manifest(_manifest(folder, text))
    assert [i.group for i in found.items] == ["first", "last"]
    assert len(found.problems) == 1
    assert "list.csv line 3: " in found.problems[0]
    assert said in found.problems[0]
    assert found.problems[0].isprintable()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a.png,case-1\n", "no column `path`"),
        ("path,goup\na.png,g\n", "unknown column 'goup'"),
        ("path,group,path\n", "a column twice"),
        ('path\n"a.png', "cannot be read as CSV"),
    ],
)
def test_a_header_that_is_none_is_refused(folder: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=r"list\.csv") as told:
        read_manifest(_manifest(folder, text))
    assert said in str(told.value)


def test_what_is_no_text_or_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(BadInput, match="CSV"):
        read_manifest(_manifest(folder, "path\nä.png\n", "utf-16"))
    with pytest.raises(NotFound):
        read_manifest(folder / "none.csv")
