"""`limehub serve` as systemd sees it."""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.support.process import Workplace

WATCHDOG = 1.2  # seconds
BURNING = """
import os
def burn(event):
    while not os.path.exists("enough"):
        sum(range(200))
def register_event_handlers(worker, config):
    worker.register_event_handler(burn, "burn")
"""


@pytest.fixture
def ear(workplace: Workplace) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        path = str(workplace.folder / "notify")
        listening.bind(path)
        listening.settimeout(60)
        microseconds = str(int(WATCHDOG * 1e6))
        workplace.environ.update(NOTIFY_SOCKET=path, WATCHDOG_USEC=microseconds)
        workplace.install("solution-burn", BURNING)
        yield listening


def hear_until(ear: socket.socket, wanted: str) -> list[str]:
    """Everything said up to the line *wanted*."""
    lines: list[str] = []
    while wanted not in lines:
        lines += ear.recv(4096).decode().split("\n")
    return lines


def test_systemd_hears_of_the_whole_life(workplace: Workplace, ear: socket.socket) -> None:
    server = workplace.serve(ready=False)
    lines = hear_until(ear, "READY=1")
    assert lines[-2] == "STATUS=consuming 1 queues in 1 groups"
    server.send(signal.SIGHUP)
    lines = hear_until(ear, "READY=1")
    assert "RELOADING=1" in lines
    server.send(signal.SIGTERM)
    hear_until(ear, "STOPPING=1")  # at once: the socket holds ten messages, and drops what follows
    assert server.wait() == 0


def test_the_watchdog_is_fed_while_a_handler_burns(
    workplace: Workplace, ear: socket.socket
) -> None:
    server = workplace.serve(ready=False)
    hear_until(ear, "READY=1")
    published = workplace.run("publish", "burn", "{}")
    assert published.returncode == 0, published.stderr
    server.wait_for_line("is kept busy")
    forget_all(ear)
    fed = [when_fed(ear) for _ in range(5)]
    assert min(later - earlier for earlier, later in pairwise(fed)) < WATCHDOG
    (workplace.folder / "enough").touch()
    server.wait_for_line("the stall is over")
    assert server.stop() == 0


def forget_all(ear: socket.socket) -> None:
    """Take what was said so far."""
    while select.select([ear], [], [], 0)[0]:
        ear.recv(4096)


def when_fed(ear: socket.socket) -> float:
    hear_until(ear, "WATCHDOG=1")
    return time.monotonic()
