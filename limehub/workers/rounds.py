"""The rounds: what a group looks at now and then, so that nothing of it is done once per message.

Acks are proven, lost runs forgotten, and events that stay unacked for long are named.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping

import gevent
from gevent import Greenlet

from limehub.errors import BrokerError
from limehub.workers.ack_limits import Held
from limehub.workers.consumer import QueueConsumer
from limehub.workers.parallel import side_by_side
from limehub.workers.runner import Runner

__all__ = ["Rounds"]

log = logging.getLogger(__name__)

EVERY = 1.0
LIMITS_EVERY = 300.0
"""Seconds until the queues' own acknowledgement limits are read again."""


class Rounds:
    """Goes round in a greenlet of its own. *read_limits*: see `GroupSettings`."""

    def __init__(
        self,
        runner: Runner,
        consumers: Mapping[str, QueueConsumer],
        read_limits: Callable[[], Mapping[str, float]] | None,
    ) -> None:
        self._runner = runner
        self._consumers = consumers
        self._read_limits = read_limits
        self._limits_due = 0.0
        self._limits_trouble = ""
        self._greenlet = Greenlet(self._run)
        self._greenlet.name = "rounds"

    def start(self) -> None:
        """Begin."""
        self._greenlet.start()

    def stop(self) -> None:
        """End, harmless if it never began."""
        self._greenlet.kill()

    def _run(self) -> None:
        while True:
            gevent.sleep(EVERY)
            try:
                self._go()
            except Exception:  # border of the greenlet: a bug must not end the rounds for good
                log.exception("rounds failed")

    def _go(self) -> None:
        lost_runs = self._runner.fates.lost_runs
        if lost_runs.unproven:
            side_by_side(lambda each: each.prove_acks(lost_runs), self._consumers.values())
        self._runner.fates.forget_old()
        if self._read_limits is not None and time.monotonic() >= self._limits_due:
            self._limits_due = time.monotonic() + LIMITS_EVERY
            self._learn_limits(self._read_limits)
        self._runner.ack_watch.look(self._held())

    def _learn_limits(self, read: Callable[[], Mapping[str, float]]) -> None:
        try:
            limits = read()
        except BrokerError as error:
            if self._limits_trouble != str(error):
                self._limits_trouble = str(error)
                log.warning("cannot ask for acknowledgement limits", extra={"cause": str(error)})
            return
        self._limits_trouble = ""
        for consumer in self._consumers.values():
            consumer.own_limit = limits.get(consumer.queue)

    def _held(self) -> Iterator[Held]:
        limits = {queue: consumer.ack_limit for queue, consumer in self._consumers.items()}
        for delivery, started in self._runner.held():
            limit = limits[delivery.queue]
            if limit is not None and delivery.channel.usable:
                handler = self._consumers[delivery.queue].plan.handler.name
                yield Held(delivery=delivery, handler=handler, limit=limit, started=started)
