"""Heartbeats of one connection while the hub turns; during a stall the sentinel sends them.

pika's own checker needs up to 2 x (heartbeat + 5) seconds to notice a silent peer, and judges it
without having read what came during a stall.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import pika.exceptions

from limehub.amqp.outlet import Outlet

__all__ = ["HeartbeatChecker"]

LOOKS = 4
"""Looks per heartbeat."""

QUIET_LOOKS = 7
"""Silent looks until the peer is given up: after 1.75 to 2 heartbeats (RabbitMQ sends one each
half heartbeat)."""


class Line(Protocol):
    """What is looked after; `connection._PikaConnection` is one."""

    bytes_received: int

    @property
    def outlet(self) -> Outlet:
        """What writes to it."""

    def has_unread(self) -> bool:
        """Whether the kernel holds bytes that nobody has read yet."""

    def later(self, seconds: float, callback: Callable[[], None]) -> Any:
        """Call *callback* in *seconds*; the result has `cancel`."""

    def give_up(self, error: BaseException) -> None:
        """Drop the stream because of *error*."""


class HeartbeatChecker:
    """Beats on *line* and judges its peer; has the methods that pika calls. *heartbeat*: seconds.

    Silence is counted in looks, not by the clock: however late a look comes after a stall, it
    counts once, and what the kernel holds by then counts as heard.
    """

    def __init__(self, line: Line, heartbeat: float) -> None:
        self._line = line
        self._heartbeat = heartbeat
        self._interval = heartbeat / LOOKS
        self._quiet = 0
        self._heard = line.bytes_received
        self._timer = line.later(self._interval, self._look)

    def received(self) -> None:
        """Hear of a heartbeat frame; any byte counts, so it is nothing new."""

    def stop(self) -> None:
        """End."""
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._line.later(self._interval, self._look)
        if self._is_silent():
            silence = f"missed heartbeats: nothing heard for about 2 x {self._heartbeat:g} s"
            self._line.give_up(pika.exceptions.AMQPHeartbeatTimeout(silence))
            return
        # Two looks a half heartbeat: what is skipped now is sent by the next one in time.
        self._line.outlet.beat(0.9 * self._interval)

    def _is_silent(self) -> bool:
        heard = self._line.bytes_received
        self._quiet = 0 if heard != self._heard else self._quiet + 1
        self._heard = heard
        if self._quiet < QUIET_LOOKS:
            return False
        if self._line.has_unread():
            self._quiet = 0
        return self._quiet > 0
