"""One cell of a simulation, as `mpamatch simulate` starts it: ``-m mpamatch.cli.simulated_cell FOLDER PARENT``.

Takes what a cell of an experiment takes, and ends as a cell of an experiment does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mpamatch.cli.cell import Run, bring_to_end


def _run_simulated_cell() -> Run:
    from mpamatch.experiments.simulation.cell import run_simulated_cell

    return run_simulated_cell


if __name__ == "__main__":
    sys.exit(bring_to_end(Path(sys.argv[1]), int(sys.argv[2]), _run_simulated_cell))
