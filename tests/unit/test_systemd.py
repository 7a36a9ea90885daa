"""What systemd hears on its socket."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from limehub.observe.systemd import Systemd
from tests.support.waiting import wait_until


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(30)
        yield listening


def environ(ear: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": ear.getsockname(), **more}


def heard(ear: socket.socket) -> list[str]:
    return ear.recv(4096).decode().split("\n")


def silent(ear: socket.socket) -> bool:
    ear.setblocking(False)
    try:
        return not ear.recv(4096)
    except BlockingIOError:
        return True
    finally:
        ear.settimeout(30)


def test_ready_is_said_once_when_nothing_is_missing(ear: socket.socket) -> None:
    systemd = Systemd(environ(ear), lambda: True)
    systemd.note(("default: not connected", "other"), "consuming")
    assert heard(ear) == ["STATUS=not ready: default: not connected (and 1 more)"]
    systemd.note((), "consuming 2 queues")
    assert heard(ear) == ["STATUS=consuming 2 queues", "READY=1"]
    systemd.note((), "consuming 2 queues")
    assert silent(ear)
    systemd.note(("default: gone\nREADY=1",), "consuming")
    assert heard(ear) == ["STATUS=not ready: default: gone READY=1"]


def test_a_reload_is_framed_by_reloading_and_ready(ear: socket.socket) -> None:
    systemd = Systemd(environ(ear), lambda: True)
    with systemd.reloading():
        assert silent(ear), "before the server is ready, READY=1 would be a lie"
    systemd.note((), "consuming")
    heard(ear)
    with systemd.reloading():
        name, stamp = heard(ear)
        assert name == "RELOADING=1"
        assert int(stamp.removeprefix("MONOTONIC_USEC=")) > 0
        assert silent(ear)
    assert heard(ear) == ["READY=1"]


def test_the_watchdog_is_fed_while_the_server_lives(ear: socket.socket) -> None:
    alive, asked = [True], []

    def lives() -> bool:
        asked.append(alive[0])
        return alive[0]

    systemd = Systemd(environ(ear, WATCHDOG_USEC="90000"), lives)
    systemd.start()
    try:
        assert [heard(ear) for _ in range(3)] == [["WATCHDOG=1"]] * 3
        alive[0] = False
        wait_until(lambda: not asked[-1])
        while not silent(ear):  # what was said before
            pass
        wait_until(lambda: asked[-3:] == [False] * 3)
        assert silent(ear)
    finally:
        systemd.stop()


def test_a_watchdog_meant_for_another_process_is_not_ours(ear: socket.socket) -> None:
    other = str(os.getppid())
    systemd = Systemd(environ(ear, WATCHDOG_USEC="1000", WATCHDOG_PID=other), lambda: True)
    systemd.start()
    systemd.stop()
    assert silent(ear)


def test_an_abstract_socket_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"\0limehub-test-{os.getpid()}")
        ear.settimeout(30)
        Systemd({"NOTIFY_SOCKET": f"@limehub-test-{os.getpid()}"}, lambda: True).stopping()
        assert heard(ear) == ["STOPPING=1", "STATUS=stopping"]


@pytest.mark.parametrize("where", ["", "relative/path", "/nowhere/at/all"])
def test_without_systemd_nothing_happens(where: str, caplog: pytest.LogCaptureFixture) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": where, "WATCHDOG_USEC": "x"}, lambda: True)
    systemd.start()
    systemd.note((), "consuming")
    with systemd.reloading():
        systemd.stopping()
    systemd.stop()
    told = [each for each in caplog.records if each.name == "limehub.observe.systemd"]
    assert [each for each in told if each.levelno > logging.DEBUG] == []
