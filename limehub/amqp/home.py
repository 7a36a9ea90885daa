"""A home: the one hub in which a connection lives, callable from every thread.

In a patched process (limehub itself) that is the hub of the thread that asked; elsewhere a native
thread with a hub of its own is started, so that any service can publish.
"""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import gevent
from gevent import monkey

__all__ = ["Home"]

T = TypeVar("T")

_native_ident = monkey.get_original("_thread", "get_ident")
_native_lock = monkey.get_original("_thread", "allocate_lock")
_start_native = monkey.get_original("_thread", "start_new_thread")


class Home:
    """Runs callables in greenlets of its hub. `close` ends the thread if there is one."""

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], None]] = deque()
        self._thread_end: Any = None
        self._ended = _native_lock()
        self._closed = False
        if monkey.is_module_patched("socket"):
            self._move_in()
        else:
            self._start_thread()

    @property
    def is_here(self) -> bool:
        """Whether the caller runs in this home's thread."""
        return bool(_native_ident() == self._ident)

    def run(self, function: Callable[[], T]) -> T:
        """Run *function* in a greenlet at home and return its result; blocks only the caller."""
        return function() if self.is_here else self._run_from_afar(function)

    def close(self) -> None:
        """Stop listening for other threads; end the thread, if there is one, and wait for it."""
        atexit.unregister(self.close)
        if self._thread_end is None:
            self._leave()
        elif not self._closed:
            self._jobs.append(self._leave)
            self._doorbell.send()
            self._ended.acquire()

    def _run_from_afar(self, function: Callable[[], T]) -> T:
        done = _native_lock()
        done.acquire()
        answer: list[Any] = []

        def job() -> None:
            try:
                answer.extend((function(), None))
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                answer.extend((None, error))
            finally:
                done.release()

        self._jobs.append(job)
        self._doorbell.send()
        done.acquire()
        result, error = answer
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return] # a native lock carries no types

    def _move_in(self) -> None:
        loop = gevent.get_hub().loop
        self._ident = _native_ident()
        # A hub that lives for its visitors must not end while it waits for one.
        self._doorbell = loop.async_(ref=self._thread_end is not None)
        self._doorbell.start(self._answer)

    def _answer(self) -> None:
        while self._jobs:
            gevent.spawn(self._jobs.popleft())

    def _leave(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._doorbell.stop()
        self._doorbell.close()
        if self._thread_end is not None:
            self._thread_end.set()

    def _start_thread(self) -> None:
        started = _native_lock()
        started.acquire()

        def live() -> None:
            from gevent.event import Event

            self._thread_end = Event()
            self._move_in()
            started.release()
            self._thread_end.wait()
            gevent.get_hub().destroy(destroy_loop=True)
            self._ended.release()

        self._ended.acquire()
        _start_native(live, ())
        started.acquire()
        # A hub in a native thread does not survive the interpreter's end: it would segfault.
        atexit.register(self.close)
