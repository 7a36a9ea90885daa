"""A site that comes from Lime keeps its queues and exchanges; settings change on a live backlog."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.support.hub import Hub
from tests.support.serving import APP, DLQ, QUEUE, handles, publish_all
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

Serve = Callable[..., Hub]

CATCH = "[event_handler]\ncatch_handler_exceptions = true\nprefetch_count = 10\n"


def test_a_site_that_comes_from_lime_starts_and_consumes_and_dead_letters(
    serve: Serve, vhost: Vhost, amqp: BlockingChannel
) -> None:
    of_lime = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DLQ}
    amqp.exchange_declare("lime.default", "topic", durable=True)
    amqp.queue_declare(QUEUE, durable=True, arguments=of_lime)
    amqp.queue_declare(DLQ, durable=True, arguments={"x-message-ttl": 2_592_000_000})
    amqp.queue_bind(QUEUE, "lime.default", "t.#")
    for number in range(10):  # what waited there when Lime's own server was stopped
        amqp.basic_publish("lime.default", "t.a", b'{"n": %d}' % number, mandatory=True)
    seen: list[int] = []

    def odd_ones_fail(body: Any) -> None:
        seen.append(body["n"])
        assert body["n"] % 2 == 0

    hub = serve({APP: handles(odd_ones_fail)}, CATCH)
    publish_all(hub.publisher, "t.a", [{"n": number} for number in range(10, 20)])
    wait_until(lambda: vhost.depth(QUEUE) == 0 and vhost.depth(DLQ) == 10)
    assert sorted(seen) == list(range(20))
    arguments = {name: row["arguments"] for name, row in vhost.queues().items()}
    assert arguments == {QUEUE: of_lime, DLQ: {"x-message-ttl": 2_592_000_000}}


def test_settings_change_on_a_backlog_and_nothing_is_deleted_lost_or_refused(
    vhost: Vhost, tmp_path: Path, amqp: BlockingChannel
) -> None:
    ran: list[int] = []
    fails = [True]

    def handler(body: Any) -> None:
        if fails[0]:
            raise ValueError("not today")
        ran.append(body["n"])

    def run(toml: str) -> Hub:
        return Hub(vhost.url, tmp_path, plugins={APP: handles(handler)}, toml=toml)

    def backlog(numbers: range) -> None:
        for number in numbers:
            amqp.basic_publish("lime.default", "t.a", b'{"n": %d}' % number, mandatory=True)

    with run(f"{CATCH}dlq_ttl = 0\n"):
        arguments = {name: row["arguments"] for name, row in vhost.queues().items()}
        backlog(range(5))
        wait_until(lambda: vhost.depth(QUEUE) == 0 and vhost.depth(DLQ) == 5)
    backlog(range(5, 25))
    fails[0] = False
    with run("[event_handler]\ndlq_ttl = 7200\nprefetch_count = 4\n"):
        wait_until(lambda: sorted(ran) == list(range(5, 25)))
        wait_until(lambda: vhost.depth(QUEUE) == 0)
    backlog(range(25, 30))
    fails[0] = True
    with run(f"{CATCH}dlq_ttl = 3600\n"):
        wait_until(lambda: vhost.depth(QUEUE) == 0 and vhost.depth(DLQ) == 10)
    assert arguments == {name: row["arguments"] for name, row in vhost.queues().items()}
    assert letters(amqp) == [(n, None) for n in range(5)] + [(n, "3600000") for n in range(25, 30)]
    log = vhost.node.log.read_text(errors="replace")
    assert not [line for line in log.splitlines() if vhost.name in line and "precondition" in line]


def letters(amqp: BlockingChannel) -> list[tuple[int, str | None]]:
    """Take number and expiration of every dead letter."""
    found = []
    while True:
        method, properties, body = amqp.basic_get(DLQ, auto_ack=True)
        if method is None:
            return sorted(found)
        found.append((int(body[6:-1]), properties.expiration))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("topic", {"durable": True, "arguments": {"alternate-exchange": "unrouted"}}),
        ("fanout", {"durable": True}),
        ("topic", {"durable": False}),
    ],
    ids=["alternate-exchange", "fanout", "transient"],
)
def test_an_exchange_of_lime_is_used_as_it_is(
    serve: Serve, vhost: Vhost, amqp: BlockingChannel, kind: str, options: dict[str, Any]
) -> None:
    amqp.exchange_declare("lime.default", kind, **options)
    before = vhost.exchanges()["lime.default"]
    seen: list[Any] = []
    hub = serve({APP: handles(seen.append)})
    hub.publish("t.a", {"n": 1})
    wait_until(lambda: seen == [{"n": 1}])
    after = vhost.exchanges()["lime.default"]
    same = ("type", "durable", "auto_delete", "internal", "arguments")
    assert [after[key] for key in same] == [before[key] for key in same]
