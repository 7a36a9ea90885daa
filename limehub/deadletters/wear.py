"""Looking must not wear messages out. A quorum queue counts how often each came back; with a limit,
which RabbitMQ 4 sets at 20 by itself, it drops them when they were looked at too often (measured).

limehub's own queues have no limit. In a queue of somebody else's, worn messages are written anew,
each behind the others, before that happens.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from limehub.amqp import moves
from limehub.amqp.connection import BrokerConnection
from limehub.amqp.delivery import Delivery
from limehub.amqp.message import Outgoing
from limehub.amqp.publisher import Publisher
from limehub.amqp.topology import declare_queue, dlq_spec
from limehub.deadletters.item import ApplicationOf, DeadLetter, read
from limehub.deadletters.movers import Sender, Tally
from limehub.deadletters.results import Progress
from limehub.deadletters.targets import expiring, same_letter
from limehub.deadletters.walk import Walk
from limehub.errors import BrokerError

__all__ = ["renew_if_worn"]

log = logging.getLogger(__name__)

DEFAULT_LIMIT = 20


def renew_if_worn(walk: Walk, publisher: Publisher, application_of: ApplicationOf) -> int:
    """Write the messages of *walk*, which is closed, anew if they came back half as often as their
    queue allows. Returns how many were. Whoever looks is not bothered if it fails."""
    if not walk.most_returns:
        return 0
    try:
        limit = delivery_limit(walk.connection, walk.queue)
        if limit is None or walk.most_returns < limit // 2:
            return 0
        return _renewed(walk, publisher, application_of)
    except BrokerError as error:
        extra = {"queue": walk.queue, "cause": str(error)}
        log.warning("worn messages could not be written anew", extra=extra)
        return 0


def delivery_limit(connection: BrokerConnection, queue: str) -> int | None:
    """Return how often *queue*, which exists, gives a message back before it drops it; None: ever.

    Set by argument only: AMQP does not tell policies.
    """
    for mismatch in declare_queue(connection, dlq_spec(queue, queue_type="quorum")):
        if mismatch.argument == "x-delivery-limit" and mismatch.loses_messages:
            return DEFAULT_LIMIT if mismatch.actual is None else int(mismatch.actual)
    return None


def _renewed(walk: Walk, publisher: Publisher, application_of: ApplicationOf) -> int:
    tally = Tally(progress=Progress())
    whole = Walk(walk.connection, walk.queue)
    sender = Sender(whole, tally, publisher, _anew)
    for delivery in whole:
        sender.start(read(delivery, application_of), delivery)
    sender.finish()
    whole.close()
    log.info("wrote worn dead letters anew", extra={"queue": walk.queue, "count": tally.done})
    return tally.done


def _anew(letter: DeadLetter, delivery: Delivery) -> Outgoing:
    """Return the same letter for the same queue, with its id and its own time to expire."""
    message = same_letter(moves.requeue(delivery, queue=delivery.queue), delivery, letter)
    return expiring(message, letter.expires_at, datetime.now(UTC))
