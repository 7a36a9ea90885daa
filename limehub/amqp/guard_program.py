"""The guard process: beats for a server whose interpreter is held by one C call.

Run by `limehub.amqp.guard` as a file of its own, `python -I -S guard_program.py COUNT`, with COUNT
descriptors from 3 on. It imports only what is built in or nearly so, so that it stays small and
starts in a few hundredths of a second.

It beats only while the server's sentinel thread is silent; and never for a server that is stopped
or over its `max_stall`. It ends when the server does: the other end of CONTROL is closed then.
"""

# ruff: noqa: SIM105 - contextlib would double what this imports

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # the built-in half of signal
import _socket
import fcntl
import mmap
import os
import select
import sys
from _struct import pack, pack_into, unpack_from
from time import monotonic

CONTROL, SHARED, SERVER, WAKEUP = 3, 4, 5, 6
"""Its descriptors. SERVER: a pidfd. WAKEUP: where the server's signals wait to be read."""

HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
BEATS = 3
TICK = 0.1
SILENT = 0.5
"""Seconds without a look of the sentinel after which the interpreter counts as held."""

# What server and guard share: the first two are the sentinel's, the last one is ours.
SHARED_SIZE = 64
ALIVE, LIMITS, STOPS, GUARD_ALIVE = 0, 16, 32, 40
# (looked_at, turned_at), (max_stall, patience), stop signals read, when we last looked

# What they share of a connection, under the lock on its file.
LINE_SIZE = 64
SENT_AT, HALF, OWED, EDGES, BASE, BEATEN = 0, 8, 9, 16, 32, 40
# when something was sent; a frame of the server's is half sent; bytes of a heartbeat that are
# missing, or BEATING; positions at which the stream is between two frames; position at which both
# counts began; bytes that we have sent
BEATING = 16

ADD, DROP = b"+", b"-"
MESSAGE = "=cQd"
TCP_INFO_SIZE, BYTES_ACKED, SIOCOUTQ = 192, 120, 0x5411
STOP_SIGNALS = (_signal.SIGTERM, _signal.SIGINT)


def position(sock: _socket.socket) -> int | None:
    """Return how many bytes were ever written to *sock*, by any process; None: nobody knows."""
    while True:
        before = _acked(sock)
        (queued,) = unpack_from("=i", fcntl.ioctl(sock.fileno(), SIOCOUTQ, b"\0\0\0\0"))
        if before is None:
            return None
        if _acked(sock) == before:
            return before + int(queued)


def _acked(sock: _socket.socket) -> int | None:
    info = sock.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, TCP_INFO_SIZE)
    if len(info) < BYTES_ACKED + 8:
        return None
    (acked,) = unpack_from("=Q", info, BYTES_ACKED)
    return int(acked)


class Line:
    """A connection of the server's."""

    def __init__(self, heartbeat: float, sock: int, lock: int) -> None:
        self.beat_after = heartbeat / BEATS if heartbeat else float("inf")
        self.sock = _socket.socket(fileno=sock)
        self.lock = lock
        self.memory = mmap.mmap(lock, LINE_SIZE)
        self.found_locked = False

    def keep(self, now: float) -> None:
        """Beat if nothing was sent for long enough."""
        if now - unpack_from("d", self.memory, SENT_AT)[0] < self.beat_after:
            return
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._keep_unlocked(now)
            return
        try:
            self.found_locked = False
            self._beat(now)
        finally:
            fcntl.flock(self.lock, fcntl.LOCK_UN)

    def _beat(self, now: float) -> None:
        memory = self.memory
        if memory[HALF] or memory[OWED] & BEATING:
            return
        missing = memory[OWED] or len(HEARTBEAT)
        memory[OWED] = BEATING | missing
        sent = self._send(HEARTBEAT[-missing:])
        self._count(sent)
        memory[OWED] = missing - sent if sent or missing < len(HEARTBEAT) else 0
        if sent:
            pack_into("d", memory, SENT_AT, now)

    def _keep_unlocked(self, now: float) -> None:
        """The server sleeps with the lock in its hand: its thread waits for the interpreter.

        It cannot have sent part of a frame if the kernel's count says that we are at an edge.
        """
        if not self.found_locked:
            self.found_locked = True
            return
        if self.memory[OWED] or not self._is_at_edge():
            return
        sent = self._send(HEARTBEAT)
        self._count(sent)
        if sent:
            self.memory[OWED] = len(HEARTBEAT) - sent
            pack_into("d", self.memory, SENT_AT, now)

    def _is_at_edge(self) -> bool:
        written = position(self.sock)
        if written is None:
            return False
        base, beaten = unpack_from("QQ", self.memory, BASE)
        return written - base - beaten in unpack_from("QQ", self.memory, EDGES)

    def _count(self, sent: int) -> None:
        (before,) = unpack_from("Q", self.memory, BEATEN)
        pack_into("Q", self.memory, BEATEN, before + sent)

    def _send(self, data: bytes) -> int:
        try:
            return self.sock.send(data)
        except OSError:  # full, or gone: the server will see for itself
            return 0

    def close(self) -> None:
        """Let go of it."""
        self.sock.close()
        self.memory.close()
        os.close(self.lock)


