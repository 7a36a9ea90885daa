"""A dead letter as people see it: one message of a dead letter queue, read without changing it.

limehub's own dead letters tell their story in `x-limehub-*` headers. Foreign ones, which the
broker moved by a queue's dead-letter arguments, tell less of it in `x-death`. Pure functions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from attrs import field, frozen

from limehub.amqp import headers as own
from limehub.amqp.moves import Movable
from limehub.config import QUEUE_NAMESPACE
from limehub.deadletters.plain import (
    HEAD_BYTES,
    BodyEncoding,
    body_of,
    head_of,
    later,
    moment_of,
    plain,
    preview_of,
    text_of,
)
from limehub.deadletters.wire import FLAT, PLAIN, to_json

__all__ = [
    "EXPIRES_AT",
    "FOREIGN",
    "ApplicationOf",
    "Cause",
    "DeadLetter",
    "WholeDeadLetter",
    "is_foreign",
    "read",
    "read_whole",
]

EXPIRES_AT = "x-limehub-expires-at"
"""When a letter that was deleted and brought back expires; its `expiration` began anew."""

FOREIGN = "x-limehub-foreign"
"""On a letter of the broker's that was deleted and brought back: nobody vouches for its queue."""

ApplicationOf = Callable[[str], str | None]
"""Exchange -> the application whose events it carries, None if it is not one of ours."""

SHOWN_BYTES = 1024 * 1024
"""A larger body is shown by its beginning."""

# Neither what stands in its place in a URL of the API, nor what tells equal letters apart.
_ID = re.compile(
    r"(?!(?:groups|deletions|export)$)(?!.*\.[0-9]*$)[A-Za-z0-9._:@+=~-]{1,128}",
)
# Looking at a message changes them: they must not change its id.
_COUNTERS = frozenset(["x-delivery-count", "x-acquired-count"])


@frozen(kw_only=True)
class Cause:
    """What was raised. *where*: `file:line in function`. All empty if nobody knows."""

    type: str = ""
    message: str = ""
    where: str = ""


@frozen(kw_only=True)
class DeadLetter:
    """One dead letter, without its body. *size*: bytes; *preview*: one line, at most 200 chars.

    *exchange*, *routing_key*: where it was first published; *queue*: where it failed.
    *attempts*: runs so far; for foreign ones how often the broker moved it.
    """

    id: str
    message_id: str | None
    application: str | None
    exchange: str
    routing_key: str
    queue: str
    handler: str
    exception: Cause
    reason: str
    attempts: int
    first_failed_at: datetime | None
    last_failed_at: datetime | None
    expires_at: datetime | None
    size: int
    content_type: str | None
    preview: str

    def as_item(self) -> dict[str, Any]:
        """Return it as JSON shows it in a list."""
        return dict(to_json(self))


@frozen(kw_only=True)
class WholeDeadLetter:
    """A dead letter with everything that its message holds. *body*: see `plain.body_of`; of a
    large one the beginning only, then *body_truncated*."""

    item: DeadLetter = field(metadata=FLAT)
    body: Any = field(metadata=PLAIN)
    body_encoding: BodyEncoding
    body_truncated: bool
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    traceback: str

    def as_whole(self) -> dict[str, Any]:
        """Return it as JSON shows it alone."""
        return dict(to_json(self))


def is_foreign(delivery: Movable) -> bool:
    """Whether the broker, or a stranger, put it into the dead letter queue."""
    return not delivery.is_moved or bool(delivery.headers.get(FOREIGN))


def read(
    delivery: Movable, application_of: ApplicationOf, *, size: int | None = None
) -> DeadLetter:
    """Return what *delivery*, a message of a dead letter queue, says about itself.

    *size*: bytes of its body, if that is not whole.
    """
    story = _own_story(delivery) if delivery.is_moved else _foreign_story(delivery)
    properties, exchange = delivery.properties, story["exchange"]
    size = len(delivery.body) if size is None else size
    told = moment_of(delivery.headers.get(EXPIRES_AT)) if delivery.is_moved else None
    return DeadLetter(
        id=_id(delivery, size),
        message_id=text_of(properties.get("message_id")) or None,
        application=application_of(exchange) or _application_in(exchange),
        expires_at=told or _expiry(story["last_failed_at"], properties.get("expiration")),
        size=size,
        content_type=text_of(properties.get("content_type")) or None,
        preview=preview_of(delivery.body),
        **story,
    )


