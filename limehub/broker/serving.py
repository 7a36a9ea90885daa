"""Listening, and running a broker until a signal ends it."""

from __future__ import annotations

import _socket
import errno
import gc
import logging
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event
from gevent.os import tp_read

from limehub.broker.node import Node
from limehub.broker.storage.errors import StorageError

__all__ = ["CannotListen", "Listener", "run_broker"]

log = logging.getLogger(__name__)

_AT_ONCE = 64
_PAUSE = 0.2
"""Seconds without accepting when there are no more descriptors."""


class CannotListen(Exception):
    """The address is taken, or is none of this machine's; the text says so, and what to do."""


class Listener:
    """Accepts clients of *node* at *host*:*port*; port 0 is any free one."""

    def __init__(self, node: Node, host: str, port: int) -> None:
        self._node = node
        try:
            self._sock: Any = _listening(host, port)
        except OSError as error:
            raise CannotListen(
                f"cannot listen on {host}:{port}: {error.strerror}; name another address by "
                "`broker.listen` or `--listen` (port 0 is any free one)"
            ) from error
        self._sock.setblocking(False)
        self._loop = gevent.get_hub().loop
        self._watcher = self._loop.io(self._sock.fileno(), 1)
        self._watcher.start(self._acceptable)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, the real one."""
        host, port = self._sock.getsockname()[:2]
        return host, port

    def close(self) -> None:
        """Stop listening."""
        self._watcher.stop()
        self._watcher.close()
        self._sock.close()

    def _acceptable(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                descriptor, address = self._sock._accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._cannot_accept(error)
                return
            self._begin(descriptor, address)

    def _begin(self, descriptor: int, address: Any) -> None:
        sock = _socket.socket(fileno=descriptor)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._node.accept(sock, f"{address[0]}:{address[1]}")

    def _cannot_accept(self, error: OSError) -> None:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            log.info("a client was gone before it was accepted", extra={"reason": str(error)})
            return
        log.warning("no more clients for now", extra={"reason": str(error)})
        self._watcher.stop()
        gevent.spawn_later(_PAUSE, self._watcher.start, self._acceptable)


def _listening(host: str, port: int) -> Any:
    family, kind, proto, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # The plain class: gevent's own would bring a greenlet for each read and write.
    sock: Any = _socket.socket(family, kind, proto)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    sock.listen(1024)
    return sock


def run_broker(
    listen: tuple[str, int],
    data: Path | None = None,
    users: Mapping[str, str] | None = None,
    *,
    on_ready: Callable[[str, int], None] = lambda _host, _port: None,
    lifeline: int | None = None,
    **options: Any,
) -> None:
    """Serve until SIGTERM or SIGINT. Raises StorageError, OSError when it cannot begin or go on.

    *on_ready* gets host and port; *lifeline*: a descriptor of which somebody else holds the other
    end: serve until that is closed, whatever signals come; *users*, *options*: as for Node.
    """
    stop = Event()
    broken: list[StorageError] = []

    def give_up(error: StorageError) -> None:
        broken.append(error)
        stop.set()

    node = Node(data=data, users=users, on_broken=give_up, **options)
    _collect_rarely()
    try:
        listener = Listener(node, *listen)
    except OSError:
        node.stop()
        raise
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop.set if lifeline is None else _ignore)
    if lifeline is not None:
        gevent.spawn(_wait_for_end, lifeline, stop)
    on_ready(*listener.address)
    stop.wait()
    listener.close()
    node.stop()
    if broken:
        raise broken[0]


def _ignore() -> None:
    """A service manager signals the whole group; the server still needs its broker."""


def _wait_for_end(lifeline: int, stop: Event) -> None:
    while tp_read(lifeline, 64):
        continue
    stop.set()


def _collect_rarely() -> None:
    """Messages are no cycles, and looking for some among a million of them takes time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
