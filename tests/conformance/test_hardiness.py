"""Bad clients, many clients, slow clients: none of them hurts the others."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pika
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.embedded import EmbeddedBroker
from tests.conformance.test_connections import HEADER, Raw, content, frame
from tests.conformance.wire import bodies, publish
from tests.support.waiting import quickest, wait_until


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path_factory.mktemp("hardy")) as broker:
        yield broker


def works(broker: EmbeddedBroker) -> None:
    """A fresh client gets its message through."""
    seconds_to_work(broker)


def seconds_to_work(broker: EmbeddedBroker) -> float:
    """How long that takes."""
    began = time.monotonic()
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    channel = connection.channel()
    name = channel.queue_declare("", exclusive=True).method.queue
    publish(channel, name, "x")
    assert bodies(channel, name) == ["x"]
    connection.close()
    return time.monotonic() - began


PAYLOADS = st.binary(max_size=60)
METHODS = st.sampled_from([10, 20, 30, 40, 50, 60, 85, 90]).flatmap(
    lambda group: st.tuples(
        st.just(group), st.sampled_from([10, 11, 20, 30, 31, 40, 50, 60, 70, 80, 90, 110, 120])
    )
)
FRAMES = st.one_of(
    PAYLOADS,
    st.builds(frame, st.sampled_from([1, 2, 3, 8]), st.integers(0, 2), PAYLOADS),
    st.builds(
        lambda index, channel, rest: frame(1, channel, struct.pack(">HH", *index) + rest),
        METHODS,
        st.integers(0, 2),
        PAYLOADS,
    ),
)


def end_of(sock: socket.socket) -> bytes:
    """Everything the broker says until it closes or has nothing more to say."""
    told = b""
    with contextlib.suppress(OSError):
        while data := sock.recv(65536):
            told += data
    return told


@settings(max_examples=150)
@given(frames=st.lists(FRAMES, min_size=1, max_size=6))
def test_any_bytes_on_an_open_channel_leave_the_broker_alive(
    broker: EmbeddedBroker, frames: list[bytes]
) -> None:
    raw = Raw(broker.url)
    with contextlib.suppress(OSError):
        raw.sock.sendall(b"".join(frames))
        raw.sock.shutdown(socket.SHUT_WR)
    end_of(raw.sock)
    raw.close()
    assert broker.running
    assert "Traceback" not in broker.log


@settings(max_examples=100)
@given(data=st.binary(min_size=1, max_size=200), header=st.booleans())
def test_any_bytes_instead_of_a_handshake_leave_the_broker_alive(
    broker: EmbeddedBroker, data: bytes, header: bool
) -> None:
    address = ("127.0.0.1", broker.port)
    with socket.create_connection(address, timeout=60) as sock, contextlib.suppress(OSError):
        sock.sendall(HEADER + data if header else data)
        sock.shutdown(socket.SHUT_WR)
        end_of(sock)
    assert broker.running
    assert "Traceback" not in broker.log


def test_broken_connections_leave_no_memory_behind(broker: EmbeddedBroker) -> None:
    chance = random.Random(1)

    def break_some() -> None:
        for _ in range(200):
            raw = Raw(broker.url)
            with contextlib.suppress(OSError):
                raw.sock.sendall(frame(1, 1, chance.randbytes(50)))
            raw.close()

    for _ in range(5):
        break_some()
    before = broker.memory
    for _ in range(10):
        break_some()
    wait_until(lambda: broker.memory < before + 2_000_000, message="nothing left behind")
    works(broker)


def test_five_hundred_idle_connections_cost_little(broker: EmbeddedBroker) -> None:
    before = broker.memory
    clients = [Raw(broker.url) for _ in range(500)]
    assert (broker.memory - before) / 500 < 40_000
    works(broker)
    for client in clients:
        client.close()


def test_a_client_that_stops_reading_does_not_stall_others(broker: EmbeddedBroker) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    channel = connection.channel()
    channel.queue_declare("slow", auto_delete=True)
    lazy = Raw(broker.url)
    lazy.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.send(1, pika.spec.Basic.Consume(queue="slow", no_ack=True))
    before = broker.memory
    for _ in range(300):
        channel.basic_publish("", "slow", b"x" * 100_000)
    wait_until(lambda: channel.queue_declare("slow", passive=True).method.message_count > 200)
    assert quickest(lambda: seconds_to_work(broker), 2.0) < 2.0
    assert broker.memory - before < 100_000_000
    quick = channel.consume("slow", inactivity_timeout=60)
    assert next(quick)[2] == b"x" * 100_000
    lazy.close()
    connection.close()


def test_who_asks_without_reading_is_answered_only_so_far(broker: EmbeddedBroker) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    channel = connection.channel()
    channel.queue_declare("asked", durable=True)

    def left() -> int:
        return int(channel.queue_declare("asked", passive=True).method.message_count)

    for _ in range(200):
        channel.basic_publish("", "asked", b"x" * 1_000_000)
    wait_until(lambda: left() == 200)
    asker = Raw(broker.url)
    asker.sock.sendall(frame(1, 1, wire_get("asked")) * 200)
    wait_until(lambda: left() < 200)
    works(broker)
    assert left() > 150
    received = 0
    while received < 200_000_000:  # once it reads, all is answered
        received += len(asker.sock.recv(1 << 20))
    assert left() == 0
    channel.queue_delete("asked")
    asker.close()
    connection.close()


def wire_get(queue: str) -> bytes:
    method = pika.spec.Basic.Get(queue=queue, no_ack=True)
    return struct.pack(">I", method.INDEX) + b"".join(method.encode())


def test_publishers_wait_while_memory_is_scarce_and_consumers_go_on(tmp_path: Path) -> None:
    share = 150_000_000 / psutil.virtual_memory().total
    with EmbeddedBroker(tmp_path, arguments=("--memory-share", f"{share:.12f}")) as broker:
        publisher = Raw(broker.url, capabilities={"connection.blocked": True})
        publisher.send(1, pika.spec.Queue.Declare(queue="flood"))
        assert type(publisher.method()).__name__ == "DeclareOk"
        flooding = gevent.spawn(flood, publisher, broker)
        assert publisher.method().reason == "low on memory"
        wait_until(lambda: stands_still(publisher))
        assert not flooding.ready(), "the publisher does not wait"
        assert broker.memory < 250_000_000

        reader = pika.BlockingConnection(pika.URLParameters(broker.url))
        assert next(reader.channel().consume("flood", auto_ack=True, inactivity_timeout=60))[2]
        flooding.kill()
        reader.channel().queue_purge("flood")
        assert type(publisher.method()).__name__ == "Unblocked"
        reader.close()
        works(broker)


def flood(publisher: Raw, broker: EmbeddedBroker) -> None:
    """Publish until the memory is far beyond what it may be."""
    method = pika.spec.Basic.Publish(exchange="", routing_key="flood")
    message = content(1, method, b"x" * 1_000_000)
    while broker.memory < 400_000_000:
        publisher.sent += publisher.sock.send(message[publisher.sent % len(message) :])


def stands_still(publisher: Raw) -> bool:
    """Whether the broker reads nothing more of it."""
    before = publisher.sent
    gevent.sleep(0.3)
    return publisher.sent == before


def test_the_broker_is_ready_soon(tmp_path: Path) -> None:
    assert quickest(lambda: imports_to_start(tmp_path), 5.0) < 5.0


def imports_to_start(folder: Path) -> float:
    """How long it takes, measured in what Python needs to import gevent and pika."""
    began = time.monotonic()
    with EmbeddedBroker(folder, folder / "broker.db"):
        ready = time.monotonic()
    subprocess.run([sys.executable, "-c", "import gevent, pika"], check=True)
    ended = time.monotonic()
    return (ready - began) / (ended - ready)
