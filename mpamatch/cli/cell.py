"""One cell of an experiment, as `mpamatch experiment` starts it: ``-m mpamatch.cli.cell FOLDER``.

Ends as a training does: 0 when the cell is done, 75 when it was stopped and left a checkpoint, else 1 with the reason
in the folder.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpamatch.cli.lifetime import NOT_WRITTEN, STOPPED, StopRequest, die_with_parent, leave_after_parent
from mpamatch.errors import Cancelled, MpamatchError, NotWritten


def main(folder: Path) -> int:
    """Run the cell of a folder; the exit code."""
    stop = StopRequest()
    die_with_parent()
    leave_after_parent()
    from mpamatch.experiments.cell import run_cell
    from mpamatch.experiments.protocol import CELL_ERROR

    def tell(event: Mapping[str, Any]) -> None:
        stop.training = True

    try:
        run_cell(folder, clock=time.monotonic, stop=stop, tell=tell)
    except Cancelled as error:
        print(error, file=sys.stderr)
        return STOPPED
    except NotWritten as error:
        print(error, file=sys.stderr)
        return NOT_WRITTEN
    except MpamatchError as error:
        row = {"kind": type(error).__name__, "item": error.item, "problem": error.problem, "remedy": error.remedy}
        (folder / CELL_ERROR).write_text(json.dumps(row) + "\n", encoding="utf-8")
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
