"""Clients that nobody has asked in, and operators with clumsy hands."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pika
import psutil
import pytest
from pika import spec

from tests.conformance.embedded import EmbeddedBroker
from tests.conformance.test_connections import HEADER, Raw, content, frame, method
from tests.conformance.test_durability import refused
from tests.conformance.wire import bodies, publish
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    folder = tmp_path_factory.mktemp("strangers")
    with EmbeddedBroker(folder, folder / "broker.db") as broker:
        yield broker


def connected(broker: EmbeddedBroker) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.URLParameters(broker.url))


def headers(table: bytes) -> bytes:
    """Properties with *table* for headers, whatever that is."""
    return struct.pack(">HI", 1 << 13, len(table)) + table


MALFORMED = {
    "unknown type": headers(b"\x01aZ\x00"),
    "a string that is cut": headers(b"\x01aS\x00\x00\x00\x09abc"),
    "a key that is cut": headers(b"\x09aS"),
    "an array of nothing": headers(b"\x01aA\x00\x00\x00\x03abc"),
    "a table in a table": headers(b"\x01aF\x00\x00\x00\x02\x09a"),
    "longer than it is": struct.pack(">HI", 1 << 13, 255),
    "shorter than it is": struct.pack(">H", 1 << 12) + b"\x02zz",
    "a mode that is missing": struct.pack(">H", 1 << 12),
}


def with_properties(raw: bytes) -> bytes:
    """A message to nowhere with these properties."""
    publication = frame(1, 1, method(spec.Basic.Publish(exchange="", routing_key="nowhere")))
    return publication + frame(2, 1, struct.pack(">HHQ", 60, 0, 0) + raw)


@pytest.mark.parametrize("label", MALFORMED)
def test_properties_that_no_consumer_could_read_end_the_connection(url: str, label: str) -> None:
    raw = Raw(url)
    raw.sock.sendall(with_properties(MALFORMED[label]))
    assert raw.method().reply_code in (502, 541)  # ours says what was wrong


@pytest.mark.differs_on_4
@pytest.mark.parametrize("mode", [0, 3, 255])
def test_an_unknown_delivery_mode_is_refused(url: str, mode: int) -> None:
    raw = Raw(url)
    raw.sock.sendall(with_properties(struct.pack(">HB", 1 << 12, mode)))
    closed = raw.method()
    assert closed.reply_code == 406
    assert f"invalid message: {{delivery_mode_unknown,{mode}}}" in closed.reply_text


QUORUM = {
    "x-delivery-limit": (5, 6),
    "x-quorum-initial-group-size": (1, 3),
    "x-max-in-memory-length": (1, 2),
    "x-max-in-memory-bytes": (1, 2),
}


@pytest.mark.parametrize("argument", QUORUM)
def test_quorum_queues_are_compared_by_their_own_arguments_too(
    url: str, name: str, argument: str
) -> None:
    one, other = QUORUM[argument]
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    kind = {"x-queue-type": "quorum"}
    channel.queue_declare(name, durable=True, arguments={**kind, argument: one})
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refused:
        channel.queue_declare(name, durable=True, arguments={**kind, argument: other})
    assert f"received '{other}' but current is '{one}'" in refused.value.reply_text
    connection.channel().queue_delete(name)
    connection.close()


def test_channels_are_counted_and_may_have_any_number(url: str) -> None:
    raw = Raw(url)
    for number in (2047, 2048, 65535):
        raw.send(number, spec.Channel.Open())
        assert type(raw.method()).__name__ == "OpenOk"
    for number in range(2, 2045):
        raw.send(number, spec.Channel.Open())
        assert type(raw.method()).__name__ == "OpenOk"
    raw.send(5000, spec.Channel.Open())
    closed = raw.method()
    assert closed.reply_code == 530
    assert "(2047) has reached the negotiated channel_max (2047)" in closed.reply_text


HELLOS = {
    "http": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "amqp 1.0": b"AMQP\x00\x01\x00\x00",
    "sasl": b"AMQP\x03\x01\x00\x00",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "redis": b"*1\r\n$4\r\nPING\r\n",
}


@pytest.mark.differs_on_4
@pytest.mark.parametrize("label", HELLOS)
def test_who_speaks_something_else_is_told_what_is_spoken_here(url: str, label: str) -> None:
    parameters = pika.URLParameters(url)
    with socket.create_connection((parameters.host, parameters.port), timeout=60) as sock:
        sock.sendall(HELLOS[label])
        told = b""
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(64):
                told += data
    assert told == HEADER


def test_a_client_that_wants_tls_fails_at_once(broker: EmbeddedBroker) -> None:
    context = ssl.create_default_context()
    with (
        socket.create_connection(("127.0.0.1", broker.port), timeout=60) as sock,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(sock, server_hostname="localhost")


def test_a_connection_that_says_nothing_is_given_up(broker: EmbeddedBroker) -> None:
    with socket.create_connection(("127.0.0.1", broker.port), timeout=60) as sock:
        assert sock.recv(1) == b""


def test_questions_without_an_ear_for_the_answers_take_no_memory(broker: EmbeddedBroker) -> None:
    deaf = Raw(broker.url)
    deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    questions = frame(1, 1, method(spec.Queue.Declare(queue="x" * 200))) * 1000
    before, sent = broker.memory, 0
    deaf.sock.settimeout(1)
    with contextlib.suppress(TimeoutError):
        for _ in range(600):  # 130 MB of answers
            sent += deaf.sock.send(questions[sent % len(questions) :])
    assert sent < 100_000_000, "the broker reads on and on"
    assert broker.memory - before < 60_000_000
    deaf.close()
    connection = connected(broker)
    connection.channel().queue_delete("x" * 200)
    connection.close()


def test_a_slow_reader_of_a_large_message_is_not_taken_for_dead(broker: EmbeddedBroker) -> None:
    connection = connected(broker)
    channel = connection.channel()
    channel.queue_declare("large")
    channel.basic_publish("", "large", b"x" * 40_000_000)
    slow = Raw(broker.url, heartbeat=2)  # dead after three of silence
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    slow.send(1, spec.Basic.Consume(queue="large", no_ack=True))
    received = 0
    while received < 40_000_000 and (data := slow.sock.recv(1_000_000)):
        received += len(data)
        slow.sock.sendall(b"\x08\x00\x00\x00\x00\x00\x00\xce")
        gevent.sleep(len(data) / 4_000_000)  # ten seconds in all
    assert received >= 40_000_000
    channel.queue_delete("large")
    connection.close()


def test_messages_that_never_end_do_not_fill_the_memory(tmp_path: Path) -> None:
    share = 150_000_000 / psutil.virtual_memory().total
    with EmbeddedBroker(tmp_path, arguments=("--memory-share", f"{share:.12f}")) as broker:
        clients = [Raw(broker.url) for _ in range(4)]
        sending = [gevent.spawn(send_most, client) for client in clients]
        wait_until(lambda: "memory is scarce" in broker.log)
        gevent.sleep(1)
        assert broker.memory < 300_000_000
        for client, greenlet in zip(clients, sending, strict=True):
            greenlet.kill()
            client.close()
        wait_until(lambda: "memory is enough again" in broker.log, message="clients gone")


def send_most(client: Raw) -> None:
    """Send 120 MB of a message of 128 MB."""
    method_frame = frame(1, 1, method(spec.Basic.Publish(exchange="", routing_key="x")))
    head = struct.pack(">HHQH", 60, 0, 128_000_000, 0)
    client.sock.settimeout(None)
    client.sock.sendall(method_frame + frame(2, 1, head))
    for _ in range(1200):
        client.sock.sendall(frame(3, 1, b"x" * 100_000))


def test_a_data_file_that_is_moved_away_blocks_publishers_until_it_is_back(tmp_path: Path) -> None:
    file, away = tmp_path / "broker.db", tmp_path / "away.db"
    with EmbeddedBroker(tmp_path, file) as broker:
        connection = connected(broker)
        channel = connection.channel()
        channel.queue_declare("q", durable=True)
        channel.confirm_delivery()
        publish(channel, "q", "before")
        file.rename(away)
        publisher = Raw(broker.url, capabilities={"connection.blocked": True})
        publisher.send(1, spec.Confirm.Select())
        publisher.method()
        publication = spec.Basic.Publish(exchange="", routing_key="q")
        persistent = struct.pack(">HB", 1 << 12, 2)
        publisher.sock.sendall(
            frame(1, 1, method(publication))
            + frame(2, 1, struct.pack(">HHQ", 60, 0, 6) + persistent)
            + frame(3, 1, b"during")
        )
        assert publisher.method().reason == "low on disk"
        wait_until(lambda: "removed or replaced" in broker.log)
        away.rename(file)
        assert {type(publisher.method()).__name__ for _ in "ab"} == {"Unblocked", "Ack"}
        broker.kill()
        broker.start()
        again = connected(broker)
        assert bodies(again.channel(), "q") == ["before", "during"]


def test_a_data_file_that_breaks_while_in_use_ends_the_broker_with_a_clear_line(
    tmp_path: Path,
) -> None:
    file = tmp_path / "broker.db"
    with EmbeddedBroker(tmp_path, file) as broker:
        channel = connected(broker).channel()
        channel.queue_declare("q", durable=True)
        lasting = pika.BasicProperties(delivery_mode=2)
        for number in range(5000):
            channel.basic_publish("", "q", b"%0400d" % number, lasting)
        wait_until(lambda: ready(channel, "q") == 5000)
        assert broker.stop() == 0
        broker.start()
        size = file.stat().st_size
        with file.open("r+b") as data:
            data.seek(size // 3)
            data.write(b"\xff" * (size // 3))
        channel = connected(broker).channel()
        with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match="541"):
            channel.basic_consume("q", lambda *_: None, auto_ack=True)
            channel.start_consuming()
        assert broker.ended() == 4
        assert f"limehub broker: {file}: " in broker.log
        assert "malformed" in broker.log or "missing" in broker.log
        assert "damaged" in refused(tmp_path, file)


def test_a_flood_behind_a_question_waits_when_the_disk_is_full(tmp_path: Path) -> None:
    file = tmp_path / "broker.db"
    with EmbeddedBroker(tmp_path, file) as broker:
        file.rename(tmp_path / "away.db")  # as good as full
        raw = Raw(broker.url)
        raw.send(1, spec.Queue.Declare(queue="q", durable=True))
        before = broker.memory
        publication = content(1, spec.Basic.Publish(exchange="", routing_key="q"), b"x" * 100_000)
        raw.sock.settimeout(1)
        with contextlib.suppress(TimeoutError):
            for _ in range(1000):
                raw.sock.sendall(publication)
        assert broker.memory - before < 40_000_000
        (tmp_path / "away.db").rename(file)
        raw.sock.settimeout(60)
        assert type(raw.method()).__name__ == "DeclareOk"


def test_ten_thousand_queues_are_no_burden(broker: EmbeddedBroker) -> None:
    connection = connected(broker)
    channel = connection.channel()
    channel.exchange_declare("many", "fanout", durable=True)
    before = broker.memory
    declare_many(broker, 10_000)
    assert broker.memory - before < 60_000_000
    channel.confirm_delivery()
    publish(channel, "", "to all", exchange="many")
    broker.kill()
    broker.start()
    connection = connected(broker)
    channel = connection.channel()
    for number in (0, 4999, 9999):
        assert bodies(channel, f"many-{number}") == ["to all"]
    connection.close()


def declare_many(broker: EmbeddedBroker, count: int) -> None:
    """Declare and bind so many durable queues without waiting for each."""
    raw = Raw(broker.url)
    for number in range(count):
        name = f"many-{number}"
        raw.send(1, spec.Queue.Declare(queue=name, durable=True, nowait=True))
        raw.send(1, spec.Queue.Bind(queue=name, exchange="many", nowait=True))
    raw.send(1, spec.Basic.Qos())
    assert type(raw.method()).__name__ == "QosOk"
    raw.close()


def test_unacked_messages_live_in_the_file(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path, tmp_path / "broker.db") as broker:
        connection = connected(broker)
        channel = connection.channel()
        channel.queue_declare("held", durable=True)
        lasting = pika.BasicProperties(delivery_mode=2)
        for number in range(20_000):
            channel.basic_publish("", "held", b"%02000d" % number, lasting)
        channel.close()
        hoarder = Raw(broker.url)
        hoarder.send(1, spec.Basic.Consume(queue="held"))
        taking = gevent.spawn(swallow, hoarder)
        channel = connection.channel()
        wait_until(lambda: ready(channel, "held") == 0, message="all delivered")
        wait_until(lambda: broker.memory < 65_000_000, message="the contents to leave memory")
        taking.kill()
        hoarder.close()
        wait_until(lambda: ready(channel, "held") == 20_000, message="all back")
        for number in range(300):
            assert int(channel.basic_get("held", auto_ack=True)[2]) == number
        connection.close()


def swallow(raw: Raw) -> None:
    """Read and forget."""
    while raw.sock.recv(1 << 20):
        continue


def ready(channel: Any, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).method.message_count)
