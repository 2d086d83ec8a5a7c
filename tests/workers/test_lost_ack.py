"""A broker that hangs while a message is acknowledged: Celery's own code says it, and the worker leaves."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from celery.worker.request import logger
from kombu.message import Message
from redis.exceptions import TimeoutError as RedisTimeout

from workers.lost_ack import end_on_lost_ack


class Hanging:
    """A channel whose broker does not answer."""

    no_ack_consumers: None = None

    def basic_ack(self, *_: object, **__: object) -> None:
        raise RedisTimeout("Timeout reading from socket")


@pytest.fixture
def left() -> Iterator[list[str]]:
    before, told = list(logger.handlers), []
    end_on_lost_ack(lambda: told.append("left"))
    yield told
    logger.handlers[:] = before


def test_a_lost_acknowledgement_ends_the_worker(left: list[str]) -> None:
    message = Message(channel=Hanging(), delivery_tag="1", body="{}")
    message.ack_log_error(logger, errors=(RedisTimeout,))
    assert left == ["left"]


def test_other_words_do_not(left: list[str]) -> None:
    logger.critical("something else")
    logging.getLogger("celery.worker.consumer.consumer").critical("Couldn't ack")
    assert left == []
