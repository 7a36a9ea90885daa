"""The bytes of one client: a socket that the hub watches, one send per turn of the loop."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

import gevent

__all__ = ["Stream", "StreamOwner"]

log = logging.getLogger(__name__)

READ_BYTES = 128 * 1024
CONGESTED = 1024 * 1024
"""Bytes that wait for a client from which on it gets no more deliveries."""
_PER_SEND = 512 * 1024


class StreamOwner(Protocol):
    """Who reads and writes the stream."""

    def received(self, data: bytes) -> None:
        """Take what has come."""

    def before_send(self) -> None:
        """Last chance to add what goes out in this turn."""

    def congestion_changed(self) -> None:
        """`stream.congested` has another value."""

    def failed(self) -> None:
        """Something of the broker's own went wrong: the client is to hear of it."""

    def lost(self, error: OSError | None) -> None:
        """The connection is over; *error* None: the client closed it."""


class Stream:
    """A non-blocking *sock*. Everything runs in the hub; nothing here blocks."""

    def __init__(self, sock: Any, owner: StreamOwner) -> None:
        self.congested = False
        self.last_received = self.last_sent = time.monotonic()
        self._sock = sock
        self._owner = owner
        self._out: list[bytes] = []
        self._rest = memoryview(b"")
        self._waiting = 0
        self._scheduled = False
        self._closing = False
        self._over = False
        self._loop = gevent.get_hub().loop
        self._reader = self._loop.io(sock.fileno(), 1)
        self._writer = self._loop.io(sock.fileno(), 2)
        self._reading = False

    @property
    def over(self) -> bool:
        """Whether nothing goes in or out any more."""
        return self._over

    def resume_reading(self) -> None:
        """Read when something comes."""
        if not self._reading and not self._over:
            self._reading = True
            self._reader.start(self._guarded, self._readable)

    def pause_reading(self) -> None:
        """Let the client wait: its data stays in the network."""
        if self._reading and not self._over:
            self._reading = False
            self._reader.stop()

    def write(self, data: bytes) -> None:
        """Send *data* with everything else of this turn."""
        self._out.append(data)
        self._waiting += len(data)
        if not self._scheduled:
            self.schedule()

    def send_content(self, pieces: list[bytes], size: int) -> None:
        """Send a delivery of about *size* bytes; too many of them make the stream congested."""
        self._out += pieces
        self._waiting += size
        if self._waiting > CONGESTED and not self.congested:
            self._be_congested()
        if not self._scheduled:
            self.schedule()

    def schedule(self) -> None:
        """Make sure that this turn ends with `before_send` and a send."""
        if not self._scheduled and not self._over:
            self._scheduled = True
            self._loop.run_callback(self._guarded, self._flush)

    def call_soon(self, step: Callable[[], None]) -> None:
        """Run *step* in the next turn of the loop, unless the connection is over by then."""
        self._loop.run_callback(self._guarded, step)

    def close_when_sent(self) -> None:
        """Close once all that is written has gone out."""
        self._closing = True
        self.schedule()

    def abort(self) -> None:
        """Close at once."""
        self._lose(None)

    @property
    def waiting(self) -> int:
        """Bytes that the client has not taken yet, about."""
        return self._waiting

    def _flush(self) -> None:
        self._owner.before_send()
        self._scheduled = False
        if self._rest:
            return  # the writer goes on with it
        self._send()

    def _send(self) -> None:
        data = self._rest or memoryview(b"".join(self._out))
        if not self._rest:
            self._out.clear()
        self._rest = data[self._sent(data) :]
        if self._rest:
            self._writer.start(self._guarded, self._writable)
            if self._waiting > CONGESTED and not self.congested:
                self._be_congested()
            return
        self._waiting = sum(map(len, self._out))
        self._be_relieved()
        if self._out:
            self.schedule()
        elif self._closing:
            self._lose(None)

    def _be_congested(self) -> None:
        self.congested = True
        self._owner.congestion_changed()

    def _be_relieved(self) -> None:
        if self.congested and self._waiting < CONGESTED:
            self.congested = False
            self._owner.congestion_changed()

    def _sent(self, data: memoryview) -> int:
        if not data:
            return 0
        try:
            count = int(self._sock.send(data[:_PER_SEND]))
        except BlockingIOError:
            return 0
        self.last_sent = time.monotonic()
        return count

    def _writable(self) -> None:
        self._writer.stop()
        self._send()

    def _readable(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        self.last_received = time.monotonic()
        if data:
            self._owner.received(data)
        else:
            self._lose(None)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Run *step* in the hub; whatever it raises ends this connection and no other."""
        if self._over:
            return
        try:
            step()
        except OSError as error:
            self._lose(error)
        except Exception:  # border of the hub
            log.exception("connection ended by an error of the broker")
            self._fail()

    def _fail(self) -> None:
        """Say so, if that is still possible."""
        try:
            self._owner.failed()
        except Exception:  # border of the hub: it was in the midst of something
            log.exception("connection cannot be closed in order")
            self._lose(None)

    def _lose(self, error: OSError | None) -> None:
        if self._over:
            return
        self._over = True
        self._reading = False
        for watcher in (self._reader, self._writer):
            watcher.stop()
            watcher.close()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._out.clear()
        self._rest = memoryview(b"")
        self._owner.lost(error)
