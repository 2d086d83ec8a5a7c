"""Brush run lengths both ways, against label-studio-sdk in the same run: same masks, same bits, turn by turn.

The SDK runs in Label Studio's environment, as a process that answers one request after the other. Times are CPU time of
the process: on a busy machine the clock on the wall runs on while a long call waits for its core, which made the SDK
look up to twice as slow as it is (seen at a load of 5 on 2 cores). Calls alternate; a ratio is of medians. The program
fails when a single byte or pixel differs.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

# Run as a file: the repository's root takes the place of this folder, where `queue` is not the standard library's.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from backend.labelstudio.rle import decode_rle, encode_rle
from benchmarks.report import Figure, run

SIDE_PX = 1024
REPEATS = 15
SDK_PYTHON = Path(__file__).resolve().parents[1] / ".venv-label-studio" / "bin" / "python"
BOUNDS = {"discs": 5.0, "ragged": 5.0, "frayed": 5.0, "disc": 1.0}

# Pixels and bytes go through files; a line of JSON goes each way per call. Only the call itself is timed.
_REFEREE = """
import gc, json, sys, time
import numpy as np
from importlib.metadata import version
from label_studio_sdk.converter.brush import decode_rle, mask2rle

gc.disable()  # as the other side does
for line in sys.stdin:
    asked = json.loads(line)
    if asked["do"] == "encode":
        mask = np.load(asked["mask"]).astype(np.uint8) * 255
        began = time.process_time()
        found = mask2rle(mask)
        took = time.process_time() - began
        answer = found if asked["keep"] else None
    elif asked["do"] == "decode":
        data = json.loads(open(asked["rle"]).read())
        began = time.process_time()
        found = np.reshape(decode_rle(data), [asked["side"], asked["side"], 4])[:, :, 3]
        took = time.process_time() - began
        answer = bool((found == np.load(asked["mask"]).astype(np.uint8) * 255).all())
    else:
        took, answer = 0.0, version("label-studio-sdk")
    print(json.dumps({"seconds": took, "answer": answer}), flush=True)
"""

Ask = Callable[[Mapping[str, Any]], Any]


def masks(side_px: int = SIDE_PX) -> dict[str, npt.NDArray[np.bool_]]:
    """What is coded: 40 discs, a ragged mask of smoothed noise, one with 2.7 times as many runs, one small disc."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side_px, :side_px]

    def disc(y: float, x: float, radius: float) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        return found

    discs = np.zeros((side_px, side_px), bool)
    for y, x in rng.uniform(0, side_px, (40, 2)):
        discs |= disc(y, x, side_px * rng.uniform(0.01, 0.035))
    noise = rng.standard_normal((side_px, side_px))
    return {
        "discs": discs,
        "ragged": ndimage.gaussian_filter(noise, 6.0) > 0,
        "frayed": ndimage.gaussian_filter(noise, 2.0) > 0,
        "disc": disc(side_px / 2, side_px / 2, side_px * 0.04),
    }


def measure(side_px: int = SIDE_PX, repeats: int = REPEATS) -> dict[str, Figure]:
    """Every figure. Raises RuntimeError when bytes or pixels differ, or the SDK's environment is not there."""
    figures: dict[str, Figure] = {}
    with _referee() as (ask, folder):
        version = ask({"do": "version"})["answer"]
        for name, mask in masks(side_px).items():
            path, rle_path = folder / f"{name}.npy", folder / f"{name}.json"
            np.save(path, mask)
            ours = encode_rle(mask)
            rle_path.write_text(json.dumps(ours))
            if ask({"do": "encode", "mask": str(path), "keep": True})["answer"] != ours:
                raise RuntimeError(f"{name}: the SDK writes other bytes")
            if not (decode_rle(ours, side_px, side_px) == mask * np.uint8(255)).all():
                raise RuntimeError(f"{name}: other pixels come back")
            size = f"{side_px} px, {len(ours) / 1000:.1f} kB"
            encode = {"do": "encode", "mask": str(path), "keep": False}
            decode = {"do": "decode", "rle": str(rle_path), "mask": str(path), "side": side_px}
            figures |= _pair("encode", name, lambda m=mask: encode_rle(m), ask, encode, repeats, (version, size))
            figures |= _pair(
                "decode", name, lambda o=ours: decode_rle(o, side_px, side_px), ask, decode, repeats, (version, size)
            )
    return figures


def _pair(
    way: str,
    name: str,
    ours: Callable[[], object],
    ask: Ask,
    theirs: Mapping[str, Any],
    repeats: int,
    told: tuple[str, str],
) -> dict[str, Figure]:
    """The ratio of medians, and both medians, of calls that take turns."""
    mine, sdk = [], []
    for turn in range(repeats + 2):
        began = time.process_time()
        ours()
        took = time.process_time() - began
        answer = ask(theirs)
        if answer["answer"] is False:
            raise RuntimeError(f"{name}: the SDK reads other pixels")
        if turn >= 2:  # the first two of each warm up
            mine.append(took)
            sdk.append(float(answer["seconds"]))
    version, size = told
    ours_ms, sdk_ms = statistics.median(mine) * 1000, statistics.median(sdk) * 1000
    reference = f"label-studio-sdk {version}, CPU time, {repeats} turns of each; {size}"
    return {
        f"rle_{way}_{name}_x_sdk": Figure(sdk_ms / ours_ms, "x (at least)", BOUNDS[name], reference),
        f"rle_{way}_{name}_ms": Figure(ours_ms, "ms", None, size),
        f"rle_{way}_{name}_sdk_ms": Figure(sdk_ms, "ms", None, size),
    }


@contextmanager
def _referee() -> Iterator[tuple[Ask, Path]]:
    """The SDK in its own environment, answering one line after the other; and a folder for masks."""
    import tempfile

    if not SDK_PYTHON.exists():
        raise RuntimeError(f"{SDK_PYTHON} is not there: make setup")
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [str(SDK_PYTHON), "-c", _REFEREE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def ask(asked: Mapping[str, Any]) -> Any:
            requests.write(json.dumps(dict(asked)) + "\n")
            requests.flush()
            line = answers.readline()
            if not line:
                raise RuntimeError("the SDK's process ended")
            return json.loads(line)

        try:
            yield ask, Path(folder)
        finally:
            requests.close()
            process.wait(30)


if __name__ == "__main__":
    run(measure, __doc__)
