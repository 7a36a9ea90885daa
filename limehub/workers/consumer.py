"""One consumed queue: what is wanted, what the broker has confirmed, and how to close the gap.

pika raises nothing when the broker closes a channel or cancels a consumer. So nothing here relies
on being told: `is_consuming` asks the channel, and the group compares it with what it wants.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field, frozen
from gevent.lock import RLock

from limehub.amqp.channel import Channel
from limehub.amqp.connection import BrokerConnection
from limehub.amqp.delivery import Delivery
from limehub.amqp.topology import Mismatch, QueueSpec, declare_queue
from limehub.errors import BrokerError, QueueMissing, TopologyMismatch
from limehub.workers.ack_limits import effective_limit, is_ack_timeout, limit_in, may_cancel
from limehub.workers.handling import BoundHandler
from limehub.workers.lost_runs import LostRuns

__all__ = ["QueueConsumer", "QueuePlan"]

log = logging.getLogger(__name__)

LONGEST_PAUSE = 5.0
FOREIGN_PAUSE = 30.0


@frozen(kw_only=True)
class QueuePlan:
    """A queue that a group wants to consume.

    *applications*: exchange -> tenant whose events may run; *excluded*: exchanges of ours whose
    tenants this package does not serve; *bindings*: (queue, exchange, key).
    """

    spec: QueueSpec
    handler: BoundHandler
    prefetch: int
    applications: Mapping[str, str]
    bindings: tuple[tuple[str, str, str], ...]
    excluded: frozenset[str] = frozenset()
    unbindings: tuple[tuple[str, str, str], ...] = ()


@define(eq=False)
class QueueConsumer:
    """The state of one plan on the group's present connection."""

    plan: QueuePlan
    on_deliveries: Callable[[list[Delivery]], None]
    on_change: Callable[[], None]
    on_gone: Callable[[Channel], None]
    accept_foreign: bool = False
    strict: bool = False
    prefetch: int = field(init=False)
    problem: str | None = "not started"
    mismatches: tuple[Mismatch, ...] = ()
    declared: bool = False
    bound: bool = False
    bindings_due: bool = True
    binding_problem: str | None = None
    rebuilds: int = 0
    ack_timeouts: int = 0
    own_limit: float | None = None
    """Seconds that the queue itself lets an event stay unacked, if somebody has found out."""
    _channel: Channel | None = None
    _tag: str = ""
    _was_cancelled: bool = False
    _told_limit: float | None = None
    _server: str = ""
    _failures: int = 0
    _not_before: float = 0.0
    _changing: RLock = field(factory=RLock)

    def __attrs_post_init__(self) -> None:
        self.prefetch = self.plan.prefetch

    @property
    def queue(self) -> str:
        """The full name of the queue."""
        return self.plan.spec.name

    @property
    def is_consuming(self) -> bool:
        """Whether the broker has confirmed the consumer and nothing has ended it since."""
        return self._channel is not None and self._channel.is_consuming(self._tag)

    @property
    def is_due(self) -> bool:
        """Whether it is missing and may be tried now."""
        return not self.is_consuming and time.monotonic() >= self._not_before

    @property
    def missing(self) -> str | None:
        """Why it is not ready, in words; None if it is."""
        if not self.is_consuming:
            return self.problem or "not consuming"
        return None if self.bound else self.binding_problem or "bindings not checked yet"

    def establish(self, connection: BrokerConnection) -> None:
        """Consume, declaring the queue first if need be. What goes wrong is noted, not raised.

        Raises TopologyMismatch only, and only if strict.
        """
        with self._changing:
            if not self.is_consuming:
                self._establish(connection)

    def _establish(self, connection: BrokerConnection) -> None:
        try:
            if not self.declared:
                self._declare(connection)
            try:
                self._consume(connection)
            except QueueMissing:  # deleted behind our back, and its bindings with it
                self.declared = self.bound = self._was_cancelled = False
                self.bindings_due = True
                self._declare(connection)
                self._consume(connection)
        except BrokerError as error:
            self._failed(error)
        else:
            self._failures = 0
            self.problem = None
            self._server = connection.server
            self._judge_cancel()

    def bindings_begun(self) -> None:
        """Note that they are being made: what calls for it from now on calls for another round."""
        self.bindings_due = False

    def bindings_checked(self) -> None:
        """Note that every binding stands, unless the queue was deleted while they were made."""
        if not self.bindings_due:
            self.bound = True
            self.binding_problem = None

    def bindings_failed(self, error: BrokerError) -> None:
        """Note that one cannot be made; it is tried again after a while."""
        self.bound = False
        self.bindings_due = True
        if self.binding_problem != str(error):
            self.binding_problem = str(error)
            log.error("cannot bind", extra={"queue": self.queue, "cause": str(error)})

    def cancel(self) -> None:
        """End the consumer; its unsettled deliveries stay ours. What is gone already is fine."""
        channel = self._channel
        if channel is not None and channel.is_consuming(self._tag):
            channel.cancel(self._tag)

    def change_prefetch(self, prefetch: int) -> None:
        """Consume anew on the same channel: qos alone does not touch a live consumer."""
        with self._changing:
            self.prefetch = prefetch
            channel = self._channel
            if channel is not None and channel.is_consuming(self._tag):
                channel.cancel(self._tag)
                self._subscribe(channel)

    def pause_for(self, problem: str) -> None:
        """Stop consuming for a while because of what came."""
        self.problem = problem
        self._not_before = time.monotonic() + FOREIGN_PAUSE
        self.cancel()

    def forget(self) -> None:
        """The connection is gone and the channel with it."""
        self._channel = None
        self.problem = self.problem or "connection lost"
        self._not_before = 0.0

    def flush(self) -> None:
        """Return when the broker has processed every ack that was sent."""
        if self._channel is not None and self._channel.is_open:
            self._channel.sync()

    def prove_acks(self, lost_runs: LostRuns) -> None:
        """Have the broker answer after the acks sent so far, so that they need no remembering."""
        with self._changing:  # the sync is a qos, which must not come before a consume
            channel = self._channel
            if channel is None or not channel.usable:
                return
            acked = lost_runs.unproven_on(channel)
            if acked:
                channel.sync()
                lost_runs.take_proven(acked)

    def status(self) -> dict[str, Any]:
        """Return the state for status pages."""
        return {
            "queue": self.queue,
            "handler": self.plan.handler.name,
            "consuming": self.is_consuming,
            "prefetch": self.prefetch,
            "problem": self.missing,
            "mismatches": [str(mismatch) for mismatch in self.mismatches],
            "rebuilds": self.rebuilds,
            "ack_limit": self.ack_limit,
            "ack_timeouts": self.ack_timeouts,
        }

    def _declare(self, connection: BrokerConnection) -> None:
        self.mismatches = declare_queue(connection, self.plan.spec)
        for mismatch in self.mismatches:
            log.warning("queue differs from what limehub wants", extra=_context(mismatch))
        if self.mismatches and self.strict:
            raise TopologyMismatch("; ".join(str(mismatch) for mismatch in self.mismatches))
        losing = [mismatch for mismatch in self.mismatches if mismatch.loses_messages]
        if losing and not self.accept_foreign:
            self._not_before = time.monotonic() + FOREIGN_PAUSE
            raise BrokerError(
                f"{losing[0]}: it would lose events; delete the argument or set"
                " events.accept_foreign_queues = true"
            )
        self.declared = True

    def _consume(self, connection: BrokerConnection) -> None:
        channel = self._channel
        if channel is not None and not channel.usable:
            channel.close()  # what the broker still counts as unacked on it goes back
        if channel is None or not channel.usable:
            channel = self._channel = connection.open_channel()
        opened = channel
        # Until it consumes its end is an error of the call, told once.
        channel.on_closed = lambda _error: self.on_gone(opened)
        self._subscribe(channel)
        channel.on_closed = lambda error: self._on_closed(opened, error)

    def _subscribe(self, channel: Channel) -> None:
        self._tag = channel.consume(
            self.queue,
            prefetch=self.prefetch,
            on_deliveries=self.on_deliveries,
            on_cancelled=lambda: self._on_cancelled(channel),
        )

    def _on_closed(self, channel: Channel, error: BrokerError) -> None:
        self.on_gone(channel)
        if channel is not self._channel or not channel.connection.is_open:
            return
        self.problem = f"channel closed by the broker: {error}"
        if is_ack_timeout(error):
            self._told_limit = limit_in(error)
            self._timed_out(str(error))
        else:
            log.warning("channel closed", extra={"queue": self.queue, "cause": str(error)})
        self._lost()

    def _on_cancelled(self, channel: Channel) -> None:
        """The queue was deleted, or (on RabbitMQ 4.3) an acknowledgement has timed out.

        Which of its deliveries the broker takes back is not said, so the channel is given up, and
        the rest with it; on a new one all come again.
        """
        self.problem = "consumer cancelled by the broker"
        log.warning("consumer cancelled by the broker", extra={"queue": self.queue})
        self._was_cancelled = True
        channel.on_closed = None
        channel.usable = False
        self.on_gone(channel)
        self._lost()

    def _judge_cancel(self) -> None:
        """A consumer that was cancelled though its queue is still there was too slow."""
        was_cancelled, self._was_cancelled = self._was_cancelled, False
        if was_cancelled and may_cancel(self._server, self._is_quorum):
            self._timed_out("the consumer was cancelled and its queue is still there")

    @property
    def ack_limit(self) -> float | None:
        """Seconds that the broker lets an event stay unacked; None = for ever, or not known."""
        told, quorum = self._told_limit, self._is_quorum
        return effective_limit(self._server, quorum, own=self.own_limit, told=told)

    @property
    def _is_quorum(self) -> bool:
        differs = {each.argument: each.actual for each in self.mismatches}
        kind = differs.get("x-queue-type", self.plan.spec.arguments.get("x-queue-type"))
        return bool(kind == "quorum")

    def _timed_out(self, cause: str) -> None:
        self.ack_timeouts += 1
        extra = {
            "queue": self.queue,
            "handler": self.plan.handler.name,
            "limit": self.ack_limit,
            "cause": cause,
            "do": "shorten the handler, lower its prefetch_count, or raise consumer_timeout",
        }
        log.warning("acknowledgement timed out; the broker takes the events back", extra=extra)

    def _lost(self) -> None:
        self.rebuilds += 1
        self.on_change()

    def _failed(self, error: BrokerError) -> None:
        self._failures += 1
        pause = min(LONGEST_PAUSE, 0.1 * 2.0 ** min(self._failures, 10)) * random.random()  # noqa: S311
        self._not_before = max(self._not_before, time.monotonic() + pause)
        if self.problem != str(error):
            self.problem = str(error)
            log.error("cannot consume", extra={"queue": self.queue, "cause": str(error)})


def _context(mismatch: Mismatch) -> dict[str, Any]:
    return {
        "cause": str(mismatch),
        "queue": mismatch.queue,
        "argument": mismatch.argument,
        "actual": mismatch.actual,
        "wanted": mismatch.wanted,
    }
