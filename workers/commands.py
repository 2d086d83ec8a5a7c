"""`mpamatch worker`: one worker process for some queues, or the beat."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from backend.logs import plain_line, set_up_logs


def worker(
    queues: Annotated[
        str,
        typer.Option(help="queues to serve, separated by commas: io, predict, train"),
    ] = "io,predict,train",
    name: Annotated[str, typer.Option(help="name of this worker")] = "worker",
    beat: Annotated[bool, typer.Option("--beat", help="run the schedule instead of a worker")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="serve nothing; say whether database and broker answer")
    ] = False,
) -> None:
    """Serve jobs until told to stop (TERM: finish or put back what is in hand)."""
    import celery.apps.worker
    from celery.signals import setup_logging

    from backend.clock import utc_now
    from backend.settings import load_settings
    from backend.signs import BEAT, Signs
    from workers.celery_app import add_tasks, check_connections, make_celery
    from workers.lost_ack import end_on_lost_ack

    settings = load_settings()
    set_up_logs(settings.log_format, settings.log_level)
    if check:
        check_connections(settings)
        return
    # With somebody listening here, Celery leaves the handlers as they are.
    setup_logging.connect(_left_as_it_is)
    served = (BEAT,) if beat else tuple(queues.split(","))
    Signs(settings.require_broker_url()).keep_alive(BEAT if beat else name, served, pid=os.getpid(), now=utc_now)
    by_machine = settings.log_format == "json"
    if by_machine:
        # Celery writes its last words past its own logging, from the signal's handler.
        celery.apps.worker.safe_say = _say
    app = make_celery(settings)
    if beat:
        # The only entry is the sweep and nothing is remembered between two starts: no file, so that two beats on
        # one state do not stand in each other's way.
        app.Beat(loglevel=settings.log_level.upper(), scheduler="celery.beat:Scheduler", quiet=by_machine).run()
        return
    add_tasks(app, settings)
    end_on_lost_ack()
    arguments = [
        *(["--quiet"] if by_machine else []),  # its banner is no line of JSON
        "worker",
        "--pool=solo",
        f"--queues={queues}",
        f"--hostname={name}@%h",
        "--without-gossip",
        "--without-mingle",
        f"--loglevel={settings.log_level.upper()}",
    ]
    app.worker_main(arguments)


def _say(message: str, *_: object) -> None:
    os.write(sys.stderr.fileno(), f"{plain_line(logging.INFO, 'celery.worker', message.strip())}\n".encode())


def _left_as_it_is(**_: object) -> None:
    """Lines go through `backend/logs.py` already."""
