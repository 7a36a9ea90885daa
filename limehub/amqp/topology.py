"""What must exist on the broker, and what to do when it exists otherwise.

Consumers declare and bind, publishers never do. A queue that exists with other arguments is used
as it is: whoever comes from Lime has queues with dead-letter arguments and must delete nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import field, frozen

from limehub.amqp.connection import BrokerConnection
from limehub.errors import ChannelClosed, ExchangeMissing

__all__ = [
    "Mismatch",
    "QueueSpec",
    "bind_all",
    "declare_queue",
    "dlq_spec",
    "ensure_exchange",
    "handler_queue_spec",
    "retry_queue_spec",
    "retry_step",
]

RETRY_STEPS = (15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400)
"""Seconds of the retry queues; a delay is rounded up to the next."""

UNREACHED = 1_000_000_000
"""The delivery limit of quorum queues on brokers older than RabbitMQ 4, where -1 is no "none" but
drops an event the first time that it is given back (measured on 3.10.8)."""

_LOSES_MESSAGES = ("x-message-ttl", "x-max-length", "x-max-length-bytes", "x-expires")
# "inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received none but current is the
# value '60000' of type 'signedint'"
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for (?:queue|exchange) .*: received (?P<wanted>.+?)"
    r" but current is (?:the value '(?P<value>.*)' of type '(?P<type>\w+)'"
    r"|(?P<none>none)|'(?P<plain>.*)')",
    re.DOTALL,
)
_NUMBER = re.compile(r"-?\d+")


@frozen(kw_only=True)
class Mismatch:
    """One argument that differs. *actual* and *wanted*: None = not set."""

    queue: str
    argument: str
    actual: Any
    wanted: Any

    @property
    def loses_messages(self) -> bool:
        """Whether such a queue drops events by itself."""
        if self.argument == "x-delivery-limit":
            return self._limits_deliveries
        transient = self.argument in ("durable", "auto_delete")
        return transient or (self.argument in _LOSES_MESSAGES and self.actual is not None)

    @property
    def _limits_deliveries(self) -> bool:
        """No limit is none before RabbitMQ 4 and 20 since; below zero is none only since."""
        if self.actual is None or self.actual < 0:
            return (self.wanted == UNREACHED) is (self.actual is not None)
        return bool(self.actual < UNREACHED)

    def __str__(self) -> str:
        return (
            f"queue {self.queue} exists with {self.argument}={_shown(self.actual)}, "
            f"limehub wants {_shown(self.wanted)}"
        )


@frozen(kw_only=True)
class QueueSpec:
    """A queue as limehub wants it; always durable."""

    name: str
    arguments: Mapping[str, Any] = field(factory=dict)


def handler_queue_spec(
    name: str, *, queue_type: str = "classic", single_active_consumer: bool = False
) -> QueueSpec:
    """Return the queue of a handler. It has no dead-letter arguments: limehub moves by itself."""
    arguments = _typed(queue_type)
    if single_active_consumer:
        arguments["x-single-active-consumer"] = True
    return QueueSpec(name=name, arguments=arguments)


def dlq_spec(name: str, *, queue_type: str = "classic") -> QueueSpec:
    """Return a dead letter queue: no TTL argument, each message carries its own expiration."""
    return QueueSpec(name=name, arguments=_typed(queue_type))


def retry_queue_spec(handler_queue: str, seconds: int, *, queue_type: str = "classic") -> QueueSpec:
    """Return the queue in which events wait *seconds*, then go back to *handler_queue*.

    One fixed TTL a queue, so that no event waits behind a longer one.
    """
    arguments = _typed(queue_type) | {
        "x-message-ttl": seconds * 1000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": handler_queue,
    }
    if queue_type == "quorum":  # the only broker-side dead-lettering that waits for its target
        arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    return QueueSpec(name=f"{handler_queue}.retry.{seconds}", arguments=arguments)


def retry_step(delay: float) -> int:
    """Return the seconds of the retry queue for *delay*: rounded up, at most a day."""
    return next((step for step in RETRY_STEPS if step >= delay), RETRY_STEPS[-1])


def declare_queue(connection: BrokerConnection, spec: QueueSpec) -> tuple[Mismatch, ...]:
    """Make sure that the queue exists; returns in what an existing one differs.

    RabbitMQ names one differing argument a time: it is taken over and the next try names the next.
    """
    version = connection.server_version
    arguments = _as_known_to(version, spec.arguments)
    found: list[Mismatch] = []
    for _ in range(16):
        channel = connection.open_channel()
        try:
            channel.declare_queue(spec.name, arguments)
        except ChannelClosed as error:
            mismatch = _mismatch_of(error, spec.name, arguments)
            if mismatch is None or any(each.argument == mismatch.argument for each in found):
                if found or error.code == 406:
                    return _passively(connection, spec, found, error)
                raise
            found.append(mismatch)
            if not mismatch.argument.startswith("x-"):
                return _passively(connection, spec, found, error)
            arguments = _as_known_to(version, _taken_over(arguments, mismatch))
        else:
            return tuple(found)
        finally:
            channel.close()
    return tuple(found)


def ensure_exchange(connection: BrokerConnection, name: str) -> bool:
    """Make sure that the exchange exists; one that exists is never altered. True = created."""
    channel = connection.open_channel()
    try:
        channel.check_exchange(name)
        return False
    except ExchangeMissing:
        channel = connection.open_channel()
        channel.declare_exchange(name)
        return True
    finally:
        channel.close()


def bind_all(connection: BrokerConnection, bindings: Iterable[tuple[str, str, str]]) -> int:
    """Bind (queue, exchange, key) triples, pipelined on one channel. Returns how many.

    Raises QueueMissing or ExchangeMissing with the broker's words for the first that fails.
    """
    channel = connection.open_channel()
    count = 0
    try:
        for queue, exchange, key in bindings:
            channel.bind(queue, exchange, key)
            count += 1
            if count % 500 == 0:
                channel.sync()  # keeps the hub and the broker's buffers breathing
        channel.sync()
    finally:
        channel.close()
    return count


def _typed(queue_type: str) -> dict[str, Any]:
    if queue_type == "quorum":
        # RabbitMQ 4 drops a message that is given back 21 times unless told otherwise (measured)
        return {"x-queue-type": "quorum", "x-delivery-limit": -1}
    return {"x-queue-type": queue_type}


def _mismatch_of(error: ChannelClosed, queue: str, arguments: Mapping[str, Any]) -> Mismatch | None:
    match = _INEQUIVALENT.search(error.text)
    if error.code != 406 or match is None:
        return None
    name = match["name"]
    text = match["plain"] if match["value"] is None else match["value"]  # either may be empty
    actual = None if match["none"] else _typed_value(text, match["type"])
    wanted = arguments.get(name) if name.startswith("x-") else match["wanted"].strip("'")
    return Mismatch(queue=queue, argument=name, actual=actual, wanted=wanted)


def _typed_value(text: str | None, kind: str | None) -> Any:
    if text is None:
        return None
    if kind in (
        "signedint",
        "long",
        "short",
        "byte",
        "unsignedint",
        "unsignedshort",
        "unsignedbyte",
    ):
        return int(text)
    if kind == "bool":
        return text == "true"
    if kind is None and _NUMBER.fullmatch(text):  # quorum queues say: current is '5'
        return int(text)
    return text


def _taken_over(arguments: Mapping[str, Any], mismatch: Mismatch) -> dict[str, Any]:
    taken = {**arguments, mismatch.argument: mismatch.actual}
    if mismatch.argument == "x-queue-type":  # what goes with the type that it really has
        taken |= {"x-delivery-limit": None} | _typed(str(mismatch.actual))
    return {name: value for name, value in taken.items() if value is not None}


def _as_known_to(version: tuple[int, ...], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return *arguments* as a broker of *version* understands them."""
    known = dict(arguments)
    if version < (4,) and known.get("x-delivery-limit") == -1:
        known["x-delivery-limit"] = UNREACHED
    return known


def _passively(
    connection: BrokerConnection, spec: QueueSpec, found: list[Mismatch], error: ChannelClosed
) -> tuple[Mismatch, ...]:
    """Take a queue as it is when its differences cannot be spelled out one by one."""
    channel = connection.open_channel()
    try:
        channel.check_queue(spec.name)
    finally:
        channel.close()
    return tuple(found) or (
        Mismatch(queue=spec.name, argument="declaration", actual=error.text, wanted="as declared"),
    )


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)
