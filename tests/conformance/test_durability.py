"""The data file: what was confirmed is there after any end; what is wrong with a file is said."""

from __future__ import annotations

import contextlib
import random
import resource
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import gevent
import pika
import pytest
from attrs import define, field
from pika.adapters.blocking_connection import BlockingChannel

from tests.conformance.embedded import EmbeddedBroker
from tests.conformance.wire import bodies, publish
from tests.support.waiting import wait_until

LOST = (pika.exceptions.AMQPError, OSError)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path, tmp_path / "broker.db") as broker:
        yield broker


def connected(broker: EmbeddedBroker) -> BlockingChannel:
    channel = pika.BlockingConnection(pika.URLParameters(broker.url)).channel()
    channel.confirm_delivery()
    return channel


def test_entities_and_persistent_messages_outlive_a_kill(broker: EmbeddedBroker) -> None:
    channel = connected(broker)
    channel.exchange_declare("x", "topic", durable=True, arguments={"alternate-exchange": "alt"})
    channel.exchange_declare("alt", "fanout", durable=True)
    channel.queue_declare("q", durable=True, arguments={"x-max-priority": 3})
    channel.queue_declare("transient")
    channel.queue_bind("q", "x", "a.#")
    channel.exchange_bind("alt", "x", "b")
    publish(channel, "a.b", "kept", exchange="x", priority=2, headers={"h": [1, "x"]})
    publish(channel, "a.b", "transient", exchange="x", delivery_mode=1)
    publish(channel, "a.b", "expired", exchange="x", expiration="1")
    broker.kill()
    broker.start()

    channel = connected(broker)
    channel.queue_declare("q", durable=True, arguments={"x-max-priority": 3})
    channel.exchange_declare("x", "topic", durable=True, arguments={"alternate-exchange": "alt"})
    method, properties, body = channel.basic_get("q", auto_ack=True)
    assert (body, method.redelivered, method.exchange, method.routing_key) == (
        b"kept",
        True,
        "x",
        "a.b",
    )
    assert (properties.priority, properties.delivery_mode) == (2, 2)
    assert bodies(channel, "q") == []
    publish(channel, "a.c", "bound", exchange="x")
    assert bodies(channel, "q") == ["bound"]
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="no queue 'transient'"):
        channel.queue_declare("transient", passive=True)


def test_what_was_deleted_stays_deleted(broker: EmbeddedBroker) -> None:
    channel = connected(broker)
    for name in ("gone", "stays"):
        channel.queue_declare(name, durable=True)
        channel.queue_bind(name, "amq.topic", name)
        publish(channel, name, "a", "b", "c")
    channel.queue_delete("gone")
    channel.queue_unbind("stays", "amq.topic", "stays")
    method, _, _ = channel.basic_get("stays")
    channel.basic_ack(method.delivery_tag)
    channel.queue_declare("last", durable=True)
    broker.kill()
    broker.start()

    channel = connected(broker)
    assert bodies(channel, "stays") == ["b", "c"]
    publish(channel, "stays", "nobody", exchange="amq.topic")
    assert bodies(channel, "stays") == []
    channel.queue_declare("gone", durable=True)
    assert bodies(channel, "gone") == []


def test_an_orderly_end_keeps_everything_and_says_goodbye(broker: EmbeddedBroker) -> None:
    channel = connected(broker)
    channel.queue_declare("q", durable=True)
    publish(channel, "q", "a")
    assert broker.stop() == 0
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker, match=r"320.*shutdown"):
        channel.connection.process_data_events(30)
    broker.start()
    assert bodies(connected(broker), "q") == ["a"]


@define(eq=False)
class Traffic:
    """Numbered messages in and out of a broker that dies; afterwards none may be missing."""

    broker: EmbeddedBroker
    confirmed: set[str] = field(factory=set)
    consumed: set[str] = field(factory=set)
    stopped: bool = False

    def publish(self) -> None:
        while not self.stopped:
            try:
                with contextlib.closing(connected(self.broker).connection) as connection:
                    self._publish(connection.channel())
            except LOST:
                gevent.sleep(0.01)

    def _publish(self, channel: BlockingChannel) -> None:
        channel.confirm_delivery()
        channel.queue_declare("load", durable=True)
        while not self.stopped:
            body = uuid.uuid4().hex
            publish(channel, "load", body)
            self.confirmed.add(body)

    def consume(self) -> None:
        while not self.stopped:
            try:
                # Closed at the end: what it was given and did not look at is back in the queue.
                with contextlib.closing(connected(self.broker).connection) as connection:
                    self._consume(connection.channel())
            except (*LOST, ValueError):
                gevent.sleep(0.01)

    def _consume(self, channel: BlockingChannel) -> None:
        channel.basic_qos(prefetch_count=10)
        for method, _, body in channel.consume("load", inactivity_timeout=0.2):
            if self.stopped:
                return
            if method is not None:
                self.consumed.add(body.decode())
                channel.basic_ack(method.delivery_tag)

    def nothing_missing(self) -> bool:
        self.consumed |= set(bodies(connected(self.broker), "load"))
        return self.confirmed <= self.consumed


