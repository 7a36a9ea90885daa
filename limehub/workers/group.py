"""A worker group: one connection, its queues, a pool of greenlets. A slow group delays no other.

The supervisor greenlet owns the connection: it opens it through the gate, brings every wanted
consumer up, compares wanted with confirmed once a second and whenever something changes, and starts
over when the connection is lost. A session is rebuilt whole, never patched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from attrs import frozen
from gevent import Greenlet
from gevent.event import Event as Signal
from gevent.pool import Pool

from limehub.amqp.connection import BrokerConnection
from limehub.amqp.delivery import Delivery
from limehub.amqp.topology import bind_all, declare_queue, dlq_spec, ensure_exchange
from limehub.errors import BrokerError, LimehubError
from limehub.workers.consumer import QueueConsumer, QueuePlan
from limehub.workers.gate import BrokerGate
from limehub.workers.handling import object_key
from limehub.workers.pool import WorkerPool
from limehub.workers.runner import Runner
from limehub.workers.schedule import Schedule

__all__ = ["GroupSettings", "WorkerGroup"]

log = logging.getLogger(__name__)

CHECK_EVERY = 1.0
EXCHANGES_EVERY = 30.0
"""Seconds: a deleted exchange takes its bindings along and AMQP tells nobody."""

SETUP_GREENLETS = 16


@frozen(kw_only=True)
class GroupSettings:
    """*exchanges* to be made sure of; *queue_type* of dead letter queues."""

    name: str
    concurrency: int
    exchanges: tuple[str, ...]
    queue_type: str = "classic"
    accept_foreign: bool = False
    strict_topology: bool = False


class WorkerGroup:
    """Runs the handlers of *plans*. *on_fatal* hears what the whole server must stop for."""

    def __init__(
        self,
        settings: GroupSettings,
        plans: Sequence[QueuePlan],
        *,
        gate: BrokerGate,
        runner: Runner,
        on_fatal: Callable[[LimehubError], None],
    ) -> None:
        self.name = settings.name
        self.settings = settings
        self.reconnects = 0
        self.runner = runner
        self._gate = gate
        self._on_fatal = on_fatal
        self._schedule: Schedule[Delivery] = runner.schedule
        self._pool = WorkerPool(settings.name, settings.concurrency, self._step)
        self._consumers = {plan.spec.name: self._consumer(plan) for plan in plans}
        self._connection: BrokerConnection | None = None
        self._wake = Signal()
        self._stopping = False
        self._supervisor = Greenlet(self._supervise)
        self._supervisor.name = f"{self.name} supervisor"
        self._exchanges_checked_at = 0.0
        self._binder: Greenlet[..., Any] | None = None
        runner.connect(self._pool.offer, self._consumers)

    # -- life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect and consume; returns at once."""
        self._supervisor.start()

    def stop_consuming(self) -> int:
        """Cancel all consumers and give back what has not started. Returns how many went back."""
        self._stopping = True
        self._wake.set()
        for consumer in self._consumers.values():
            try:
                consumer.cancel()
            except BrokerError:
                log.debug("cancel was not confirmed", extra={"queue": consumer.queue})
        self._pool.close()
        return self.runner.give_back()

    def drain(self, deadline: float) -> int:
        """Let running handlers finish until *deadline* (monotonic). Returns how many it killed."""
        self._pool.join(max(0.0, deadline - time.monotonic()))
        self.runner.join_moves(max(0.0, deadline - time.monotonic()))
        self.runner.killing = True
        return self._pool.kill()

    def close(self) -> None:
        """Flush acks by a round trip, close the connection; what is unsettled goes back."""
        self.runner.stop()
        connection = self._connection
        if connection is not None and connection.is_open:
            for consumer in self._consumers.values():
                try:
                    consumer.flush()
                except BrokerError:
                    log.warning("acks may not have arrived", extra={"queue": consumer.queue})
            connection.close()
        self._supervisor.join(timeout=5)
        self._supervisor.kill()

    # -- live changes -----------------------------------------------------------------------------

    def change_concurrency(self, concurrency: int) -> None:
        """Use another number of greenlets from now on."""
        self._pool.resize(concurrency)

    def change_prefetch(self, prefetch_of: Callable[[QueuePlan], int]) -> None:
        """Consume with another prefetch where it differs."""
        for consumer in self._consumers.values():
            prefetch = prefetch_of(consumer.plan)
            if prefetch != consumer.prefetch:
                try:
                    consumer.change_prefetch(prefetch)
                except BrokerError as error:
                    extra = {"queue": consumer.queue, "cause": str(error)}
                    log.warning("prefetch changes with the next connection", extra=extra)

    # -- what others ask --------------------------------------------------------------------------

    @property
    def missing(self) -> list[str]:
        """What keeps the group from being ready, in words."""
        if self._connection is None or not self._connection.is_open:
            return [f"{self.name}: not connected: {self._gate.trouble or 'connecting'}"]
        waiting = [(c.queue, c.missing) for c in self._consumers.values()]
        return [f"{queue}: {cause}" for queue, cause in waiting if cause]

    @property
    def queues(self) -> list[str]:
        """The full names of its queues."""
        return list(self._consumers)

    def status(self) -> dict[str, Any]:
        """Return the state for status pages."""
        connection = self._connection
        is_open = connection is not None and connection.is_open
        return {
            "name": self.name,
            "connected": is_open,
            "broker": connection.server if connection and is_open else None,
            "heartbeat": connection.heartbeat if connection and is_open else None,
            "reconnects": self.reconnects,
            "concurrency": self._pool.concurrency,
            "greenlets": self._pool.size,
            "waiting": self._schedule.waiting,
            "ready": not self.missing,
            "queues": [
                consumer.status() | {"waiting": self._schedule.waiting_of(consumer.queue)}
                for consumer in self._consumers.values()
            ],
        } | self.runner.status()

    # -- supervision ------------------------------------------------------------------------------

    def _supervise(self) -> None:
        while not self._stopping:
            try:
                connection = self._gate.open(f"limehub {self.name}")
                if connection is None:
                    return
                self._serve(connection)
            except LimehubError as error:
                self._on_fatal(error)
                return
            except Exception:  # border of the supervisor: a bug must not leave the group idle
                log.exception("group failed; starting it over", extra={"group": self.name})
                self._abandon()
                gevent.sleep(CHECK_EVERY)

    def _serve(self, connection: BrokerConnection) -> None:
        self._connection = connection
        connection.on_lost.append(lambda _error: self._wake.set())
        for consumer in self._consumers.values():
            consumer.forget()
        if any(not consumer.declared for consumer in self._consumers.values()):
            self._prepare(connection)
        while connection.is_open and not self._stopping:
            self._wake.clear()
            self._reconcile(connection)
            self._look_after_bindings(connection)
            self._wake.wait(CHECK_EVERY)
        if not self._stopping:
            self._lost(connection)

    def _prepare(self, connection: BrokerConnection) -> None:
        """Exchanges and dead letter queues, before the first event can fail."""
        pool = Pool(SETUP_GREENLETS)
        dlqs = {consumer.plan.handler.dlq for consumer in self._consumers.values()}
        jobs: list[Greenlet[..., Any]] = [
            pool.spawn(ensure_exchange, connection, name) for name in self.settings.exchanges
        ]
        jobs.extend(pool.spawn(self._declare_dlq, connection, name) for name in sorted(dlqs))
        gevent.joinall(jobs)
        created = sum(job.value is True for job in jobs)
        if created:
            log.info("created exchanges", extra={"group": self.name, "count": created})
        for job in jobs:
            if isinstance(job.exception, BrokerError):
                if connection.is_open:
                    log.error("cannot prepare topology", extra={"cause": str(job.exception)})
            elif job.exception is not None:
                raise job.exception

    def _declare_dlq(self, connection: BrokerConnection, name: str) -> None:
        for mismatch in declare_queue(
            connection, dlq_spec(name, queue_type=self.settings.queue_type)
        ):
            log.warning("dead letter queue differs", extra={"queue": name, "cause": str(mismatch)})

    def _reconcile(self, connection: BrokerConnection) -> None:
        """Bring up what is wanted and not confirmed, then check bindings in the background."""
        due = [consumer for consumer in self._consumers.values() if consumer.is_due]
        pool = Pool(SETUP_GREENLETS)
        jobs = [pool.spawn(consumer.establish, connection) for consumer in due]
        gevent.joinall(jobs)
        for job in jobs:
            if job.exception is not None and connection.is_open:
                raise job.exception

    def _look_after_bindings(self, connection: BrokerConnection) -> None:
        """Bind and check in the background: consuming comes first."""
        if self._binder is not None and not self._binder.dead:
            return
        unbound = [c for c in self._consumers.values() if c.is_consuming and c.bindings_due]
        now = time.monotonic()
        if unbound:
            self._exchanges_checked_at = now
            self._binder = gevent.spawn(self._bind, connection, unbound)
        elif now - self._exchanges_checked_at > EXCHANGES_EVERY:
            self._exchanges_checked_at = now
            self._binder = gevent.spawn(self._check_exchanges, connection)

    def _bind(self, connection: BrokerConnection, consumers: list[QueueConsumer]) -> None:
        try:
            bind_all(connection, (each for c in consumers for each in c.plan.bindings))
            self._unbind(connection, consumers)
        except BrokerError as error:
            if connection.is_open:
                log.error("cannot bind", extra={"group": self.name, "cause": str(error)})
                self._check_exchanges(connection)
            return
        for consumer in consumers:
            consumer.bindings_checked()

    def _check_exchanges(self, connection: BrokerConnection) -> None:
        """Make a missing exchange again; the next round binds to it."""
        for name in self.settings.exchanges:
            try:
                made = ensure_exchange(connection, name)
            except BrokerError as error:
                if connection.is_open:
                    log.error(
                        "cannot check exchange", extra={"exchange": name, "cause": str(error)}
                    )
                return
            if made:
                log.warning("exchange was gone; made it again", extra={"exchange": name})
                for consumer in self._consumers.values():
                    consumer.bindings_due = True

    def _unbind(self, connection: BrokerConnection, consumers: list[QueueConsumer]) -> None:
        unwanted = [each for consumer in consumers for each in consumer.plan.unbindings]
        if not unwanted:
            return
        channel = connection.open_channel()
        try:
            for queue, exchange, key in unwanted:
                channel.unbind(queue, exchange, key)
        finally:
            channel.close()

    def _lost(self, connection: BrokerConnection) -> None:
        self.reconnects += 1
        cause = str(connection.reason)
        log.warning("connection lost; reconnecting", extra={"group": self.name, "cause": cause})
        self._abandon()
        for consumer in self._consumers.values():
            consumer.bindings_due = True

    def _abandon(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.is_open:
            connection.close()
        self.runner.connection_lost()

    # -- deliveries -------------------------------------------------------------------------------

    def _consumer(self, plan: QueuePlan) -> QueueConsumer:
        handler = plan.handler
        self._schedule.add_queue(plan.spec.name, handler.order, object_key)
        return QueueConsumer(
            plan=plan,
            on_delivery=self._on_delivery,
            on_change=self._wake_up,
            accept_foreign=self.settings.accept_foreign,
            strict=self.settings.strict_topology,
        )

    def _wake_up(self) -> None:
        self._wake.set()

    def _on_delivery(self, _consumer: QueueConsumer, delivery: Delivery) -> None:
        """Runs in the hub for each message: queue it and wake a worker."""
        self._schedule.put(delivery)
        self._pool.offer()

    def _step(self) -> bool:
        delivery = self._schedule.take()
        if delivery is None:
            return False
        if self._schedule.has_ready:
            self._pool.offer()
        try:
            self.runner.run(delivery)
        except Exception as error:  # border: a bug of ours must not hold the event for ever
            log.exception("internal error", extra={"queue": delivery.queue})
            if not delivery.settled:
                self.runner.internal_error(delivery, error)
        return True
