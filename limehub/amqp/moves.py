"""Moves: the one place that rewrites a message which limehub sends on.

Properties act on routing (all measured on RabbitMQ 3.10): a `CC` header sends copies elsewhere and
can satisfy `mandatory` while the dead letter queue is missing; a foreign `user_id` closes the
channel with 406; a kept `expiration` deletes the requeued event. Pure functions, no broker.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import uuid4

from attrs import evolve, frozen

from limehub.amqp import headers as own
from limehub.amqp.message import Outgoing, encodable, encoded_size, header_size, short

__all__ = ["Failure", "Movable", "dead_letter", "failure_of", "requeue", "retry"]

FRAME_OVERHEAD = 8
MAX_TRACEBACK_CHARS = 16_000
MAX_TEXT_CHARS = 4_000
MAX_NAME_CHARS = 500
ROOM_FOR_DROPPED = 1_024
"""Bytes that the names of dropped headers may take."""
_ROUTING_HEADERS = frozenset(["CC", "BCC"])
_DEATH_PREFIXES = ("x-death", "x-first-death", "x-last-death")
_DESCRIBED = frozenset([
    own.ID, own.EXCHANGE, own.ROUTING_KEY, own.QUEUE, own.HANDLER, own.EXCEPTION_TYPE,
    own.EXCEPTION_TEXT, own.TRACEBACK, own.WHERE, own.ATTEMPTS, own.FIRST_FAILURE,
    own.LAST_FAILURE, own.REASON,
])  # fmt: skip
_DROPPED = frozenset(["user_id", "expiration", "delivery_mode", "cluster_id"])


class Movable(Protocol):
    """What a move needs of a delivery."""

    @property
    def body(self) -> bytes: ...
    @property
    def exchange(self) -> str: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, Any]: ...
    @property
    def properties(self) -> Mapping[str, Any]: ...
    @property
    def is_moved(self) -> bool: ...


@frozen(kw_only=True)
class Failure:
    """Why an event is moved. *attempts*: runs so far, with this one; *at*: UTC."""

    handler: str
    reason: str
    exception_type: str = ""
    exception_text: str = ""
    traceback: str = ""
    where: str = ""
    attempts: int = 1
    at: datetime


def failure_of(
    error: BaseException | None, *, handler: str, reason: str, attempts: int, text: str = ""
) -> Failure:
    """Return the failure that *error* is; *text* speaks where there is no exception."""
    now = datetime.now(UTC)
    if error is None:
        return Failure(
            handler=handler,
            reason=reason,
            exception_text=_cut(text, MAX_TEXT_CHARS),
            attempts=attempts,
            at=now,
        )
    return Failure(
        handler=handler,
        reason=reason,
        exception_type=_cut(_type_of(error), MAX_NAME_CHARS),
        exception_text=_cut(_text_of(error), MAX_TEXT_CHARS),
        traceback=_traceback_of(error),
        where=_cut(_where(error), MAX_NAME_CHARS),
        attempts=attempts,
        at=now,
    )


def dead_letter(
    delivery: Movable, failure: Failure, *, dlq: str, ttl: float, frame_max: int
) -> Outgoing:
    """Return the copy of *delivery* for the queue *dlq*. *ttl*: seconds, 0 = never expires."""
    headers = _carried(delivery) | _described(delivery, failure) | {own.ID: str(uuid4())}
    properties = _kept(delivery)
    if ttl:  # expiration "0" would vanish at once
        properties["expiration"] = str(max(1, round(ttl * 1000)))
    return _fitted(_outgoing(dlq, delivery.body, headers, properties), frame_max)


def retry(
    delivery: Movable, failure: Failure, *, retry_queue: str, retries: int, frame_max: int
) -> Outgoing:
    """Return the copy that waits in *retry_queue* and comes back to the handler's queue.

    *retries*: how many this one is since the event came or was last requeued.
    """
    headers = _carried(delivery) | _described(delivery, failure) | {own.RETRIES: retries}
    return _fitted(_outgoing(retry_queue, delivery.body, headers, _kept(delivery)), frame_max)


def requeue(delivery: Movable, *, queue: str) -> Outgoing:
    """Return the copy of a dead letter that goes back to *queue*, the queue of its handler.

    A person has decided: its retries start anew, its attempts go on counting.
    """
    headers = {
        name: value
        for name, value in _carried(delivery).items()
        if name not in (own.RETRIES, own.REASON, own.ID)
    }
    return _outgoing(queue, delivery.body, headers, _kept(delivery))


def _outgoing(
    queue: str, body: bytes, headers: Mapping[str, Any], properties: Mapping[str, Any]
) -> Outgoing:
    return Outgoing(
        exchange="", routing_key=queue, body=body, headers=headers, properties=properties
    )


def _carried(delivery: Movable) -> dict[str, Any]:
    """Headers that go along. Ours are kept only if limehub wrote them: nobody forges a tenant."""
    carried = {}
    for name, value in delivery.headers.items():
        carried[_renamed(short(name), trusted=delivery.is_moved)] = encodable(value)
    for name, header in (("expiration", own.EXPIRATION), ("user_id", own.USER_ID)):
        if name in delivery.properties and not delivery.is_moved:
            carried[header] = str(delivery.properties[name])
    return carried


def _renamed(name: str, *, trusted: bool) -> str:
    acts_on_routing = name in _ROUTING_HEADERS or name.startswith(_DEATH_PREFIXES)
    forged = name.startswith(own.PREFIX) and not name.startswith(own.ORIGINAL) and not trusted
    return short(own.ORIGINAL + name) if acts_on_routing or forged else name


def _kept(delivery: Movable) -> dict[str, Any]:
    return {
        name: short(value) if isinstance(value, str) else value
        for name, value in delivery.properties.items()
        if name not in _DROPPED
    }


def _described(delivery: Movable, failure: Failure) -> dict[str, Any]:
    at = failure.at.isoformat(timespec="milliseconds")
    before = delivery.headers.get(own.FIRST_FAILURE) if delivery.is_moved else None
    first = short(before) if isinstance(before, str) else None
    return {
        own.EXCHANGE: short(delivery.exchange),
        own.ROUTING_KEY: short(delivery.routing_key),
        own.QUEUE: delivery.queue,
        own.HANDLER: failure.handler,
        own.EXCEPTION_TYPE: failure.exception_type,
        own.EXCEPTION_TEXT: failure.exception_text,
        own.TRACEBACK: failure.traceback,
        own.WHERE: failure.where,
        own.ATTEMPTS: failure.attempts,
        own.FIRST_FAILURE: first or at,
        own.LAST_FAILURE: at,
        own.REASON: failure.reason,
    }


def _fitted(message: Outgoing, frame_max: int) -> Outgoing:
    """Make the header frame fit into *frame_max*: a larger one would cost the whole connection.

    The traceback is cut first, then the text; if a publisher's own headers fill the frame, the
    largest of them go, named in `x-limehub-original-dropped`. The body is never touched.
    """
    for header in (own.TRACEBACK, own.EXCEPTION_TEXT):
        excess = _excess(message, frame_max)
        if excess <= 0:
            return message
        value = str(message.headers.get(header, "")).encode()
        cut = value[: max(0, len(value) - excess - 16)].decode("utf-8", "ignore")
        message = evolve(message, headers={**message.headers, header: cut})
    excess = _excess(message, frame_max)
    return message if excess <= 0 else _without_largest(message, excess + ROOM_FOR_DROPPED)


def _without_largest(message: Outgoing, excess: int) -> Outgoing:
    """Drop headers that are not ours, the largest first, until *excess* bytes are gone.

    Measured once and in one pass: a frame can hold 25,000 headers, and the hub waits for us.
    """
    sizes = {
        name: header_size(name, value)
        for name, value in message.headers.items()
        if name not in _DESCRIBED
    }
    dropped = []
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if excess <= 0:
            break
        excess -= sizes[name]
        dropped.append(name)
    gone = {*dropped, own.DROPPED}
    headers = {name: value for name, value in message.headers.items() if name not in gone}
    return evolve(message, headers={**headers, own.DROPPED: _listed(dropped)})


def _listed(names: list[str]) -> list[str]:
    """Return as many of *names* as there is room for, then how many more there are."""
    room = ROOM_FOR_DROPPED - 128
    listed: list[str] = []
    for name in names:
        room -= len(name.encode()) + 5
        if room < 0:
            return [*listed, f"and {len(names) - len(listed)} more"]
        listed.append(name)
    return listed


def _excess(message: Outgoing, frame_max: int) -> int:
    return encoded_size(message) + FRAME_OVERHEAD - frame_max


def _type_of(error: BaseException) -> str:
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__name__
    return f"{kind.__module__}.{kind.__qualname__}"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - a plugin's __str__ is a plugin's code
        return f"<{type(error).__name__}.__str__ raised {type(broken).__name__}>"


def _traceback_of(error: BaseException) -> str:
    try:
        lines = traceback.format_exception(error)
    except Exception:  # noqa: BLE001 - formatting calls a plugin's __str__ and __repr__
        lines = traceback.format_tb(error.__traceback__)
    return _cut("".join(lines), MAX_TRACEBACK_CHARS)


def _cut(text: str, limit: int) -> str:
    """Keep the end, which names the error."""
    return _clean(text if len(text) <= limit else "... " + text[4 - limit :])


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _where(error: BaseException) -> str:
    """Return `file:line in function` of the innermost frame."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    last = frames[-1]
    return f"{last.filename}:{last.lineno} in {last.name}"
