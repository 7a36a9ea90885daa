"""Signals: the first asks the server to stop, the second ends the process at once.

The handlers are Python's own (`signal.signal`): they run between bytecodes even while a plugin hogs
the hub. They only set flags; a pipe (`signal.set_wakeup_fd`) wakes a hub that sleeps in its poll.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import gevent
from gevent import monkey

__all__ = ["Signals", "before_start"]

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
        self._read, self._write = -1, -1
        self._watcher: Any = None

    def install(self) -> None:
        """Take over SIGTERM, SIGINT and SIGHUP."""
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watcher = gevent.get_hub().loop.io(self._read, 1)
        self._watcher.start(self._woken)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._received)

    def uninstall(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._watcher.stop()
        self._watcher.close()
        os.close(self._read)
        os.close(self._write)

    def _received(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            if self._first:
                os._exit(128 + number)
            self._first = number
            _start_native(self._watch, ())
        self._pending.append(number)

    def _watch(self) -> None:
        """Run in a native thread: the hub may never turn again."""
        _native_sleep(self._patience)
        os._exit(128 + self._first)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)
        while self._pending:
            number = self._pending.pop(0)
            if number == signal.SIGHUP:
                gevent.spawn(self._on_reload)
            else:
                self._on_stop(number)
