"""Back to work: whether a dead letter may go to a queue, and what is sent then. Pure functions."""

from __future__ import annotations

from attrs import evolve

from limehub.amqp import headers as own
from limehub.amqp import moves
from limehub.amqp.message import Outgoing, encoded_size
from limehub.amqp.moves import Movable
from limehub.config import QUEUE_NAMESPACE
from limehub.deadletters.item import DeadLetter

__all__ = ["is_too_large", "objection", "requeued"]

FRAME_OVERHEAD = 8


def objection(letter: DeadLetter, to: str | None, *, app: str, is_foreign: bool, ours: bool) -> str:
    """Return why *letter* cannot be sent to *to*, else to its handler's queue; empty if it can.

    *app*: whose dead letter it is; *ours*: whether its exchange is that of one of our applications.
    """
    target = to or letter.queue
    if not target:
        return "it does not say which queue it failed in; name one with --to QUEUE"
    if is_foreign and to is None:
        return f"the broker moved it here, from {target}; confirm the queue with --to {target}"
    if to is None and not target.startswith(f"{QUEUE_NAMESPACE}{app}."):
        return f"it names {target}, which is no queue of {app}; confirm it with --to {target}"
    if target == f"{QUEUE_NAMESPACE}{app}.dlq":
        return f"{target} is the dead letter queue that it is in"
    if target.startswith(QUEUE_NAMESPACE) and not ours:
        source = f"exchange {letter.exchange!r}" if letter.exchange else "an unknown exchange"
        return f"it comes from {source}, of no configured application: no handler would run it"
    return ""


def requeued(delivery: Movable, letter: DeadLetter, queue: str) -> Outgoing:
    """Return the message that goes to *queue*.

    A foreign one gets the exchange and routing key of its x-death as headers, because on the
    default exchange handlers learn their application from there.
    """
    message = moves.requeue(delivery, queue=queue)
    if delivery.is_moved:
        return message
    origin = {own.EXCHANGE: letter.exchange, own.ROUTING_KEY: letter.routing_key, own.QUEUE: queue}
    return evolve(message, headers={**message.headers, **origin})


def is_too_large(message: Outgoing, frame_max: int) -> bool:
    """Whether its headers do not fit into a frame: that would cost the whole connection."""
    return encoded_size(message) + FRAME_OVERHEAD > frame_max
