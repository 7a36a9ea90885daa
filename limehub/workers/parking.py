"""Parked deliveries: unacked, waiting here for their time, each with a greenlet of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from gevent import Greenlet

from limehub.amqp.delivery import Delivery

__all__ = ["Parking"]


class Parking:
    """Holds deliveries for a while. `clear` hands back what still waits."""

    def __init__(self) -> None:
        self._waiting: dict[Delivery, Greenlet[..., Any]] = {}
        self._ends: dict[Delivery, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(list(self._waiting))

    def park(self, delivery: Delivery, delay: float, then: Callable[[], object]) -> None:
        """Call *then* after *delay* seconds, unless `clear` comes first."""

        def wait() -> None:
            gevent.sleep(delay)
            if self._waiting.pop(delivery, None) is not None:
                del self._ends[delivery]
                then()

        greenlet = Greenlet(wait)
        greenlet.name = f"wait for {delivery.queue}"
        self._waiting[delivery] = greenlet
        self._ends[delivery] = time.monotonic() + delay
        greenlet.start()

    def take(self, delivery: Delivery) -> float:
        """Stop the waiting of one that waits. Returns how many seconds were left."""
        self._waiting.pop(delivery).kill(block=False)
        return max(0.0, self._ends.pop(delivery) - time.monotonic())

    def clear(self) -> list[Delivery]:
        """Stop all waiting. Returns the deliveries, oldest first."""
        waiting = list(self._waiting.items())
        self._waiting.clear()
        self._ends.clear()
        for _, greenlet in waiting:
            greenlet.kill(block=False)
        return [delivery for delivery, _ in waiting]
