"""What has to happen later, on a clock that somebody else turns."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

__all__ = ["Clock", "Timers"]

Clock = Callable[[], float]
"""Returns seconds since the epoch and never runs backwards."""


class Timers:
    """Calls by time. `due()` runs those whose time has come; `next_at` is when to call it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    @property
    def next_at(self) -> float | None:
        """When the next call is due, None for never."""
        return self._heap[0][0] if self._heap else None

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Run *call* at *when* or soon after. It cannot be taken back: let it look again."""
        heapq.heappush(self._heap, (when, next(self._order), call))

    def due(self) -> None:
        """Run all calls that are due."""
        now = self.clock()
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()
