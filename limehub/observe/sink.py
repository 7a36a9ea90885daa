"""Where log lines go: a stream that may be full, broken or slow without anybody waiting for it.

A log that nobody reads (a full pipe, a terminal stopped by Ctrl-S) would block the write, and with
it the hub, all handlers and their heartbeats. So a line is written at once if there is room for it;
else it waits in memory, and a native thread writes it when there is room again.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from gevent import monkey

from limehub.forks import in_children

__all__ = ["MAX_WAITING", "DescriptorSink", "StreamSink", "open_sink"]

MAX_WAITING = 1_048_576
"""Bytes that may wait; what comes after is dropped and counted."""
# A pipe that poll calls writable has room for a page; more could block.
_CHUNK = 4_096

# Patched ones would switch to the hub, or need its help from a native thread.
_poll = monkey.get_original("select", "poll")
_sleep = monkey.get_original("time", "sleep")
_start_native = monkey.get_original("_thread", "start_new_thread")
_new_lock = monkey.get_original("_thread", "RLock")
_POLLOUT = 4


def open_sink(stream: TextIO, dropped: Callable[[int], str]) -> DescriptorSink | StreamSink:
    """Return the sink for *stream*. *dropped*: makes the line that tells how many were dropped."""
    try:
        descriptor = stream.fileno()
    except (OSError, AttributeError, io.UnsupportedOperation):
        return StreamSink(stream)
    return DescriptorSink(descriptor, dropped)


class StreamSink:
    """A stream without a descriptor, such as io.StringIO."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        """Write *line*; drop it if the stream is closed."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")

    def flush(self, _patience: float) -> None:
        """Flush the stream."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class DescriptorSink:
    """A file, pipe, socket or terminal. May be used from any greenlet and any native thread."""

    def __init__(self, descriptor: int, dropped: Callable[[int], str]) -> None:
        self._descriptor = descriptor
        self._dropped_line = dropped
        self._lock = _new_lock()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._draining = False
        self._dropped = 0
        self._torn = False
        in_children(self._in_child)

    def write(self, line: str) -> None:
        """Write *line*, or let it wait. Never blocks and never raises."""
        data = _encoded(line)
        with self._lock:
            if self._draining:
                self._keep(data)
            else:
                self._write_now(data)

    def flush(self, patience: float) -> None:
        """Wait at most *patience* seconds until nothing waits."""
        deadline = time.monotonic() + patience
        while self._draining and time.monotonic() < deadline:
            _sleep(0.005)

    def _in_child(self) -> None:
        """What waits is the parent's to write; a thread that is not here may hold the lock."""
        self._lock = _new_lock()
        self._waiting.clear()
        self._waiting_bytes = 0
        self._draining = False

    def _write_now(self, data: bytes) -> None:
        before = b"\n" if self._torn else b""
        if self._dropped:
            before += _encoded(self._dropped_line(self._dropped))
        rest = data = before + data
        try:
            while rest and self._has_room(0):
                rest = rest[os.write(self._descriptor, rest[:_CHUNK]) :]
        except BlockingIOError:
            pass
        except OSError:  # nobody reads, or the disk is full: the next line tries again
            self._dropped += 1
            self._torn = self._torn or len(rest) < len(data)
            return
        self._dropped, self._torn = 0, False
        if rest:
            self._keep(rest)

    def _has_room(self, milliseconds: int) -> bool:
        poll = _poll()
        poll.register(self._descriptor, _POLLOUT)
        return bool(poll.poll(milliseconds))

    def _keep(self, data: bytes) -> None:
        if self._waiting_bytes + len(data) > MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if not self._draining:
            self._draining = True
            _start_native(self._drain, ())

    def _drain(self) -> None:
        """Write what waits, in a native thread: here blocking hurts nobody."""
        while data := self._next():
            try:
                self._write_all(data)
            except OSError:
                self._give_up()
                return

    def _write_all(self, data: bytes) -> None:
        while data:
            if self._has_room(1_000):
                try:
                    data = data[os.write(self._descriptor, data[:_CHUNK]) :]
                except BlockingIOError:  # another process filled it first
                    _sleep(0.01)

    def _next(self) -> bytes:
        with self._lock:
            if self._waiting:
                data = self._waiting.popleft()
                self._waiting_bytes -= len(data)
                return data
            if self._dropped:
                count, self._dropped = self._dropped, 0
                return _encoded(self._dropped_line(count))
            self._draining = False
            return b""

    def _give_up(self) -> None:
        with self._lock:
            self._dropped += 1 + len(self._waiting)
            self._waiting.clear()
            self._waiting_bytes = 0
            self._torn = True
            self._draining = False


def _encoded(line: str) -> bytes:
    return line.encode("utf-8", "backslashreplace") + b"\n"
