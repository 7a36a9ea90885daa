"""Queues: their life, their limits, their order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conformance.wire import bodies, get, publish, queue
from tests.support.waiting import wait_until

Connect = Callable[[], pika.BlockingConnection]


def exists(connect: Connect, name: str) -> bool:
    """Whether there is a queue *name*, locked or not."""
    try:
        connect().channel().queue_declare(name, passive=True)
    except pika.exceptions.ChannelClosedByBroker as error:
        return error.reply_code != 404
    return True


def test_a_queue_without_a_name_gets_one(channel: BlockingChannel) -> None:
    one, two = queue(channel), queue(channel)
    assert one.startswith("amq.gen-")
    assert one != two


def test_line_ends_in_a_name_are_dropped(channel: BlockingChannel, name: str) -> None:
    channel.connection.add_callback_threadsafe(lambda: None)
    impl = channel._impl  # the blocking channel would wait for the name that it sent
    impl._send_method(pika.spec.Queue.Declare(queue=f"{name}\r\n", auto_delete=True))
    assert channel.queue_declare(name, passive=True).method.queue == name
    channel.queue_delete(name)


def test_counts_are_told_when_declared_again(channel: BlockingChannel) -> None:
    q = queue(channel)
    publish(channel, q, "a", "b", "c")
    channel.basic_get(q)
    other = channel.connection.channel()
    other.basic_qos(prefetch_count=1)
    other.basic_consume(q, lambda *_: None)
    told = channel.queue_declare(q, passive=True).method
    assert (told.message_count, told.consumer_count) == (1, 1)


def test_an_exclusive_queue_goes_with_its_connection(connect: Connect, name: str) -> None:
    connection = connect()
    queue(connection.channel(), name)
    connection.close()
    wait_until(lambda: not exists(connect, name))


def test_an_auto_delete_queue_goes_with_its_last_consumer(connect: Connect, name: str) -> None:
    channel = connect().channel()
    queue(channel, name, exclusive=False, auto_delete=True)
    tags = [channel.basic_consume(name, lambda *_: None) for _ in range(2)]
    channel.basic_cancel(tags[0])
    assert exists(connect, name)
    channel.basic_cancel(tags[1])
    wait_until(lambda: not exists(connect, name))


def test_purge_and_delete_tell_how_many_were_ready(channel: BlockingChannel) -> None:
    q = queue(channel)
    publish(channel, q, "a", "b", "c")
    channel.basic_get(q)
    assert channel.queue_purge(q).method.message_count == 2
    publish(channel, q, "d")
    assert channel.queue_delete(q).method.message_count == 1


def test_messages_keep_their_order(channel: BlockingChannel) -> None:
    q = queue(channel)
    publish(channel, q, *map(str, range(100)))
    assert bodies(channel, q) == [str(number) for number in range(100)]


def test_messages_expire_by_queue_and_by_message(channel: BlockingChannel) -> None:
    channel.confirm_delivery()  # so that what is published is in its queue
    by_queue = queue(channel, arguments={"x-message-ttl": 100})
    by_message = queue(channel)
    publish(channel, by_queue, "a")
    publish(channel, by_message, "b", expiration="100")
    publish(channel, by_message, "stays")
    wait_until(lambda: channel.queue_declare(by_queue, passive=True).method.message_count == 0)
    wait_until(lambda: channel.queue_declare(by_message, passive=True).method.message_count == 1)
    assert bodies(channel, by_message) == ["stays"]


def test_the_shorter_life_counts(channel: BlockingChannel) -> None:
    channel.confirm_delivery()  # so that what is published is in its queue
    q = queue(channel, arguments={"x-message-ttl": 60_000})
    publish(channel, q, "short", expiration="50")
    wait_until(lambda: channel.queue_declare(q, passive=True).method.message_count == 0)


def test_a_message_of_no_life_reaches_a_waiting_consumer_only(channel: BlockingChannel) -> None:
    q = queue(channel, arguments={"x-message-ttl": 0})
    publish(channel, q, "nobody waits")
    assert bodies(channel, q) == []
    got: list[bytes] = []
    channel.basic_consume(q, lambda _c, _m, _p, body: got.append(body), auto_ack=True)
    publish(channel, q, "now")
    wait_until(lambda: channel.connection.process_data_events(0.01) or got == [b"now"])


def test_an_unused_queue_expires(channel: BlockingChannel, connect: Connect, name: str) -> None:
    queue(channel, f"{name}-later", exclusive=False, arguments={"x-expires": 60_000})
    queue(channel, name, exclusive=False, arguments={"x-expires": 300})
    wait_until(lambda: not exists(connect, name), message="expired", interval=1.0)
    assert exists(connect, f"{name}-later")
    channel.queue_delete(f"{name}-later")


def test_a_consumer_keeps_a_queue_from_expiring(
    channel: BlockingChannel, connect: Connect, name: str
) -> None:
    life = {"x-expires": 1500}  # ms

    def consumes() -> bool:
        """Whether the consumer came before the queue expired, on however busy a machine."""
        other = connect().channel()
        queue(other, name, exclusive=False, arguments=life)
        with contextlib.suppress(pika.exceptions.ChannelClosedByBroker):
            other.basic_consume(name, lambda *_: None)
        return other.is_open

    wait_until(consumes)
    queue(channel, f"{name}-unused", exclusive=False, arguments=life)
    # Each look begins its life anew.
    wait_until(lambda: not exists(connect, f"{name}-unused"), message="expired", interval=2.0)
    assert exists(connect, name)


def test_a_full_queue_drops_its_oldest(channel: BlockingChannel) -> None:
    by_count = queue(channel, arguments={"x-max-length": 2})
    by_size = queue(channel, arguments={"x-max-length-bytes": 10})
    for q in (by_count, by_size):
        publish(channel, q, "aaaa", "bbbb", "cccc")
        assert bodies(channel, q) == ["bbbb", "cccc"]


def test_a_full_queue_can_refuse_instead(channel: BlockingChannel) -> None:
    q = queue(channel, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.confirm_delivery()
    publish(channel, q, "first")
    with pytest.raises(pika.exceptions.NackError):
        publish(channel, q, "second")
    assert bodies(channel, q) == ["first"]
    publish(channel, q, "third")
    assert bodies(channel, q) == ["third"]


def test_unacked_messages_do_not_fill_a_queue(channel: BlockingChannel) -> None:
    q = queue(channel, arguments={"x-max-length": 1})
    publish(channel, q, "a")
    channel.basic_get(q)
    publish(channel, q, "b")
    assert bodies(channel, q) == ["b"]


def test_priorities_go_before_age(channel: BlockingChannel) -> None:
    q = queue(channel, arguments={"x-max-priority": 5})
    for priority, body in ((0, "none"), (1, "low"), (5, "high"), (200, "higher"), (1, "low 2")):
        publish(channel, q, body, priority=priority)
    assert bodies(channel, q) == ["high", "higher", "low", "low 2", "none"]


def test_a_quorum_queue_counts_deliveries(channel: BlockingChannel, name: str) -> None:
    arguments = {"x-queue-type": "quorum"}
    queue(channel, name, durable=True, arguments=arguments)
    publish(channel, name, "x")
    method, properties, _ = wait_until(
        lambda: (got := channel.basic_get(name))[0] is not None and got
    )
    assert (properties.headers or {}).get("x-delivery-count", 0) == 0
    channel.basic_nack(method.delivery_tag)
    _, properties, _ = get(channel, name)
    assert properties.headers["x-delivery-count"] == 1
    channel.queue_delete(name)


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 400_000, 3_000_000])
def test_a_body_of_any_size_comes_back_whole(channel: BlockingChannel, size: int) -> None:
    q = queue(channel)
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    channel.basic_publish("", q, body)
    assert channel.basic_get(q, auto_ack=True)[2] == body


def test_properties_come_back_as_they_were(channel: BlockingChannel) -> None:
    q = queue(channel)
    given = pika.BasicProperties(
        content_type="application/json",
        content_encoding="utf-8",
        headers={"a": 1, "b": [1, "x", {"c": None}], "d": True, "e": 2**40, "f": "ö" * 300},
        delivery_mode=1,
        priority=3,
        correlation_id="c",
        reply_to="r",
        expiration="60000",
        message_id="m",
        timestamp=1_700_000_000,
        type="t",
        user_id="guest",
        app_id="a",
        cluster_id="cl",
    )
    channel.basic_publish("", q, b"x", given)
    assert channel.basic_get(q, auto_ack=True)[1] == given
