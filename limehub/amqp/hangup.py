"""Whether the broker has hung up, told without reading: the kernel knows before the hub turns.

After a long stall the end of the connection waits unread behind what came before it. What is sent
then never arrives, and nothing says so.
"""

from __future__ import annotations

import socket

from limehub.amqp.connection import BrokerConnection

__all__ = ["has_hung_up"]

TCP_ESTABLISHED = 1
"""From linux/tcp_states.h; the first byte of struct tcp_info."""


def has_hung_up(connection: BrokerConnection) -> bool:
    """Return whether the other end has closed *connection*; False also where nobody can tell."""
    tcp_info = getattr(socket, "TCP_INFO", None)
    if tcp_info is None:
        return False
    try:
        state: int = connection.stream.sock.getsockopt(socket.IPPROTO_TCP, tcp_info, 1)[0]
    except OSError:  # it is closed on our side, too
        return True
    return state != TCP_ESTABLISHED
