"""OpenTelemetry spans around handlers and around what they publish; off unless configured.

The context comes from the event's headers and goes into the headers of what is published, so a
trace goes on through dead letters and retries. Names and attributes follow
https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve, field, frozen
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from limehub import __version__
from limehub.config import BrokerUrl, Lane
from limehub.events import Discard, Event, Message
from limehub.plugins.handlers import Handler
from limehub.plugins.lime import EventPublisher
from limehub.workers.plan import Calls

__all__ = ["TracedCalls", "TracedPublisher", "Tracing"]

Call = Callable[[Event, Message], object]

SYSTEM = "rabbitmq"


@frozen(kw_only=True)
class Tracing:
    """Makes spans with *tracer*; *broker*: where events come from. Whoever made it closes it."""

    tracer: Tracer
    broker: Mapping[str, Any]
    _provider: TracerProvider = field(repr=False)
    _is_ours: bool = False

    @classmethod
    def of(cls, broker: BrokerUrl) -> Tracing:
        """Return it for the broker at *broker*, with the provider that a plugin has set.

        Without one, spans are exported by OTLP as the OTEL_ variables say.
        """
        provider = trace.get_tracer_provider()
        if isinstance(provider, TracerProvider):
            return cls.with_provider(provider, broker)
        return evolve(cls.with_provider(_exporting(), broker), is_ours=True)

    @classmethod
    def with_provider(cls, provider: TracerProvider, broker: BrokerUrl) -> Tracing:
        """Return it for the broker at *broker*; *provider* stays the caller's."""
        tracer = provider.get_tracer("limehub", __version__)
        address = {"server.address": broker.host, "server.port": broker.port}
        attributes = {"messaging.system": SYSTEM, **address}
        return cls(tracer=tracer, broker=attributes, provider=provider)

    def calls(self, calls: Calls) -> TracedCalls:
        """Return *calls*, each in a span of its own."""
        return TracedCalls(tracing=self, calls=calls)

    def publisher(
        self, publisher: EventPublisher, exchange_of: Callable[[str | None], str]
    ) -> TracedPublisher:
        """Return *publisher* with spans. *exchange_of*: where it publishes for an application."""
        return TracedPublisher(tracing=self, publisher=publisher, exchange_of=exchange_of)

    def close(self) -> None:
        """Send what has not been sent."""
        if self._is_ours:
            self._provider.shutdown()
        else:
            self._provider.force_flush()

    def traced(self, call: Call, handler: str) -> Call:
        """Return *call* in a span of its own, the child of whoever published the event."""

        def run(event: Event, message: Message) -> object:
            name = _destination(event.exchange, event.routing_key, event.queue)
            span = self.tracer.start_as_current_span(
                f"process {name}",
                context=propagate.extract(_texts(event.headers)),
                kind=SpanKind.CONSUMER,
                attributes={**self.broker, **_described(event, name), "limehub.handler": handler},
                record_exception=False,
                set_status_on_exception=False,
            )
            with span as current:
                try:
                    return call(event, message)
                except BaseException as error:
                    _failed(current, error)
                    raise

        return run


@frozen(kw_only=True)
class TracedCalls:
    """The calls of handlers, in spans."""

    tracing: Tracing
    _calls: Calls

    def call_of(self, handler: Handler, group: str, lane: Lane, timeout: float | None) -> Call:
        """As `Lanes.call_of`."""
        return self.tracing.traced(self._calls.call_of(handler, group, lane, timeout), handler.name)


@frozen(kw_only=True)
class TracedPublisher:
    """A publisher whose messages carry the context of their own span."""

    tracing: Tracing
    _publisher: EventPublisher = field(repr=False)
    _exchange_of: Callable[[str | None], str] = field(repr=False)

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
        """As `limehub.Publisher.publish`."""
        name = _destination(exchange or self._exchange_of(application), routing_key)
        span = self.tracing.tracer.start_as_current_span(
            f"send {name}",
            kind=SpanKind.PRODUCER,
            attributes={
                **self.tracing.broker,
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": name,
                "messaging.rabbitmq.destination.routing_key": routing_key,
            },
            record_exception=False,
            set_status_on_exception=False,
        )
        with span as current:
            carried = dict(headers or {})
            propagate.inject(carried)
            try:
                identity = self._publisher.publish(
                    routing_key,
                    body,
                    application=application,
                    exchange=exchange,
                    headers=carried,
                    message_id=message_id,
                    mandatory=mandatory,
                    content_type=content_type,
                )
            except BaseException as error:
                _failed(current, error)
                raise
            current.set_attribute("messaging.message.id", identity)
            return identity


def _exporting() -> TracerProvider:
    resource = Resource.create({"service.name": "limehub", "service.version": __version__})
    provider = TracerProvider(resource=resource.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _described(event: Event, destination: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": destination,
        "messaging.rabbitmq.destination.routing_key": event.routing_key,
        "messaging.message.body.size": len(event.raw_body),
        "limehub.application": event.application,
        "limehub.attempt": event.attempt,
    }
    if event.id:
        described["messaging.message.id"] = event.id
    return described


def _destination(*parts: str) -> str:
    """Return exchange, routing key and queue as one name, without what is empty or repeated."""
    return ":".join(dict.fromkeys(part for part in parts if part))


def _texts(headers: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if isinstance(value, str)}


def _failed(span: Span, error: BaseException) -> None:
    """A discarded event is no failure: its handler expected it."""
    if isinstance(error, Discard):
        span.add_event("discarded", {"reason": str(error)})
        return
    span.record_exception(error)
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(Status(StatusCode.ERROR, str(error)))
