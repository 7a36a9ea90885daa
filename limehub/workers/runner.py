"""The runner: one delivery through its handler and into its fate.

Reads from top to bottom as a delivery lives: whose event is it, has it felled a server before, run
the handler, decide (settlement.py), carry the decision out. `done` ends its turn in the schedule.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextvars import copy_context
from pathlib import Path
from typing import Any

import gevent
from gevent import Greenlet, GreenletExit
from gevent.lock import Semaphore

from limehub.amqp.delivery import Delivery
from limehub.amqp.moves import Failure, failure_of
from limehub.amqp.publisher import current_application
from limehub.errors import HandlerCrash
from limehub.events import Discard, Event, Message
from limehub.workers.consumer import QueueConsumer
from limehub.workers.crashes import CrashLedger, crash_delay, identity_of
from limehub.workers.handling import BoundHandler, Settlement
from limehub.workers.mover import Mover
from limehub.workers.schedule import Schedule
from limehub.workers.settlement import Asked, Fate, Outcome, outcome_of

__all__ = ["Runner"]

log = logging.getLogger(__name__)

WAIT_HERE = 10.0
"""Seconds: a shorter retry waits here, unacked; a longer one in a retry queue."""

REQUEUE_WINDOW = 1.0
PAUSE_AFTER_BUG = 5.0
_OURS = str(Path(__file__).parents[1]) + os.sep
REMEMBERED_REQUEUES = 10_000


class Runner:
    """Runs the deliveries of one group. *on_crash* hears of a failure under the policy crash."""

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
        self.killing = False
        self.stale = 0
        self._mover = mover
        self._ledger = ledger
        self._crash_limit = crash_limit
        self._canary = canary
        self._on_crash = on_crash
        self._offer: Callable[[], None] = lambda: None
        self._consumers: Mapping[str, QueueConsumer] = {}
        self._stopping = False
        self._running: dict[Settlement, float] = {}
        self._waiting: dict[Delivery, Greenlet[..., Any]] = {}
        self._moves: set[Greenlet[..., Any]] = set()
        self._open: set[Settlement] = set()
        self._requeues: OrderedDict[bytes, tuple[float, int]] = OrderedDict()

    def connect(self, offer: Callable[[], None], consumers: Mapping[str, QueueConsumer]) -> None:
        """Say who wakes workers and whose queues these are."""
        self._offer = offer
        self._consumers = consumers

    def connection_lost(self) -> None:
        """Forget what the broker gives out again; what runs finishes, its acks are stale."""
        self.schedule.drain()
        for delivery, greenlet in list(self._waiting.items()):
            greenlet.kill(block=False)
            self.schedule.done(delivery)
        self._waiting.clear()
        for settlement in self._open:
            settlement.handler.stats.open -= 1
        self._open.clear()

    # -- running ----------------------------------------------------------------------------------

    def run(self, delivery: Delivery) -> None:
        """Run the handler of *delivery* and settle it. Raises GreenletExit only if we kill it."""
        if delivery.is_stale:
            self._drop(delivery)
            return
        plan = self._consumers[delivery.queue].plan
        application = plan.applications.get(delivery.exchange)
        if application is None:
            self._foreign(delivery, excluded=delivery.exchange in plan.excluded)
            return
        if delivery.damage is not None:
            self._bury(delivery, plan.handler, "undecodable", delivery.damage)
            return
        key = identity_of(delivery)
        crashes = self._ledger.count_of(key)
        if crashes and not self._may_run(delivery, plan.handler, crashes):
            return
        try:
            if crashes:  # the acks of what has ended leave first: this run may kill the process
                gevent.sleep(0)
            self._handle(Settlement(self, plan.handler, delivery), application, key)
        finally:
            if crashes:
                self._canary.release()

    def _handle(self, settlement: Settlement, application: str, key: bytes) -> None:
        handler, delivery = settlement.handler, settlement.delivery
        event = handler.event_class(
            delivery, application=application, settler=settlement, attempt=delivery.attempts + 1
        )
        settlement.event = event
        token = current_application.set(application)
        slot = self._ledger.begin(key)
        stats = handler.stats
        stats.started += 1
        stats.in_flight += 1
        started = self._running[settlement] = time.perf_counter()
        error: BaseException | None = None
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
            seconds = time.perf_counter() - started
            del self._running[settlement]
            stats.in_flight -= 1
            self._ledger.end(slot)
            current_application.reset(token)
        self._decide(settlement, event, error, seconds, key)

    def _decide(
        self,
        settlement: Settlement,
        event: Event,
        error: BaseException | None,
        seconds: float,
        key: bytes,
    ) -> None:
        handler, delivery = settlement.handler, settlement.delivery
        outcome = outcome_of(
            error,
            settlement.asked,
            handler.rules,
            retries=delivery.retries,
            chance=random.random(),  # noqa: S311 - jitter
        )
        settlement.returned = True
        settlement.closed = outcome.fate is not Fate.OPEN
        handler.stats.add(outcome.fate, seconds)
        if error is not None:
            self._report(settlement, event, outcome, error)
        if outcome.fate is not Fate.CRASH and not outcome.then_crash:
            self._ledger.settled(key)
        self._carry_out(settlement, outcome, error, key)
        for hook in handler.hooks:
            hook(event, handler.handler, str(outcome.fate), seconds, error)

    # -- carrying out -----------------------------------------------------------------------------

    def _carry_out(
        self, settlement: Settlement, outcome: Outcome, error: BaseException | None, key: bytes
    ) -> None:
        delivery, fate = settlement.delivery, outcome.fate
        if fate in (Fate.ACK, Fate.DISCARD):
            if not delivery.settled:
                self._count_stale(delivery.ack())
            self._done(delivery)
        elif delivery.is_stale and not delivery.settled:
            self._drop(delivery)
        elif fate is Fate.DEAD_LETTER:
            self._dead_letter(settlement, outcome, error, key)
        elif fate is Fate.RETRY:
            self._retry(settlement, outcome, error)
        elif fate is Fate.REQUEUE:
            self._requeue(delivery, key)
        elif fate is Fate.OPEN:
            self._leave_open(settlement)
        else:
            self._crash(settlement, error, key)

    def _dead_letter(
        self, settlement: Settlement, outcome: Outcome, error: BaseException | None, key: bytes
    ) -> None:
        handler, delivery = settlement.handler, settlement.delivery
        failure = self._failure(settlement, outcome, error)
        self._move(delivery, lambda: self._mover.dead_letter(delivery, failure, handler.dlq))
        if outcome.then_crash:
            self._crash(settlement, error, key)
        else:
            self._done(delivery)

    def _retry(self, settlement: Settlement, outcome: Outcome, error: BaseException | None) -> None:
        delivery = settlement.delivery
        if outcome.delay > WAIT_HERE:
            failure = self._failure(settlement, outcome, error)
            self._move(delivery, lambda: self._mover.retry_later(delivery, failure, outcome.delay))
            self._done(delivery)
        else:
            delivery.local_retries += 1
            self._resume_after(outcome.delay, delivery)

    def _requeue(self, delivery: Delivery, key: bytes) -> None:
        """Back to the queue at once; a second time within a second after a growing pause."""
        given_back_at, times = self._requeues.pop(key, (-REQUEUE_WINDOW, 0))
        times = times + 1 if time.monotonic() - given_back_at < REQUEUE_WINDOW else 1

        def give_back() -> None:
            self._requeues[key] = (time.monotonic(), times)
            if len(self._requeues) > REMEMBERED_REQUEUES:
                self._requeues.popitem(last=False)
            delivery.give_back()
            self._done(delivery)

        if times == 1:
            give_back()
        else:
            self._after(min(WAIT_HERE, crash_delay(times - 1)), delivery, give_back)

    def _leave_open(self, settlement: Settlement) -> None:
        self._open.add(settlement)
        settlement.handler.stats.open += 1
        log.warning(
            "handler returned without settling its event; it stays open",
            extra={"handler": settlement.handler.name, "queue": settlement.delivery.queue},
        )
        self._done(settlement.delivery)

    def settle_late(self, settlement: Settlement) -> None:
        """Carry out what a manual handler asked for after it had returned."""
        if settlement in self._open:
            self._open.discard(settlement)
            settlement.handler.stats.open -= 1
        delivery = settlement.delivery
        if settlement.asked is Asked.REQUEUE:
            delivery.give_back()
        elif settlement.asked is Asked.REJECT:
            outcome = Outcome(Fate.DEAD_LETTER, "rejected")
            failure = self._failure(settlement, outcome, None)
            self._move(
                delivery, lambda: self._mover.dead_letter(delivery, failure, settlement.handler.dlq)
            )

    def _crash(self, settlement: Settlement, error: BaseException | None, key: bytes) -> None:
        """Keep the delivery unacked until the end: given back now it would fell the next server."""
        self._ledger.crashed(key)
        failure = self._failure(settlement, Outcome(Fate.CRASH), error)
        self._on_crash(
            HandlerCrash(
                f"handler {settlement.handler.name} failed on {settlement.event!r} of queue "
                f"{settlement.delivery.queue}: {failure.exception_type}: {failure.exception_text}"
            )
        )

    def internal_error(self, delivery: Delivery, error: Exception) -> None:
        """Put away an event on which limehub itself failed, so that it fells nothing else."""
        plan = self._consumers[delivery.queue].plan
        self._bury(delivery, plan.handler, "internal-error", repr(error))

    # -- events that do not run -------------------------------------------------------------------

    def _foreign(self, delivery: Delivery, *, excluded: bool) -> None:
        """Another tenant's event is never run."""
        consumer = self._consumers[delivery.queue]
        handler = consumer.plan.handler
        if excluded:
            text = f"{handler.app} does not serve the application of {delivery.exchange}"
            self._bury(delivery, handler, "tenant-excluded", text)
            return
        problem = (
            f"an event came from exchange {delivery.exchange!r}, which is none of ours: do two"
            " servers share the queue, or is there a left-over binding? See `limehub check`"
        )
        log.error("foreign event; queue paused", extra={"queue": delivery.queue, "cause": problem})
        consumer.pause_for(problem)
        for each in (delivery, *self.schedule.drain(delivery.queue)):
            each.give_back()
        self._done(delivery)

    def _may_run(self, delivery: Delivery, handler: BoundHandler, crashes: int) -> bool:
        """Whether a suspect may run now; else it waits, or is buried at the limit."""
        if self._crash_limit and crashes >= self._crash_limit:
            text = f"in flight in {crashes} crashes of the server"
            self._bury(delivery, handler, "crash-loop", text)
            return False
        if "waited" not in delivery.__dict__:
            delivery.__dict__["waited"] = True
            delay = crash_delay(crashes)
            extra = {"queue": delivery.queue, "crashes": crashes, "delay": delay}
            log.warning("event was in flight in a crash; it waits, then runs alone", extra=extra)
            self._after(delay, delivery, lambda: self._resume(delivery))
            return False
        if not self._canary.acquire(blocking=False):
            self._after(0.2, delivery, lambda: self._resume(delivery))
            return False
        return True

    def _bury(self, delivery: Delivery, handler: BoundHandler, reason: str, text: str) -> None:
        failure = failure_of(
            None, handler=handler.name, reason=reason, attempts=delivery.attempts, text=text
        )
        handler.stats.add(Fate.DEAD_LETTER, 0.0)
        extra = {"handler": handler.name, "queue": delivery.queue, "reason": reason}
        log.error("dead-lettered without running", extra=extra)

        def bury() -> bool:
            stored = self._mover.dead_letter(delivery, failure, handler.dlq)
            if stored:
                self._ledger.settled(identity_of(delivery))
            return stored

        self._move(delivery, bury)
        self._done(delivery)

    def _drop(self, delivery: Delivery) -> None:
        self._count_stale(False)
        self._done(delivery)

    def _count_stale(self, told: bool) -> None:
        if not told:
            self.stale += 1

    # -- waiting and moving -----------------------------------------------------------------------

    def _done(self, delivery: Delivery) -> None:
        if self.schedule.done(delivery):
            self._offer()

    def _resume_after(self, delay: float, delivery: Delivery) -> None:
        self._after(delay, delivery, lambda: self._resume(delivery))

    def _resume(self, delivery: Delivery) -> None:
        self.schedule.resume(delivery)
        self._offer()

    def _after(self, delay: float, delivery: Delivery, then: Callable[[], Any]) -> None:
        def wait() -> None:
            gevent.sleep(delay)
            if self._waiting.pop(delivery, None) is not None:
                then()

        greenlet = Greenlet(wait)
        greenlet.name = f"wait for {delivery.queue}"
        self._waiting[delivery] = greenlet
        if self._stopping:
            self.give_back()
        else:
            greenlet.start()

    def _move(self, delivery: Delivery, move: Callable[[], bool]) -> None:
        def carry_out() -> None:
            try:
                move()
            except Exception:  # border: a bug of ours must neither lose the event nor hold it
                log.exception("move failed; the event goes back", extra={"queue": delivery.queue})
                gevent.sleep(PAUSE_AFTER_BUG)
                if not delivery.settled:
                    delivery.give_back()

        greenlet = Greenlet(carry_out)
        greenlet.name = "move"
        self._moves.add(greenlet)
        greenlet.link(self._moves.discard)
        greenlet.start()

    def _failure(
        self, settlement: Settlement, outcome: Outcome, error: BaseException | None
    ) -> Failure:
        return failure_of(
            error,
            handler=settlement.handler.name,
            reason=outcome.reason,
            attempts=settlement.delivery.attempts + 1,
            text=settlement.reason,
        )

    def _report(
        self, settlement: Settlement, event: Event, outcome: Outcome, error: BaseException
    ) -> None:
        expected = isinstance(error, Discard)
        level = logging.ERROR if outcome.fate is Fate.CRASH else logging.WARNING
        log.log(
            logging.INFO if expected else level,
            "event discarded" if expected else "handler failed",
            extra={
                "handler": settlement.handler.name,
                "outcome": str(outcome.fate),
                "reason": outcome.reason,
                "routing_key": event.routing_key,
                "application": event.application,
                "message_id": event.id,
                "attempt": event.attempt,
            },
            exc_info=None if expected else error,
        )

    # -- the end ----------------------------------------------------------------------------------

    def give_back(self) -> int:
        """Give back what has not started or waits for another run. Returns how many."""
        self._stopping = True
        unstarted = self.schedule.drain()
        waiting = list(self._waiting.items())
        self._waiting.clear()
        for _, greenlet in waiting:
            greenlet.kill(block=False)
        deliveries = unstarted + [delivery for delivery, _ in waiting]
        for delivery in deliveries:
            if not delivery.settled:
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

    def status(self) -> dict[str, Any]:
        """Return the state for status pages."""
        now = time.perf_counter()
        return {
            "running": [
                {"handler": s.handler.name, "queue": s.delivery.queue, "seconds": now - started}
                for s, started in self._running.items()
            ],
            "waiting_for_retry": len(self._waiting),
            "moving": len(self._moves),
            "open": len(self._open),
            "stale": self.stale,
        }


def _from_the_plugin(error: BaseException) -> BaseException:
    """Cut our own frames off the head of the traceback: its reader looks for the plugin's."""
    inner = error.__traceback__
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_OURS):
        inner = inner.tb_next
    return error if inner is None else error.with_traceback(inner)
