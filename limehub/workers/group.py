"""A worker group: one connection, its queues, a pool of greenlets. A slow group delays no other.

The supervisor greenlet owns the connection: it opens it through the gate and runs a session on it;
when that is lost it starts over. A session is rebuilt whole, never patched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gevent
from attrs import frozen
from gevent import Greenlet
from gevent.event import Event as Signal

from limehub.amqp.connection import BrokerConnection
from limehub.amqp.delivery import Delivery
from limehub.errors import LimehubError
from limehub.workers.consumer import QueueConsumer, QueuePlan
from limehub.workers.gate import BrokerGate
from limehub.workers.handling import object_key
from limehub.workers.parallel import side_by_side
from limehub.workers.pool import WorkerPool
from limehub.workers.rounds import Rounds
from limehub.workers.runner import Runner
from limehub.workers.schedule import Schedule
from limehub.workers.session import Session, TopologySettings

__all__ = ["GroupSettings", "WorkerGroup"]

log = logging.getLogger(__name__)

PAUSE_AFTER_BUG = 1.0
STOP_PATIENCE = 2.0
"""Seconds that a stopping server waits for an answer of the broker."""


@frozen(kw_only=True)
class GroupSettings:
    """*concurrency*: handlers at once; *exchanges*: where its events come from."""

    name: str
    concurrency: int
    exchanges: tuple[str, ...]
    queue_type: str = "classic"
    accept_foreign: bool = False
    strict_topology: bool = False
    read_limits: Callable[[], Mapping[str, float]] | None = None
    """Queue -> seconds that it sets for acknowledgements itself; raises BrokerError."""


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
        self._lost_runs = runner.fates.lost_runs
        self._pool = WorkerPool(settings.name, settings.concurrency, self._step)
        self._wake = Signal()
        self._consumers = {plan.spec.name: self._consumer(plan) for plan in plans}
        self._topology = TopologySettings(
            exchanges=settings.exchanges,
            dlqs=tuple(sorted({plan.handler.dlq for plan in plans})),
            queue_type=settings.queue_type,
            strict=settings.strict_topology,
        )
        self._rounds = Rounds(runner, self._consumers, settings.read_limits)
        self._session: Session | None = None
        self._stopping = False
        self._supervisor = Greenlet(self._supervise)
        self._supervisor.name = f"{self.name} supervisor"
        self._supervisor.link(self._supervisor_ended)
        runner.connect(self._pool.offer, self._consumers)

    # -- life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect and consume; returns at once."""
        self._supervisor.start()
        self._rounds.start()

    def stop_consuming(self) -> int:
        """Cancel all consumers and give back what has not started. Returns how many went back."""
        self._stopping = True
        if self._session is not None:
            self._session.end()
        self._pool.close()
        self._ask_all(QueueConsumer.cancel, "cancel was not confirmed")
        return self.runner.fates.give_back()

    def drain(self, deadline: float) -> int:
        """Let running handlers finish until *deadline* (monotonic). Returns how many it killed."""
        self._pool.join(max(0.0, deadline - time.monotonic()))
        self.runner.fates.join_moves(max(0.0, deadline - time.monotonic()))
        self.runner.killing = True
        return self._pool.kill()

    def close(self) -> None:
        """Flush acks by a round trip, close the connection; what is unsettled goes back."""
        self.runner.fates.stop()
        self._rounds.stop()
        connection = self._connection
        if connection is not None and connection.is_open:
            self._ask_all(QueueConsumer.flush, "acks may not have arrived")
            connection.close(STOP_PATIENCE)
        if self._supervisor.started:
            self._supervisor.join(timeout=STOP_PATIENCE)
        self._supervisor.kill()

    def _ask_all(self, step: Callable[[QueueConsumer], None], complaint: str) -> None:
        errors = side_by_side(step, self._consumers.values(), timeout=STOP_PATIENCE)
        if errors:
            log.warning(complaint, extra={"group": self.name, "cause": str(errors[0])})

    # -- live changes -----------------------------------------------------------------------------

    def change_concurrency(self, concurrency: int) -> None:
        """Use another number of greenlets from now on."""
        self._pool.resize(concurrency)

    def change_prefetch(self, prefetch_of: Callable[[QueuePlan], int]) -> None:
        """Consume with another prefetch where it differs."""

        def change(consumer: QueueConsumer) -> None:
            prefetch = prefetch_of(consumer.plan)
            if prefetch != consumer.prefetch:
                consumer.change_prefetch(prefetch)

        errors = side_by_side(change, self._consumers.values())
        if errors:
            extra = {"group": self.name, "cause": str(errors[0])}
            log.warning("prefetch changes with the next connection", extra=extra)

    # -- what others ask --------------------------------------------------------------------------

    @property
    def missing(self) -> list[str]:
        """What keeps the group from being ready, in words."""
        connection = self._connection
        # The stream ends first: who tells of it may wait long, say for a log handler's lock.
        if connection is None or not connection.is_open or connection.stream.is_over:
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

    @property
    def _connection(self) -> BrokerConnection | None:
        return self._session.connection if self._session else None

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
                gevent.sleep(PAUSE_AFTER_BUG)

    def _supervisor_ended(self, _supervisor: object) -> None:
        """Without it nothing would connect again: a plugin has killed what is not its own."""
        if not self._stopping:
            self._on_fatal(LimehubError(f"the supervisor of the group {self.name} was killed"))

    def _serve(self, connection: BrokerConnection) -> None:
        consumers = self._consumers.values()
        self._session = Session(connection, consumers, self._topology, self._wake)
        self._session.run()
        if not self._stopping:
            self.reconnects += 1
            extra = {"group": self.name, "cause": str(connection.reason)}
            log.warning("connection lost; reconnecting", extra=extra)
            self._abandon()

    def _abandon(self) -> None:
        """Drop the session; the broker gives out again what it had handed to us."""
        connection, self._session = self._connection, None
        if connection is not None and connection.is_open:
            connection.close(STOP_PATIENCE)
        self.runner.fates.connection_lost()
        for consumer in self._consumers.values():
            consumer.bindings_due = True

    # -- deliveries -------------------------------------------------------------------------------

    def _consumer(self, plan: QueuePlan) -> QueueConsumer:
        self._schedule.add_queue(plan.spec.name, plan.handler.order, object_key)
        return QueueConsumer(
            plan=plan,
            on_deliveries=self._on_deliveries,
            on_change=self._wake.set,
            on_gone=lambda channel: self.runner.channel_lost(channel, plan.spec.name),
            accept_foreign=self.settings.accept_foreign,
            strict=self.settings.strict_topology,
        )

    def _on_deliveries(self, deliveries: list[Delivery]) -> None:
        """Runs in the hub for what came of one queue at once: queue it and wake a worker."""
        if self._lost_runs.ledger:
            deliveries = self._lost_runs.absorb(deliveries)
            if not deliveries:
                return
        self._schedule.put(*deliveries)
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
            self._put_away(delivery, error)
        except BaseException:  # a gevent.Timeout that some handler left running struck us
            if not self.runner.killing and not delivery.settled:
                self.runner.fates.run_again(delivery, 0.0)
            raise
        return True

    def _put_away(self, delivery: Delivery, error: Exception) -> None:
        try:
            if delivery.settled:
                self.runner.fates.done(delivery)
            else:
                self.runner.internal_error(delivery, error)
        except Exception:  # what cannot even be put away must not stay silent
            log.exception("cannot put the event away", extra={"queue": delivery.queue})
            self._on_fatal(LimehubError(f"internal error on an event of {delivery.queue}"))
