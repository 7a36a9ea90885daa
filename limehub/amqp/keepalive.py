"""TCP keepalive: how the kernel notices a peer that vanished without a word.

Keepalive alone is blind while sent data is unacknowledged, so TCP_USER_TIMEOUT is set with it
(tcp(7)): unacknowledged data ends the connection after the same time as failed probes would.
"""

from __future__ import annotations

import socket
from typing import Any

from attrs import frozen

__all__ = ["Keepalive", "apply_keepalive"]


@frozen
class Keepalive:
    """*idle*: seconds of silence until the first probe, then *count* probes *interval* s apart."""

    idle: float
    interval: float = 10.0
    count: int = 3

    @property
    def user_timeout(self) -> float:
        """Seconds after which unacknowledged data ends the connection."""
        return self.idle + self.interval * self.count


def apply_keepalive(sock: Any, keepalive: Keepalive, *, heartbeat: int) -> None:
    """Set *keepalive* on *sock*. With heartbeats the probes only help; without they are all."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(keepalive.idle)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, round(keepalive.interval)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, keepalive.count)
    if not heartbeat:
        timeout_ms = round(keepalive.user_timeout * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
