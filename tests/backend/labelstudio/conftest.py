"""What Label Studio's tests share: bodies recorded from a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RECORDED = Path(__file__).resolve().parents[4] / "shared" / "fixtures" / "label-studio"


@pytest.fixture(scope="session")
def recorded() -> Callable[[str], Any]:
    """A recording's data by its name; skips where the recordings are not there."""

    def read(name: str) -> Any:
        path = RECORDED / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"no recordings of Label Studio beside the repository ({RECORDED})")
        return json.loads(path.read_text())["data"]

    return read
