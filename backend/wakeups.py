"""Wake-ups: Celery messages with ids only, sent after commit; the one importer of celery in this package.

A lost or doubled message costs time and nothing else: rows say what is due, and the sweep sends again. So sending
never fails the caller.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from kombu import Connection
from kombu.exceptions import KombuError, OperationalError

from mpamatch.errors import Unavailable

LOG = logging.getLogger("mpamatch.wakeups")

SYNC = "mpamatch.sync"
PREDICT = "mpamatch.predict"
TRAIN = "mpamatch.train"
SWEEP = "mpamatch.sweep"
QUEUES = {SYNC: "io", SWEEP: "io", PREDICT: "predict", TRAIN: "train"}

# A message held by a worker longer than this is given to another one as well; our leases make that harmless.
VISIBILITY_TIMEOUT_S = 12 * 3600
# An older wake-up tells nothing that the sweep has not said again; a worker that was away does not wade through them.
EXPIRES_S = 900


def celery_options(broker_url: str, *, sweep_s: float) -> dict[str, Any]:
    """What senders and workers must agree on."""
    return {
        "broker_url": broker_url,
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
        },
        "broker_connection_retry_on_startup": True,
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_routes": {name: {"queue": queue} for name, queue in QUEUES.items()},
        "task_default_queue": "io",
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        "beat_schedule": {"sweep": {"task": SWEEP, "schedule": sweep_s, "options": {"expires": EXPIRES_S}}},
        "timezone": "UTC",
    }


class Wakeups:
    """Sends wake-ups to the workers."""

    def __init__(self, broker_url: str) -> None:
        self._app = Celery("mpamatch", set_as_current=False)
        self._app.conf.update(celery_options(broker_url, sweep_s=15))

    def warm(self) -> None:
        """Connect now, so that the first wake-up of a process does not pay for it; no broker is no error."""
        try:
            with self._app.producer_or_acquire() as producer:
                producer.connection.ensure_connection(max_retries=1, timeout=2)
        except (OperationalError, OSError) as error:
            LOG.warning("broker not reached (%s); the sweep will send", type(error).__name__)

    def sync(self, project_id: int, *, full: bool = False) -> None:
        """Look at one project's inbox, queue and runs; ``full`` also reads Label Studio for what no webhook told."""
        self._send(SYNC, [project_id, full])

    def predict(self) -> None:
        self._send(PREDICT, [])

    def train(self) -> None:
        """Wake a train worker that is free: one that trains takes no message."""
        self._send(TRAIN, [])

    def _send(self, name: str, arguments: list[Any]) -> None:
        try:
            self._app.send_task(name, arguments, queue=QUEUES[name], retry=False, expires=EXPIRES_S)
        except (OperationalError, OSError) as error:
            LOG.warning("wake-up %s not sent (%s); the sweep will", name, type(error).__name__)


@contextmanager
def broker_client(url: str, *, timeout_s: float) -> Iterator[Any]:
    """A plain client of the broker, for looking and for signs of life. Raises Unavailable."""
    options = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "max_retries": 0}
    connection = Connection(url, transport_options=options)
    # The client's own errors, whose classes only its transport may name.
    errors = (OSError, KombuError, *connection.connection_errors, *connection.channel_errors)
    try:
        with connection:
            channel: Any = connection.default_channel
            yield channel.client
    except errors as error:
        remedy = "start `mpamatch up`, or check MPAMATCH_BROKER_URL"
        raise Unavailable("broker", f"does not answer ({type(error).__name__})", remedy) from error
