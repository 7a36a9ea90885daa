"""Events as Lime's own services publish them, with kombu; and events that come back very often."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import kombu
import kombu.compression
import kombu.serialization
import pytest
from gevent.event import Event as Signal
from pika.adapters.blocking_connection import BlockingChannel

from limehub import Event, LimeObjectEvent
from tests.support.hub import Hub
from tests.support.serving import APP, DLQ, QUEUE, handles
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

Serve = Callable[..., Hub]

KEY = "core.limeobject.deal.update.v1"
DEAL = {"id": 17, "limetype": "deal", "values": {"name": "Åre & Söner", "value": 1.5}}
CATCH = "[event_handler]\ncatch_handler_exceptions = true\n"


@pytest.fixture
def producer(vhost: Vhost) -> Iterator[kombu.Producer]:
    """What Lime publishes with."""
    with kombu.Connection(vhost.url) as connection:
        exchange = kombu.Exchange("lime.default", type="topic")
        yield kombu.Producer(connection, exchange=exchange, serializer="json")


def test_an_event_of_kombu_reaches_limes_form_as_lime_delivers_it(
    serve: Serve, vhost: Vhost, producer: kombu.Producer
) -> None:
    seen: list[Any] = []

    def handler(worker: Any, body: Any, message: Any) -> None:
        assert body == message.payload
        seen.append((body, message.headers, message.properties, message.delivery_info))
        assert message.content_type == "application/json"
        assert message.content_encoding == "utf-8"
        message.ack()

    serve({APP: handles(handler, KEY)}, CATCH)
    producer.publish(DEAL, routing_key=KEY)
    wait_until(lambda: seen)
    ((body, headers, properties, delivery_info),) = seen
    assert body == DEAL
    assert headers == {}
    assert properties.get("message_id") is None
    assert delivery_info["exchange"] == "lime.default"
    assert delivery_info["routing_key"] == KEY
    wait_until(lambda: vhost.depth(QUEUE) == 0)
    assert vhost.depth(DLQ) == 0


def test_an_event_of_kombu_is_an_event_without_an_id(
    serve: Serve, vhost: Vhost, producer: kombu.Producer
) -> None:
    seen: list[Event] = []

    def handler(event: LimeObjectEvent) -> None:
        seen.append(event)

    serve({APP: handles(handler, KEY)}, CATCH)
    for _ in range(2):
        producer.publish(DEAL, routing_key=KEY)
    wait_until(lambda: len(seen) == 2)
    event = seen[0]
    assert isinstance(event, LimeObjectEvent)
    assert (event.body, event.id, dict(event.headers)) == (DEAL, None, {})
    assert (event.application, event.limetype, event.verb) == ("default", "deal", "update")
    assert event.fingerprint == seen[1].fingerprint
    wait_until(lambda: vhost.depth(QUEUE) == 0)


def test_a_failed_event_of_kombu_is_dead_lettered_as_it_came(
    serve: Serve, vhost: Vhost, producer: kombu.Producer, amqp: BlockingChannel
) -> None:
    def handler(body: Any) -> None:
        raise ValueError("no")

    serve({APP: handles(handler, KEY)}, CATCH)
    producer.publish(DEAL, routing_key=KEY)
    wait_until(lambda: vhost.queues()[DLQ]["ready"] == 1)
    _, properties, body = amqp.basic_get(DLQ, auto_ack=True)
    assert kombu.serialization.loads(body, "application/json", "utf-8") == DEAL
    assert b"\\u00c5re" in body, "kombu escapes; the bytes must be the publisher's"
    assert properties.message_id is None
    assert properties.content_type == "application/json"
    assert properties.priority == 0
    assert properties.headers["x-limehub-exchange"] == "lime.default"


@pytest.mark.parametrize(
    ("serializer", "compression"),
    [("json", "zlib"), ("json", "bzip2"), ("pickle", None)],
    ids=["zlib", "bzip2", "pickle"],
)
def test_what_kombu_can_send_and_limehub_does_not_read_is_kept_whole(
    serve: Serve,
    vhost: Vhost,
    producer: kombu.Producer,
    amqp: BlockingChannel,
    serializer: str,
    compression: str | None,
) -> None:
    ran: list[Any] = []
    serve({APP: handles(ran.append, KEY)}, CATCH)
    producer.publish(DEAL, routing_key=KEY, serializer=serializer, compression=compression)
    wait_until(lambda: vhost.queues()[DLQ]["ready"] == 1)
    assert ran == []
    _, properties, body = amqp.basic_get(DLQ, auto_ack=True)
    assert properties.headers["x-limehub-reason"] == "undecodable"
    if compression:
        body = kombu.compression.decompress(body, properties.headers["compression"])
    accept = ["application/json", "application/x-python-serialize"]
    kind, encoding = properties.content_type, properties.content_encoding
    assert kombu.serialization.loads(body, kind, encoding, accept=accept) == DEAL


def thirty_times_back(hub: Hub, vhost: Vhost, runs: list[bool], release: Signal) -> None:
    """Give the event back by 30 lost channels, as flaps and restarts do, then let it finish."""
    group = hub.server.groups[0]
    hub.publish("t.a", {"n": 1})
    wait_until(lambda: runs)
    for times in range(30):
        wait_until(lambda: vhost.close_channels(QUEUE), message="its consumer to be listed")
        wait_until(lambda n=times: group.status()["absorbed"] == n + 1, message=f"return {times}")
    release.set()
    wait_until(lambda: vhost.depth(QUEUE) == 0)


QUORUM = """
    [event_handler]
    queue_type = "quorum"
    prefetch_count = 1
    workers.default.concurrency = 40
"""


def test_an_event_of_a_quorum_queue_survives_thirty_returns(serve: Serve, vhost: Vhost) -> None:
    runs: list[bool] = []
    release = Signal()

    def handler(event: Event) -> None:
        runs.append(event.redelivered)
        release.wait()

    thirty_times_back(serve({APP: handles(handler)}, QUORUM), vhost, runs, release)
    assert runs == [False]


@pytest.mark.rabbitmq4
def test_an_event_of_a_quorum_queue_survives_thirty_returns_on_rabbitmq_4(
    rabbitmq4_vhost: Vhost, serve: Serve
) -> None:
    runs: list[bool] = []
    release = Signal()

    def handler(event: Event) -> None:
        runs.append(event.redelivered)
        release.wait()

    hub = serve({APP: handles(handler)}, QUORUM, url=rabbitmq4_vhost.url)
    thirty_times_back(hub, rabbitmq4_vhost, runs, release)
    assert runs == [False]


@pytest.mark.rabbitmq4
def test_rabbitmq_4_would_drop_it_from_a_quorum_queue_of_its_own_defaults(
    rabbitmq4_vhost: Vhost,
) -> None:
    connection = rabbitmq4_vhost.connect()
    channel = connection.channel()
    channel.queue_declare("default", durable=True, arguments={"x-queue-type": "quorum"})
    channel.basic_publish("", "default", b"{}")
    wait_until(lambda: rabbitmq4_vhost.depth("default") == 1)
    returned = 0
    while (got := channel.basic_get("default"))[0] is not None:
        channel.basic_reject(got[0].delivery_tag, requeue=True)
        returned += 1
        assert returned < 100, "the reason for x-delivery-limit = -1 is gone"
        wait_until(lambda: rabbitmq4_vhost.queues()["default"]["unacked"] == 0)
    connection.close()
    assert returned == 21
