"""TCP keepalive: how the kernel notices a peer that vanished without a word.

Keepalive probes an idle connection only: while sent data is unacknowledged the kernel retransmits
instead, for about 15 minutes (tcp(7), tcp_retries2). TCP_USER_TIMEOUT closes that gap. It is set
only where there are no heartbeats: it also ends a connection whose peer is well but does not read,
as RabbitMQ does with publishers while memory or disk are low.
"""

from __future__ import annotations

import socket
from typing import Any

from attrs import field, frozen

__all__ = ["Keepalive", "apply_keepalive"]

LONGEST_INTERVAL = 10.0  # seconds


@frozen
class Keepalive:
    """*idle*: seconds of silence until the first probe, then *count* probes *interval* s apart.

    Unless given, *interval* is a quarter of *idle*, 1 s at least and 10 s at most.
    """

    idle: float
    interval: float = field()
    count: int = 3

    @interval.default
    def _quarter_of_idle(self) -> float:
        return min(max(self.idle / 4, 1.0), LONGEST_INTERVAL)

    @property
    def patience(self) -> float:
        """Seconds after which a peer that vanished is found, idle or with data on its way."""
        return _whole(self.idle) + _whole(self.interval) * self.count


def apply_keepalive(sock: Any, keepalive: Keepalive, *, heartbeat: int) -> None:
    """Set *keepalive* on *sock*. With heartbeats the probes only help; without they are all."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _whole(keepalive.idle))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _whole(keepalive.interval))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, keepalive.count)
    timeout_ms = 0 if heartbeat else _user_timeout_ms(keepalive)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)


def _user_timeout_ms(keepalive: Keepalive) -> int:
    # The kernel compares at each probe: half an interval early, so that the last one decides.
    return round((keepalive.patience - _whole(keepalive.interval) / 2) * 1000)


def _whole(seconds: float) -> int:
    """The kernel takes whole seconds, one at least."""
    return max(1, round(seconds))
