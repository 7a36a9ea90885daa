"""The mover: dead letters and long retries leave by a confirmed publish, then comes the ack.

If we die between the two there is a duplicate, never a loss. If the target cannot take it, the
original stays unacked and the mover tries on, visibly.
"""

from __future__ import annotations

import logging

import gevent
from attrs import frozen

from limehub.amqp import moves
from limehub.amqp.delivery import Delivery
from limehub.amqp.message import Outgoing
from limehub.amqp.moves import Failure
from limehub.amqp.publisher import Publisher
from limehub.amqp.topology import (
    QueueSpec,
    declare_queue,
    dlq_spec,
    retry_queue_spec,
    retry_step,
)
from limehub.errors import BrokerError, Unroutable

__all__ = ["Mover"]

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
SEND_TIMEOUT = 3600.0
SAY_AFTER = 5.0


@frozen(kw_only=True)
class _Move:
    delivery: Delivery
    message: Outgoing
    target: QueueSpec
    is_copy: bool


class Mover:
    """Moves deliveries with *publisher*. *dlq_ttl*: seconds. `trouble`: target queue -> cause."""

    def __init__(self, publisher: Publisher, *, dlq_ttl: float, queue_type: str) -> None:
        self.trouble: dict[str, str] = {}
        self.moved = 0
        self._publisher = publisher
        self._ttl = dlq_ttl
        self._queue_type = queue_type
        self._stopped = False

    def stop(self) -> None:
        """Give up what cannot be stored now; the originals go back to their queues."""
        self._stopped = True

    def dead_letter(self, delivery: Delivery, failure: Failure, dlq: str) -> bool:
        """Store a copy in *dlq*, then ack. Returns False if it was given up."""
        message = moves.dead_letter(
            delivery, failure, dlq=dlq, ttl=self._ttl, frame_max=self._publisher.frame_max
        )
        target = dlq_spec(dlq, queue_type=self._queue_type)
        return self._carry_out(
            _Move(delivery=delivery, message=message, target=target, is_copy=delivery.settled)
        )

    def retry_later(self, delivery: Delivery, failure: Failure, delay: float) -> bool:
        """Store it in the retry queue for *delay* seconds, then ack."""
        target = retry_queue_spec(delivery.queue, retry_step(delay), queue_type=self._queue_type)
        message = moves.retry(
            delivery,
            failure,
            retry_queue=target.name,
            retries=delivery.retries + 1,
            frame_max=self._publisher.frame_max,
        )
        return self._carry_out(
            _Move(delivery=delivery, message=message, target=target, is_copy=False)
        )

    def _carry_out(self, move: _Move) -> bool:
        if not self._store(move):
            if move.is_copy:
                extra = {"queue": move.delivery.queue, "message_id": move.delivery.message_id}
                log.error("a failure after the ack could not be kept", extra=extra)
            return False
        self.moved += 1
        if not move.is_copy:
            move.delivery.ack()
        return True

    def _store(self, move: _Move) -> bool:
        pause = FIRST_PAUSE
        while not self._stopped:
            if move.delivery.is_stale and not move.is_copy:
                self.trouble.pop(move.target.name, None)
                return False  # the broker has given it to somebody again
            try:
                self._send(move)
            except BrokerError as error:
                self._note(move.target.name, str(error))
                gevent.sleep(pause)
                pause = min(LONGEST_PAUSE, pause * 2)
            else:
                self._recovered(move.target.name)
                return True
        return False

    def _send(self, move: _Move) -> None:
        """Send and wait, also through a broker's alarm: a second try would be a second copy."""
        waiting = gevent.spawn_later(SAY_AFTER, self._note_waiting, move.target.name)
        try:
            try:
                self._publisher.send(move.message, timeout=SEND_TIMEOUT)
            except Unroutable:
                self._publisher.call(lambda connection: declare_queue(connection, move.target))
                self._publisher.send(move.message, timeout=SEND_TIMEOUT)
        finally:
            waiting.kill(block=False)

    def _note_waiting(self, queue: str) -> None:
        self._note(queue, f"no confirm yet; publisher: {self._publisher.state}")

    def _note(self, queue: str, cause: str) -> None:
        if queue not in self.trouble:
            extra = {"queue": queue, "cause": cause}
            log.error("cannot store in queue; keeping the original", extra=extra)
        self.trouble[queue] = cause

    def _recovered(self, queue: str) -> None:
        if self.trouble.pop(queue, None) is not None:
            log.info("can store in queue again", extra={"queue": queue})
