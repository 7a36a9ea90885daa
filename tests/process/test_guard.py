"""The guard process of a real server: signals in a held interpreter, and a clean end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.burners import Burners
from tests.support.process import LimehubProcess, Workplace, alive
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

AT_ONCE = 10.0  # seconds; in order it would take the grace of 1 s, and the patience of 15 s more
GUARDED = '[event_handler]\nguard = "process"\nshutdown_grace = 1\n'
TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.fixture
def guarded(workplace: Workplace, vhost: Vhost) -> Callable[..., tuple[Burners, LimehubProcess]]:
    def start(toml: str = GUARDED) -> tuple[Burners, LimehubProcess]:
        burners = Burners.install(workplace, vhost, toml)
        return burners, workplace.serve()

    return start


Start = Callable[..., tuple[Burners, LimehubProcess]]


def guards_of(process: LimehubProcess) -> list[psutil.Process]:
    return [each for each in psutil.Process(process.pid).children() if is_guard(each)]


def is_guard(process: psutil.Process) -> bool:
    try:
        return "guard_program" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it has just ended
        return False


def guard_of(process: LimehubProcess) -> psutil.Process:
    """The guard process of a server."""
    return wait_until(lambda: guards_of(process), message="the guard process")[0]


HOLDER = """
import itertools, pathlib
def hold(body):
    pathlib.Path({started!r}).touch()
    any(itertools.repeat(0))

def register_event_handlers(worker, config):
    worker.register_event_handler(hold, "hold.#", "hold")
"""


def stuck(workplace: Workplace, vhost: Vhost) -> LimehubProcess:
    """Start a server with a handler in a C call that never ends nor looks for signals."""
    started = workplace.folder / "started"
    workplace.install("solution-holder", HOLDER.replace("{started!r}", repr(str(started))))
    workplace.configure(GUARDED)
    process = workplace.serve()
    guard_of(process)
    connection = vhost.connect()
    connection.channel().basic_publish("lime.default", "hold.1", b"{}")
    connection.close()
    wait_until(started.exists, message="the handler to start")
    return process


@pytest.mark.parametrize("number", [TERM, INT])
def test_a_second_signal_ends_a_server_whose_interpreter_is_held(
    workplace: Workplace, vhost: Vhost, number: signal.Signals
) -> None:
    process = stuck(workplace, vhost)
    guard = guard_of(process)
    process.send(number)
    wait_until(lambda: nothing_pending(process), message="the first signal is seen")
    process.send(number)
    begun = time.monotonic()
    assert process.wait() == -signal.SIGKILL
    assert time.monotonic() - begun < AT_ONCE
    wait_until(lambda: not alive(guard.pid))
    assert vhost.depth("lime.event_handler.solution-holder.hold") == 1


def nothing_pending(process: LimehubProcess) -> bool:
    """Whether no signal waits any more to be handed to the process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    masks = [line.split()[1] for line in status.splitlines() if line.startswith("ShdPnd")]
    return int(masks[0], 16) == 0


def test_one_signal_ends_a_held_server_when_its_patience_is_over(
    workplace: Workplace, vhost: Vhost
) -> None:
    """The grace of 1 s, and 15 s more."""
    process = stuck(workplace, vhost)
    begun = time.monotonic()
    assert process.stop(TERM) == -signal.SIGKILL
    assert time.monotonic() - begun > 14


def test_one_signal_stops_a_guarded_server_in_order(guarded: Start) -> None:
    _, process = guarded()
    guard = guard_of(process)
    assert process.stop(TERM) == 0
    wait_until(lambda: not alive(guard.pid))
    assert not process.lines_with("another one")


def test_a_signal_to_the_whole_group_reaches_the_server_only(guarded: Start) -> None:
    """As systemd does it: each process of the service gets SIGTERM."""
    _, process = guarded()
    guard = guard_of(process)
    for number in (TERM, INT, signal.SIGHUP):
        guard.send_signal(number)
    os.killpg(process.pid, TERM)
    assert process.wait() == 0
    assert not process.lines_with("another one")


def test_a_guard_that_is_killed_in_a_stall_is_replaced_when_it_is_over(guarded: Start) -> None:
    burners, process = guarded()
    first = guard_of(process)
    burners.publish({"n": 1, "do": "burn", "value": 1.0})
    burners.wait_for("start")
    first.kill()
    burners.wait_for("end")
    wait_until(lambda: guard_of(process).pid != first.pid, message="another guard")
    burners.publish({"n": 2, "do": "wait", "value": 0.0})
    burners.wait_for("end", [1, 2])
    burners.wait_empty()
    assert process.stop() == 0


def test_without_process_there_is_no_guard(guarded: Start) -> None:
    _, process = guarded('[event_handler]\nguard = "thread"\n')
    assert psutil.Process(process.pid).children() == []
    assert process.stop() == 0