def read_whole(delivery: Movable, item: DeadLetter) -> WholeDeadLetter:
    """Return *item*, which was read from *delivery*, with body, headers and properties."""
    encoding = text_of(delivery.properties.get("content_encoding")) or None
    is_large = len(delivery.body) > SHOWN_BYTES
    body, body_encoding = (
        head_of(delivery.body[:HEAD_BYTES])
        if is_large
        else body_of(delivery.body, item.content_type, encoding)
    )
    return WholeDeadLetter(
        item=item,
        body=body,
        body_encoding=body_encoding,
        body_truncated=is_large,
        headers=plain(delivery.headers),
        properties=plain(delivery.properties),
        traceback=text_of(delivery.headers.get(own.TRACEBACK)) if delivery.is_moved else "",
    )


def _own_story(delivery: Movable) -> dict[str, Any]:
    headers = delivery.headers
    queue = text_of(headers.get(own.QUEUE))
    return {
        "exchange": delivery.exchange,
        "routing_key": text_of(delivery.routing_key),
        "queue": queue,
        "handler": text_of(headers.get(own.HANDLER)) or _handler_in(queue),
        "exception": Cause(
            type=text_of(headers.get(own.EXCEPTION_TYPE)),
            message=text_of(headers.get(own.EXCEPTION_TEXT)),
            where=text_of(headers.get(own.WHERE)),
        ),
        "reason": text_of(headers.get(own.REASON)) or text_of(_deaths(headers)[0].get("reason")),
        "attempts": own.whole(headers.get(own.ATTEMPTS)),
        "first_failed_at": moment_of(headers.get(own.FIRST_FAILURE)),
        "last_failed_at": moment_of(headers.get(own.LAST_FAILURE)),
    }


def _foreign_story(delivery: Movable) -> dict[str, Any]:
    """x-death lists the newest move first; the oldest names the first exchange."""
    deaths = _deaths(delivery.headers)
    newest, oldest = deaths[0], deaths[-1]
    queue = text_of(newest.get("queue"))
    keys = oldest.get("routing-keys")
    key = keys[0] if isinstance(keys, list) and keys else delivery.routing_key
    return {
        "exchange": text_of(oldest.get("exchange", delivery.exchange)),
        "routing_key": text_of(key),
        "queue": queue,
        "handler": _handler_in(queue),
        "exception": Cause(),
        "reason": text_of(newest.get("reason")),
        "attempts": own.whole(newest.get("count")),
        "first_failed_at": moment_of(oldest.get("time")),
        "last_failed_at": moment_of(newest.get("time")),
    }


def _deaths(headers: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entries of x-death; one empty one if there are none."""
    entries = headers.get("x-death")
    given = entries if isinstance(entries, list) else []
    return [entry for entry in given if isinstance(entry, Mapping)] or [{}]


def _id(delivery: Movable, size: int) -> str:
    """Return its own id if that can stand in a URL, else a hash of all that it is."""
    given = delivery.headers.get(own.ID) if delivery.is_moved else None
    is_good = isinstance(given, str) and _ID.fullmatch(given)
    return str(given) if is_good else _fingerprint(delivery, size)


def _fingerprint(delivery: Movable, size: int) -> str:
    """Return a hash of what a foreign message is; the same whenever it is looked at, and whether
    its body is whole or cut."""
    headers = {name: value for name, value in delivery.headers.items() if name not in _COUNTERS}
    parts = [delivery.exchange, delivery.routing_key, delivery.properties, headers, size]
    envelope = json.dumps([plain(part) for part in parts], sort_keys=True)
    return hashlib.sha256(envelope.encode() + b"\n" + delivery.body[:HEAD_BYTES]).hexdigest()[:32]


def _application_in(exchange: str) -> str | None:
    """Return the application in an exchange's name, as of one that is no longer configured."""
    return exchange.removeprefix("lime.") if exchange.startswith("lime.") else None


def _handler_in(queue: str) -> str:
    return queue.removeprefix(QUEUE_NAMESPACE) if queue.startswith(QUEUE_NAMESPACE) else ""


def _expiry(failed_at: datetime | None, expiration: Any) -> datetime | None:
    """*expiration*: milliseconds as text, counted from when it was dead-lettered."""
    text = text_of(expiration)
    if failed_at is None or not (text.isascii() and text.isdigit() and len(text) < 12):
        return None
    return later(failed_at, int(text) / 1000)
