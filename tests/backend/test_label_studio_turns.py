"""Requests for the next task take turns, all others do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest

from backend.label_studio_turns import asks_for_next, one_at_a_time

PAGE = {"PATH_INFO": "/api/dm/actions", "QUERY_STRING": "id=next_task&project=1"}
API = {"PATH_INFO": "/api/projects/12/next/", "QUERY_STRING": ""}
OTHERS = [
    {"PATH_INFO": "/api/dm/actions", "QUERY_STRING": "id=delete_tasks&project=1"},
    {"PATH_INFO": "/api/dm/actions/", "QUERY_STRING": ""},
    {"PATH_INFO": "/api/projects/12", "QUERY_STRING": "id=next_task"},
    {"PATH_INFO": "/api/tasks/12/annotations", "QUERY_STRING": ""},
    {"PATH_INFO": "/next", "QUERY_STRING": ""},
    {},
]


@pytest.mark.parametrize("environ", [PAGE, API, {**PAGE, "PATH_INFO": "/api/dm/actions/"}])
def test_the_label_stream_s_requests_are_known(environ: dict[str, Any]) -> None:
    assert asks_for_next(environ)


@pytest.mark.parametrize("environ", OTHERS)
def test_other_requests_are_let_through(environ: dict[str, Any]) -> None:
    assert not asks_for_next(environ)


def _met(environs: list[dict[str, Any]]) -> list[bool]:
    """Whether each request met another one inside the application."""
    inside = Barrier(2)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            inside.wait(1)
        except BrokenBarrierError:
            inside.reset()
            return [b"alone"]
        return [b"met"]

    served = one_at_a_time(application)
    with ThreadPoolExecutor(2) as people:
        return [list(answer) == [b"met"] for answer in people.map(lambda e: served(e, lambda *_: None), environs)]


def test_two_who_ask_at_once_are_served_one_after_the_other() -> None:
    assert _met([PAGE, API]) == [False, False]


def test_nobody_else_waits() -> None:
    assert _met([PAGE, OTHERS[3]]) == [True, True]
    assert _met([OTHERS[3], OTHERS[3]]) == [True, True]


def test_an_error_inside_ends_the_turn() -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        raise RuntimeError("as the test wants it")

    served = one_at_a_time(application)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            served(PAGE, lambda *_: None)
