"""Probes answered on a native thread: they work while a handler keeps the hub busy.

Otherwise an orchestrator would kill just the server that is at work. The thread knows what the hub
last wrote into a HealthState, and how long ago; it touches nothing that gevent has patched.
"""

from __future__ import annotations

import _socket
import errno
import json
import os
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import gevent
from attrs import define, field
from gevent import Greenlet, monkey

from limehub.config.address import Address
from limehub.web.binding import listening
from limehub.web.probes import Answer, health_answer, ready_answer
from limehub.web.problems import CONTENT_TYPE, problem

__all__ = ["HealthListener", "HealthState", "Pulse"]

MAX_CONNECTIONS = 64
MAX_HEAD = 4_096
CONNECTION_SECONDS = 2.0
PULSE_SECONDS = 0.25
# Below this the pulse is just not due yet.
_UNNOTICED = 0.5
_JOIN_SECONDS = 1.0

# gevent's own os.close waits for the hub to turn, and in a native thread makes a hub for it.
_close = monkey.get_original("os", "close")
_poll = monkey.get_original("select", "poll")
_sleep = monkey.get_original("time", "sleep")
_start_native = monkey.get_original("_thread", "start_new_thread")
_new_lock = monkey.get_original("_thread", "allocate_lock")
_POLLIN, _POLLOUT = 1, 4


@define(eq=False, kw_only=True)
class HealthState:
    """What the hub tells the health thread, by plain attributes. Times in seconds.

    *last_turn*: when the hub last turned (time.monotonic); *detail*: whether anybody may see why.
    """

    max_stall: float
    missing: tuple[str, ...] = ("starting",)
    culprit: str | None = None
    detail: bool = True
    last_turn: float = field(factory=time.monotonic)

    def stalled_for(self) -> float:
        """Return how long the hub has not turned; 0 if it turns."""
        seconds = time.monotonic() - self.last_turn
        return seconds if seconds >= _UNNOTICED else 0.0

    def health(self) -> Answer:
        """Return the answer of /healthz."""
        stalled = self.stalled_for()
        return health_answer(stalled, self.max_stall, culprit=self.culprit, detail=self.detail)

    def ready(self) -> Answer:
        """Return the answer of /readyz, from what was missing when the hub last turned."""
        missing = self.missing
        if self.stalled_for() > self.max_stall:
            missing += (f"the hub has not turned for more than {self.max_stall:g} s",)
        return ready_answer(missing, detail=self.detail)