@pytest.mark.timeout(3600)  # a thousand rounds in the long form
def test_a_kill_under_load_loses_nothing_confirmed(broker: EmbeddedBroker, soak: bool) -> None:
    traffic = Traffic(broker)
    publishers = [gevent.spawn(traffic.publish) for _ in range(4)]
    consumer = gevent.spawn(traffic.consume)
    chance = random.Random(4711)
    for round_number in range(1000 if soak else 20):
        before = len(traffic.confirmed)
        more = chance.randrange(1, 40)
        wait_until(lambda least=before + more: len(traffic.confirmed) >= least, 60, "traffic")
        broker.kill()
        broker.start()
        assert broker.running, f"round {round_number}"
    traffic.stopped = True
    assert len(gevent.joinall([*publishers, consumer], timeout=60, raise_error=True)) == 5
    assert len(traffic.confirmed) > 100
    wait_until(traffic.nothing_missing, message="what was confirmed")


def test_a_file_has_one_broker_at_a_time(broker: EmbeddedBroker) -> None:
    second = EmbeddedBroker(broker.folder, broker.data)
    process = second.spawn()
    process.communicate(timeout=60)
    assert process.returncode == 4
    assert f"broker.db: in use by process {broker.pid}" in second.log


def refused(folder: Path, file: Path) -> str:
    """Start a broker on *file*, which it must refuse; returns what it says."""
    broker = EmbeddedBroker(folder, file)
    process = broker.spawn()
    process.communicate(timeout=60)
    assert process.returncode == 4
    return broker.log.strip().splitlines()[-1]


def test_a_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    foreign, text = tmp_path / "foreign.db", tmp_path / "text.db"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE theirs (a)")
    text.write_text("dear diary, " * 1000)
    before = foreign.read_bytes(), text.read_bytes()
    assert "of another program" in refused(tmp_path, foreign)
    assert "file is not a database" in refused(tmp_path, text)
    assert (foreign.read_bytes(), text.read_bytes()) == before


def test_a_file_in_no_folder_is_named(tmp_path: Path) -> None:
    assert "none/broker.db" in refused(tmp_path, tmp_path / "none" / "broker.db")


def test_a_damaged_file_is_refused(broker: EmbeddedBroker) -> None:
    channel = connected(broker)
    channel.queue_declare("q", durable=True)
    for number in range(300):
        publish(channel, "q", f"{number:05}" * 100)
    assert broker.stop() == 0
    assert broker.data is not None
    damaged = bytearray(broker.data.read_bytes())
    for at in range(4096 * 3, len(damaged), 4096):
        damaged[at : at + 100] = b"\xff" * 100
    broker.data.write_bytes(damaged)
    assert "broker.db: " in (told := refused(broker.folder, broker.data))
    assert "damaged" in told or "malformed" in told


def test_the_file_shrinks_after_a_backlog(broker: EmbeddedBroker) -> None:
    channel = connected(broker)
    channel.queue_declare("q", durable=True)
    assert broker.data is not None
    for _ in range(40):
        publish(channel, "q", "x" * 250_000)
    wait_until(lambda: broker.data and broker.data.stat().st_size > 5_000_000)
    channel.queue_purge("q")
    wait_until(lambda: broker.data and broker.data.stat().st_size < 500_000, message="small again")


def test_a_deep_queue_lives_in_the_file(broker: EmbeddedBroker) -> None:
    channel = connected(broker)
    channel.queue_declare("q", durable=True)
    channel.close()
    channel = channel.connection.channel()
    for number in range(100_000):
        channel.basic_publish(
            "", "q", f"{number:0400}".encode(), pika.BasicProperties(delivery_mode=2)
        )
    wait_until(lambda: channel.queue_declare("q", passive=True).method.message_count == 100_000, 60)
    wait_until(lambda: broker.memory < 75_000_000, message="the contents to leave memory")
    channel.basic_qos(prefetch_count=500)
    for expected, (method, _, body) in enumerate(channel.consume("q", auto_ack=False)):
        assert int(body) == expected
        if expected % 250 == 249:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if expected == 5000:
            break


def test_a_full_disk_blocks_publishers_and_loses_nothing(broker: EmbeddedBroker) -> None:
    publisher, consumer = connected(broker), connected(broker)
    publisher.queue_declare("q", durable=True)
    blocked: list[bool] = []
    publisher.connection.add_on_connection_blocked_callback(lambda *_: blocked.append(True))
    publisher.connection.add_on_connection_unblocked_callback(lambda *_: blocked.append(False))
    publish(publisher, "q", "before")
    room = 300_000
    resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    flood = publisher.connection.channel()
    publish(flood, "q", *["x" * 100_000] * 5)
    wait_until(lambda: publisher.connection.process_data_events(0.05) or blocked, message="blocked")
    assert consumer.basic_get("q", auto_ack=True)[2] == b"before"
    resource.prlimit(
        broker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    )
    wait_until(
        lambda: publisher.connection.process_data_events(0.05) or blocked[-1] is False,
        message="unblocked",
    )
    publish(publisher, "q", "after")
    broker.kill()
    broker.start()
    assert [body[:6] for body in bodies(connected(broker), "q")] == ["xxxxxx"] * 5 + ["after"]
