"""One of the processes that train a run together, as torchrun starts it: ``-m mpamatch.cli.several RUN_DIR``.

torchrun reads options of its own wherever they stand, so that this program takes none.
"""

from __future__ import annotations

import sys

from mpamatch.cli import main

if __name__ == "__main__":
    main(["train", "--run", sys.argv[1]])
