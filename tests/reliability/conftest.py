"""One running installation for all faults of servers and workers, on a small disk of its own where that can be had."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpamatch.datasets import phantom
from tests.flows.stack import running
from tests.reliability.ring import Ring

DISK_MB = 900


@pytest.fixture(scope="session")
def small_disk() -> Iterator[Path | None]:
    """A folder on a file system of its own, which a test may fill; None where this user may not mount one.

    Fails in CI instead: there no fault may be left out.
    """
    folder = Path(tempfile.mkdtemp(prefix="mpamatch-disk-"))
    folder.chmod(0o711)
    options = f"size={DISK_MB}m,mode=0711,uid={os.getuid()},gid={os.getgid()}"
    for before in ([], ["sudo", "-n"]):
        if _done([*before, "mount", "-t", "tmpfs", "-o", options, "tmpfs", os.fspath(folder)]):
            yield folder
            _done([*before, "umount", "--lazy", os.fspath(folder)])
            shutil.rmtree(folder, ignore_errors=True)
            return
    folder.rmdir()
    if os.environ.get("CI"):
        pytest.fail("no small disk to fill: let this user `mount -t tmpfs`, as root or with `sudo -n`")
    yield None


def _done(command: list[str]) -> bool:
    return (
        shutil.which(command[0]) is not None
        and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


@pytest.fixture(scope="session")
def ring(tmp_path_factory: pytest.TempPathFactory, small_disk: Path | None) -> Iterator[Ring]:
    """A project with masks enough for runs by hand, and a trained champion with a blank one before it."""
    drawn = tmp_path_factory.mktemp("drawn")
    phantom.write_folder(drawn, tiles=64, groups=12, size_px=128, masked=16, seed=5)
    options = ["--images", str(drawn), "--classes", "background,gland", "--start", "blank"]
    settings = {
        "train_profile": "quick",
        "retrain_after_tiles": 1000,
        "sweep_s": 3,
        "lease_s": 10,
        "head_size": 20,
        "compare_s": 5,
        "open_page_s": 2,
        "label_studio_timeout_s": 10,
        "job_attempts": 6,  # a test kills what carries one run three times
    }
    state = None if small_disk is None else small_disk / "state"
    if state is not None:
        state.mkdir(mode=0o711)
    with running(options, state=state, **settings) as stack:
        made = Ring(stack, drawn)
        made.first_run()
        yield made