class Guard:
    """All that the process knows."""

    def __init__(self, descriptors: int) -> None:
        self.lines: dict[int, Line] = {}
        self.control = _socket.socket(fileno=CONTROL)
        self.wakeup = _socket.socket(fileno=WAKEUP) if descriptors > 3 else None
        self.shared = mmap.mmap(SHARED, SHARED_SIZE)
        self.state = _state_file()
        self.stop_seen_at = 0.0

    def run(self) -> None:
        """Look after the server until it ends."""
        poll = select.poll()
        poll.register(CONTROL, select.POLLIN)
        poll.register(SERVER, select.POLLIN)  # a child of it may hold the other end of CONTROL
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(int(TICK * 1000))}
            if SERVER in ready or (CONTROL in ready and not self.hear()):
                self.end()
            self.look(monotonic())

    def hear(self) -> bool:
        """Take one order. Returns False when the server is gone."""
        try:
            data, ancillary, _, _ = self.control.recvmsg(64, _socket.CMSG_SPACE(8))
        except OSError:
            return False
        if not data:
            return False
        order, identity, heartbeat = unpack_from(MESSAGE, data)
        if order == ADD:
            sock, lock = unpack_from("=ii", ancillary[0][2])
            self.lines[identity] = Line(heartbeat, sock, lock)
        else:
            line = self.lines.pop(identity, None)
            if line is not None:
                line.close()
            self.answer(pack(MESSAGE, DROP, identity, 0.0))
        return True

    def answer(self, message: bytes) -> None:
        """Tell the server, unless it does not listen: then it will end us."""
        try:
            self.control.send(message, _socket.MSG_DONTWAIT)
        except OSError:
            pass

    def look(self, now: float) -> None:
        """Do what is due."""
        pack_into("d", self.shared, GUARD_ALIVE, now)
        looked_at, turned_at = unpack_from("dd", self.shared, ALIVE)
        if now - looked_at < SILENT:
            self.stop_seen_at = 0.0
            return
        if self.is_stopped():
            return
        max_stall, patience = unpack_from("dd", self.shared, LIMITS)
        self.obey_signals(now, patience)
        if now - turned_at <= max_stall:
            for line in self.lines.values():
                try:
                    line.keep(now)
                except OSError:  # it is closed, or its lock is: the server will say so
                    pass

    def is_stopped(self) -> bool:
        """Whether the server was stopped (SIGSTOP, a debugger): then it holds nothing any more."""
        try:
            state = os.pread(self.state, 512, 0).rpartition(b")")[2].split()[0]
        except (OSError, IndexError):
            return True
        return state in (b"T", b"t", b"Z", b"X")

    def obey_signals(self, now: float, patience: float) -> None:
        """End a server that was asked twice, or waits too long after the first time.

        Its own handlers are Python, and cannot run. As process 1 of a container it is immune
        against its children; there the runtime's SIGKILL comes from outside.
        """
        stops = self.shared[STOPS] + self.unread_stops()
        if stops and not self.stop_seen_at:
            self.stop_seen_at = now
        if stops > 1 or (stops and patience and now - self.stop_seen_at > patience):
            _signal.pidfd_send_signal(SERVER, _signal.SIGKILL)

    def unread_stops(self) -> int:
        """How many stop signals the server has not even read."""
        if self.wakeup is None:
            return 0
        try:
            waiting = self.wakeup.recv(64, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
        except OSError:
            return 0
        return sum(waiting.count(number) for number in STOP_SIGNALS)

    def end(self) -> None:
        """Close the server's connections at once, so that the broker hears of its death."""
        for line in self.lines.values():
            try:
                line.sock.shutdown(_socket.SHUT_RDWR)
            except OSError:
                pass
        os._exit(0)


def _state_file() -> int:
    """Open the server's stat file: /proc may count process ids otherwise than we do."""
    own = os.open("/proc/self/stat", os.O_RDONLY)
    parent = os.read(own, 512).rpartition(b")")[2].split()[1]
    os.close(own)
    return os.open(b"/proc/" + parent + b"/stat", os.O_RDONLY)


if __name__ == "__main__":
    count = int(sys.argv[1])
    os.closerange(CONTROL + count, 65536)
    Guard(count).run()
