"""What becomes of handlers that run while their channel is lost.

The broker gives their events out again. Such a redelivery does not run beside the first run: it
takes its place. The delivery that the handler holds goes on under the new tag, so whatever happens
to it, now or later, settles the redelivery; it keeps its place in the prefetch and its turn.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable

from limehub.amqp.channel import Channel
from limehub.amqp.delivery import Delivery
from limehub.workers.redeliveries import Match, RedeliveryLedger, Settle
from limehub.workers.schedule import Schedule

__all__ = ["LostRuns"]

log = logging.getLogger(__name__)

REMEMBERED_ACKS = 256
"""Acks that the broker may not have processed yet; the oldest are forgotten first."""

LARGE = 65_536
"""Bytes of a body above which an event is not remembered after its ack."""


class LostRuns:
    """The lost runs of one group. `absorbed`: redeliveries that did not have to run.

    `unproven`: what was acked lately; `take_proven` takes out what the broker has processed.
    """

    def __init__(self, schedule: Schedule[Delivery]) -> None:
        self.absorbed = 0
        self.ledger: RedeliveryLedger[Delivery] = RedeliveryLedger()
        self.unproven: deque[Delivery] = deque(maxlen=REMEMBERED_ACKS)
        self._schedule = schedule
        self._due: dict[Delivery, Settle] = {}

    # -- the loss ---------------------------------------------------------------------------------

    def channel_lost(
        self, channel: Channel, running: Iterable[Delivery], returned: Iterable[Delivery]
    ) -> None:
        """Remember what *channel* takes along. *returned*: handlers that left theirs open."""
        for delivery in _on(channel, running):
            self.lost(delivery)
        for delivery in _on(channel, returned):
            self._over(delivery, None)
        for delivery in _on(channel, self._due):
            self._over(delivery, self._due.pop(delivery))
        acked = _on(channel, self.unproven)
        self.take_proven(acked)
        for delivery in acked:
            self._over(delivery, None)

    def lost(self, delivery: Delivery) -> None:
        """Remember a run on a channel that is gone."""
        ack_sent = delivery.settled and not delivery.was_dropped
        self.ledger.lost(delivery, ack_sent=ack_sent)

    def ended(self, delivery: Delivery, settle: Settle | None = None) -> None:
        """Note that a run is over; *settle* brings its result to the redelivery, if there is one.

        Without *settle* the redelivery is acked if the run was, else it stays open.
        """
        if delivery.is_stale:
            self._over(delivery, settle)

    def acked(self, delivery: Delivery) -> None:
        """Note an ack; if it was sent, whether it arrives is not known yet."""
        if delivery.settled and not delivery.was_dropped and len(delivery.body) < LARGE:
            self.unproven.append(delivery)

    def _over(self, delivery: Delivery, settle: Settle | None) -> None:
        self.lost(delivery)
        self.ledger.ended(delivery, settle)

    # -- the redelivery ---------------------------------------------------------------------------

    def absorb(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Return those of *deliveries* that are to run, and what has a result to be carried out."""
        return [run for each in deliveries if (run := self._runs(each)) is not None]

    def _runs(self, again: Delivery) -> Delivery | None:
        match = self.ledger.match(again)
        if match is None:
            return again
        self.absorbed += 1
        extra = {"queue": again.queue, "message_id": again.message_id}
        log.info("event came again; its first run counts", extra=extra)
        return self._put_in_place(match, again)

    def _put_in_place(self, match: Match[Delivery], again: Delivery) -> Delivery | None:
        first = match.run
        if first.settled:
            again.ack()
            self.acked(again)
            return None
        first.take_over(again)
        if match.settle is None:
            return None
        self._due[first] = match.settle
        return first

    def settle(self, delivery: Delivery) -> bool:
        """Carry out the result that waits for *delivery*'s turn. Returns False if there is none."""
        settle = self._due.pop(delivery, None)
        if settle is None:
            return False
        settle()
        return True

    # -- proof ------------------------------------------------------------------------------------

    def unproven_on(self, channel: Channel) -> list[Delivery]:
        """What was acked on *channel* and may not have arrived."""
        return _on(channel, self.unproven)

    def take_proven(self, deliveries: Iterable[Delivery]) -> None:
        """Forget *deliveries*: the broker has answered what was sent after their acks."""
        proven = set(deliveries)
        rest = [each for each in self.unproven if each not in proven]
        self.unproven.clear()
        self.unproven.extend(rest)

    def status(self) -> dict[str, int]:
        """Return counts for status pages."""
        return {"lost_runs": len(self.ledger), "absorbed": self.absorbed}


def _on(channel: Channel, deliveries: Iterable[Delivery]) -> list[Delivery]:
    return [each for each in deliveries if each.channel is channel]
