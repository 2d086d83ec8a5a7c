"""`mpamatch worker`: one worker process for some queues, or the beat."""

from __future__ import annotations

import logging
from typing import Annotated

import typer


def worker(
    queues: Annotated[
        str, typer.Option(help="queues to serve: io, predict, train, separated by commas")
    ] = "io,predict,train",
    name: Annotated[str, typer.Option(help="name of this worker")] = "worker",
    beat: Annotated[bool, typer.Option("--beat", help="run the schedule instead of a worker")] = False,
) -> None:
    """Serve jobs until told to stop (TERM: finish or put back what is in hand)."""
    from backend.settings import load_settings
    from workers.celery_app import add_tasks, make_celery

    settings = load_settings()
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    app = make_celery(settings)
    if beat:
        schedule = settings.state / "beat" / "schedule"
        schedule.parent.mkdir(parents=True, exist_ok=True)
        app.Beat(loglevel=settings.log_level.upper(), schedule=str(schedule)).run()
        return
    add_tasks(app, settings)
    arguments = [
        "worker",
        "--pool=solo",
        f"--queues={queues}",
        f"--hostname={name}@%h",
        "--without-gossip",
        "--without-mingle",
        f"--loglevel={settings.log_level.upper()}",
    ]
    app.worker_main(arguments)
