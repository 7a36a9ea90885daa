"""Spans of `limehub serve` arrive at a collector, the last ones at its end."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest
from gevent.pywsgi import WSGIServer

from tests.support.process import Workplace
from tests.support.waiting import wait_until

HANDLER = """
import logging
def note(event):
    logging.getLogger("noted").warning("noted %s", event.body["n"])
def register_event_handlers(worker, config):
    worker.register_event_handler(note, "own.#")
"""


class Collector:
    """Keeps what is posted to it: path -> bodies."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, bytes]] = []
        self.server = WSGIServer(("127.0.0.1", 0), self._answer, log=None)

    def _answer(self, environ, start_response):  # type: ignore[no-untyped-def]
        body = environ["wsgi.input"].read()
        if environ.get("HTTP_CONTENT_ENCODING") == "gzip":
            body = gzip.decompress(body)
        self.posted.append((environ["PATH_INFO"], body))
        start_response("200 OK", [("Content-Type", "application/x-protobuf")])
        return [b""]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    collector.server.start()
    yield collector
    collector.server.stop()


def test_spans_leave_before_the_server_ends(workplace: Workplace, collector: Collector) -> None:
    workplace.install("solution-note", HANDLER)
    workplace.environ.update(
        LIMEHUB_TRACING__ENABLED="true",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.server.server_port}",
        OTEL_SERVICE_NAME="crm-events",
        OTEL_BSP_SCHEDULE_DELAY="600000",
        NO_PROXY="127.0.0.1",
    )
    server = workplace.serve()
    assert workplace.run("publish", "own.thing.v1", '{"n": 5}').returncode == 0
    server.wait_for_line("noted 5")
    assert server.stop() == 0
    (path, body) = wait_until(lambda: collector.posted, message="spans")[0]
    assert path == "/v1/traces"
    assert b"process lime.default:own.thing.v1:lime.event_handler.solution-note.note" in body
    assert b"crm-events" in body


def test_a_collector_that_is_away_holds_up_no_stop(workplace: Workplace) -> None:
    workplace.install("solution-note", HANDLER)
    workplace.environ.update(
        LIMEHUB_TRACING__ENABLED="true",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        OTEL_EXPORTER_OTLP_TIMEOUT="2",  # seconds in which it tries again; OpenTelemetry's are 10
        NO_PROXY="127.0.0.1",
    )
    server = workplace.serve()
    assert workplace.run("publish", "own.thing.v1", '{"n": 6}').returncode == 0
    server.wait_for_line("noted 6")
    assert server.stop(timeout=25) == 0
