"""A worker that could not tell the broker that it took a message ends, to be started again.

Celery logs a lost acknowledgement and goes on, but counts the message as being in hand for good: a worker that takes
one at a time is never given another, though its connection is back and it looks well. Nothing is lost by ending, since
messages only wake up: what is to be done stands in rows.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from typing import Final

_LOGGER: Final = "celery.worker.request"
_BEGINS: Final = "Couldn't ack"


class _OnLostAck(logging.Handler):
    def __init__(self, leave: Callable[[], None]) -> None:
        super().__init__(logging.CRITICAL)
        self._leave = leave

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith(_BEGINS):
            self._leave()


def end_on_lost_ack(leave: Callable[[], None] | None = None) -> None:
    """From here on a lost acknowledgement calls ``leave``; without one this process stops as on TERM."""
    logging.getLogger(_LOGGER).addHandler(_OnLostAck(_stop if leave is None else leave))


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
