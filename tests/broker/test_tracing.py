"""Spans of a real server on a real broker, kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from limehub import Discard, LimeObjectEvent, Publisher
from limehub.observe import tracing
from tests.support.hub import Hub
from tests.support.serving import APP, DLQ, QUEUE, handles, queue_of, together
from tests.support.waiting import wait_until

Serve = Callable[..., Hub]
ON = "[tracing]\nenabled = true\n"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What was exported: the provider is one that a plugin could have set."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(tracing.trace, "get_tracer_provider", lambda: provider)
    yield kept
    provider.shutdown()


def named(kept: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in kept.get_finished_spans() if span.name == name]


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def trace_of(span: ReadableSpan) -> str:
    return format(span.get_span_context().trace_id, "032x")


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


@pytest.mark.parametrize("lane", ["greenlet", "thread"])
def test_a_trace_goes_from_the_publisher_through_handlers_to_what_they_publish(
    serve: Serve, spans: InMemorySpanExporter, lane: str
) -> None:
    def first(event: LimeObjectEvent, publisher: Publisher) -> None:
        with trace.get_tracer("plugin", tracer_provider=provider).start_as_current_span("work"):
            publisher.publish("own.thing.v1", {"n": 1})

    def second(event: LimeObjectEvent) -> None:
        pass

    provider = tracing.trace.get_tracer_provider()
    hub = serve({APP: together(handles(first, lane=lane), handles(second, "own.#", "second"))}, ON)
    hub.publish("t.x", {}, headers=PARENT)
    last = f"process lime.default:own.thing.v1:{queue_of('second')}"
    (end,) = wait_until(lambda: named(spans, last), message="the last span")
    first_name = f"process lime.default:t.x:{QUEUE}"
    (begin,) = wait_until(lambda: named(spans, first_name), message="the first handler's span")
    (work,) = named(spans, "work")
    (sent,) = named(spans, "send lime.default:own.thing.v1")
    assert {trace_of(span) for span in (begin, work, sent, end)} == {TRACE}
    assert parent_of(begin) == 0xB7AD6B7169203331
    chain = (begin, work, sent, end)
    for parent, child in pairwise(chain):
        assert parent_of(child) == parent.get_span_context().span_id
    assert (begin.kind, sent.kind) == (SpanKind.CONSUMER, SpanKind.PRODUCER)
    described = attributes(begin)
    assert described["messaging.system"] == "rabbitmq"
    assert described["messaging.operation.type"] == "process"
    assert described["messaging.rabbitmq.destination.routing_key"] == "t.x"
    assert described["limehub.application"] == "default"
    assert described["messaging.message.id"]
    assert attributes(sent)["messaging.message.id"] == attributes(end)["messaging.message.id"]
    assert begin.status.status_code is StatusCode.UNSET


def test_a_failed_run_is_an_error_and_its_dead_letter_keeps_the_trace(
    serve: Serve, spans: InMemorySpanExporter, amqp: Any
) -> None:
    def fails(event: LimeObjectEvent) -> None:
        raise ValueError("no good")

    hub = serve({APP: handles(fails, on_error="dead-letter")}, ON)
    hub.publish("t.x", {}, headers=PARENT)
    wait_until(lambda: hub.server.mover.moved, message="the dead letter")
    (span,) = named(spans, f"process lime.default:t.x:{QUEUE}")
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "ValueError"
    assert [event.name for event in span.events] == ["exception"]
    _, properties, _ = amqp.basic_get(DLQ, auto_ack=True)
    assert properties.headers["traceparent"] == PARENT["traceparent"]


def test_a_discarded_event_is_no_error(serve: Serve, spans: InMemorySpanExporter) -> None:
    def declines(event: LimeObjectEvent) -> None:
        raise Discard("not for us")

    hub = serve({APP: handles(declines)}, ON)
    hub.publish("t.x", {})
    (span,) = wait_until(
        lambda: named(spans, f"process lime.default:t.x:{QUEUE}"), message="a span"
    )
    assert span.status.status_code is StatusCode.UNSET
    assert [event.name for event in span.events] == ["discarded"]
    assert span.parent is None


def test_headers_that_are_no_trace_do_no_harm(serve: Serve, spans: InMemorySpanExporter) -> None:
    hub = serve({APP: handles(lambda event: None)}, ON)
    hub.publish("t.x", {}, headers={"traceparent": "nonsense", "baggage": "=;,", "n": 5})
    (span,) = wait_until(
        lambda: named(spans, f"process lime.default:t.x:{QUEUE}"), message="a span"
    )
    assert span.parent is None


def test_switched_off_nothing_stands_between_event_and_handler(serve: Serve) -> None:
    hub = serve({APP: handles(lambda event: None)})
    assert hub.server.tracing is None
    assert hub.server.lanes._publisher is hub.server.publisher
