"""The health listener answers while handlers keep the hub busy."""

from __future__ import annotations

import _socket
import contextlib
import errno
import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import gevent
import pytest

from limehub.config import Address
from limehub.errors import ConfigError
from limehub.web.health import MAX_CONNECTIONS, HealthListener, HealthState, Pulse
from tests.support.waiting import quickest, wait_until


@pytest.fixture
def state() -> HealthState:
    return HealthState(max_stall=600.0, missing=())


@pytest.fixture
def address(state: HealthState) -> Iterator[tuple[str, int]]:
    listener = HealthListener(state, Address("127.0.0.1", 0))
    pulse = Pulse(state)
    pulse.start()
    yield listener.start()
    pulse.stop()
    listener.stop()


def ask(address: tuple[str, int], request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer."""
    with socket.create_connection(address, timeout=30) as sock:
        sock.sendall(request)
        answer = b""
        while data := sock.recv(65_536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


def get(address: tuple[str, int], path: str) -> tuple[int, Any]:
    status, _, body = ask(address, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return status, json.loads(body)


# Asks again and again from another process, and prints each answer with how long it took.
PROBE = """
import json, sys, time, urllib.request
url, until = sys.argv[1], time.monotonic() + float(sys.argv[2])
print("probing", flush=True)
while time.monotonic() < until:
    began = time.monotonic()
    with urllib.request.urlopen(url, timeout=30) as answer:
        body = json.load(answer)
    print(json.dumps([time.monotonic() - began, body["stalled_for"]]), flush=True)
    time.sleep(0.05)
"""


@pytest.mark.alone
def test_it_answers_within_a_third_of_a_second_while_the_hub_burns(
    address: tuple[str, int],
) -> None:
    url = f"http://{address[0]}:{address[1]}/healthz"
    probe = subprocess.Popen([sys.executable, "-c", PROBE, url, "2.3"], stdout=subprocess.PIPE)
    assert probe.stdout is not None
    assert probe.stdout.readline() == b"probing\n"
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        pass  # what a handler does that computes
    answers = [json.loads(line) for line in probe.communicate(timeout=60)[0].splitlines()]
    assert max(stalled for _, stalled in answers) > 1.0
    assert median(seconds for seconds, stalled in answers if stalled) < 0.3
    wait_until(lambda: get(address, "/healthz")[1]["stalled_for"] == 0.0)


def test_healthz_tells_how_long_the_hub_stands_still_and_503_beyond_the_limit(
    state: HealthState, address: tuple[str, int]
) -> None:
    fine = {"status": "ok", "stalled_for": 0.0, "culprit": None}
    wait_until(lambda: get(address, "/healthz") == (200, fine))
    state.max_stall = -1.0
    state.culprit = "lime-webhooks.send"
    status, body = get(address, "/healthz")
    assert (status, body["status"], body["culprit"]) == (503, "stalled", "lime-webhooks.send")


def test_readyz_tells_what_was_missing_when_the_hub_last_turned(
    state: HealthState, address: tuple[str, int]
) -> None:
    assert get(address, "/readyz?verbose") == (200, {"ready": True})
    state.missing = ("queue x: no consumer",)
    expected = {"ready": False, "missing": ["queue x: no consumer"]}
    assert get(address, "/readyz") == (503, expected)
    state.missing, state.max_stall = (), -1.0
    status, body = get(address, "/readyz")
    assert (status, body["ready"]) == (503, False)
    assert "has not turned" in body["missing"][0]


def test_without_leave_it_says_yes_or_no_and_nothing_else(
    state: HealthState, address: tuple[str, int]
) -> None:
    state.detail, state.missing = False, ("queue x",)
    assert get(address, "/healthz") == (200, {"status": "ok"})
    assert get(address, "/readyz") == (503, {"ready": False})


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"GET / HTTP/1.0\n\n", 404),
        (b"POST /healthz HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nA: " + b"x" * 9000, 400),
    ],
)
def test_anything_else_is_refused_as_a_problem(
    address: tuple[str, int], request_: bytes, status: int
) -> None:
    code, headers, body = ask(address, request_)
    assert code == status
    assert headers["Content-Type"] == "application/problem+json"
    assert json.loads(body)["status"] == status
    assert headers.get("Allow") == ("GET, HEAD" if status == 405 else None)


def test_head_gives_the_same_headers_and_no_body(address: tuple[str, int]) -> None:
    request = b" /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    status, headers, body = ask(address, b"HEAD" + request)
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) == len(ask(address, b"GET" + request)[2])


def test_a_request_may_come_in_pieces(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as sock:
        for piece in (b"GET /he", b"althz HTTP/1.1\r", b"\n\r", b"\n"):
            sock.sendall(piece)
            gevent.sleep(0.02)
        assert sock.recv(100).startswith(b"HTTP/1.0 200 OK\r\n")


def test_idle_connections_are_closed_after_two_seconds_and_shut_nobody_out(
    address: tuple[str, int],
) -> None:
    def seconds() -> float:
        began = time.monotonic()
        idle = [socket.create_connection(address, timeout=30) for _ in range(MAX_CONNECTIONS)]
        assert get(address, "/healthz")[0] == 200
        assert idle[0].recv(1) == b""
        for sock in idle:
            sock.close()
        return time.monotonic() - began

    assert 1.5 < quickest(seconds, 4.0, tries=8) < 4.0


def test_clients_that_hang_up_hurt_nobody(address: tuple[str, int]) -> None:
    for _ in range(50):
        sock = socket.create_connection(address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        with contextlib.suppress(OSError):
            sock.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        sock.close()  # resets the connection
    assert get(address, "/healthz")[0] == 200


def test_stopping_ends_the_thread_and_leaves_no_descriptor(state: HealthState) -> None:
    def descriptors() -> int:
        return len([*Path("/proc/self/fd").iterdir()])

    def threads() -> int:
        return len([*Path("/proc/self/task").iterdir()])

    for round_ in range(6):
        if round_ == 1:
            before = descriptors(), threads()
        listener = HealthListener(state, Address("127.0.0.1", 0))
        address = listener.start()
        with contextlib.closing(_socket.socket()) as client:
            client.connect(address)
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert client.recv(4)  # so it was accepted, and it stays
            listener.stop()
        listener.stop()
        wait_until(partial(refuses, address))
    wait_until(lambda: descriptors() <= before[0] and threads() <= before[1])


def refuses(address: tuple[str, int]) -> bool:
    with contextlib.closing(_socket.socket()) as late:
        return late.connect_ex(address) == errno.ECONNREFUSED


def test_the_process_ends_although_nobody_stopped_the_listener() -> None:
    code = (
        "from gevent import monkey; monkey.patch_all()\n"
        "from limehub.config import Address\n"
        "from limehub.web.health import *\n"
        "HealthListener(HealthState(max_stall=1), Address('127.0.0.1', 0)).start()\n"
        "print('end')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_a_port_that_is_taken_is_a_configuration_error_that_names_its_key(
    state: HealthState, address: tuple[str, int]
) -> None:
    with pytest.raises(ConfigError, match=r"^web\.health_bind: 127\.0\.0\.1:\d+ is in use"):
        HealthListener(state, Address(*address)).start()


def test_the_thread_sleeps_when_nobody_asks(address: tuple[str, int]) -> None:
    get(address, "/healthz")

    def cpu_seconds() -> float:
        before = time.process_time()
        select.select([], [], [], 0.5)
        return time.process_time() - before

    assert quickest(cpu_seconds, 0.1, tries=10) < 0.1


def test_the_pulse_notes_that_the_hub_turns_until_it_is_stopped(state: HealthState) -> None:
    pulse = Pulse(state)
    state.last_turn = 0.0
    assert state.stalled_for() > 1.0
    pulse.start()
    wait_until(lambda: state.stalled_for() == 0.0)
    pulse.stop()
    noted = state.last_turn
    gevent.sleep(0.3)
    assert state.last_turn == noted
