"""The scanner against pika's decoder, on random streams cut at random places."""

from __future__ import annotations

import random
from typing import Any

import pika
import pytest
from attrs import define, field
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pika import frame as frames
from pika import spec
from pika.channel import ContentFrameAssembler

from limehub.amqp.connection import _PikaConnection
from limehub.amqp.delivery import Delivery, Subscription
from limehub.amqp.frames import (
    HEARTBEAT,
    ack_frame,
    address_of,
    confirm_of,
    content_coding,
    content_frames,
    publish_method,
    reject_frame,
    scan,
)
from limehub.amqp.properties import encode_properties

CHANNELS = (1, 2, 7)
FRAME_MAX = 4096
SIZES = (0, 0, 1, 400, 400, 400, 4088, 4089, 9000, 40_000)
Read = tuple[int, int, bool, str, str, str | None, Any, bytes]
"""(channel, tag, redelivered, exchange, key, message id, headers, body)"""


@define
class Broker:
    """Writes what a broker might send, and notes what a consumer should read."""

    chance: random.Random
    out: list[bytes] = field(factory=list)
    sent: list[Read] = field(factory=list)
    others: list[str] = field(factory=list)
    tag: int = 0

    def deliver(self, channel: int, size: int, *, consumer: str = "limehub.1") -> None:
        self.tag += 1
        properties = pika.BasicProperties(
            content_type=self.chance.choice([None, "application/json"]),
            headers=self.chance.choice([None, {"a": "b", "n": self.tag}]),
            message_id=self.chance.choice([None, f"m{self.tag}"]),
        )
        key, body = f"k.{self.chance.randrange(3)}", self.chance.randbytes(size)
        again = self.chance.random() < 0.3
        self._put(channel, spec.Basic.Deliver(consumer, self.tag, again, "lime.acme", key))
        self.out.append(frames.Header(channel, size, properties).marshal())
        for at in range(0, size, FRAME_MAX - 8):
            self._between()
            self.out.append(frames.Body(channel, body[at : at + FRAME_MAX - 8]).marshal())
        read = (channel, self.tag, again, "lime.acme", key, properties.message_id)
        self.sent.append((*read, properties.headers, body))

    def say(self) -> None:
        """Something that is no delivery."""
        method = self.chance.choice(
            [spec.Basic.Ack(3, True), spec.Basic.CancelOk("x"), spec.Channel.CloseOk()]
        )
        self._put(self.chance.choice((*CHANNELS, 0)), method)
        self.others.append(method.NAME)

    def _put(self, channel: int, method: Any) -> None:
        self.out.append(frames.Method(channel, method).marshal())

    def _between(self) -> None:
        if self.chance.random() < 0.2:
            self.out.append(HEARTBEAT)
            self.others.append("Heartbeat")


class Reader(_PikaConnection):
    """The connection's reading half; what pika would get is read by pika's decoder here."""

    def __init__(self, routes: dict[int, Subscription]) -> None:
        self.routes = routes
        self.confirms = {}
        self._unread = b""
        self.bytes_received = 0
        self.read: list[Read] = []
        self.others: list[str] = []
        self.slow = 0
        self._assemblers = {channel: ContentFrameAssembler() for channel in CHANNELS}

    def _pika_reads(self, data: bytes) -> None:
        used, frame = frames.decode_frame(data)
        assert used == len(data)
        self.bytes_received += used
        if isinstance(frame, frames.Heartbeat):
            self.others.append("Heartbeat")
        elif isinstance(frame, frames.Method) and not spec.has_content(frame.method.INDEX):
            self.others.append(frame.method.NAME)
        else:
            content = self._assemblers[frame.channel_number].process(frame)
            if content:
                self.slow += 1
                self._content(frame.channel_number, *content)

    def _content(self, channel: int, method: Any, header: Any, body: bytes) -> None:
        delivery = Delivery.decoded(Subscription(None, "q"), method.method, header.properties, body)
        self.read.append(_read(channel, delivery))


def _read(channel: int, delivery: Delivery) -> Read:
    return (
        channel, delivery.tag, delivery.redelivered, delivery.wire_exchange,
        delivery.wire_routing_key, delivery.message_id, dict(delivery.headers) or None,
        delivery.body,
    )  # fmt: skip


def reader(*channels: int) -> Reader:
    """A connection with consumers on *channels*, which notes what each was handed."""
    made = Reader({})
    for channel in channels:

        def take(deliveries: list[Delivery], channel: int = channel) -> None:
            made.read.extend(_read(channel, delivery) for delivery in deliveries)

        made.routes[channel] = Subscription(None, "q", "limehub.1", take)
    return made


