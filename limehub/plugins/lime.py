"""What Lime's handlers know: the application they work for, the worker that calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from attrs import field, frozen

__all__ = ["Application", "ApplicationPublisher", "EventPublisher", "Worker"]


class EventPublisher(Protocol):
    """The part of `limehub.Publisher` that handlers use."""

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
        """Return the message id after the broker's confirm."""
        ...


@frozen(kw_only=True)
class Application:
    """A customer's CRM database, as Lime's handlers get it."""

    identifier: str
    _publisher: EventPublisher = field(repr=False)

    def publish(self, identifier: str, message: Any) -> str:
        """Publish *message* with the routing key *identifier* to this application's exchange.

        As in Lime, an event that nobody listens to is fine; `publisher.publish` raises Unroutable.
        """
        return self._publisher.publish(
            identifier, message, application=self.identifier, mandatory=False
        )


@frozen(kw_only=True)
class ApplicationPublisher:
    """A publisher inside a handler: the application is that of the event, unless named."""

    application: str
    _publisher: EventPublisher = field(repr=False)

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
        """As `limehub.Publisher.publish`; an explicit *exchange* needs no application."""
        if application is None and exchange is None:
            application = self.application
        return self._publisher.publish(
            routing_key,
            body,
            application=application,
            exchange=exchange,
            headers=headers,
            message_id=message_id,
            mandatory=mandatory,
            content_type=content_type,
        )


@frozen(kw_only=True)
class Worker:
    """The first argument of Lime's handlers. *applications*: identifiers that are served."""

    config: Any = field(repr=False)
    applications: tuple[str, ...]
    application: Callable[[str], Application] = field(repr=False)
    """`worker.application(identifier)` returns the application, to publish for."""
