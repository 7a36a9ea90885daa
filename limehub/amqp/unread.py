"""What came during a stall is read before anything is sent on it.

After a long stall the end of the connection may wait unread. What is sent then never arrives, and
nothing says so: an ack would count as sent.
"""

from __future__ import annotations

from limehub.amqp.connection import BrokerConnection

__all__ = ["read_unread"]

READS = 256
"""Reads at most; more cannot come within a stall unless bodies are huge."""


def read_unread(connection: BrokerConnection) -> bool:
    """Read what has come, from any greenlet of the hub. Returns whether the connection stands."""
    stream = connection.stream
    for _ in range(READS):
        if stream.is_over or not stream.has_unread():
            break
        stream.read_now()
    return not stream.is_over
