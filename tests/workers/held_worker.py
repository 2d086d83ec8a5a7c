"""A worker with the product's own options whose jobs only say that they began, and wait until they are let go.

python -m tests.workers.held_worker NAME QUEUE

Keys in the broker's own database: `began` is a list of NAMEs in the order of their starts, `let-go` ends every wait.
"""

from __future__ import annotations

import sys
import time

import redis

from backend.settings import load_settings
from backend.wakeups import QUEUES
from workers.celery_app import make_celery, stopping


def main(name: str, queue: str) -> None:
    settings = load_settings()
    broker = redis.Redis.from_url(settings.require_broker_url().replace("redis+socket://", "unix://").split("?")[0])
    app = make_celery(settings)

    def held() -> None:
        broker.rpush("began", name)
        while not broker.exists("let-go") and not stopping():
            time.sleep(0.05)
        broker.rpush("ended", name)

    for task in (task for task, served in QUEUES.items() if served == queue):
        app.task(name=task)(held)
    app.worker_main(
        ["worker", "--pool=solo", f"--queues={queue}", f"--hostname={name}@%h", "--without-gossip", "--without-mingle"]
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
