"""Parked deliveries: unacked, waiting here for their time, each with a greenlet of its own."""

from __future__ import annotations

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

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(list(self._waiting))

    def park(self, delivery: Delivery, delay: float, then: Callable[[], object]) -> None:
        """Call *then* after *delay* seconds, unless `clear` comes first."""

        def wait() -> None:
            gevent.sleep(delay)
            if self._waiting.pop(delivery, None) is not None:
                then()

        greenlet = Greenlet(wait)
        greenlet.name = f"wait for {delivery.queue}"
        self._waiting[delivery] = greenlet
        greenlet.start()

    def clear(self) -> list[Delivery]:
        """Stop all waiting. Returns the deliveries, oldest first."""
        waiting = list(self._waiting.items())
        self._waiting.clear()
        for _, greenlet in waiting:
            greenlet.kill(block=False)
        return [delivery for delivery, _ in waiting]
