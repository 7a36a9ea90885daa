"""Signals: the first asks the server to stop, the second ends the process at once.

The handlers are Python's own (`signal.signal`): they run between bytecodes even while a plugin hogs
the hub. They only set flags; a socket (`signal.set_wakeup_fd`) wakes a hub that sleeps in its poll.
Within one C call they cannot run; then the guard process counts what waits in that socket.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import gevent
from gevent import monkey

__all__ = ["Signals", "before_start"]

_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_start_native = monkey.get_original("_thread", "start_new_thread")
_native_sleep = monkey.get_original("time", "sleep")


def before_start() -> None:
    """Until `Signals` takes over: SIGINT ends the process as SIGTERM does, SIGHUP is ignored.

    Python's own KeyboardInterrupt would be taken for a failure of the plugin that is being loaded.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


class Signals:
    """*on_stop*(signal number) and *on_reload*() run in greenlets of the hub.

    *patience*: seconds after which a hub that never turned again is left: `os._exit`.
    """

    def __init__(
        self, on_stop: Callable[[int], None], on_reload: Callable[[], None], *, patience: float
    ) -> None:
        self._on_stop = on_stop
        self._on_reload = on_reload
        self._patience = patience
        self._first = 0
        self._pending: list[int] = []
        self._before: dict[int, Any] = {}
        self._read: _socket.socket | None = None
        self._write: _socket.socket | None = None
        self._stops = 0
        self._note: Callable[[int], None] = lambda _count: None
        self._watcher: Any = None
        self._loop: Any = None

    def install(self) -> None:
        """Take over SIGTERM, SIGINT and SIGHUP."""
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._read, self._write = _socket.socketpair(socket.AF_UNIX, kind)
        self._loop = gevent.get_hub().loop
        self._watcher = self._loop.io(self._read.fileno(), 1)
        self._watcher.start(self._woken)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in _OURS:
            self._before[number] = signal.signal(number, self._received)

    def reclaim(self) -> list[str]:
        """Take back what a package took over meanwhile; returns the names of those signals."""
        taken = [number for number in _OURS if signal.getsignal(number) != self._received]
        for number in taken:
            signal.signal(number, self._received)
        return [number.name for number in taken]

    def uninstall(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._watcher.stop()
        self._watcher.close()
        for end in (self._read, self._write):
            if end is not None:
                end.close()

    @property
    def waiting(self) -> int | None:
        """The descriptor in which signals wait, one byte each; None before `install`."""
        return None if self._read is None else self._read.fileno()

    def on_stops(self, note: Callable[[int], None]) -> None:
        """Call *note* with the number of stop signals read so far, now and at each change."""
        self._note = note
        note(self._stops)

    def _received(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            if self._first:
                os._exit(128 + number)
            self._first = number
            _start_native(self._watch, ())
        self._pending.append(number)
        if self._loop is not None:  # a plugin may have taken the wake-up descriptor for itself
            self._loop.run_callback_threadsafe(self._woken)

    def _watch(self) -> None:
        """Run in a native thread: the hub may never turn again."""
        _native_sleep(self._patience)
        os._exit(128 + self._first)

    def _woken(self) -> None:
        self._count_stops()
        while self._pending:
            number = self._pending.pop(0)
            if number == signal.SIGHUP:
                gevent.spawn(self._on_reload)
            else:
                self._on_stop(number)

    def _count_stops(self) -> None:
        if self._read is not None:
            with contextlib.suppress(BlockingIOError):
                read = self._read.recv(4096)
                self._stops += read.count(signal.SIGTERM) + read.count(signal.SIGINT)
                self._note(self._stops)
