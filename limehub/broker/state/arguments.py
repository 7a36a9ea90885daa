"""Arguments of queues and exchanges: what is valid, and whether two declarations are the same.

Texts are those of RabbitMQ 3.10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen

from limehub.broker.refusals import ChannelRefusal
from limehub.broker.tables import Field, Table, text_of

__all__ = [
    "COMPARED",
    "COMPARED_QUORUM",
    "MAX_TTL",
    "QueueSettings",
    "assert_equivalent",
    "queue_settings",
    "string_argument",
]

MAX_TTL = 315_360_000_000
"""Milliseconds: ten years, RabbitMQ's limit for all that expires."""

COMPARED = (
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-max-length",
    "x-max-length-bytes",
    "x-single-active-consumer",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
)
COMPARED_QUORUM = (
    "x-delivery-limit",
    "x-quorum-initial-group-size",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-queue-leader-locator",
)
"""What two declarations of a quorum queue must have in common besides."""

_QUORUM_ONLY = (
    "x-delivery-limit",
    "x-dead-letter-strategy",
    "x-quorum-initial-group-size",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
)
_CLASSIC_ONLY = ("x-max-priority", "x-queue-mode", "x-queue-version", "x-queue-master-locator")
_OVERFLOWS = ("drop-head", "reject-publish", "reject-publish-dlx")
_LOCATORS = ("client-local", "min-masters", "random")


@frozen(kw_only=True)
class QueueSettings:
    """What the arguments of a queue mean; times in seconds, None is no limit."""

    ttl: float | None = None
    expires: float | None = None
    max_length: int | None = None
    max_bytes: int | None = None
    overflow: str = "drop-head"
    dead_letter_exchange: str | None = None
    dead_letter_key: str | None = None
    max_priority: int = 0
    single_active: bool = False
    quorum: bool = False
    delivery_limit: int | None = None

    @property
    def is_limited(self) -> bool:
        """Whether a message may have to leave because another comes."""
        return self.max_length is not None or self.max_bytes is not None


def queue_settings(table: Table, where: str) -> QueueSettings:
    """Check the arguments of the queue *where* (`queue 'q' in vhost '/'`).

    Raises ChannelRefusal (406) for the first one that is invalid.
    """
    reader = _Reader(table, where)
    kind = reader.queue_type()
    reader.refuse(_CLASSIC_ONLY if kind == "quorum" else _QUORUM_ONLY, kind)
    reader.check_without_effect()
    exchange, key = reader.dead_letters()
    return QueueSettings(
        ttl=reader.seconds("x-message-ttl", zero=True),
        expires=reader.seconds("x-expires", zero=False),
        max_length=reader.number("x-max-length"),
        max_bytes=reader.number("x-max-length-bytes"),
        overflow=reader.choice("x-overflow", _OVERFLOWS, lambda _: "invalid_overflow")
        or "drop-head",
        dead_letter_exchange=exchange,
        dead_letter_key=key,
        max_priority=reader.priority(),
        single_active=reader.flag("x-single-active-consumer"),
        quorum=kind == "quorum",
        delivery_limit=reader.delivery_limit(),
    )


