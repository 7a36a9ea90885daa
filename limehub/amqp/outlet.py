"""The writing half of a connection: everything a loop turn brings leaves in one send.

A native thread may write, too, while the hub is busy. So all that decides what goes onto the wire
next (acks to collect, frames that wait, a frame half sent, the TLS session) is touched under one
native lock, and the bytes leave in the order in which they were given.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Protocol

from gevent import monkey

from limehub.amqp.frames import HEARTBEAT

__all__ = ["Collects", "Encrypts", "Outlet"]

BURST = 32
"""Writes within one turn after which they leave, so that the broker need not wait for the rest."""

PATIENCE = 0.05
"""Seconds that a native thread waits for the lock."""

_native_lock = monkey.get_original("_thread", "allocate_lock")


class Collects(Protocol):
    """Something that has frames to add when a write is due: `AckWindow`."""

    def collect(self) -> list[bytes]:
        """Return the frames for everything done so far."""
        ...


class Encrypts(Protocol):
    """A TLS session; `stream.TlsSession` is one."""

    @property
    def has_output(self) -> bool:
        """Whether it has something to say of its own."""
        ...

    def encrypt(self, data: bytes) -> bytes:
        """Return what has to go out for *data*, with anything else pending."""
        ...


class Outlet:
    """Writes to a non-blocking *sock*. *wake* is called when a write becomes due.

    `lock` must be held for `Encrypts` and its counterpart, too: a TLS session is one state.
    """

    def __init__(self, sock: Any, tls: Encrypts | None, wake: Callable[[], None]) -> None:
        self.lock = _native_lock()
        self.due = False
        self.sent_at = time.monotonic()
        self._send: Callable[[Any], int] = sock.send
        self._tls = tls
        self._wake = wake
        self._closed = False
        self._windows: list[Collects] = []
        self._frames: list[bytes] = []
        self._rest: bytes | memoryview = b""

    def write(self, frames: bytes) -> None:
        """Send *frames* after everything that was done or written before."""
        with self.lock:
            self._collect()
            self._frames.append(frames)
            if len(self._frames) % BURST == 0:
                self._send_early()
        self.ask()

    def ask(self) -> None:
        """Have a write made in this loop turn."""
        if not self.due and not self._closed:
            self.due = True
            self._wake()

    def waiting(self, window: Collects) -> None:
        """Note that *window* has something to collect."""
        self._windows.append(window)
        if not self.due:
            self.ask()

    def flush(self) -> bool:
        """Send what waits. Returns False if the socket takes no more now. Raises OSError."""
        with self.lock:
            self.due = False  # first: what is done from here on asks again
            return self._flush()

    def beat(self, after: float) -> None:
        """Have a heartbeat sent if nothing was for *after* seconds and nothing waits."""
        with self.lock:
            if not self._due_beat(after):
                return
            self._frames.append(HEARTBEAT)
        self.ask()

    def keep(self, after: float) -> bool:
        """Send what waits, or a heartbeat if nothing was sent for *after* seconds.

        For a native thread while the hub is busy. Returns False if the socket takes no more, or
        another thread is at it. Raises OSError.
        """
        if not self.lock.acquire(timeout=PATIENCE):
            return False
        try:
            if self._due_beat(after):
                self._frames.append(HEARTBEAT)
            self.due = False
            return self._flush()
        finally:
            self.lock.release()

    def send_through(self, send: Callable[[Any], int]) -> None:
        """Use *send* from now on in place of the socket's own."""
        with self.lock:
            self._send = send

    def close(self) -> None:
        """Send nothing any more."""
        with self.lock:
            self._closed = True
            self._windows.clear()
            self._frames.clear()
            self._rest = b""

    def abandon(self) -> None:
        """Send nothing any more, in a forked process: a thread that is not here may hold `lock`."""
        self.lock = _native_lock()
        self._closed = True

    @property
    def size(self) -> int:
        """How many bytes wait, acks not counted."""
        return len(self._rest) + sum(len(frame) for frame in self._frames)

    def _due_beat(self, after: float) -> bool:
        if self._closed or self._rest or self._frames or self._windows:
            return False
        return time.monotonic() - self.sent_at >= after

    def _collect(self) -> None:
        windows = self._windows
        while windows:
            self._frames.extend(windows.pop().collect())

    def _send_early(self) -> None:
        """Let the broker begin on a long burst; what goes wrong here shows in the turn's write."""
        with contextlib.suppress(OSError):
            self._flush()

    def _flush(self) -> bool:
        if self._closed:
            return True
        if self._windows:
            self._collect()
        while self._rest or self._take():
            try:
                sent = self._send(self._rest)
            except BlockingIOError:
                return False
            self.sent_at = time.monotonic()
            if sent < len(self._rest):
                self._rest = memoryview(self._rest)[sent:]
                return False
            self._rest = b""
        return True

    def _take(self) -> bool:
        """Make what waits the next thing to send. Returns whether there is any."""
        frames = self._frames
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        if self._tls and (data or self._tls.has_output):
            data = self._tls.encrypt(data)
        self._rest = data
        frames.clear()  # only now: what cannot be encrypted must not look as if it were sent
        return bool(data)
