"""The guard process, seen from the server: started, told of connections, restarted, ended.

A native thread cannot beat while one C call holds the interpreter's lock; another process can. It
shares the sockets of plain TCP connections (under TLS only this process has the keys).
"""

from __future__ import annotations

import _socket
import array
import contextlib
import fcntl
import logging
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from struct import Struct, pack, unpack_from
from typing import Any, Protocol

import gevent
from attrs import define, field
from gevent import Greenlet, monkey
from gevent.event import Event as Signal

from limehub.amqp import guard_program
from limehub.amqp.guard_program import ADD, ALIVE, DROP, GUARD_ALIVE, LIMITS, MESSAGE, SHARED_SIZE
from limehub.amqp.shared_line import SharedLine

__all__ = ["Guard", "Wakeup"]

log = logging.getLogger(__name__)

DROP_SECONDS = 1.0
"""A connection is replaced when the guard has let go of the old one, or is dead."""

FROZEN_AFTER = 3.0
PAUSE_FIRST, PAUSE_LONGEST = 0.1, 60.0
STEADY_AFTER = 10.0
"""Seconds that a guard must live for the next one to be started without a longer pause."""

END_SECONDS = 1.0

_note_look = Struct("dd").pack_into
_read_look = Struct("d").unpack_from
_PROGRAM = str(Path(guard_program.__file__))
_spawn = monkey.get_original("os", "posix_spawn")
_waitpid = monkey.get_original("os", "waitpid")


class Wakeup(Protocol):
    """Where signals wait to be read; `limehub.signals.Signals` is one."""

    @property
    def waiting(self) -> int | None:
        """The descriptor to look at; None while signals are not taken over."""

    def on_stops(self, note: Callable[[int], None]) -> None:
        """Call *note* with the number of stop signals read so far, now and at each change."""