class _Reader:
    """Reads one queue's table; each method looks at one argument."""

    def __init__(self, table: Table, where: str) -> None:
        self._table = table
        self._where = where

    def refuse(self, names: tuple[str, ...], kind: str) -> None:
        for name in names:
            if name in self._table:
                raise ChannelRefusal(
                    406, f"invalid arg '{name}' for {self._where} of queue type rabbit_{kind}_queue"
                )

    def queue_type(self) -> str:
        return (
            self.choice(
                "x-queue-type",
                ("classic", "quorum"),
                lambda given: f"\"unsupported queue type '{given}'\"",
            )
            or "classic"
        )

    def check_without_effect(self) -> None:
        """Check what is accepted because it changes nothing on one node."""
        mode, version = "x-queue-mode", "x-queue-version"
        self.choice(
            mode, ("default", "lazy"), lambda given: f"\"unsupported queue mode '{given}'\""
        )
        if (number := self.number(version)) is not None and number not in (1, 2):
            raise self.invalid(version, f"\"unsupported queue version '{number}'\"")
        self.choice("x-queue-master-locator", _LOCATORS, lambda given: f"unknown locator '{given}'")
        self.choice(
            "x-dead-letter-strategy",
            ("at-most-once", "at-least-once"),
            lambda _: "invalid_dlx_strategy",
        )

    def dead_letters(self) -> tuple[str | None, str | None]:
        exchange = string_argument(self._table, "x-dead-letter-exchange", self._where)
        key = self.text("x-dead-letter-routing-key")
        if key is not None and exchange is None:
            raise self.invalid("x-dead-letter-routing-key", "routing_key_but_no_dlx_defined")
        return exchange, key

    def text(self, name: str) -> str | None:
        field = self._table.get(name)
        if field is None:
            return None
        if field.kind != b"S":
            raise self.invalid(name, f"{{unacceptable_type,{field.type_name}}}")
        return text_of(field.value)

    def choice(
        self, name: str, allowed: tuple[str, ...], complaint: Callable[[str], str]
    ) -> str | None:
        given = self.text(name)
        if given is not None and given not in allowed:
            raise self.invalid(name, complaint(given))
        return given

    def number(self, name: str) -> int | None:
        field = self._table.get(name)
        if field is None:
            return None
        if not field.is_integer:
            raise self.invalid(name, f'"expected integer, got {field.type_name}"')
        if field.value < 0:
            raise self.invalid(name, f"{{value_negative,{field.value}}}")
        return int(field.value)

    def seconds(self, name: str, *, zero: bool) -> float | None:
        number = self.number(name)
        if number is None:
            return None
        if number == 0 and not zero:
            raise self.invalid(name, "{value_zero,0}")
        if number > MAX_TTL:
            raise self.invalid(name, f"{{value_too_large,{number}}}")
        return number / 1000

    def priority(self) -> int:
        number = self.number("x-max-priority") or 0
        if number > 255:
            raise self.invalid("x-max-priority", f"{{max_value_exceeded,{number}}}")
        return number

    def flag(self, name: str) -> bool:
        field = self._table.get(name)
        if field is not None and field.kind != b"t":
            raise self.invalid(name, f"{{unacceptable_type,{field.type_name}}}")
        return field is not None and bool(field.value)

    def delivery_limit(self) -> int | None:
        field = self._table.get("x-delivery-limit")
        if field is None or not field.is_integer or field.value < 0:
            return None
        return int(field.value)

    def invalid(self, name: str, complaint: str) -> ChannelRefusal:
        return ChannelRefusal(406, f"invalid arg '{name}' for {self._where}: {complaint}")


def string_argument(table: Table, name: str, where: str) -> str | None:
    """Return the text of argument *name*. Raises ChannelRefusal (406) if it is no string."""
    field = table.get(name)
    if field is None:
        return None
    if field.kind != b"S":
        raise ChannelRefusal(406, f"invalid type '{field.type_name}' for arg '{name}' in {where}")
    return text_of(field.value)


def assert_equivalent(where: str, name: str, received: Any, current: Any) -> None:
    """Compare one property of two declarations. Raises ChannelRefusal (406) if they differ.

    *received*, *current*: bool, str, Field or None.
    """
    if _same(received, current):
        return
    if isinstance(received, Field | None) and isinstance(current, Field | None):
        texts = _differing_fields(received, current)
    else:
        texts = f"'{_shown(received)}'", f"'{_shown(current)}'"
    raise ChannelRefusal(
        406, f"inequivalent arg '{name}' for {where}: received {texts[0]} but current is {texts[1]}"
    )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Field) and isinstance(other, Field):
        return bool(one.value == other.value) and _kind(one) == _kind(other)
    return bool(one == other)


def _kind(field: Field) -> bytes:
    return b"I" if field.is_integer else field.kind


def _differing_fields(received: Field | None, current: Field | None) -> tuple[str, str]:
    if received and current and _kind(received) == _kind(current):
        return f"'{_shown(received)}'", f"'{_shown(current)}'"
    return _described(received), _described(current)


def _described(field: Field | None) -> str:
    if field is None:
        return "none"
    return f"the value '{_shown(field)}' of type '{field.type_name}'"


def _shown(value: Any) -> str:
    if isinstance(value, Field):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    return text_of(value) if isinstance(value, bytes) else str(value)
