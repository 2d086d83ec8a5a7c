"""The machine: state folder, permissions, disk, ports, program files, torch and its device.

Torch is asked in a child process: nothing in this package loads it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from backend.doctor.check import Check, fail, ok, skipped, warn
from backend.label_studio_server import find_label_studio
from backend.settings import Settings, inherited_environment
from mpamatch.errors import Unavailable

GB = 10**9
# Readable by others than their owner, these give the installation away.
PRIVATE_FILES = ("key", "secrets.json", "dashboard-token")
PROBE_S = 180.0
_PROBE = """
import json
try:
    import torch
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_name(n) for n in range(count)]
    print(json.dumps({"torch": torch.__version__, "cuda": names, "mps": torch.backends.mps.is_available()}))
except Exception as error:
    print(json.dumps({"problem": f"{type(error).__name__}: {str(error)[:200]}"}))
"""


def check_state(state: Path) -> list[Check]:
    """The state folder, what only its owner may read in it, and whose account PostgreSQL needs."""
    item = "state folder"
    if not state.is_dir():
        problem = f"{state} is no folder" if state.exists() else f"{state} does not exist"
        return [fail(item, problem, "start `mpamatch up`, which makes it, or correct MPAMATCH_STATE")]
    if not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        return [fail(item, f"{state} cannot be written by this user", "run as its owner, or give this user the folder")]
    mode = stat.S_IMODE(state.stat().st_mode)
    if mode & 0o066:
        return [warn(item, f"{state} can be read by others (mode {mode:o})", f"chmod go-rw {state}"), _private(state)]
    return [ok(item, f"{state} is writable"), _private(state)]


def _private(state: Path) -> Check:
    item = "private files"
    there = [state / name for name in PRIVATE_FILES if (state / name).exists()]
    open_ones = [path for path in there if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if open_ones:
        names = " ".join(str(path) for path in open_ones)
        return fail(item, f"{', '.join(p.name for p in open_ones)} can be read by others", f"chmod 600 {names}")
    return ok(item, f"{', '.join(path.name for path in there) or 'none yet'}: for the owner only")


def check_disk(settings: Settings) -> Check:
    """Free space where the state and the blobs lie, against the setting `disk_low_gb`."""
    item = "disk"
    folders = [settings.state, *([] if settings.blobs_in_bucket else [settings.blobs_folder])]
    free_gb = min(_free_bytes(folder) for folder in folders) / GB
    says = f"{free_gb:.1f} GB are free"
    remedy = "make room, or move the state folder to a larger disk; `disk_low_gb` sets the limit"
    if free_gb < settings.disk_low_gb / 5:
        return fail(item, f"{says}, which is too little to train", remedy)
    if free_gb < settings.disk_low_gb:
        return warn(item, f"{says}, less than {settings.disk_low_gb:g} GB", remedy)
    return ok(item, says)


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def check_account(*, embedded: bool) -> Check:
    """Whose account the embedded PostgreSQL runs under: root is refused by it."""
    item = "account"
    if not embedded or os.geteuid() != 0:
        return ok(item, f"runs as user {os.geteuid()}")
    said = "runs as root; PostgreSQL runs as the system user pgserver, who may pass through the folders above its data"
    return ok(item, said)


def check_ports(settings: Settings) -> Check:
    """Whether the first ports to try are free; asked while nothing runs, since then nobody of ours has them."""
    item = "ports"
    wanted = {"the API": (settings.api_host, settings.api_port)}
    if settings.label_studio_url is None:
        wanted["Label Studio"] = (settings.label_studio_host, settings.label_studio_port)
    taken = [f"{port} for {name}" for name, (host, port) in wanted.items() if _answered(host, port)]
    if taken:
        remedy = "nothing to do: `mpamatch up` takes the next free one; MPAMATCH_API_PORT and the like name another"
        return warn(item, f"taken by another program: {', '.join(taken)}", remedy)
    return ok(item, "free: " + ", ".join(f"{port} for {name}" for name, (_, port) in wanted.items()))


def _answered(host: str, port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1" if host == "0.0.0.0" else host, port), timeout=1.0):
            return True
    except OSError:
        return False


def check_label_studio_program(settings: Settings, *, own: bool) -> Check:
    """The environment of Label Studio, where it is ours to start."""
    item = "label studio program"
    if not own:
        return skipped(item, "Label Studio is run by others")
    try:
        return ok(item, f"{find_label_studio(settings.label_studio_command)}")
    except Unavailable as error:
        return fail(item, error.problem, error.remedy)


def check_torch(settings: Settings) -> list[Check]:
    """Whether torch can be loaded and has the device that is asked for."""
    found = _asked_of_torch()
    if "problem" in found:
        remedy = "run `make setup` again; training and predicting need it, labelling goes on without"
        return [fail("torch", found["problem"], remedy), skipped("device", "torch cannot be loaded")]
    gpus, has_mps = found["cuda"], bool(found["mps"])
    there = [*(f"cuda ({name})" for name in gpus), *(["mps"] if has_mps else []), "cpu"]
    version = ok("torch", f"version {found['torch']}")
    asked = settings.device
    number = int(asked.partition(":")[2] or 0)
    if (asked.startswith("cuda") and number >= len(gpus)) or (asked == "mps" and not has_mps):
        remedy = "set MPAMATCH_DEVICE=auto, or install the driver and a torch that is built for it"
        return [version, fail("device", f"{asked} is asked for, but there is only {', '.join(there)}", remedy)]
    return [version, ok("device", f"{asked}; there is {', '.join(there)}")]


def _asked_of_torch() -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            env=inherited_environment(),
            check=False,
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return {"problem": f"was not loaded within {PROBE_S:.0f} s"}
    except (ValueError, IndexError):
        return {"problem": f"the interpreter ended while loading it (code {done.returncode})"}
