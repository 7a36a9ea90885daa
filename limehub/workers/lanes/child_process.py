"""A child process as its parent sees it: started, given one run at a time, ended.

Its end is known by the end of its socket or by its exit status, whichever comes first: a process
that the handler has forked may hold the socket open, and somebody else may take the status.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from typing import Any

import gevent
from gevent import socket
from gevent.event import AsyncResult
from gevent.event import Event as Signal
from gevent.lock import Semaphore

from limehub.errors import AlreadySettled
from limehub.events import Settler
from limehub.interpreter import interpreter
from limehub.plugins.lime import EventPublisher
from limehub.workers.lanes import child
from limehub.workers.lanes.carried import CarriedError, pack, unpack
from limehub.workers.lanes.far_logs import log_here
from limehub.workers.lanes.frames import Hello, Run, read_frame, write_frame

__all__ = ["ChildEnded", "ChildProcess"]

log = logging.getLogger(__name__)

NO_RUN = 0

STACK_PATIENCE = 1.0
"""Seconds that a child has to write down its stack: it does so as soon as it is given a core."""

STACK_PAUSE = 0.02

STATUS_PATIENCE = 1.0
DRAIN_PATIENCE = 0.2
"""Seconds from a child's exit until its socket is closed, should a grandchild hold it open."""

_OUR_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


class ChildEnded(Exception):
    """The child process ended in the middle of a run: the handler's failure."""


