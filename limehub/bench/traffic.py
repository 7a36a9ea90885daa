"""What a benchmark publishes: many at a time, each confirmed; then one by one, at a pace."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gevent
from gevent.pool import Pool

from limehub.amqp.publisher import Publisher
from limehub.bench.counting import Moment, Phase
from limehub.bench.places import LATENCY, THROUGHPUT, Places

__all__ = ["Traffic"]

AT_ONCE = 200
PACE = 200.0  # events a second: each comes alone
BODY = {
    "event": "update",
    "limetype": "deal",
    "id": 104233,
    "user": {"id": 1007, "name": "Anna Andersson"},
    "changed": {"probability": [0.25, 0.5], "value": [120000, 135000]},
}


class Traffic:
    """Publishes to *places*. *published*: how many are confirmed so far."""

    def __init__(self, publisher: Publisher, places: Places) -> None:
        self._publisher = publisher
        self._places = places
        self.published = 0

    def fill(self, count: int) -> Phase:
        """Publish *count* events for the throughput handler. Raises what a publish raises."""
        pool = Pool(AT_ONCE)
        numbers = iter(range(count))
        began = Moment.now()
        jobs = [pool.spawn(self._publish_all, numbers) for _ in range(AT_ONCE)]
        try:
            gevent.joinall(jobs, raise_error=True)
        finally:
            pool.kill()
        return Phase(count=count, began=began, ended=Moment.now())

    def trickle(self, count: int) -> None:
        """Publish *count* events for the latency handler, PACE a second."""
        began = time.perf_counter()
        for number in range(count):
            gevent.sleep(max(0.0, began + number / PACE - time.perf_counter()))
            self._publish(LATENCY, {**BODY, "sent": time.perf_counter()})

    def _publish_all(self, numbers: Iterator[int]) -> None:
        for _ in numbers:
            self._publish(THROUGHPUT, BODY)
            self.published += 1

    def _publish(self, name: str, body: object) -> None:
        self._publisher.publish(self._places.key(name), body, exchange=self._places.exchange)
