"""The runner: one delivery through its handler.

Reads from top to bottom as a delivery lives: whose event is it, has it felled a server before, run
the handler, decide (settlement.py), carry the decision out (fates.py).
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from pathlib import Path
from time import perf_counter
from typing import Any

import gevent
from gevent import GreenletExit
from gevent.lock import Semaphore

from limehub.amqp.channel import Channel
from limehub.amqp.delivery import Delivery
from limehub.amqp.publisher import current_application
from limehub.amqp.unread import read_unread
from limehub.errors import HandlerCrash
from limehub.events import Discard, Event, Message
from limehub.forks import end_child, in_children
from limehub.workers.ack_limits import AckWatch
from limehub.workers.consumer import QueueConsumer
from limehub.workers.crashes import CrashLedger, crash_delay, journal_key
from limehub.workers.fates import Fates
from limehub.workers.handling import BoundHandler, Settlement
from limehub.workers.mover import Mover
from limehub.workers.schedule import Schedule
from limehub.workers.settlement import DONE, Fate, Outcome, outcome_of

__all__ = ["Runner"]

log = logging.getLogger(__name__)

QUICK = 0.005
"""Seconds of a run below which its ack is not remembered until it has arrived: that would cost
fast handlers a tenth of their time, and to run again costs them little."""

STALL = 0.5
"""Seconds of a run after which the hub may have stalled, and the connection been lost unnoticed."""

A_TURN = 0.05
"""Seconds by which the loop's clock may be ahead of ours."""

CANARY_AGAIN = 0.2
"""Seconds until a suspect asks again whether it may run alone."""

_OURS = str(Path(__file__).parents[1]) + os.sep


