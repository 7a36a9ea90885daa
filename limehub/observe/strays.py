"""What would be printed to stderr behind the log's back becomes lines of the log."""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import Any

import gevent

__all__ = ["adopt_strays"]

log = logging.getLogger(__name__)


def adopt_strays() -> None:
    """Log warnings and the uncaught errors of greenlets, threads and finalizers; for `serve`."""
    logging.captureWarnings(True)
    # Setting attributes of the hub is gevent's documented way to report errors otherwise.
    vars(gevent.get_hub())["print_exception"] = _greenlet_failed
    threading.excepthook = _thread_failed
    sys.unraisablehook = _unraisable


def _greenlet_failed(
    context: Any,
    kind: type[BaseException],
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    error = kind() if error is None else error
    _report("greenlet failed", {"greenlet": context}, error.with_traceback(trace))


def _thread_failed(arguments: threading.ExceptHookArgs) -> None:
    if not isinstance(arguments.exc_value, SystemExit | None):
        thread = getattr(arguments.thread, "name", None)
        _report("thread failed", {"thread_name": thread}, arguments.exc_value)


def _unraisable(arguments: sys.UnraisableHookArgs) -> None:
    where = {"cause": arguments.err_msg, "object": arguments.object}
    _report("error where none can be raised", where, arguments.exc_value)


def _report(message: str, context: dict[str, Any], error: BaseException | None) -> None:
    log.error(message, extra=context, exc_info=error)
