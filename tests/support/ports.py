"""A TCP port that stays ours between two listeners, as while a broker is down."""

from __future__ import annotations

import socket

__all__ = ["hold_port"]


def hold_port() -> socket.socket:
    """Bind a free port of 127.0.0.1: while the socket is open, the system gives it to nobody else.

    It does not listen, so whoever says SO_REUSEADDR can listen on the port, again and again.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder
