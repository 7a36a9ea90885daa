"""Back to work: whether a dead letter may go to a queue, and what is sent then. Pure functions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from attrs import evolve

from limehub.amqp import headers as own
from limehub.amqp import moves
from limehub.amqp.message import Outgoing, encodable, encoded_size
from limehub.amqp.moves import Movable
from limehub.config import QUEUE_NAMESPACE
from limehub.deadletters.item import EXPIRES_AT, FOREIGN, DeadLetter, is_foreign
from limehub.deadletters.plain import rfc3339

__all__ = [
    "expiring",
    "fitted",
    "is_too_large",
    "objection",
    "requeued",
    "same_letter",
    "with_body",
]

FRAME_OVERHEAD = 8
LONGEST_EXPIRATION = 2**32 - 1
"""Milliseconds; the broker closes the channel over more (measured)."""
_FLEETING = (".dlq.lock", ".dlq.trash")
_OF_THE_DESK = (EXPIRES_AT, FOREIGN)


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
    if target.startswith(QUEUE_NAMESPACE) and target.endswith(_FLEETING):
        return f"{target} is a queue of the desk's own: it would not stay there"
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
    headers = {name: value for name, value in message.headers.items() if name not in _OF_THE_DESK}
    if is_foreign(delivery):
        origin = {own.EXCHANGE: letter.exchange, own.ROUTING_KEY: letter.routing_key}
        headers |= {**origin, own.QUEUE: queue}
    return evolve(message, headers=headers)


def with_body(message: Outgoing, body: bytes) -> Outgoing:
    """Return *message* with another *body*, in UTF-8 if it is text; its headers stay."""
    properties = {**message.properties, "content_encoding": "utf-8"}
    return evolve(message, body=body, properties=properties)


def same_letter(message: Outgoing, delivery: Movable, letter: DeadLetter) -> Outgoing:
    """Return *message*, a copy of *delivery*, as the same dead letter: with its id and its story.

    A foreign one is written down as one of ours from then on.
    """
    if delivery.is_moved:
        kept = (own.ID, own.REASON, own.RETRIES)
        told = {name: delivery.headers[name] for name in kept if name in delivery.headers}
        identity = {name: encodable(value) for name, value in told.items()}
    else:
        identity = {**_origin_of(letter), own.ID: letter.id, FOREIGN: True}
    if letter.expires_at is not None:
        identity[EXPIRES_AT] = rfc3339(letter.expires_at)
    return evolve(message, headers={**message.headers, **identity})


def expiring(message: Outgoing, at: datetime | None, now: datetime) -> Outgoing:
    """Return *message* with the expiration that ends *at*; None, or beyond counting: never."""
    if at is None:
        return message
    # "0" would vanish at once, which is what it should do, but with a confirm.
    milliseconds = max(1, round((at - now).total_seconds() * 1000))
    if milliseconds > LONGEST_EXPIRATION:
        return message
    return evolve(message, properties={**message.properties, "expiration": str(milliseconds)})


def _origin_of(letter: DeadLetter) -> dict[str, Any]:
    story = {
        own.EXCHANGE: letter.exchange,
        own.ROUTING_KEY: letter.routing_key,
        own.QUEUE: letter.queue,
        own.HANDLER: letter.handler,
        own.REASON: letter.reason,
        own.ATTEMPTS: letter.attempts,
        own.FIRST_FAILURE: rfc3339(letter.first_failed_at),
        own.LAST_FAILURE: rfc3339(letter.last_failed_at),
    }
    return {name: value for name, value in story.items() if value is not None}


def fitted(message: Outgoing, frame_max: int) -> Outgoing:
    """Return *message* without its traceback if its headers would not fit into a frame."""
    if not is_too_large(message, frame_max):
        return message
    headers = {name: value for name, value in message.headers.items() if name != own.TRACEBACK}
    return evolve(message, headers=headers)


def is_too_large(message: Outgoing, frame_max: int) -> bool:
    """Whether its headers do not fit into a frame: that would cost the whole connection."""
    return encoded_size(message) + FRAME_OVERHEAD > frame_max