class Pulse:
    """A greenlet that notes in *state* that the hub turns."""

    def __init__(self, state: HealthState) -> None:
        self._state = state
        self._greenlet: Greenlet[..., None] | None = None

    def start(self) -> None:
        """Begin to note."""
        self._greenlet = Greenlet(self._beat)
        self._greenlet.name = "pulse"
        self._greenlet.start()

    def stop(self) -> None:
        """End."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None

    def _beat(self) -> None:
        while True:
            self._state.last_turn = time.monotonic()
            gevent.sleep(PULSE_SECONDS)


class HealthListener:
    """Serves /healthz and /readyz of *state* on *address*, HTTP/1.0. Whoever starts it stops it."""

    def __init__(self, state: HealthState, address: Address) -> None:
        self._state = state
        self._address = address
        self._stopped = _new_lock()
        self._wake = -1

    def start(self) -> tuple[str, int]:
        """Listen. Returns host and port, the real one for port 0. Raises ConfigError."""
        listener = listening(_socket.socket, self._address, "web.health_bind")
        listener.setblocking(False)
        host, port = listener.getsockname()[:2]
        read, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopped.acquire()
        _start_native(_Loop(self._state, listener, read).run, (self._stopped.release,))
        return host, port

    def stop(self) -> None:
        """Close the socket and end the thread, within a second even if the machine is busy."""
        if self._wake < 0:
            return
        _close(self._wake)
        self._wake = -1
        if self._stopped.acquire(timeout=_JOIN_SECONDS):
            self._stopped.release()


class _Loop:
    """The thread's own: a poll over the listener, the stop pipe and at most 64 connections."""

    def __init__(self, state: HealthState, listener: _socket.socket, stop: int) -> None:
        self._state = state
        self._listener = listener
        self._stop = stop
        self._connections: dict[int, _Connection] = {}

    def run(self, done: Callable[[], None]) -> None:
        """Serve until the other end of the pipe is closed; then call *done*."""
        try:
            while self._turn():
                pass
        finally:
            for connection in [*self._connections.values()]:
                self._close(connection)
            self._listener.close()
            _close(self._stop)
            done()

    def _turn(self) -> bool:
        ready = {descriptor for descriptor, _ in self._poller().poll(self._patience())}
        if self._stop in ready:
            return False
        if self._listener.fileno() in ready:
            self._accept()
        for descriptor in ready & self._connections.keys():
            self._advance(self._connections[descriptor])
        self._close_late()
        return True

    def _poller(self) -> Any:
        poller = _poll()
        poller.register(self._stop, _POLLIN)
        if len(self._connections) < MAX_CONNECTIONS:
            poller.register(self._listener.fileno(), _POLLIN)
        for descriptor, connection in self._connections.items():
            poller.register(descriptor, connection.interest)
        return poller

    def _patience(self) -> int | None:
        """Milliseconds until the first connection is late; None: no hurry."""
        if not self._connections:
            return None
        first = min(connection.deadline for connection in self._connections.values())
        return max(0, int((first - time.monotonic()) * 1000) + 1)

    def _accept(self) -> None:
        try:
            descriptor, _ = self._listener._accept()  # type: ignore[attr-defined]  # not in the stub
        except OSError as error:
            # The connection waits for a free descriptor; without a pause this would spin.
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                _sleep(0.1)
            return
        sock = _socket.socket(fileno=descriptor)
        sock.setblocking(False)
        self._connections[descriptor] = _Connection(sock)

    def _advance(self, connection: _Connection) -> None:
        try:
            alive = connection.advance(self._state)
        except OSError:
            alive = False
        if not alive:
            self._close(connection)

    def _close_late(self) -> None:
        now = time.monotonic()
        for connection in [*self._connections.values()]:
            if connection.deadline <= now:
                self._close(connection)

    def _close(self, connection: _Connection) -> None:
        del self._connections[connection.sock.fileno()]
        connection.sock.close()


class _Connection:
    """One request: its head is read, the answer written, the rest read away until the end."""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.deadline = time.monotonic() + CONNECTION_SECONDS
        self._head = b""
        self._answer: bytes | None = None

    @property
    def interest(self) -> int:
        """What poll should wait for."""
        return _POLLOUT if self._answer else _POLLIN

    def advance(self, state: HealthState) -> bool:
        """Take the next step. Returns False when all is done; raises OSError."""
        if self._answer:
            self._write()
            return True
        data = self.sock.recv(MAX_HEAD)
        if self._answer is None:
            self._head += data
            if b"\n\r\n" in self._head or b"\n\n" in self._head or len(self._head) > MAX_HEAD:
                self._answer = _response(self._head, state)
                self._write()
        return bool(data)

    def _write(self) -> None:
        self._answer = self._answer[self.sock.send(self._answer) :] if self._answer else b""
        if not self._answer:
            # Closing with bytes unread would reset the connection and lose the answer.
            self.sock.shutdown(_socket.SHUT_WR)


def _response(head: bytes, state: HealthState) -> bytes:
    words = head.partition(b"\n")[0].split()
    if len(words) != 3 or not words[2].startswith(b"HTTP/") or len(head) > MAX_HEAD:
        return _http(400, problem(400))
    method, path = words[0], words[1].partition(b"?")[0]
    if method not in (b"GET", b"HEAD"):
        return _http(405, problem(405), extra="Allow: GET, HEAD\r\n")
    response = _routed(path, state)
    return response.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == b"HEAD" else response


def _routed(path: bytes, state: HealthState) -> bytes:
    if path == b"/healthz":
        return _http(*state.health())
    if path == b"/readyz":
        return _http(*state.ready())
    return _http(404, problem(404))


def _http(status: int, body: dict[str, Any], *, extra: str = "") -> bytes:
    content = json.dumps(body).encode() + b"\n"
    kind = CONTENT_TYPE if "title" in body else "application/json"
    head = (
        f"HTTP/1.0 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(content)}\r\nCache-Control: no-store\r\n"
        f"X-Content-Type-Options: nosniff\r\n{extra}Connection: close\r\n\r\n"
    )
    return head.encode() + content
