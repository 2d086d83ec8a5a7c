"""What modules of flows share, since a stack takes a minute to come up."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mpamatch.datasets import phantom
from tests.flows.browser import find_chromium
from tests.flows.stack import Stack, running

CLASSES = "background,gland,stroma"
SIDE = 256


@pytest.fixture(scope="session")
def drawn_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with a project of four drawn tiles, on which nothing is trained: models are made up by the tests.

    Its users are neighbours in the order of modules, and the last of them stops it.
    """
    if find_chromium() is None:
        if os.environ.get("CI") == "true":
            pytest.fail("Chromium is missing: apt-get install chromium")
        pytest.skip("Chromium is missing: apt-get install chromium")
    drawn = tmp_path_factory.mktemp("tissue") / "bitmask tissue"
    phantom.write_folder(drawn, tiles=4, groups=1, size_px=SIDE, masked=0, seed=3)
    options = ["--images", str(drawn), "--classes", CLASSES, "--label-type", "bitmask"]
    with running(options, retrain_after_tiles=100, sweep_s=5, open_page_s=15) as up:
        yield up
