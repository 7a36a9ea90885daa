"""How much memory messages take, and when that is too much."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from limehub.broker.state.vhost import VirtualHost

__all__ = ["MEMORY_SHARE", "MemoryAlarm", "machine_memory", "resident_memory"]

MEMORY_SHARE = 0.4
"""Of the machine's memory, as in RabbitMQ 3."""

_PER_MESSAGE = 400
"""Bytes that a message takes besides its body, about."""
_LOOK_EVERY = 16 * 1024 * 1024
"""Bytes received between two looks, at least: looking takes longer than a message."""
_RELIEF = 0.9
"""Share of the limit below which publishers go on: no flutter around the limit."""
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_STATM = Path("/proc/self/statm")


class MemoryAlarm:
    """`on` while the process has more than *limit* bytes because of messages.

    Both must be so: a process that was large once keeps some of it, and an empty broker that blocks
    its publishers would never get better; and messages that share a body, or whose body is in the
    file, look larger than they are.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.on = False
        self._unseen = 0
        self._look_every = min(_LOOK_EVERY, max(1, limit // 16))

    def received(self, size: int) -> bool:
        """Count what came in; whether it is time to `look`."""
        self._unseen += size
        return self._unseen >= self._look_every

    def look(self, vhosts: Iterable[VirtualHost], unfinished: int = 0) -> bool:
        """Measure; whether `on` has changed. *unfinished*: bytes of messages that still come."""
        self._unseen = 0
        limit = self.limit * (_RELIEF if self.on else 1.0)
        now = resident_memory() > limit and messages_in(vhosts) + unfinished > limit / 2
        changed, self.on = now != self.on, now
        return changed


def messages_in(vhosts: Iterable[VirtualHost]) -> int:
    """Bytes that all messages of *vhosts* would take in memory, about."""
    queues = (queue for vhost in vhosts for queue in vhost.queues.values())
    return sum(one.held + (len(one.backlog) + one.unacked) * _PER_MESSAGE for one in queues)


def resident_memory() -> int:
    """Bytes that this process has in memory; where the system does not tell: more than any limit,
    so that the messages alone count."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 1 << 62


def machine_memory() -> int:
    """Bytes that this process may use: the machine's, or its container's if that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            found.append(int(Path(file).read_text()))
    return min(found)
