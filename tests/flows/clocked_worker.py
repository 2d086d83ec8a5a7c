"""A real worker that goes by a clock which a test moves: the time stands in a file.

python -m tests.flows.clocked_worker CLOCK_FILE QUEUES

Everything else is what `mpamatch worker` does, with the settings of the environment.
"""

from __future__ import annotations

import logging
import sys
from datetime import datetime
from pathlib import Path

from backend.settings import load_settings
from workers.celery_app import add_tasks, make_celery


def main(clock: Path, queues: str) -> None:
    def now() -> datetime:
        return datetime.fromisoformat(clock.read_text())

    settings = load_settings()
    logging.basicConfig(level="INFO", format="%(asctime)s %(name)s %(message)s", force=True)
    app = make_celery(settings)
    add_tasks(app, settings, now=now)
    name = queues.replace(",", "-")
    app.worker_main(
        ["worker", "--pool=solo", f"--queues={queues}", f"--hostname={name}@%h", "--without-gossip", "--without-mingle"]
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
