"""One cell of an experiment, as `mpamatch experiment` starts it: ``-m mpamatch.cli.cell FOLDER PARENT``, with
the process id of the command.

Ends as a training does: 0 when the cell is done, 75 when it was stopped and left a checkpoint, else 1 with the reason
in the folder.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mpamatch.cli.lifetime import NOT_WRITTEN, STOPPED, StopRequest, die_with_parent, leave_after_parent
from mpamatch.errors import Cancelled, MpamatchError, NotWritten

Run = Callable[..., Any]


def bring_to_end(folder: Path, parent: int, find: Callable[[], Run]) -> int:
    """Run the cell of a folder by the function that ``find`` imports, as long as ``parent`` lives; the exit code.

    The import comes after the signals are dealt with: it takes seconds, in which this process may be asked to stop.
    """
    stop = StopRequest()
    die_with_parent(parent)
    leave_after_parent()
    from mpamatch.experiments.plans import CELL_ERROR

    def tell(event: Mapping[str, Any]) -> None:
        stop.training = True

    try:
        find()(folder, clock=time.monotonic, stop=stop, tell=tell)
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


def _run_cell() -> Run:
    from mpamatch.experiments.cell import run_cell

    return run_cell


if __name__ == "__main__":
    sys.exit(bring_to_end(Path(sys.argv[1]), int(sys.argv[2]), _run_cell))