def feed(connection: Reader, data: bytes, chunk: int) -> None:
    for at in range(0, len(data), chunk):
        connection._on_data_available(data[at : at + chunk])


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), chunk=st.sampled_from([1, 7, 100, 4096, 131_072]))
@example(seed=7, chunk=1)
def test_the_scanner_reads_what_pika_reads(seed: int, chunk: int) -> None:
    chance = random.Random(seed)
    broker, connection = Broker(chance), reader(1, 2)
    for _ in range(40):
        if chance.random() < 0.1:
            broker.say()
        else:
            broker.deliver(chance.choice(CHANNELS), chance.choice(SIZES))
    data = b"".join(broker.out)
    feed(connection, data, chunk)
    for channel in CHANNELS:  # across channels any order is right
        expected = [each for each in broker.sent if each[0] == channel]
        assert [each for each in connection.read if each[0] == channel] == expected
    assert connection.others == broker.others
    assert connection.bytes_received == len(data)
    assert connection._unread == b""


def test_what_fits_into_one_frame_never_reaches_pika() -> None:
    broker, connection = Broker(random.Random(1)), reader(1)
    for size in (0, 1, 400, FRAME_MAX - 8):
        broker.out.extend(())
        broker.deliver(1, size)
    data = b"".join(part for part in broker.out if part != HEARTBEAT)
    feed(connection, data, 1000)
    assert connection.slow == 0
    assert connection.read == broker.sent


def test_a_consumer_that_was_cancelled_is_pikas_to_answer() -> None:
    broker, connection = Broker(random.Random(2)), reader(1)
    broker.deliver(1, 10, consumer="limehub.0")
    broker.deliver(1, 10)
    feed(connection, b"".join(part for part in broker.out if part != HEARTBEAT), 4096)
    assert connection.slow == 1
    assert [each[1] for each in connection.read] == [1, 2]


def test_a_body_of_100_mebibytes_arrives_whole() -> None:
    body = random.Random(3).randbytes(1 << 20) * 100
    parts = [frames.Method(1, spec.Basic.Deliver("limehub.1", 1, False, "x", "k")).marshal()]
    parts.append(frames.Header(1, len(body), pika.BasicProperties()).marshal())
    parts += [
        frames.Body(1, body[at : at + 131_064]).marshal() for at in range(0, len(body), 131_064)
    ]
    connection = reader(1)
    feed(connection, b"".join(parts), 131_072)
    ((*_, arrived),) = connection.read
    assert arrived == body


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_frame_that_does_not_end_as_it_must_is_an_error(which: int) -> None:
    broker = Broker(random.Random(4))
    broker.deliver(1, 50)
    parts = [bytearray(part) for part in broker.out if part != HEARTBEAT]
    parts[which][-1] = 0
    with pytest.raises(ValueError, match="0xCE"):
        scan(b"".join(parts), 0, reader(1).routes, Delivery, [])


def test_acks_and_rejects_are_what_pika_sends() -> None:
    ack = frames.Method(5, spec.Basic.Ack(77, True)).marshal()
    reject = frames.Method(5, spec.Basic.Reject(2**40, True)).marshal()
    assert ack_frame(5, 77, True) == ack
    assert reject_frame(5, 2**40, True) == reject


@given(tag=st.integers(1, 2**62), multiple=st.booleans(), acked=st.booleans())
def test_confirms_are_what_pika_reads(tag: int, multiple: bool, acked: bool) -> None:
    method = spec.Basic.Ack(tag, multiple) if acked else spec.Basic.Nack(tag, multiple)
    data = b"before" + frames.Method(9, method).marshal()
    assert confirm_of(data, 6) == (9, tag, multiple, acked)
    assert confirm_of(frames.Method(9, spec.Basic.CancelOk("x")).marshal(), 0) is None
    assert confirm_of(HEARTBEAT, 0) is None


@given(body=st.binary(max_size=300), frame_max=st.integers(60, 130), mandatory=st.booleans())
def test_a_published_message_is_what_pika_sends(
    body: bytes, frame_max: int, mandatory: bool
) -> None:
    properties = pika.BasicProperties(content_type="text/plain", delivery_mode=2)
    expected = [
        frames.Method(3, spec.Basic.Publish(0, "lime.acme", "a.key", mandatory, False)).marshal(),
        frames.Header(3, len(body), properties).marshal(),
        *(
            frames.Body(3, body[at : at + frame_max - 8]).marshal()
            for at in range(0, len(body), frame_max - 8)
        ),
    ]
    method = publish_method("lime.acme", "a.key", mandatory)
    encoded = encode_properties({"content_type": "text/plain", "delivery_mode": 2}, {})
    assert content_frames(3, method, encoded, body, frame_max) == b"".join(expected)


def test_an_address_that_is_not_utf8_is_shown_with_backslashes() -> None:
    assert address_of(b"\x01x\x02k\xff") == ("x", "k\\xff")


@given(
    st.none() | st.text(max_size=60),
    st.none() | st.text(max_size=60),
    st.dictionaries(st.text(min_size=1, max_size=9), st.text(max_size=9), max_size=3),
)
def test_content_coding_is_what_pika_reads(
    content_type: str | None, encoding: str | None, headers: dict[str, str]
) -> None:
    properties = pika.BasicProperties(
        content_type=content_type, content_encoding=encoding, headers=headers or None, priority=3
    )
    assert content_coding(b"".join(properties.encode())) == (content_type, encoding)
