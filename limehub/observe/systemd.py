"""What systemd is told: ready, reloading, stopping, one line of status, and that we live.

The watchdog is fed by a native thread for as long as `/healthz` says 200: a server that a handler
keeps busy is at work, up to `event_handler.max_stall`.
https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import _socket
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from gevent import monkey

__all__ = ["Systemd"]

log = logging.getLogger(__name__)

FEEDS = 3
"""Feeds per watchdog time; systemd recommends two."""

MAX_STATUS = 200
JOIN_SECONDS = 1.0

# Patched ones would need the hub, which may be busy.
_start_native = monkey.get_original("_thread", "start_new_thread")
_native_lock = monkey.get_original("_thread", "allocate_lock")


class Systemd:
    """Does nothing unless *environ* says that systemd wants to know. Whoever starts it stops it.

    *lives*(): whether the server works, asked from a native thread.
    """

    def __init__(self, environ: Mapping[str, str], lives: Callable[[], bool]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._feed_every = _feed_every(environ)
        self._lives = lives
        self._ready = False
        self._status = ""
        self._stop = _native_lock()
        self._stopped = _native_lock()
        self._feeding = False

    def start(self) -> None:
        """Begin to feed the watchdog, if there is one."""
        if self._address and self._feed_every:
            self._feeding = True
            self._stop.acquire()
            self._stopped.acquire()
            _start_native(self._feed, (self._feed_every,))

    def note(self, missing: tuple[str, ...], summary: str) -> None:
        """Say how it is: *summary*, or what is *missing*. READY when first nothing is."""
        if not self._address:
            return
        status = f"not ready: {missing[0]}" if missing else summary
        if len(missing) > 1:
            status += f" (and {len(missing) - 1} more)"
        told = [] if status == self._status else [f"STATUS={_line(status)}"]
        if not missing and not self._ready:
            self._ready = True
            told.append("READY=1")
        if told:
            self._status = status
            self._tell(*told)

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that the configuration is read again, and when that is done."""
        if not self._ready:  # READY=1 would be a lie
            yield
            return
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={microseconds}")
        try:
            yield
        finally:
            self._tell("READY=1")

    def stopping(self) -> None:
        """Say that it stops."""
        self._tell("STOPPING=1", "STATUS=stopping")

    def stop(self) -> None:
        """Feed no more; harmless if it never did."""
        if self._feeding:
            self._feeding = False
            self._stop.release()
            if self._stopped.acquire(timeout=JOIN_SECONDS):
                self._stopped.release()

    def _feed(self, every: float) -> None:
        while True:
            if self._lives():
                self._tell("WATCHDOG=1")
            if self._stop.acquire(timeout=every):
                break
        self._stopped.release()

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
            try:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), self._address)
            finally:
                sock.close()
        except OSError as error:  # nothing that a server should end for
            log.debug("systemd does not listen", extra={"cause": str(error)})


def _address(socket: str) -> str:
    """Return what to send to; "" = nobody. A leading @ is the abstract namespace."""
    if socket.startswith("@"):
        return "\0" + socket[1:]
    return socket if socket.startswith("/") else ""


def _feed_every(environ: Mapping[str, str]) -> float | None:
    """Return seconds between two feeds; None if nobody waits for them."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 / FEEDS if microseconds.isdecimal() else None


def _line(text: str) -> str:
    return " ".join(text.split())[:MAX_STATUS]
