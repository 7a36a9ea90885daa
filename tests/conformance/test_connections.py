"""Connections: credentials, limits, heartbeats, frames that are none."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import kombu
import pika
import pytest

from tests.support.waiting import wait_until

Connect = Callable[..., pika.BlockingConnection]
HEADER = b"AMQP\x00\x00\x09\x01"


def address(url: str) -> tuple[str, int]:
    given = pika.URLParameters(url)
    return given.host, given.port


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(spec: Any) -> bytes:
    return struct.pack(">I", spec.INDEX) + b"".join(spec.encode())


def content(channel: int, spec: Any, body: bytes) -> bytes:
    """A method, its header without properties, and its body in frames."""
    head = struct.pack(">HHQH", spec.INDEX >> 16, 0, len(body), 0)
    parts = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
    frames = [frame(1, channel, method(spec)), frame(2, channel, head)]
    return b"".join([*frames, *(frame(3, channel, part) for part in parts)])


class Raw:
    """A client that can break the rules, with channel 1 open. `sent`: for who counts."""

    def __init__(
        self, url: str, heartbeat: int = 0, capabilities: dict[str, bool] | None = None
    ) -> None:
        self.sent = 0
        self.sock = socket.create_connection(address(url), timeout=60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.sock.makefile("rb")
        told = {"capabilities": capabilities or {}}
        start = pika.spec.Connection.StartOk(told, "PLAIN", "\0guest\0guest", "en_US")
        tune = pika.spec.Connection.TuneOk(2047, 131_072, heartbeat)
        self.sock.sendall(HEADER)
        self.method()
        self.send(0, start)
        self.method()
        self.send(0, tune)
        self.send(0, pika.spec.Connection.Open("/"))
        self.method()
        self.send(1, pika.spec.Channel.Open())
        self.method()

    def send(self, channel: int, spec: Any) -> None:
        self.sock.sendall(frame(1, channel, method(spec)))

    def close(self) -> None:
        """Be gone. Closing the socket alone is not enough while `file` has it."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.file.close()
        self.sock.close()

    def read(self, size: int) -> bytes:
        """Bytes from the broker; fewer when it has ended the connection, in order or not."""
        try:
            return self.file.read(size)
        except ConnectionResetError:
            return b""

    def method(self) -> Any:
        """The next method frame, decoded; None when the connection is over."""
        while True:
            head = self.read(7)
            if len(head) < 7:
                return None
            kind, _, size = struct.unpack(">BHI", head)
            payload = self.read(size + 1)[:-1]
            if kind == 1:
                (index,) = struct.unpack_from(">I", payload)
                return pika.spec.methods[index]().decode(payload, 4)


def test_what_clients_rely_on_is_announced(connect: Connect) -> None:
    capabilities = connect()._impl.server_properties["capabilities"]
    assert {name for name, value in capabilities.items() if value} >= {
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
    }


def test_a_wrong_password_is_refused(connect: Connect) -> None:
    with pytest.raises(pika.exceptions.ProbableAuthenticationError, match="403"):
        connect(credentials=pika.PlainCredentials("guest", "wrong"))


def test_an_unknown_virtual_host_is_refused(connect: Connect) -> None:
    with pytest.raises(pika.exceptions.ProbableAccessDeniedError, match="vhost nope not found"):
        connect(virtual_host="nope")


def test_kombu_publishes_and_consumes(url: str, name: str) -> None:
    got: list[Any] = []

    def take(body: Any, message: Any) -> None:
        got.append(body)
        message.ack()

    with kombu.Connection(url) as connection:
        topic = kombu.Exchange(name, "topic", durable=True, auto_delete=True)
        declared = kombu.Queue(name, topic, routing_key="a.#", auto_delete=True)
        with connection.Consumer(declared, callbacks=[take]):
            connection.Producer().publish({"id": 1}, exchange=topic, routing_key="a.b")
            connection.drain_events(timeout=60)
    assert got == [{"id": 1}]


def test_amqplain_is_understood(url: str) -> None:
    with kombu.Connection(url, login_method="AMQPLAIN") as connection:
        assert connection.connect().connected


@pytest.mark.differs_on_4
def test_another_protocol_is_answered_with_ours(url: str) -> None:
    with socket.create_connection(address(url), timeout=60) as sock:
        sock.sendall(b"GET / HT")
        assert sock.makefile("rb").read(8) == HEADER


WRONG: dict[str, tuple[bytes, int]] = {
    "wrong end": (struct.pack(">BHI", 1, 1, 4) + b"abcd\x00", 501),
    "unknown frame type": (frame(65, 1, b"abcd"), 501),
    "a method that is cut": (frame(1, 1, b"\0\x3c\0\x28ab"), 501),
    "a body from nowhere": (frame(3, 1, b"abcd"), 505),
    "a header from nowhere": (frame(2, 1, b"\0\x3c" + b"\0" * 12), 505),
    "no header after publish": (frame(1, 1, b"\0\x3c\0\x28" + b"\0" * 5) * 2, 505),
    "a frame that is too large": (struct.pack(">BHI", 1, 1, 200_000) + b"x" * 200_000, 501),
    "a heartbeat on a channel": (frame(8, 1, b""), 505),
    "a heartbeat with content": (frame(8, 0, b"a"), 501),
    "a server's method": (frame(1, 1, b"\0\x3c\0\x48\0"), 503),
    "a channel that is not open": (frame(1, 9, b"\0\x5a\0\x0a"), 504),
    "a channel that is open": (frame(1, 1, b"\0\x14\0\x0a\0"), 504),
}


@pytest.mark.parametrize("label", WRONG)
def test_a_frame_that_breaks_the_rules_ends_the_connection(url: str, label: str) -> None:
    data, code = WRONG[label]
    raw = Raw(url)
    raw.sock.sendall(data)
    answer = raw.method()
    assert (type(answer).__name__, answer.reply_code) == ("Close", code)
    with contextlib.suppress(OSError):  # RabbitMQ waits for it, but not for long
        raw.send(0, pika.spec.Connection.CloseOk())
    assert raw.method() is None


def test_a_silent_client_is_given_up(url: str) -> None:
    began = time.monotonic()  # before the last that the broker hears
    raw = Raw(url, heartbeat=1)
    assert raw.method() is None  # the broker's own heartbeats are skipped
    assert time.monotonic() - began > 1.5


def test_the_broker_sends_heartbeats(url: str) -> None:
    raw = Raw(url, heartbeat=2)
    assert raw.file.read(8) == b"\x08\x00\x00\x00\x00\x00\x00\xce"


def test_a_closed_channel_number_can_be_used_again(connect: Connect) -> None:
    connection = connect()
    for _ in range(3):
        channel = connection.channel(7)
        channel.queue_declare("", exclusive=True)
        channel.close()
    wait_until(lambda: connection.is_open)
