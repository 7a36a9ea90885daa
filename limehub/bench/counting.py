"""The package that a benchmark runs: two handlers that count, and when they did."""

from __future__ import annotations

import time
from importlib.metadata import EntryPoint
from typing import Any, Self

from attrs import define, field, frozen
from gevent.event import Event as Signal

from limehub.bench.places import LATENCY, THROUGHPUT, Places
from limehub.events import Event

__all__ = ["Counting", "Moment", "Phase"]


@frozen(kw_only=True)
class Moment:
    """*wall* and *cpu* (this process, all threads) in seconds of their own clocks."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Self:
        """Return this moment."""
        return cls(wall=time.perf_counter(), cpu=time.process_time())


@frozen(kw_only=True)
class Phase:
    """*count* messages between two moments."""

    count: int
    began: Moment
    ended: Moment

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended.wall - self.began.wall

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.count / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU a message."""
        return (self.ended.cpu - self.began.cpu) / self.count * 1e6


@define(eq=False, kw_only=True)
class Counting:
    """The plugin. *wanted*: events of the throughput handler until it is `done`.

    *latencies*: seconds from before publish() to the latency handler, one an event.
    """

    places: Places
    wanted: int
    handled: int = 0
    done: Signal = field(factory=Signal)
    latencies: list[float] = field(factory=list)
    _began: Moment | None = None
    _ended: Moment | None = None

    def register_event_handlers(self, worker: Any, _config: Any) -> None:
        """Register both handlers."""
        for name, handler in ((THROUGHPUT, self.count), (LATENCY, self.measure)):
            worker.register_event_handler(handler, self.places.key(name), name)

    def count(self, _event: Event) -> None:
        """Count an event and look at nothing of it."""
        self.handled += 1
        if self.handled == 1:
            self._began = Moment.now()
        if self.handled == self.wanted:
            self._ended = Moment.now()
            self.done.set()

    def measure(self, event: Event) -> None:
        """Note how long the event was on its way."""
        self.latencies.append(time.perf_counter() - event.body["sent"])

    @property
    def phase(self) -> Phase:
        """The time from the first event of the throughput handler to the last; only when done."""
        assert self._began and self._ended, "not done"  # noqa: S101
        return Phase(count=self.wanted, began=self._began, ended=self._ended)

    def entry_point(self) -> EntryPoint:
        """Return what makes the server load this object as an installed package."""
        plugin = self

        class Given(EntryPoint):
            def load(self) -> Counting:
                return plugin

        return Given(self.places.app, f"{__name__}:Counting", "limehub")
