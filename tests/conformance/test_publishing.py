"""Publishers: confirms, returns, transactions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conformance.wire import bodies, publish, queue
from tests.support.waiting import wait_until

Connect = Callable[..., pika.BlockingConnection]


def test_every_publication_is_confirmed(channel: BlockingChannel, name: str) -> None:
    queue(channel, name, durable=True)
    confirmed: list[Any] = []
    impl = channel._impl  # the blocking channel would wait after each
    impl.confirm_delivery(confirmed.append)
    channel.basic_qos(prefetch_count=0)
    for number in range(500):
        mode = 1 + number % 2
        impl.basic_publish("", name, b"x", pika.BasicProperties(delivery_mode=mode))
    told: set[int] = set()

    def all_told() -> bool:
        channel.connection.process_data_events(0.02)
        for frame in confirmed:
            method = frame.method
            assert isinstance(method, pika.spec.Basic.Ack)
            first = 1 if method.multiple else method.delivery_tag
            told.update(range(first, method.delivery_tag + 1))
        return told == set(range(1, 501))

    wait_until(all_told, message="500 confirms")
    assert channel.queue_declare(name, durable=True).method.message_count == 500
    channel.queue_delete(name)


def test_a_mandatory_message_without_a_queue_comes_back(channel: BlockingChannel) -> None:
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.UnroutableError) as caught:
        publish(channel, "no such queue", "x", mandatory=True, message_id="m")
    (returned,) = caught.value.messages
    assert (returned.method.reply_code, returned.method.reply_text) == (312, "NO_ROUTE")
    assert (returned.properties.message_id, returned.body) == ("m", b"x")


def test_without_mandatory_it_vanishes_and_is_confirmed(channel: BlockingChannel) -> None:
    channel.confirm_delivery()
    publish(channel, "no such queue", "x")  # a nack or return would raise
    assert channel.is_open


def test_a_transaction_holds_until_it_is_committed(
    channel: BlockingChannel, connect: Connect, name: str
) -> None:
    other = connect().channel()
    queue(other, name, exclusive=False, auto_delete=True)
    channel.tx_select()
    publish(channel, name, "a", "b")
    channel.basic_qos(prefetch_count=0)
    assert bodies(other, name) == []
    channel.tx_commit()
    assert bodies(other, name) == ["a", "b"]
    other.queue_delete(name)


def test_a_rollback_forgets_publications_and_acks(channel: BlockingChannel) -> None:
    q = queue(channel)
    publish(channel, q, "a")
    channel.tx_select()
    method, _, _ = channel.basic_get(q)
    publish(channel, q, "b")
    channel.basic_ack(method.delivery_tag)
    channel.tx_rollback()
    channel.basic_nack(method.delivery_tag)
    channel.tx_commit()
    method, _, body = channel.basic_get(q)
    assert (body, method.message_count) == (b"a", 0)


def test_acks_in_a_transaction_count_when_committed(
    channel: BlockingChannel, connect: Connect, name: str
) -> None:
    other = connect().channel()
    queue(other, name, exclusive=False, auto_delete=True)
    other.confirm_delivery()  # so that what is published is in the queue
    publish(other, name, "a", "b")
    channel.tx_select()
    for commit in (True, False):
        method, _, _ = channel.basic_get(name)
        channel.basic_ack(method.delivery_tag)
        if commit:
            channel.tx_commit()
    channel.connection.close()
    wait_until(lambda: other.queue_declare(name, passive=True).method.message_count == 1)
    assert bodies(other, name) == ["b"]
    other.queue_delete(name)


@pytest.mark.parametrize("frame_max", [8192, 131_072])
def test_frames_are_as_large_as_agreed(
    connect: Connect, channel: BlockingChannel, frame_max: int
) -> None:
    small = connect(frame_max=frame_max).channel()
    q = queue(small)
    small.basic_publish("", q, b"x" * 100_000)
    assert small.basic_get(q, auto_ack=True)[2] == b"x" * 100_000


def test_channels_of_a_connection_do_not_mix_their_messages(channel: BlockingChannel) -> None:
    channels = [channel.connection.channel() for _ in range(5)]
    names = [queue(one) for one in channels]
    for round_number in range(20):
        for one, name in zip(channels, names, strict=True):
            publish(one, name, f"{name}-{round_number}")
    for one, name in zip(channels, names, strict=True):
        assert bodies(one, name) == [f"{name}-{number}" for number in range(20)]
