"""Processes that a handler forks: they have a copy of the server in them, and must not run it.

gevent goes on with its loop in such a child, so that a handler which forks (`multiprocessing` does,
by default) had two processes read from one socket and settle the same events (measured).
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn
from weakref import WeakMethod

__all__ = ["end_child", "in_children", "leave_hub"]


def in_children(method: Callable[[], None]) -> None:
    """Call *method*, a bound one, in every process forked from now on, while its object lives."""
    reference = WeakMethod(method)

    def call() -> None:
        found = reference()
        if found is not None:
            found()

    os.register_at_fork(after_in_child=call)


def leave_hub(servers: Any) -> None:
    """Let nothing of the hub *servers* run in this process; who runs now gets a hub of its own."""
    import gevent  # children of the process lane come without it
    import gevent.hub

    hubs: Any = gevent.hub
    current: Any = gevent.getcurrent()
    if gevent.get_hub() is not servers or current is servers:
        return
    # Not the default loop: that is the server's, with all that it watches.
    hub: Any = type(servers)(default=False)
    hubs.set_hub(hub)
    if current.parent is servers:
        hub.parent, current.parent = servers.parent, hub


def end_child(error: BaseException | None) -> NoReturn:
    """End a forked process whose handler has returned or raised *error*, as a script would end."""
    code = _exit_code(error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
        return 1
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1