@define(eq=False)
class _Child:
    """A guard process. *handle*: its pidfd."""

    pid: int
    handle: int
    control: _socket.socket
    watcher: Any
    started_at: float = field(factory=time.monotonic)

    def kill(self) -> None:
        """End it at once; from any thread."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)

    def close(self) -> None:
        self.watcher.stop()
        self.watcher.close()
        self.control.close()

    def reap(self) -> None:
        """Wait until it has ended, and kill it if it does not."""
        deadline = time.monotonic() + END_SECONDS
        while not self._has_ended():
            if time.monotonic() > deadline:
                self.kill()
                deadline += END_SECONDS
            gevent.sleep(0.005)
        # The sentinel's thread may be about to kill it: the number may be another process's soon.
        handle, self.handle = self.handle, -1
        os.close(handle)

    def _has_ended(self) -> bool:
        try:
            return bool(_waitpid(self.pid, os.WNOHANG)[0] == self.pid)
        except ChildProcessError:  # libev's own SIGCHLD handler came first
            return True


class Guard:
    """Keeps one guard process alive from `start` to `stop`.

    `starts`: how many there were. *max_stall*: seconds; *wakeup*: the server's signals;
    *patience*: seconds from the first stop signal until a server that cannot even read it is
    killed, 0 = for ever.
    """

    def __init__(
        self, *, max_stall: float, wakeup: Wakeup | None = None, patience: float = 0.0
    ) -> None:
        self.starts = 0
        self._wakeup = wakeup
        self._file = os.memfd_create("limehub-guard", os.MFD_CLOEXEC)
        os.ftruncate(self._file, SHARED_SIZE)
        self._memory = mmap.mmap(self._file, SHARED_SIZE)
        _note_look(self._memory, LIMITS, max_stall, patience)
        self._lines: dict[int, tuple[SharedLine, float]] = {}
        self._last = 0
        self._dropping: set[int] = set()
        self._dropped = Signal()
        self._dropped.set()
        self._child: _Child | None = None
        self._starter: Greenlet[..., None] | None = None
        self._failures = 0

    @property
    def pid(self) -> int | None:
        """The process id of the guard that runs now."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start the process. It does not matter if that fails: it is tried again."""
        now = time.monotonic()
        _note_look(self._memory, ALIVE, now, now)
        if self._wakeup is not None:
            self._wakeup.on_stops(self._note_stops)
        self._start()

    def stop(self) -> None:
        """End the process and wait for it; connections must be closed by now."""
        if self._starter is not None:
            self._starter.kill()
        child, self._child = self._child, None
        if child is not None:
            child.close()
            child.reap()
        self._memory.close()
        os.close(self._file)

    def look(self, now: float, turned_at: float) -> None:
        """Note, in the sentinel's thread, that Python runs, and when the hub last turned.

        A guard that does not run, and so may hold a lock, is killed.
        """
        _note_look(self._memory, ALIVE, now, turned_at)
        child = self._child
        if child is not None and now - child.started_at > FROZEN_AFTER:
            (guard_alive,) = _read_look(self._memory, GUARD_ALIVE)
            if now - guard_alive > FROZEN_AFTER:
                child.kill()

    def add(self, sock: Any, heartbeat: float) -> tuple[int, SharedLine]:
        """Share *sock*. Returns its number and who must do all writing from now. Raises OSError."""
        shared = SharedLine(sock, self._kill)
        self._last += 1
        self._lines[self._last] = shared, heartbeat
        try:
            self._tell_of(self._last)
        except OSError:
            self.drop(self._last)
            raise
        return self._last, shared

    def drop(self, number: int) -> None:
        """Have the guard let go of a connection, which must have been shut down."""
        shared, _ = self._lines.pop(number)
        shared.close()
        if self._child is not None:
            self._dropping.add(number)
            self._dropped.clear()
            self._send(self._child, pack(MESSAGE, DROP, number, 0.0))

    def wait_dropped(self) -> None:
        """Wait until the guard holds nothing of what was dropped."""
        if not self._dropped.wait(DROP_SECONDS):
            log.warning("the guard process does not let go of a connection; it is replaced")
            self._kill()
            self._dropped.wait(DROP_SECONDS)

    # -- the child --------------------------------------------------------------------------------

    def _start(self) -> None:
        try:
            self._child = self._spawn()
        except OSError as error:
            log.error("cannot start the guard process", extra={"cause": str(error)})
            self._start_later()
            return
        self.starts += 1
        try:
            for number in self._lines:
                self._tell_of(number)
        except OSError:  # no descriptors left: `_hear` starts another one
            self._kill()

    def _start_later(self) -> None:
        pause = min(PAUSE_LONGEST, PAUSE_FIRST * 2.0**self._failures)
        self._failures += 1
        self._starter = gevent.spawn_later(pause, self._start)

    def _spawn(self) -> _Child:
        ours, theirs = _socket_pair()
        own_handle = os.pidfd_open(os.getpid())
        descriptors = [theirs.fileno(), self._file, own_handle]
        waiting = self._wakeup.waiting if self._wakeup is not None else None
        if waiting is not None:
            descriptors.append(waiting)
        try:
            pid = _start_program(descriptors)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(own_handle)
        watcher = gevent.get_hub().loop.io(ours.fileno(), 1)
        child = _Child(pid, os.pidfd_open(pid), ours, watcher)
        watcher.start(self._hear, child)
        return child

    def _hear(self, child: _Child) -> None:
        """Runs in the hub: the guard has let go of something, or is dead."""
        try:
            data = child.control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended(child)
            return
        _, number, _ = unpack_from(MESSAGE, data)
        self._dropping.discard(number)
        if not self._dropping:
            self._dropped.set()

    def _ended(self, child: _Child) -> None:
        if self._child is not child:
            return
        self._child = None
        child.close()
        gevent.spawn(child.reap)
        self._dropping.clear()
        self._dropped.set()
        log.warning("the guard process ended; starting another one", extra={"pid": child.pid})
        if time.monotonic() - child.started_at > STEADY_AFTER:
            self._failures = 0
        self._start_later()

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()

    def _tell_of(self, number: int) -> None:
        if self._child is None:
            return
        shared, heartbeat = self._lines[number]
        lock = shared.open_lock()
        try:
            self._send(self._child, pack(MESSAGE, ADD, number, heartbeat), shared.socket, lock)
        finally:
            os.close(lock)

    @staticmethod
    def _send(child: _Child, message: bytes, *descriptors: int) -> None:
        rights = array.array("i", descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        try:
            child.control.sendmsg([message], ancillary)
        except OSError:  # it is dead, or so slow that its mail piles up: `_hear` starts another
            child.kill()

    def _note_stops(self, count: int) -> None:
        self._memory[guard_program.STOPS] = min(count, 255)


def _socket_pair() -> tuple[_socket.socket, _socket.socket]:
    kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    ours, theirs = _socket.socketpair(socket.AF_UNIX, kind)
    theirs.setblocking(True)
    return ours, theirs


def _start_program(descriptors: list[int]) -> int:
    """Start the program with *descriptors* from 3 on. Returns its process id. Raises OSError."""
    # Moved out of the way first: none may lie where another one goes.
    away = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 16) for each in descriptors]
    try:
        return int(
            _spawn(
                sys.executable,
                [sys.executable, "-I", "-S", "-B", _PROGRAM, str(len(away))],
                {name: value for name, value in os.environ.items() if name.startswith("LD_")},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                    (os.POSIX_SPAWN_DUP2, 0, 1),
                    *((os.POSIX_SPAWN_DUP2, each, 3 + n) for n, each in enumerate(away)),
                ],
                setpgroup=0,
                # What a terminal or systemd sends to all processes is for the server.
                setsigmask=(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
            )
        )
    finally:
        for descriptor in away:
            os.close(descriptor)
