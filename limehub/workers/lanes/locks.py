"""Patched locks between native threads: mended, because gevent loses wake-ups between them.

In a patched process every `threading.Lock`, the locks of logging, of imports and of all libraries
included, is gevent's. When native threads and greenlets contend for one, some wait for ever
(measured with gevent 26.9 at all of logging, RLock and import; upstream issues 1744, 2013). So who
has to wait asks again now and then, and nobody depends on being woken.
"""

from __future__ import annotations

import time
from typing import Any

import gevent
from gevent import monkey
from gevent.lock import BoundedSemaphore
from gevent.thread import LockType  # type: ignore[import-not-found] # has no stubs

__all__ = ["mend_locks"]

_native_sleep = monkey.get_original("time", "sleep")
_native_ident = monkey.get_original("_thread", "get_ident")

FIRST_PAUSE = 0.0005
LONGEST_PAUSE = 0.02
"""Seconds between two questions whether the lock is free."""


def mend_locks() -> None:
    """Let gevent's locks work across threads, from now on and also those that exist already.

    To be called in the thread of the main hub, and only by who starts native threads: the locks of
    a process without them are best left as they are. A second call changes nothing.
    """
    if hasattr(LockType.acquire, "_mended"):
        return
    home, original = _native_ident(), LockType.acquire
    # Not module variables: those are None when the interpreter ends, and logging locks even then.
    take, ask_again = BoundedSemaphore.acquire, _ask_again

    def acquire(self: Any, blocking: bool = True, timeout: float = -1) -> bool:
        if not blocking or timeout == 0:
            return bool(original(self, blocking, timeout))
        if take(self, False):
            return True
        if timeout != -1 and timeout < 0:
            raise ValueError("timeout value must be strictly positive")
        return ask_again(self, timeout, gevent.sleep if _native_ident() == home else _native_sleep)

    acquire._mended = True  # type: ignore[attr-defined] # the mark that it is done
    LockType.acquire = acquire
    # The compiled __enter__ would go past it.
    LockType.__enter__ = lambda self: self.acquire()


def _ask_again(lock: Any, timeout: float, sleep: Any) -> bool:
    deadline = None if timeout == -1 else time.monotonic() + timeout
    pause = FIRST_PAUSE
    while deadline is None or time.monotonic() < deadline:
        sleep(pause)
        if BoundedSemaphore.acquire(lock, False):
            return True
        pause = min(LONGEST_PAUSE, pause * 2)
    return False
