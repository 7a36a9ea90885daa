"""What a thread beside the hub logs, and who hears it when."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import gevent
import pytest

from limehub.amqp.thread_log import ThreadLog
from tests.support.waiting import wait_until

log = logging.getLogger("limehub.test_thread_log")


class Handler(logging.Handler):
    """Gives each record to *hears*. *locked*: whether it has a lock, as most handlers do."""

    def __init__(self, hears: Callable[[str], object], *, locked: bool) -> None:
        self._locked = locked
        super().__init__()
        self._hears = hears

    def createLock(self) -> None:
        if self._locked:
            super().createLock()
        else:
            self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        self._hears(record.getMessage())


@pytest.fixture
def add() -> Iterator[Callable[[logging.Handler], None]]:
    """Add a handler for the test's time."""
    yield log.addHandler
    for handler in list(log.handlers):
        log.removeHandler(handler)


Add = Callable[[logging.Handler], None]


def fails(_message: str) -> None:
    raise RuntimeError("disk full")


def test_a_handler_that_fails_ends_neither_the_thread_nor_what_others_hear(add: Add) -> None:
    heard: list[str] = []
    add(Handler(fails, locked=False))
    add(Handler(heard.append, locked=False))
    ThreadLog(log, gevent.get_hub().loop).warning("it stalls", {})
    assert heard == ["it stalls"]


def test_a_handler_with_a_lock_hears_when_the_hub_turns(add: Add) -> None:
    heard: list[str] = []
    add(Handler(heard.append, locked=True))
    ThreadLog(log, gevent.get_hub().loop).warning("it stalls", {"handler": "x"})
    assert heard == []
    wait_until(lambda: heard == ["it stalls"])


def test_what_is_below_the_level_is_told_to_nobody(add: Add) -> None:
    heard: list[str] = []
    add(Handler(heard.append, locked=False))
    log.setLevel(logging.ERROR)
    try:
        told = ThreadLog(log, gevent.get_hub().loop)
        told.warning("it stalls", {})
        told.error("no heartbeats", {})
    finally:
        log.setLevel(logging.NOTSET)
    assert heard == ["no heartbeats"]
