"""A session: what a group has on one connection, from the first declaration to the loss.

Consuming comes first; bindings are checked in the background. AMQP tells nobody when an exchange
and its bindings are deleted, so the exchanges are looked at now and then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any

import gevent
from attrs import frozen
from gevent import Greenlet
from gevent.event import Event as Signal

from limehub.amqp.connection import BrokerConnection
from limehub.amqp.topology import bind_all, declare_queue, dlq_spec, ensure_exchange
from limehub.errors import BrokerError, ConfigError, TopologyMismatch
from limehub.workers.consumer import QueueConsumer
from limehub.workers.parallel import side_by_side

__all__ = ["Session", "TopologySettings"]

log = logging.getLogger(__name__)

CHECK_EVERY = 1.0
EXCHANGES_EVERY = 30.0
BIND_EVERY = 900.0
"""Seconds until all is bound again: a binding that somebody took away is noticed by nobody."""

BIND_AGAIN = 5.0
SPARE_CHANNELS = 16
SHOWN = 5


@frozen(kw_only=True)
class TopologySettings:
    """*exchanges* and *dlqs* to be made sure of; *strict*: any difference ends the server."""

    exchanges: tuple[str, ...]
    dlqs: tuple[str, ...]
    queue_type: str = "classic"
    strict: bool = False


class Session:
    """Keeps *consumers* consuming on *connection* until it is lost or `end` is called.

    *wake*: set by whoever saw something change.
    """

    def __init__(
        self,
        connection: BrokerConnection,
        consumers: Collection[QueueConsumer],
        settings: TopologySettings,
        wake: Signal,
    ) -> None:
        self.connection = connection
        self._consumers = consumers
        self._settings = settings
        self._wake = wake
        self._ended = False
        self._exchanges_checked_at = time.monotonic()
        self._bind_again_at = 0.0
        self._bound_at = self._exchanges_checked_at
        self._background: Greenlet[..., Any] | None = None
        connection.on_lost.append(lambda _error: wake.set())

    def run(self) -> None:
        """Serve. Raises TopologyMismatch if strict, ConfigError for more queues than channels."""
        self._refuse_too_many()
        for consumer in self._consumers:
            consumer.forget()
        if any(not consumer.declared for consumer in self._consumers):
            self._prepare()
        while self.connection.is_open and not self._ended:
            self._wake.clear()
            self._reconcile()
            self._look_after_bindings()
            self._wake.wait(CHECK_EVERY)

    def end(self) -> None:
        """Start nothing new; the connection stays open for those who still need it."""
        self._ended = True
        self._wake.set()

    def _refuse_too_many(self) -> None:
        """Each queue has its own channel, so that one's error gives back only its deliveries."""
        room = self.connection.channel_max - SPARE_CHANNELS
        if len(self._consumers) > room:
            raise ConfigError(
                f"{self.connection.name} has {len(self._consumers)} queues, the broker allows "
                f"{self.connection.channel_max} channels a connection: make more worker groups, "
                "or raise channel_max in rabbitmq.conf"
            )

    def _prepare(self) -> None:
        """Exchanges and dead letter queues stand before the first event can fail."""
        errors = side_by_side(self._ensure_exchange, self._settings.exchanges)
        errors += side_by_side(self._declare_dlq, self._settings.dlqs)
        self._judge(errors, "cannot prepare topology")

    def _ensure_exchange(self, name: str) -> None:
        if ensure_exchange(self.connection, name):
            log.debug("created exchange", extra={"exchange": name})

    def _declare_dlq(self, name: str) -> None:
        wanted = dlq_spec(name, queue_type=self._settings.queue_type)
        for mismatch in declare_queue(self.connection, wanted):
            log.warning("dead letter queue differs", extra={"queue": name, "cause": str(mismatch)})
            if self._settings.strict:
                raise TopologyMismatch(str(mismatch))

    def _reconcile(self) -> None:
        """Bring up what is wanted and not confirmed."""
        due = [consumer for consumer in self._consumers if consumer.is_due]
        errors = side_by_side(lambda consumer: consumer.establish(self.connection), due)
        self._judge(errors, "cannot consume")

    def _judge(self, errors: Collection[Exception], complaint: str) -> None:
        """A mismatch under --strict-topology is fatal; the rest is tried again."""
        for error in errors:
            if isinstance(error, TopologyMismatch):
                raise error
            if self.connection.is_open:
                log.error(complaint, extra={"cause": str(error)})

    def _look_after_bindings(self) -> None:
        if self._background is not None and not self._background.dead:
            return
        now = time.monotonic()
        if now - self._bound_at > BIND_EVERY:  # an exchange may have been deleted and made anew
            self._bound_at = now
            for consumer in self._consumers:
                consumer.bindings_due = True
        # Nobody is at it now, so what is not bound was given up.
        unbound = [c for c in self._consumers if c.is_consuming and (c.bindings_due or not c.bound)]
        if unbound and now >= self._bind_again_at:
            self._background = gevent.spawn(self._bind, unbound)
        elif now - self._exchanges_checked_at > EXCHANGES_EVERY:
            self._exchanges_checked_at = now
            self._background = gevent.spawn(self._check_exchanges)

    def _bind(self, consumers: Collection[QueueConsumer]) -> None:
        """Bind all in one go; if that fails, each by itself, so that one spoils no other."""
        if not self.connection.is_open:
            return  # what is due now is the next session's
        for consumer in consumers:
            consumer.bindings_begun()
        try:
            bind_all(self.connection, (each for c in consumers for each in c.plan.bindings))
        except BrokerError:
            self._check_exchanges()  # a missing one is the usual reason
            for consumer in consumers:
                self._bind_one(consumer)
            self._bind_again_at = time.monotonic() + BIND_AGAIN
        else:
            for consumer in consumers:
                consumer.bindings_checked()
        try:
            self._unbind(consumers)
        except BrokerError as error:
            self._judge([error], "cannot take bindings away")

    def _bind_one(self, consumer: QueueConsumer) -> None:
        if not self.connection.is_open:
            return
        consumer.bindings_begun()
        try:
            bind_all(self.connection, consumer.plan.bindings)
        except BrokerError as error:
            if self.connection.is_open:
                consumer.bindings_failed(error)
        else:
            consumer.bindings_checked()

    def _unbind(self, consumers: Collection[QueueConsumer]) -> None:
        unwanted = [each for consumer in consumers for each in consumer.plan.unbindings]
        if not unwanted:
            return
        channel = self.connection.open_channel()
        try:
            for queue, exchange, key in unwanted:
                channel.unbind(queue, exchange, key)
        finally:
            channel.close()

    def _check_exchanges(self) -> None:
        """Make missing exchanges again; the next round binds to them."""
        made: list[str] = []

        def check(name: str) -> None:
            if ensure_exchange(self.connection, name):
                made.append(name)

        errors = side_by_side(check, self._settings.exchanges)
        self._judge(errors[:1], "cannot check exchanges")
        if made:
            extra = {"exchanges": made[:SHOWN], "count": len(made)}
            log.warning("exchanges were gone; made them again", extra=extra)
            for consumer in self._consumers:
                consumer.bindings_due = True
