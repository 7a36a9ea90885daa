"""A connected pair of TCP sockets: one end for an Outlet, one to see what is on the wire."""

from __future__ import annotations

import _socket
import contextlib
import socket
from collections.abc import Iterator

from tests.support.waiting import wait_until

__all__ = ["received", "tcp_pair"]


@contextlib.contextmanager
def tcp_pair(*, small: bool = False) -> Iterator[tuple[_socket.socket, _socket.socket]]:
    """Yield (ours, the peer's), both raw and non-blocking. *small*: tiny buffers."""
    with contextlib.ExitStack() as stack:
        listener = _socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        stack.callback(listener.close)
        if small:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        ours = _socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        stack.callback(ours.close)
        if small:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.connect(listener.getsockname())
        descriptor, _ = listener._accept()  # type: ignore[attr-defined] # not in the stub
        peer = _socket.socket(fileno=descriptor)
        stack.callback(peer.close)
        for sock in (ours, peer):
            sock.setblocking(False)
        yield ours, peer


def received(peer: _socket.socket, at_least: int = 0) -> bytes:
    """Return what has arrived by now; wait for *at_least* so many bytes."""
    found = b""

    def enough() -> bool:
        nonlocal found
        with contextlib.suppress(BlockingIOError):
            while data := peer.recv(65536):
                found += data
        return len(found) >= at_least

    wait_until(enough, message=f"{at_least} bytes", interval=0.001)
    return found
