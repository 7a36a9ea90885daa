"""Events as handlers see them, made of plain values; what a handler did with one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from attrs import define, field, frozen

from limehub.config import Config
from limehub.errors import AlreadySettled
from limehub.events import Event, LimeObjectEvent, Message
from limehub.plugins.forms import form_of
from limehub.plugins.lime import EventPublisher
from limehub.plugins.services import build_services
from limehub.plugins.settings import Settings

__all__ = ["ArrivedDelivery", "Outbox", "Published", "Run", "make_event", "run_handler"]


@define(kw_only=True)
class ArrivedDelivery:
    """What an event is made of: bytes, addresses, headers, properties by their AMQP names."""

    body: bytes
    routing_key: str = "core.limeobject.deal.update.v1"
    exchange: str = "lime.default"
    queue: str = "lime.event_handler.test.handler"
    tag: int = 1
    redelivered: bool = False
    headers: Mapping[str, Any] = field(factory=dict)
    properties: Mapping[str, Any] = field(factory=dict)
    attempts: int = 0
    damage: str | None = None

    @property
    def message_id(self) -> str | None:
        """The publisher's message id."""
        return self.properties.get("message_id") or None

    @property
    def coding(self) -> tuple[str | None, str | None]:
        """(content type, content encoding)"""
        return self.properties.get("content_type"), self.properties.get("content_encoding")


@define(eq=False)
class _Decisions:
    """Keeps what a handler decided. A second decision raises AlreadySettled, as in the server."""

    said: list[str] = field(factory=list)

    @property
    def settled(self) -> bool:
        return bool(self.said)

    def ack(self) -> None:
        self._say("ack")

    def reject(self, reason: str) -> None:
        self._say(f"reject: {reason}")

    def requeue(self) -> None:
        self._say("requeue")

    def _say(self, word: str) -> None:
        if self.said:
            raise AlreadySettled(f"{word} after {self.said[0]}")
        self.said.append(word)


@frozen(kw_only=True)
class Published:
    """One event that a handler published."""

    routing_key: str
    body: Any
    application: str | None
    exchange: str | None
    headers: Mapping[str, Any]
    message_id: str | None
    mandatory: bool
    content_type: str


@define(eq=False)
class Outbox:
    """A publisher that keeps what it is given, in *published*."""

    published: list[Published] = field(factory=list)

    def publish(
        self,
        routing_key: str,
        body: Any,
        *,
        application: str | None = None,
        exchange: str | None = None,
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        mandatory: bool = True,
        content_type: str = "application/json",
    ) -> str:
        """Keep the event; returns a message id."""
        event = Published(
            routing_key=routing_key,
            body=body,
            application=application,
            exchange=exchange,
            headers=headers or {},
            message_id=message_id,
            mandatory=mandatory,
            content_type=content_type,
        )
        self.published.append(event)
        return message_id or f"test-{len(self.published)}"


@frozen(kw_only=True)
class Run:
    """What one run of a handler did. *settled*: () or one of "ack", "requeue", "reject: why"."""

    returned: object
    settled: tuple[str, ...]
    published: list[Published]


def make_event(
    body: Any,
    *,
    kind: type[Event] = LimeObjectEvent,
    application: str = "default",
    attempt: int = 1,
    **delivery: Any,
) -> tuple[Event, Message]:
    """Return an event and Lime's message of it. *body*: bytes as they are, anything else as JSON.

    *delivery*: fields of ArrivedDelivery, such as `routing_key`, `headers`, `redelivered`.
    """
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    settler = _Decisions()
    defaults = {"exchange": f"lime.{application}", "attempts": attempt - 1}
    arrived = ArrivedDelivery(body=raw, **{**defaults, **delivery})
    event = kind(arrived, application=application, settler=settler)
    return event, Message(event, settler)


def run_handler(
    function: Callable[..., object],
    body: Any,
    *,
    settings: Mapping[str, Any] | None = None,
    config: Config | None = None,
    publisher: EventPublisher | None = None,
    event_type: type | None = None,
    application: str = "default",
    **event: Any,
) -> Run:
    """Run *function* on one event, with the arguments that the server would give it.

    Automatic forms are acked when they return, as in the server; what the handler raises is raised.
    *event*: as in make_event.
    """
    form = form_of(function, event_type)
    outbox = publisher or Outbox()
    known = config or Config(applications=(application,))
    services = build_services(
        config=attrs.evolve(known, plugins=Settings(known.plugins)),
        settings=dict(settings or {}),
        publisher=outbox,
        logger_name=function.__module__,
    )
    made, message = make_event(body, application=application, **{"kind": form.event_class, **event})
    returned = form.bind(services)(made, message)
    if not form.manual and not message.acknowledged:
        message.ack()
    said = made._settler.said  # type: ignore[attr-defined]  # make_event gave it _Decisions
    published = outbox.published if isinstance(outbox, Outbox) else []
    return Run(returned=returned, settled=tuple(said), published=published)
