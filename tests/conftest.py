"""What every ring of tests shares: published data beside the repository, and a clean environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.reliability.fault_log import FaultLog

# Before anything loads torch. Two passes beside each other, each with a thread per core that spins while it waits, take
# each other's cores away: a step then costs several times as much as on one thread.
for _name, _value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}.items():
    os.environ.setdefault(_name, _value)

pytest_plugins = ["tests.servers", "tests.object_store", "tests.label_studio_server"]

# The same examples on every machine and day: a red run can be made red again, and none is red for being slow.
settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder ``../shared`` with published data and recorded payloads; a test that needs it is skipped without."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: published data and recorded payloads are not part of the repository")
    return folder


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> Iterator[None]:
    """Settings of the person who runs the tests must not reach them."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("MPAMATCH_")}
    for name in kept:
        del os.environ[name]
    yield
    os.environ.update(kept)


@pytest.fixture
def log(request: pytest.FixtureRequest) -> FaultLog:
    """Where a test of a fault writes down what it saw (docs/reliability.md)."""
    return FaultLog(os.fspath(request.node.nodeid))
