"""Consumers: whose turn it is, how much they hold, and how deliveries come to an end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conformance.wire import bodies, publish, queue, receive
from tests.support.waiting import wait_until

Connect = Callable[[], pika.BlockingConnection]


class Inbox:
    """Collects deliveries of one channel: `(consumer tag, delivery tag, body, redelivered)`."""

    def __init__(self, channel: BlockingChannel) -> None:
        self.channel = channel
        self.got: list[tuple[str, int, str, bool]] = []

    def consume(self, name: str, **options: Any) -> str:
        return self.channel.basic_consume(name, self._take, **options)

    def _take(self, _channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        tag, number = method.consumer_tag, method.delivery_tag
        self.got.append((tag, number, body.decode(), method.redelivered))

    def wait(self, count: int) -> list[str]:
        receive(self.channel, self.got, count)
        return self.bodies

    @property
    def bodies(self) -> list[str]:
        return [body for _, _, body, _ in self.got]

    def settled(self) -> list[str]:
        """All that has come when the broker has done everything asked before."""
        self.channel.basic_qos(prefetch_count=0)
        self.channel.connection.process_data_events(0.1)
        return self.bodies


@pytest.fixture
def inbox(channel: BlockingChannel) -> Inbox:
    return Inbox(channel)


def test_prefetch_holds_for_each_consumer(channel: BlockingChannel, inbox: Inbox) -> None:
    q = queue(channel)
    channel.basic_qos(prefetch_count=2)
    inbox.consume(q)
    inbox.consume(q)
    publish(channel, q, *"abcdef")
    inbox.wait(4)
    assert sorted(inbox.settled()) == list("abcd")
    channel.basic_ack(inbox.got[0][1])
    assert inbox.wait(5)[-1] == "e"


def test_global_prefetch_holds_for_the_channel(channel: BlockingChannel, inbox: Inbox) -> None:
    q = queue(channel)
    channel.basic_qos(prefetch_count=3, global_qos=True)
    inbox.consume(q)
    inbox.consume(q)
    publish(channel, q, *"abcdef")
    inbox.wait(3)
    channel.connection.process_data_events(0.1)
    assert sorted(inbox.bodies) == list("abc")
    channel.basic_ack(3, multiple=True)
    assert sorted(inbox.wait(6)) == list("abcdef")


def test_without_acks_there_is_no_limit(channel: BlockingChannel, inbox: Inbox) -> None:
    q = queue(channel)
    channel.basic_qos(prefetch_count=1)
    inbox.consume(q, auto_ack=True)
    publish(channel, q, *"abc")
    assert inbox.wait(3) == list("abc")


def test_consumers_take_turns(channel: BlockingChannel, inbox: Inbox) -> None:
    q = queue(channel)
    tags = {inbox.consume(q), inbox.consume(q)}
    publish(channel, q, *"abcd")
    inbox.wait(4)
    assert {tag: sum(one[0] == tag for one in inbox.got) for tag in tags} == dict.fromkeys(tags, 2)


def test_a_consumer_of_higher_priority_comes_first_until_it_is_full(
    channel: BlockingChannel, inbox: Inbox
) -> None:
    q = queue(channel)
    channel.basic_qos(prefetch_count=2)
    low = inbox.consume(q, arguments={"x-priority": -1})
    high = inbox.consume(q, arguments={"x-priority": 5})
    publish(channel, q, *"abc")
    inbox.wait(3)
    assert {(tag, body) for tag, _, body, _ in inbox.got} == {(high, "a"), (high, "b"), (low, "c")}


def test_a_single_active_consumer_is_followed_by_the_next(
    channel: BlockingChannel, inbox: Inbox
) -> None:
    q = queue(channel, arguments={"x-single-active-consumer": True})
    first, second = inbox.consume(q), inbox.consume(q)
    publish(channel, q, "a", "b")
    inbox.wait(2)
    channel.basic_cancel(first)
    publish(channel, q, "c")
    inbox.wait(3)
    assert [tag for tag, *_ in inbox.got] == [first, first, second]


def test_what_is_given_back_returns_to_its_place(channel: BlockingChannel) -> None:
    q = queue(channel)
    publish(channel, q, *"abcde")
    tags = [channel.basic_get(q)[0].delivery_tag for _ in range(4)]
    channel.basic_nack(tags[2])
    channel.basic_reject(tags[0])
    channel.basic_ack(tags[1])
    channel.basic_nack(tags[3])
    assert bodies(channel, q) == list("acde")


def test_nack_of_several_gives_back_all_up_to_it(channel: BlockingChannel) -> None:
    q = queue(channel)
    publish(channel, q, *"abcd")
    tags = [channel.basic_get(q)[0].delivery_tag for _ in range(3)]
    channel.basic_nack(tags[1], multiple=True)
    assert bodies(channel, q) == list("abd")


def test_ack_of_several_ends_all_up_to_it(channel: BlockingChannel, connect: Connect) -> None:
    other = connect().channel()
    q = queue(other, exclusive=False, auto_delete=True)
    publish(channel, q, *"abcd")
    tags = [channel.basic_get(q)[0].delivery_tag for _ in range(4)]
    channel.basic_ack(tags[2], multiple=True)
    channel.close()
    wait_until(lambda: other.queue_declare(q, passive=True).method.message_count == 1)
    method, _, body = other.basic_get(q)
    assert (method.redelivered, body) == (True, b"d")
    other.queue_delete(q)


def test_a_closed_connection_gives_its_deliveries_back_in_order(
    channel: BlockingChannel, connect: Connect, name: str
) -> None:
    queue(channel, name, exclusive=False, auto_delete=True)
    channel.confirm_delivery()  # so that the other connection finds what is published
    publish(channel, name, *"abc")
    other = connect()
    for _ in range(2):
        other.channel().basic_get(name)
    other.close()
    wait_until(lambda: channel.queue_declare(name, passive=True).method.message_count == 3)
    flags = []
    for expected in (b"a", b"b", b"c"):
        method, _, body = channel.basic_get(name, auto_ack=True)
        assert body == expected
        flags.append(method.redelivered)
    assert flags == [True, True, False]
    channel.queue_delete(name)


def test_recover_gives_everything_back(channel: BlockingChannel) -> None:
    q = queue(channel)
    publish(channel, q, "a", "b")
    channel.basic_get(q)
    channel.basic_recover(requeue=True)
    method, _, body = channel.basic_get(q)
    assert (body, method.redelivered) == (b"a", True)


def test_get_tells_how_many_are_left(channel: BlockingChannel) -> None:
    q = queue(channel)
    assert channel.basic_get(q) == (None, None, None)
    publish(channel, q, "a", "b", "c")
    assert channel.basic_get(q)[0].message_count == 2


def test_cancelling_leaves_what_was_delivered(channel: BlockingChannel, inbox: Inbox) -> None:
    q = queue(channel)
    tag = inbox.consume(q)
    publish(channel, q, "a")
    inbox.wait(1)
    impl = channel._impl  # BlockingChannel.basic_cancel would give the delivery back
    impl._send_method(pika.spec.Basic.Cancel(tag, nowait=True))
    channel.basic_qos(prefetch_count=0)
    publish(channel, q, "b")
    channel.basic_ack(inbox.got[0][1])
    assert bodies(channel, q) == ["b"]


def test_consumers_hear_that_their_queue_is_gone(
    channel: BlockingChannel, connect: Connect, name: str, inbox: Inbox
) -> None:
    queue(channel, name, exclusive=False, auto_delete=True)
    gone: list[str] = []
    channel.add_on_cancel_callback(lambda frame: gone.append(frame.method.consumer_tag))
    tag = inbox.consume(name)
    connect().channel().queue_delete(name)
    receive(channel, gone, 1)
    assert gone == [tag]


def test_an_ack_after_the_queue_is_gone_does_no_harm(channel: BlockingChannel, name: str) -> None:
    queue(channel, name)
    publish(channel, name, "a", "b")
    tags = [channel.basic_get(name)[0].delivery_tag for _ in range(2)]
    channel.queue_delete(name)
    channel.basic_ack(tags[0])
    channel.basic_nack(tags[1])
    channel.basic_qos(prefetch_count=1)
    assert channel.is_open


def test_tags_belong_to_their_channel(channel: BlockingChannel) -> None:
    q = queue(channel)
    publish(channel, q, "a")
    method, _, _ = channel.basic_get(q)
    other = channel.connection.channel()
    other.basic_ack(method.delivery_tag)
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="unknown delivery tag 1"):
        other.basic_qos(prefetch_count=1)


def test_a_slow_consumer_does_not_keep_messages_from_others(
    channel: BlockingChannel, connect: Connect, name: str
) -> None:
    queue(channel, name, exclusive=False, auto_delete=True)
    slow, quick = Inbox(channel), Inbox(connect().channel())
    for inbox in (slow, quick):
        inbox.channel.basic_qos(prefetch_count=1)
        inbox.consume(name)
    publish(connect().channel(), name, "a", "b")
    slow.wait(1)
    quick.wait(1)
    quick.channel.basic_ack(quick.got[0][1])
    publish(connect().channel(), name, "c")
    assert quick.wait(2)[-1] == "c"
