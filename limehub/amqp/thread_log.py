"""Log lines of a native thread beside the hub, which must not wait for anybody."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import gevent

__all__ = ["ThreadLog"]


class ThreadLog:
    """Writes to *log* from a native thread beside the hub of *loop*.

    A handler's lock is gevent's: a greenlet that stalls may hold it, and gevent may never wake the
    thread that waits. So only handlers without a lock, as limehub's own, hear at once; the others
    hear in the hub, when it turns.
    """

    def __init__(self, log: logging.Logger, loop: Any) -> None:
        self._log = log
        self._loop = loop

    def warning(self, message: str, extra: Mapping[str, Any]) -> None:
        """Log *message* as a warning."""
        self._tell(logging.WARNING, message, extra)

    def error(self, message: str, extra: Mapping[str, Any]) -> None:
        """Log *message* as an error."""
        self._tell(logging.ERROR, message, extra)

    def exception(self, message: str) -> None:
        """Log *message* as an error, with the exception that is being handled."""
        self._tell(logging.ERROR, message, {}, sys.exc_info())

    def _tell(self, level: int, message: str, extra: Mapping[str, Any], error: Any = None) -> None:
        if level < self._log.getEffectiveLevel():  # isEnabledFor may want a lock
            return
        name = self._log.name
        record = self._log.makeRecord(name, level, "", 0, message, (), error, extra=extra)
        handlers = [one for one in self._handlers() if level >= one.level]
        for handler in handlers:
            if handler.lock is None:
                with contextlib.suppress(Exception):  # a broken handler must not end the thread
                    handler.handle(record)
        locked = [one for one in handlers if one.lock is not None]
        if locked:
            self._loop.run_callback_threadsafe(gevent.spawn, _tell_all, locked, record)

    def _handlers(self) -> Iterator[logging.Handler]:
        log: logging.Logger | None = self._log
        while log is not None:
            yield from log.handlers
            log = log.parent if log.propagate else None


def _tell_all(handlers: list[logging.Handler], record: logging.LogRecord) -> None:
    for handler in handlers:
        handler.handle(record)
