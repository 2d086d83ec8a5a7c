"""How long MONAI Label takes for its next sample by its strategy `random`, on a local datastore of a number of images.

A script of its own, since it needs an environment with `monailabel`. Run by `queue.py --monai-label PYTHON`; knows
nothing of ours. All that is called is theirs: the strategy as it comes, then the note of who was given what, as their
endpoint `activelearning/sample` takes it (0.8.5). Images are empty files, since none is read.
"""

from __future__ import annotations

import sys

# Run as a file: this folder's `queue` is not the standard library's, which many import.
if __name__ == "__main__":
    sys.path.pop(0)

import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path


def next_sample_ms(images: int, repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each choice alone, and of each with its note in the datastore's file."""
    from monailabel.datastore.local import LocalDatastore
    from monailabel.tasks.activelearning.random import Random

    with tempfile.TemporaryDirectory() as folder:
        for number in range(images):
            (Path(folder) / f"tile-{number}.png").touch()
        datastore = LocalDatastore(folder, extensions=("*.png",))
        strategy = Random()
        chosen, noted = [], []
        for _ in range(repeats):
            began = time.perf_counter()
            image = strategy({"strategy": "random"}, datastore)["id"]
            chosen.append((time.perf_counter() - began) * 1000)
            seen = {"random": {"ts": int(time.time()), "client_id": "person"}}
            datastore.update_image_info(image, {"strategy": seen})
            noted.append((time.perf_counter() - began) * 1000)
        return chosen, noted


def main() -> None:
    chosen, noted = next_sample_ms(int(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({"version": version("monailabel"), "chosen_ms": chosen, "noted_ms": noted}))


if __name__ == "__main__":
    main()