class Runner:
    """Runs the deliveries of one group. *canary*: shared by all suspects of the process."""

    def __init__(
        self,
        *,
        mover: Mover,
        ledger: CrashLedger,
        crash_limit: int,
        canary: Semaphore,
        on_crash: Callable[[HandlerCrash], None],
    ) -> None:
        self.schedule: Schedule[Delivery] = Schedule()
        self.fates = Fates(schedule=self.schedule, mover=mover, ledger=ledger, on_crash=on_crash)
        self.ack_watch = AckWatch(perf_counter)
        self.killing = False
        self._forked = False
        self._ledger = ledger
        self._crash_limit = crash_limit
        self._canary = canary
        self._consumers: Mapping[str, QueueConsumer] = {}
        self._running: set[Settlement] = set()
        in_children(self._in_child)

    def connect(self, offer: Callable[[], None], consumers: Mapping[str, QueueConsumer]) -> None:
        """Say who wakes workers and whose queues these are."""
        self.fates.offer = offer
        self._consumers = consumers

    def run(self, delivery: Delivery) -> None:
        """Run the handler of *delivery* and settle it. Raises GreenletExit only if we kill it."""
        plan = self._consumers[delivery.queue].plan
        if not delivery.channel.usable:
            self.fates.drop(delivery)
            return
        if delivery.redelivered and self.fates.lost_runs.settle(delivery):
            return
        application = plan.applications.get(delivery.exchange)
        if application is None:
            self._foreign(delivery, excluded=delivery.exchange in plan.excluded)
            return
        key = journal_key(delivery.queue, delivery.body)
        if self._ledger.suspects and self._ledger.count_of(key):
            self._run_suspect(delivery, plan.handler, application, key)
        else:
            self._handle(delivery, plan.handler, application, key)

    def channel_lost(self, channel: Channel, queue: str) -> None:
        """Forget what of *channel* has not started; what runs counts for its redelivery."""
        running = [settlement.delivery for settlement in self._running]
        self.fates.channel_lost(channel, queue, running)

    def internal_error(self, delivery: Delivery, error: Exception) -> None:
        """Put away an event on which limehub itself failed, so that it fells nothing else."""
        self._bury(delivery, "internal-error", repr(error))

    def held(self) -> Iterator[tuple[Delivery, float | None]]:
        """Everything unacked that is known here, and since when (perf_counter) it runs, if so."""
        for run in self._running:
            if not run.delivery.settled:
                yield run.delivery, run.started
        for delivery in (*self.fates.unsettled(), *self.schedule.waiting_items()):
            yield delivery, None

    def status(self) -> dict[str, Any]:
        """Return the state for status pages; times in seconds."""
        now = perf_counter()
        running = [
            {
                "handler": run.handler.name,
                "queue": run.delivery.queue,
                "seconds": now - run.started,
                "overdue": run.handler.is_overdue(now - run.started),
                "ack_limit_used": self.ack_watch.level_of(run.delivery),
            }
            for run in self._running
        ]
        longest = max((now - run.started for run in self._running), default=0.0)
        oldest = max(longest, self.ack_watch.oldest())
        return {"running": running, "oldest_unacked": oldest, **self.fates.status()}

    # -- the run ----------------------------------------------------------------------------------

    def _handle(
        self, delivery: Delivery, handler: BoundHandler, application: str, key: bytes
    ) -> None:
        settlement = Settlement(self.fates, handler, delivery)
        event = handler.event_class(delivery, application=application, settler=settlement)
        current_application.set(application)
        stats = handler.stats
        stats.started += 1
        stats.in_flight += 1
        slot = self._ledger.begin(key)
        self._running.add(settlement)
        error: BaseException | None = None
        started = settlement.started = perf_counter()
        try:
            if handler.early_ack:
                settlement.ack()
            if handler.reads_body:
                _ = event.body
            # A copy of the context: what one run sets does not show in the next one's.
            copy_context().run(handler.call, event, Message(event, settlement))
        except BaseException as raised:  # border: whatever a handler raises is its failure
            if self.killing:  # our own kill, whatever the handler made of it
                raise GreenletExit from raised
            error = _from_the_plugin(raised)
        finally:
            if self._forked:
                end_child(error)
            seconds = perf_counter() - started
            self._running.discard(settlement)
            stats.in_flight -= 1
            self._ledger.end(slot)
        if seconds > STALL:
            self._after_stall(delivery)
        if error is None and settlement.asked is handler.succeeds:
            self._succeed(settlement, event, seconds, key)
        elif error is not None and self._is_astray(error, settlement, seconds):
            self.fates.run_again(delivery, 0.0)
        else:
            self._decide(settlement, event, error, seconds, key)

    def _is_astray(self, error: BaseException, settlement: Settlement, seconds: float) -> bool:
        """Whether an earlier run in this greenlet left a gevent.Timeout behind that struck here.

        One that was set for longer than this run took cannot be its own. Once per event, in case
        that a handler raises one itself.
        """
        delivery = settlement.delivery
        if not isinstance(error, gevent.Timeout) or not _is_longer(error, seconds):
            return False
        if settlement.settled or delivery.is_stale or "astray" in delivery.__dict__:
            return False
        delivery.__dict__["astray"] = True
        settlement.closed = True
        extra = {"handler": settlement.handler.name, "queue": delivery.queue, "cause": str(error)}
        log.warning("a timeout that another event left running struck; it runs again", extra=extra)
        return True

    def _after_stall(self, delivery: Delivery) -> None:
        """Have it named; see whether the broker is still there, before an ack is sent to nobody."""
        channel = delivery.channel
        if keeper := channel.connection.settings.keeper:
            keeper.ran_long()
        if not delivery.settled and channel.usable and not read_unread(channel.connection):
            channel.usable = False  # the connection tells its channels in the hub's next turn

    def _succeed(self, settlement: Settlement, event: Event, seconds: float, key: bytes) -> None:
        """Ack what went well: the way of nearly every event, so that it is kept short."""
        handler = settlement.handler
        settlement.returned = settlement.closed = True
        handler.stats.acked_after(seconds, event.application)
        if self._ledger.suspects:
            self._ledger.settled(key)
        self.fates.ack(settlement.delivery)
        if seconds > QUICK:
            self.fates.lost_runs.acked(settlement.delivery)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("handled", extra=_context(handler, event, DONE) | {"seconds": seconds})
        for hook in handler.hooks:
            hook(event, handler.handler, str(Fate.ACK), seconds, None)

    def _decide(
        self,
        settlement: Settlement,
        event: Event,
        error: BaseException | None,
        seconds: float,
        key: bytes,
    ) -> None:
        handler, delivery = settlement.handler, settlement.delivery
        settlement.event = event
        outcome = outcome_of(
            error,
            settlement.asked,
            handler.rules,
            retries=delivery.retries,
            chance=random.random(),  # noqa: S311 - jitter
        )
        settlement.returned = True
        settlement.closed = outcome.fate is not Fate.OPEN
        handler.stats.add(outcome.fate, seconds, event.application)
        if error is not None:
            _report(handler, event, outcome, error)
        if outcome.fate is not Fate.CRASH and not outcome.then_crash:
            self._ledger.settled(key)
        self.fates.carry_out(settlement, outcome, error, key)
        for hook in handler.hooks:
            hook(event, handler.handler, str(outcome.fate), seconds, error)

    def _in_child(self) -> None:
        """Called in a process that a handler has forked."""
        self._forked = True

    # -- events that do not run -------------------------------------------------------------------

    def _foreign(self, delivery: Delivery, *, excluded: bool) -> None:
        """Another tenant's event is never run."""
        consumer = self._consumers[delivery.queue]
        if excluded:
            text = (
                f"{consumer.plan.handler.app} does not serve the application of {delivery.exchange}"
            )
            self._bury(delivery, "tenant-excluded", text)
            return
        problem = (
            f"an event came from exchange {delivery.exchange!r}, which is none of ours: do two"
            " servers share the queue, or is there a left-over binding? See `limehub check`"
        )
        log.error("foreign event; queue paused", extra={"queue": delivery.queue, "cause": problem})
        consumer.pause_for(problem)
        for each in (delivery, *self.schedule.drain(delivery.queue)):
            each.give_back()
        self.fates.done(delivery)

    def _bury(self, delivery: Delivery, reason: str, text: str) -> None:
        plan = self._consumers[delivery.queue].plan
        application = plan.applications.get(delivery.exchange, "")
        self.fates.bury(delivery, plan.handler, reason, text, application)

    def _run_suspect(
        self, delivery: Delivery, handler: BoundHandler, application: str, key: bytes
    ) -> None:
        """Run what was in flight in a crash: alone, after a while, and not for ever."""
        if not self._may_run(delivery, self._ledger.count_of(key)):
            return
        try:
            gevent.sleep(0)  # the acks of what has ended leave first: this run may kill us
            if delivery.is_stale:
                self.fates.drop(delivery)
            else:
                self._handle(delivery, handler, application, key)
        finally:
            self._canary.release()

    def _may_run(self, delivery: Delivery, crashes: int) -> bool:
        """Whether a suspect may run now; else it waits, or is buried at the limit."""
        if self._crash_limit and crashes >= self._crash_limit:
            text = f"in flight in {crashes} crashes of the server"
            self._bury(delivery, "crash-loop", text)
            return False
        if "waited" not in delivery.__dict__:
            delivery.__dict__["waited"] = True
            delay = crash_delay(crashes)
            extra = {"queue": delivery.queue, "crashes": crashes, "delay": delay}
            log.warning("event was in flight in a crash; it waits, then runs alone", extra=extra)
            self.fates.run_again(delivery, delay)
            return False
        if not self._canary.acquire(blocking=False):
            self.fates.run_again(delivery, CANARY_AGAIN)
            return False
        return True


def _is_longer(timeout: gevent.Timeout, seconds: float) -> bool:
    return timeout.seconds is not None and timeout.seconds > seconds + A_TURN


def _report(handler: BoundHandler, event: Event, outcome: Outcome, error: BaseException) -> None:
    expected = isinstance(error, Discard)
    level = logging.ERROR if outcome.fate is Fate.CRASH else logging.WARNING
    log.log(
        logging.INFO if expected else level,
        "event discarded" if expected else "handler failed",
        extra=_context(handler, event, outcome),
        exc_info=None if expected else error,
    )


def _context(handler: BoundHandler, event: Event, outcome: Outcome) -> dict[str, Any]:
    return {
        "handler": handler.name,
        "outcome": str(outcome.fate),
        "reason": outcome.reason,
        "routing_key": event.routing_key,
        "application": event.application,
        "message_id": event._delivery.message_id,
        "attempt": event.attempt,
    }


def _from_the_plugin(error: BaseException) -> BaseException:
    """Cut our own frames off the head of the traceback: its reader looks for the plugin's."""
    inner = error.__traceback__
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_OURS):
        inner = inner.tb_next
    return error if inner is None else error.with_traceback(inner)
