"""Native threads that run one job after the other, while the greenlets that asked for them wait.

Not gevent's pool of the hub: DNS lives there, and one of ours may never end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from _queue import SimpleQueue  # the module `queue` gives gevent's
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
import gevent.hub
import greenlet
from gevent import GreenletExit, monkey
from gevent.event import Event as Signal

from limehub.forks import end_child
from limehub.workers.lanes.children import Children
from limehub.workers.lanes.stacks import stack_of

__all__ = ["Job", "NativeThreads"]

_native_ident = monkey.get_original("_thread", "get_ident")
_native_lock = monkey.get_original("_thread", "allocate_lock")
_start_native = monkey.get_original("_thread", "start_new_thread")
_set_async_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc

LAST_WORDS = 1.0
"""Seconds that an abandoned job has for what it does in its `finally`."""


class NativeThreads:
    """As many threads as jobs run at once. They keep no process from ending."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._children = Children()
        self._ended: deque[Job] = deque()
        # Only while jobs run: then the hub has something to wait for, else it must not.
        self._doorbell = gevent.get_hub().loop.async_()
        self._running = 0
        self._closed = False
        self.size = 0

    def start(self, function: Callable[[], object]) -> Job:
        """Run *function* in a thread, at once. From the hub's thread only."""
        job = Job(function, self._report)
        if not self._running:
            self._doorbell.start(self._answer)
        self._running += 1
        if self._running > self.size:
            self.size += 1
            _NativeThread(self._jobs, self._children)
        self._jobs.put(job)
        return job

    def close(self) -> None:
        """End the threads that are idle; the others end after their job."""
        if not self._closed:
            self._closed = True
            self._children.close()
            for _ in range(self.size):
                self._jobs.put(None)

    def _report(self, job: Job) -> None:
        """Runs in the job's thread."""
        self._ended.append(job)
        self._doorbell.send()

    def _answer(self) -> None:
        while self._ended:
            self._running -= 1
            self._ended.popleft().done.set()
        if not self._running:
            self._doorbell.stop()


class Job:
    """One run of *function*. *report*(job) is called once, in its thread, after its end."""

    def __init__(self, function: Callable[[], object], report: Callable[[Job], None]) -> None:
        self.function = function
        self.report = report
        self.done = Signal()
        self.error: BaseException | None = None
        self.thread: _NativeThread | None = None

    def wait(self) -> None:
        """Wait for the end and raise what it raised. Killed meanwhile, the job is told to end."""
        try:
            self.done.wait()
        except BaseException:
            self.interrupt(GreenletExit())
            self.done.wait(LAST_WORDS)
            raise
        if self.error is not None:
            raise self.error

    def interrupt(self, error: BaseException) -> None:
        """Raise *error* in it: at once if it waits with gevent, else between two bytecodes.

        A C call is not interrupted. What comes too late reaches nobody, least of all the next job.
        """
        if self.thread is not None:
            self.thread.interrupt(self, error)

    def stack(self) -> str:
        """Return where it is now."""
        return "" if self.thread is None else self.thread.stack()


class _NativeThread:
    """A thread. What it does is kept in attributes, because an interrupt may strike anywhere.

    Interrupts are only sent while `_current` is the job they are meant for; each step can be begun
    again where it was struck; and what is pending is cleared before the job is reported.
    """

    def __init__(self, jobs: SimpleQueue[Job | None], children: Children) -> None:
        self._jobs = jobs
        self._children = children
        self._hub_class = type(gevent.get_hub())
        self._lock = _native_lock()
        self._current: Job | None = None
        self._finished: Job | None = None
        self._ran = False
        self._process = os.getpid()
        _start_native(self._live, ())

    def interrupt(self, job: Job, error: BaseException) -> None:
        with self._lock:
            if self._current is not job:
                return
            if self._waits_in_its_hub:
                self._hub.loop.run_callback_threadsafe(self._throw, job, error)
            else:
                kind = _striking(error)
                _set_async_exception(ctypes.c_ulong(self._ident), ctypes.py_object(kind))

    def stack(self) -> str:
        if self._waits_in_its_hub:
            return stack_of(self._greenlet.gr_frame)
        return stack_of(sys._current_frames().get(self._ident))

    @property
    def _waits_in_its_hub(self) -> bool:
        return self._greenlet.gr_frame is not None

    def _throw(self, job: Job, error: BaseException) -> None:
        """Runs in the hub of this thread, as the timer of a gevent.Timeout would."""
        if self._current is job and self._waits_in_its_hub:
            self._greenlet.throw(error)

    def _live(self) -> None:
        self._ident = _native_ident()
        self._greenlet = greenlet.getcurrent()
        self._hub = self._hub_class(self._children.loop())
        hubs: Any = gevent.hub
        hubs.set_hub(self._hub)
        # A hub whose greenlet waits for another thread must not take that for the end.
        visitors = self._hub.loop.async_()
        visitors.start(lambda: None)
        going_on = True
        while going_on:
            with contextlib.suppress(BaseException):  # an interrupt that came a moment late
                going_on = self._step()
        visitors.close()
        self._hub.destroy(destroy_loop=True)

    def _step(self) -> bool:
        if self._current is None and self._finished is None:
            job = self._jobs.get()
            if job is None:
                return False
            job.thread, self._ran = self, False
            self._current = job
            del job  # it would be kept until the next one comes
        if self._current is not None:
            self._run(self._current)
        self._let_go()
        return True

    def _run(self, job: Job) -> None:
        if not self._ran:
            self._ran = True
            try:
                job.function()
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                job.error = error
                struck: BaseException | None = getattr(error, "struck_by", None)
                job.error = struck.with_traceback(error.__traceback__) if struck else error
            if os.getpid() != self._process:  # the handler has forked, and this is the child
                end_child(job.error)
        with self._lock:
            self._finished, self._current = job, None

    def _let_go(self) -> None:
        _set_async_exception(ctypes.c_ulong(self._ident), None)
        if self._finished is not None:
            self._finished.thread = None
            self._finished.report(self._finished)
            self._finished = None


def _striking(error: BaseException) -> type[BaseException]:
    """Return a class whose instance says what *error* says: CPython takes no instances here."""
    kind: Any = type(error)

    def build(self: Any) -> None:
        kind.__init__(self, *error.args)

    known = {"__init__": build, "__module__": kind.__module__, "struck_by": error}
    return type(kind.__name__, (kind,), known)
