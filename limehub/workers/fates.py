"""The fates: what was decided about a delivery is carried out. Each ends its turn in the schedule.

Dead letters and long retries leave in greenlets of their own, so that a broker which takes its time
holds up no worker; the unacked original keeps its place in the prefetch window meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gevent import Greenlet

from limehub.amqp.channel import Channel
from limehub.amqp.delivery import Delivery
from limehub.amqp.moves import Failure, failure_of
from limehub.errors import HandlerCrash
from limehub.workers.crashes import CrashLedger, crash_delay, identity_of, journal_key
from limehub.workers.handling import BoundHandler, Settlement
from limehub.workers.lost_runs import LostRuns
from limehub.workers.mover import Mover
from limehub.workers.parking import Parking
from limehub.workers.schedule import Schedule
from limehub.workers.settlement import Asked, Fate, Outcome

__all__ = ["Fates"]

log = logging.getLogger(__name__)

WAIT_HERE = 10.0
"""Seconds: a shorter retry waits here, unacked; a longer one in a retry queue."""

REQUEUE_WINDOW = 1.0
REMEMBERED_REQUEUES = 10_000
PAUSE_AFTER_BUG = 5.0
KEPT_OPEN = 600.0
"""Seconds that an event is kept open without a run over the loss of its channel."""


class Fates:
    """Settles the deliveries of one group. *on_crash* hears of a failure under the policy crash.

    `stale`: settlements that came too late, because the broker had given the event out again.
    """

    def __init__(
        self,
        *,
        schedule: Schedule[Delivery],
        mover: Mover,
        ledger: CrashLedger,
        on_crash: Callable[[HandlerCrash], None],
    ) -> None:
        self.stale = 0
        self.offer: Callable[[], None] = lambda: None
        self.lost_runs = LostRuns(schedule)
        self._schedule = schedule
        self._mover = mover
        self._ledger = ledger
        self._on_crash = on_crash
        self._stopping = False
        self._parking = Parking()
        self._moves: dict[Greenlet[..., Any], Delivery] = {}
        self._open: dict[Delivery, tuple[Settlement, float]] = {}
        self._requeues: OrderedDict[bytes, tuple[float, int]] = OrderedDict()

    # -- after a run ------------------------------------------------------------------------------

    def carry_out(
        self, settlement: Settlement, outcome: Outcome, error: BaseException | None, key: bytes
    ) -> None:
        """Do what *outcome* says. *key*: the event's identity in the crash ledger."""
        delivery, fate = settlement.delivery, outcome.fate
        if delivery.settled:
            self.lost_runs.ended(delivery)
        if fate in (Fate.ACK, Fate.DISCARD):
            self.ack(delivery)
        elif delivery.is_stale and not delivery.settled and fate is not Fate.OPEN:
            self._too_late(delivery, lambda: self.carry_out(settlement, outcome, error, key))
            self.done(delivery)
        elif fate is Fate.DEAD_LETTER:
            self._dead_letter(settlement, outcome, error, key)
        elif fate is Fate.RETRY:
            self._retry(settlement, outcome, error)
        elif fate is Fate.REQUEUE:
            self._requeue(delivery)
        elif fate is Fate.OPEN:
            self._leave_open(settlement)
        else:
            self._crash(settlement, error, key)

    def ack(self, delivery: Delivery) -> None:
        """Tell the broker that it is done, unless the handler has."""
        if not delivery.settled and not delivery.ack():
            self._too_late(delivery, None)
        if self._schedule.done(delivery):
            self.offer()

    def settle_late(self, settlement: Settlement) -> None:
        """Carry out what a manual handler asked for after it had returned."""
        delivery = settlement.delivery
        self._close(delivery)
        if settlement.asked is Asked.ACK:
            return
        if delivery.is_stale:
            self._too_late(delivery, lambda: self._carry_out_late(settlement))
        else:
            self._carry_out_late(settlement)

    def acked_too_late(self, settlement: Settlement) -> None:
        """Keep an ack by the handler itself that could not be sent: it acks the redelivery."""
        self.stale += 1
        self.lost_runs.lost(settlement.delivery)
        if settlement.returned:
            self.lost_runs.ended(settlement.delivery)

    def _carry_out_late(self, settlement: Settlement) -> None:
        delivery = settlement.delivery
        if settlement.asked is Asked.REQUEUE:
            delivery.give_back()
        else:
            failure = _failure(settlement, Outcome(Fate.DEAD_LETTER, "rejected"), None)
            self._store(delivery, failure, settlement.handler)
        self.done(delivery)

    def _dead_letter(
        self, settlement: Settlement, outcome: Outcome, error: BaseException | None, key: bytes
    ) -> None:
        failure = _failure(settlement, outcome, error)
        self._store(settlement.delivery, failure, settlement.handler)
        if outcome.then_crash:
            self._crash(settlement, error, key)
        else:
            self.done(settlement.delivery)

    def _retry(self, settlement: Settlement, outcome: Outcome, error: BaseException | None) -> None:
        delivery = settlement.delivery
        if outcome.delay > WAIT_HERE:
            failure = _failure(settlement, outcome, error)
            self._move(delivery, lambda: self._mover.retry_later(delivery, failure, outcome.delay))
            self.done(delivery)
        else:
            delivery.local_retries += 1
            self.run_again(delivery, outcome.delay)

    def _requeue(self, delivery: Delivery) -> None:
        """Back to the queue at once; a second time within a second after a growing pause."""
        key = identity_of(delivery)
        given_back_at, times = self._requeues.pop(key, (-REQUEUE_WINDOW, 0))
        times = times + 1 if time.monotonic() - given_back_at < REQUEUE_WINDOW else 1

        def give_back() -> None:
            self._requeues[key] = (time.monotonic(), times)
            if len(self._requeues) > REMEMBERED_REQUEUES:
                self._requeues.popitem(last=False)
            delivery.give_back()
            self.done(delivery)

        if times == 1:
            give_back()
        else:
            self._after(min(WAIT_HERE, crash_delay(times - 1)), delivery, give_back)

    def _leave_open(self, settlement: Settlement) -> None:
        delivery = settlement.delivery
        self._open[delivery] = (settlement, time.monotonic())
        settlement.handler.stats.open += 1
        self.lost_runs.ended(delivery)
        log.warning(
            "handler returned without settling its event; it stays open",
            extra=_context(settlement.handler, delivery),
        )
        self.done(delivery)

    def _close(self, delivery: Delivery) -> None:
        settlement, _ = self._open.pop(delivery, (None, 0.0))
        if settlement is not None:
            settlement.handler.stats.open -= 1

    def _crash(self, settlement: Settlement, error: BaseException | None, key: bytes) -> None:
        """Keep the delivery unacked until the end: given back now it would fell the next server."""
        self._ledger.crashed(key)
        failure = _failure(settlement, Outcome(Fate.CRASH), error)
        self._on_crash(
            HandlerCrash(
                f"handler {settlement.handler.name} failed on {settlement.event!r} of queue "
                f"{settlement.delivery.queue}: {failure.exception_type}: {failure.exception_text}"
            )
        )

    # -- without a run ----------------------------------------------------------------------------

    def bury(
        self, delivery: Delivery, handler: BoundHandler, reason: str, text: str, application: str
    ) -> None:
        """Dead-letter an event that must not run, or on which limehub itself failed."""
        failure = failure_of(
            None, handler=handler.name, reason=reason, attempts=delivery.attempts, text=text
        )
        handler.stats.add_unrun(reason, application)
        extra = _context(handler, delivery) | {"reason": reason, "cause": text}
        log.error("dead-lettered without running", extra=extra)

        def store() -> None:
            if self._mover.dead_letter(delivery, failure, handler.dlq):
                self._ledger.settled(journal_key(delivery.queue, delivery.body))

        self._move(delivery, store)
        self.done(delivery)

    def run_again(self, delivery: Delivery, delay: float) -> None:
        """Let it run in *delay* seconds, before all that wait; it keeps its turn."""

        def resume() -> None:
            self._schedule.resume(delivery)
            self.offer()

        self._after(delay, delivery, resume)

    def drop(self, delivery: Delivery) -> None:
        """The broker has given it out again: it is not ours any more."""
        self.stale += 1
        self.done(delivery)

    def done(self, delivery: Delivery) -> None:
        """End its turn."""
        if self._schedule.done(delivery):
            self.offer()

    def _after(self, delay: float, delivery: Delivery, then: Callable[[], None]) -> None:
        if self._stopping:
            delivery.give_back()
        else:
            self._parking.park(delivery, delay, then)

    # -- moves ------------------------------------------------------------------------------------

    def _store(self, delivery: Delivery, failure: Failure, handler: BoundHandler) -> None:
        self._move(delivery, lambda: self._mover.dead_letter(delivery, failure, handler.dlq))

    def _move(self, delivery: Delivery, move: Callable[[], object]) -> None:
        is_copy = delivery.settled

        def carry_out() -> None:
            try:
                move()
                if not is_copy:
                    self._moved(delivery, move)
            except Exception:  # border: a bug of ours must neither lose the event nor hold it
                log.exception("move failed; the event goes back", extra={"queue": delivery.queue})
                gevent.sleep(PAUSE_AFTER_BUG)
                if not delivery.settled:
                    delivery.give_back()

        greenlet = Greenlet(carry_out)
        greenlet.name = "move"
        self._moves[greenlet] = delivery
        greenlet.link(lambda moved: self._moves.pop(moved, None))
        greenlet.start()

    def _moved(self, delivery: Delivery, move: Callable[[], object]) -> None:
        """If it was too late the redelivery is acked; a move that was not made is made then."""
        if not delivery.is_stale:
            self.lost_runs.acked(delivery)
            return

        def move_again() -> None:
            self._move(delivery, move)
            self.done(delivery)

        self.lost_runs.ended(delivery, None if delivery.settled else move_again)

    # -- the loss of a channel --------------------------------------------------------------------

    def channel_lost(self, channel: Channel, queue: str, running: Iterable[Delivery]) -> None:
        """Forget what the broker gives out again of *queue*; what runs goes on and counts."""
        self._schedule.drain(queue)
        oldest = time.monotonic() - KEPT_OPEN
        for delivery, (_, returned_at) in list(self._open.items()):
            if delivery.channel is channel and returned_at < oldest:
                self._close(delivery)  # so that what a handler forgot runs again some day
        moving = (each for each in self._moves.values() if not each.settled)
        self.lost_runs.channel_lost(channel, [*running, *moving], self._open)
        for delivery in self._parking:
            if delivery.channel is channel and delivery.local_retries:
                self._retry_later_still(delivery)

    def _retry_later_still(self, delivery: Delivery) -> None:
        """Let a retry that waits be the next attempt of the redelivery, not its first."""
        rest = self._parking.take(delivery)
        self._too_late(delivery, lambda: self.run_again(delivery, rest))
        self.done(delivery)

    def unsettled(self) -> list[Delivery]:
        """What has run and is not settled: left open, being moved, or waiting to run again."""
        moving = [each for each in self._moves.values() if not each.settled]
        return [*self._open, *moving, *self._parking]

    def forget_old(self) -> None:
        """Forget runs whose event has not come again; another server has it."""
        for delivery in self.lost_runs.ledger.forget_old():
            self._close(delivery)

    def _too_late(self, delivery: Delivery, settle: Callable[[], None] | None) -> None:
        """Keep a result until the broker gives the event out again."""
        self.stale += 1
        self.lost_runs.ended(delivery, settle)

    # -- the end ----------------------------------------------------------------------------------

    def connection_lost(self) -> None:
        """Forget what the broker gives out again; what runs finishes, its acks are stale."""
        self._schedule.drain()
        for delivery in self._parking.clear():
            self._schedule.done(delivery)

    def give_back(self) -> int:
        """Give back what has not started or waits for another run. Returns how many."""
        self._stopping = True
        deliveries = [*self._schedule.drain(), *self._parking.clear()]
        for delivery in deliveries:
            if not self.lost_runs.settle(delivery) and not delivery.settled:
                delivery.give_back()
        return len(deliveries)

    def join_moves(self, timeout: float) -> None:
        """Wait at most *timeout* seconds until dead letters and retries are stored."""
        gevent.joinall(list(self._moves), timeout=timeout)

    def stop(self) -> None:
        """Give up what still waits."""
        self.give_back()
        moves = list(self._moves)
        gevent.killall(moves, block=False)
        gevent.joinall(moves, timeout=1)

    def status(self) -> dict[str, int]:
        """Return counts for status pages."""
        return {
            "waiting_for_retry": len(self._parking),
            "moving": len(self._moves),
            "open": sum(not delivery.is_stale for delivery in self._open),
            "stale": self.stale,
        } | self.lost_runs.status()


def _failure(settlement: Settlement, outcome: Outcome, error: BaseException | None) -> Failure:
    return failure_of(
        error,
        handler=settlement.handler.name,
        reason=outcome.reason,
        attempts=settlement.delivery.attempts + 1,
        text=settlement.reason,
    )


def _context(handler: BoundHandler, delivery: Delivery) -> dict[str, Any]:
    return {
        "handler": handler.name,
        "queue": delivery.queue,
        "message_id": delivery.message_id,
        "routing_key": delivery.routing_key,
    }
