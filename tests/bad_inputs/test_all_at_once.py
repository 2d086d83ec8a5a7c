"""Every bad picture and mask in one folder beside good ones, through the command that people use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpamatch.files.images import encode_png
from tests.bad_inputs.bodies import BODIES
from tests.bad_inputs.drawn_masks import MASKS
from tests.bad_inputs.pictures import PICTURES, tissue
from tests.bad_inputs.results import RESULTS

pytestmark = [pytest.mark.database, pytest.mark.processes]
COMMAND = [sys.executable, "-c", "from mpamatch.cli import main; main()"]
GOOD = 8


def test_there_are_at_least_forty_ways_to_be_bad_and_none_is_named_twice() -> None:
    names = [f"{kind}/{one}" for kind, rows in _tables().items() for one in rows]
    assert len(names) == len(set(names)) >= 40
    refused = [c for c in (*PICTURES, *MASKS, *RESULTS, *BODIES) if c.line is not None]
    assert len(refused) >= 40


def _tables() -> dict[str, list[str]]:
    return {
        "pictures": [c.file for c in PICTURES],
        "masks": [c.file for c in MASKS],
        "results": [c.name for c in RESULTS],
        "bodies": [c.name for c in BODIES],
    }


def test_a_folder_of_every_bad_file_is_registered_in_one_go(tmp_path: Path, database_url: str, redis_url: str) -> None:
    folder = tmp_path / "pictures"
    (folder / "masks").mkdir(parents=True)
    for number in range(GOOD):
        (folder / f"good-{number}.png").write_bytes(encode_png(tissue(500 + number)))
    pictures = [c for c in PICTURES if not (c.not_for_root and os.geteuid() == 0)]
    for picture in pictures:
        picture.make(folder / picture.file)
    for number, mask in enumerate(MASKS):
        path = folder / "masks" / f"mask-of-{mask.file}"
        (folder / f"{path.stem}.png").write_bytes(encode_png(tissue(700 + number)))
        mask.make(path)
    report = _register(folder, tmp_path / "state", database_url, redis_url)
    # Pictures of the same content count once: several rows of the table are made from one picture.
    taken = GOOD + len(MASKS) + len({c.shown().tobytes() for c in pictures if c.shown is not None})
    assert report["images"] + report["known"] >= taken
    assert report["masks"] == sum(c.mask is not None for c in MASKS)
    expected = len([c for c in pictures if not c.taken]) + len([c for c in MASKS if c.line is not None])
    assert len(report["problems"]) == expected
    for picture in (c for c in pictures if not c.taken):
        assert any(picture.gives(line, folder / picture.file) for line in report["problems"]), picture.file
    for mask in (c for c in MASKS if c.line is not None):
        path = folder / "masks" / f"mask-of-{mask.file}"
        assert mask.line is not None
        assert mask.line.replace("{path}", str(path)) in report["problems"], mask.file

    again = _register(folder, tmp_path / "state", database_url, redis_url)
    assert (again["images"], again["masks"]) == (0, 0)
    assert sorted(again["problems"]) == sorted(report["problems"])


def _register(folder: Path, state: Path, database_url: str, redis_url: str) -> dict[str, object]:
    environment = {
        **os.environ,
        "MPAMATCH_STATE": str(state),
        "MPAMATCH_DATABASE_URL": database_url,
        "MPAMATCH_BROKER_URL": redis_url,
    }
    arguments = ["register", str(folder), "--project", "Bad pictures", "--classes", "background,gland", "--json"]
    done = subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found
