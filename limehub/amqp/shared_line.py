"""A connection that two processes write to: a lock and the state of the stream, in one small file.

Both write whole frames, and each holds the lock from its look at the state to the end of its send.
The lock is flock(2) on a file in memory that each has opened by itself: the kernel frees it when
its holder dies. The layout of the state is the guard program's.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Callable
from struct import Struct
from typing import Any

from gevent import monkey

from limehub.amqp.guard_program import (
    BASE,
    BEATEN,
    BEATING,
    EDGES,
    HALF,
    HEARTBEAT,
    LINE_SIZE,
    OWED,
    SENT_AT,
    position,
)

__all__ = ["SharedLine"]

LOCKED_FOR = 0.1
"""Seconds after which whoever holds the lock is killed: it needs it for microseconds."""

GIVE_UP_AFTER = 2.0

_flock = fcntl.flock
_EXCLUSIVE = fcntl.LOCK_EX | fcntl.LOCK_NB
_RELEASE = fcntl.LOCK_UN
_note_sent = Struct("dB").pack_into
_note_edges = Struct("QQ").pack_into
_note_counts = Struct("QQ").pack_into
_count = Struct("Q")
_sleep = monkey.get_original("time", "sleep")


class SharedLine:
    """The server's side of *sock*; nobody may write to it meanwhile, and only by `send` from now.

    *on_stuck* is called when the other side does not let go of the lock. Raises OSError.
    """

    def __init__(self, sock: Any, on_stuck: Callable[[], None]) -> None:
        self._sock = sock
        self._send = sock.send
        self._on_stuck = on_stuck
        self._written = 0
        self._file = os.memfd_create("limehub-connection", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._file, LINE_SIZE)
            self._memory = mmap.mmap(self._file, LINE_SIZE)
        except BaseException:
            os.close(self._file)
            raise
        _note_sent(self._memory, SENT_AT, time.monotonic(), False)
        _note_counts(self._memory, BASE, position(sock) or 0, 0)

    @property
    def socket(self) -> int:
        """The socket's descriptor."""
        return int(self._sock.fileno())

    def open_lock(self) -> int:
        """Return a descriptor for the other side, with a lock apart from ours. Raises OSError."""
        return os.open(f"/proc/self/fd/{self._file}", os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Free the memory; nothing may be sent any more."""
        self._memory.close()
        os.close(self._file)

    def send(self, data: bytes | memoryview) -> int:
        """Send whole frames, or the rest of what was sent in part. Returns how much went out.

        Raises as the socket's own `send`.
        """
        memory = self._memory
        try:
            _flock(self._file, _EXCLUSIVE)
        except BlockingIOError:
            self._wait_for_lock()
        try:
            if memory[OWED]:
                self._pay()
            written, goal = self._written, self._written + len(data)
            if not memory[HALF]:
                _note_edges(memory, EDGES, written, goal)
            sent = self._send(data)
            self._written = written + sent
            _note_sent(memory, SENT_AT, time.monotonic(), sent < len(data))
            return int(sent)
        finally:
            _flock(self._file, _RELEASE)

    def _pay(self) -> None:
        """Finish the other side's heartbeat. Raises BlockingIOError if there is no room for it."""
        owed = self._memory[OWED]
        if owed & BEATING:
            owed = self._after_a_death(owed & ~BEATING)
        while owed:
            owed -= self._beat(HEARTBEAT[-owed:])
            self._memory[OWED] = owed

    def _beat(self, data: bytes) -> int:
        sent = int(self._send(data))
        self._count_beaten(sent)
        return sent

    def _after_a_death(self, missing: int) -> int:
        """Return how much of a heartbeat is missing whose sender died before it could tell.

        *missing*: before it sent.
        """
        base, beaten = Struct("QQ").unpack_from(self._memory, BASE)
        sent = (position(self._sock) or 0) - base - beaten - self._written
        if not 0 <= sent <= missing:
            raise ConnectionAbortedError("nobody knows how much of a heartbeat was sent")
        self._count_beaten(sent)
        owed = missing - sent if sent or missing < len(HEARTBEAT) else 0
        self._memory[OWED] = owed
        return owed

    def _count_beaten(self, sent: int) -> None:
        (before,) = _count.unpack_from(self._memory, BEATEN)
        _count.pack_into(self._memory, BEATEN, before + sent)

    def _wait_for_lock(self) -> None:
        started = time.monotonic()
        killed = False
        while True:
            try:
                _flock(self._file, _EXCLUSIVE)
            except BlockingIOError:
                waited = time.monotonic() - started
                if waited > GIVE_UP_AFTER:
                    raise ConnectionAbortedError("the guard process holds the lock") from None
                if waited > LOCKED_FOR and not killed:
                    killed = True
                    self._on_stuck()
                _sleep(0.0005)
            else:
                return