class ChildProcess:
    """One child. Use it from the hub's thread. `runs` counts what it was given."""

    def __init__(self, group: str, hello: Hello, publisher: EventPublisher) -> None:
        self.runs = 0
        self.ended = Signal()
        self._publisher = publisher
        self._sending = Semaphore(1)
        self._ready: AsyncResult[None] = AsyncResult()
        self._current = NO_RUN
        self._result: AsyncResult[CarriedError | ChildEnded | None] = AsyncResult()
        self._settlers: dict[int, Settler] = {}
        self._killed_by_us = False
        self._status: int | None = None
        self._status_known = Signal()
        self._first_rss = self._rss = 0
        self._socket, far_end = socket.socketpair()
        with contextlib.closing(far_end), contextlib.ExitStack() as unless_spawned:
            unless_spawned.callback(self._socket.close)
            self._stacks = os.memfd_create("stacks", os.MFD_CLOEXEC)
            unless_spawned.callback(os.close, self._stacks)
            self.pid = _spawn(group, far_end.fileno(), self._stacks)
            unless_spawned.pop_all()
        self._watch_exit()
        self._reader = gevent.spawn(self._read)
        self._tell("hello", hello)

    # -- what the lane does with it ---------------------------------------------------------------

    def wait_ready(self, timeout: float) -> None:
        """Wait until it can run handlers. Raises ChildEnded, also if it takes too long."""
        if not self._ready.wait(timeout) and not self._ready.ready():
            self.kill()
            raise ChildEnded(f"child process {self.pid} was not ready after {timeout:g} s")
        self._ready.get()

    def run(self, run: Run, settler: Settler, *, manual: bool) -> None:
        """Let it run the handler. Raises what that raises, ChildEnded if the child ends first.

        *manual*: the handler may settle after it has returned.
        """
        self.runs += 1
        self._current = run.number
        self._settlers[run.number] = settler
        self._result = AsyncResult()
        self._tell("run", run)
        if self.ended.is_set():
            self._result.set(ChildEnded(f"child process {self.pid} had ended before the run"))
        error = self._result.get()
        self._current = NO_RUN
        if error is not None or settler.settled or not manual:
            self._settlers.pop(run.number, None)
        if error is not None:
            raise error if isinstance(error, ChildEnded) else unpack(error)

    @property
    def is_busy(self) -> bool:
        """Whether a run has begun and not ended; so after a `run` that was killed."""
        return self._current != NO_RUN

    @property
    def has_open_events(self) -> bool:
        """Whether one of its handlers returned without settling and may still do so."""
        return bool(self._settlers)

    @property
    def growth(self) -> int:
        """Bytes of memory that it uses more than at its start."""
        return self._rss - self._first_rss

    def stack(self) -> str:
        """Ask it for its stack, also while it is deep in a C call. Waits a moment."""
        if self._status is None:
            _rewind(self._stacks)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)
            self._wait_for_stack()
        return f"in child process {self.pid}\n{self._written_stack()}"

    def kill(self) -> None:
        """End it at once, with all processes that its handler has started."""
        self._killed_by_us = True
        if self._status is None and not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def end(self, patience: float) -> None:
        """Let it end in order, within *patience* seconds; then kill it."""
        self._tell("end")
        if not self.ended.wait(patience):
            self.kill()
            self.ended.wait(patience)

    # -- what it says -----------------------------------------------------------------------------

    def _tell(self, *message: Any) -> None:
        with self._sending, contextlib.suppress(OSError):  # the reader sees the end
            write_frame(self._socket, message)

    def _read(self) -> None:
        try:
            while (message := read_frame(self._socket)) is not None:
                self._hear(*message)
        except OSError:
            pass
        except Exception:  # border: unpickling runs code of plugins; nobody else would end the run
            log.exception("cannot read a child process; it is killed", extra={"child": self.pid})
            self.kill()
        self._over()

    def _hear(self, kind: str, *said: Any) -> None:
        if kind == "done":
            self._done(*said)
        elif kind == "call":
            gevent.spawn(self._answer, *said)
        elif kind == "log":
            log_here(said[0])
        else:
            self._first_rss = self._rss = said[0]
            self._ready.set(None)

    def _done(self, number: int, error: CarriedError | None, rss: int) -> None:
        self._rss = rss
        if number == self._current:
            self._result.set(error)

    def _answer(self, call: int, run: int, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            value = self._perform(run, name, arguments)
        except Exception as error:  # noqa: BLE001 - border: raised again where it was asked
            self._tell("answer", call, pack(error), None)
        else:
            self._tell("answer", call, None, value)

    def _perform(self, run: int, name: str, arguments: tuple[Any, ...]) -> object:
        if name == "publish":
            routing_key, body, options = arguments
            return self._publisher.publish(routing_key, body, **options)
        settler = self._settlers.get(run)
        if settler is None:
            raise AlreadySettled("the handler has returned, and its event was settled then")
        getattr(settler, name)(*arguments)
        if run != self._current:  # it came late
            self._settlers.pop(run, None)
        return None

    # -- its end ----------------------------------------------------------------------------------

    def _watch_exit(self) -> None:
        loop = gevent.get_hub().loop
        loop.install_sigchld()
        watcher = loop.child(self.pid)

        def exited() -> None:
            self._status = watcher.rstatus
            watcher.close()
            self._status_known.set()
            gevent.spawn_later(DRAIN_PATIENCE, self._hang_up)

        watcher.start(exited)

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _over(self) -> None:
        self._status_known.wait(STATUS_PATIENCE)
        end = ChildEnded(self._last_words())
        self._socket.close()
        os.close(self._stacks)
        self.ended.set()
        if not self._ready.ready():
            self._ready.set_exception(end)
        if self.is_busy:
            self._result.set(end)
        self._give_back()

    def _give_back(self) -> None:
        """What its handlers kept open nobody can settle any more."""
        for run, settler in self._settlers.items():
            if run != self._current and not settler.settled:
                settler.requeue()
        self._settlers.clear()

    def _last_words(self) -> str:
        stack = self._written_stack()
        where = f"; it was at\n{stack}" if stack and not self._killed_by_us else ""
        return f"child process {self.pid} {_in_words(self._status)} in the middle of a run{where}"

    def _wait_for_stack(self) -> None:
        """Wait until something is written down, and no more follows."""
        deadline = time.monotonic() + STACK_PATIENCE
        before, now = "", ""
        while not (now and now == before) and time.monotonic() < deadline:
            gevent.sleep(STACK_PAUSE)
            before, now = now, self._written_stack()

    def _written_stack(self) -> str:
        if self.ended.is_set():
            return ""
        return os.pread(self._stacks, 65_536, 0).decode("utf-8", "replace").strip()


def _rewind(descriptor: int) -> None:
    """The child writes on where the last stack ended: both share one position."""
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)


def _in_words(status: int | None) -> str:
    if status is None:
        return "ended, nobody knows how,"
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _spawn(group: str, connection: int, stacks: int) -> int:
    """Start the interpreter with nothing of ours but these two descriptors; returns its pid.

    A process group of its own: Ctrl-C in a terminal is for the server only, and killing the group
    takes along what a handler has started. Not by fork(): other threads may hold any lock.
    """
    ours = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 64) for each in (connection, stacks)]
    arguments = [
        *interpreter(),
        *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined] # as multiprocessing does
        *("-m", child.__name__, group),
    ]
    try:
        return os.posix_spawn(
            sys.executable,
            arguments,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, ours[0], child.SOCKET),
                (os.POSIX_SPAWN_DUP2, ours[1], child.STACKS),
            ],
            setpgroup=0,
            setsigmask=(),
            setsigdef=_OUR_SIGNALS,
        )
    finally:
        for each in ours:
            os.close(each)
