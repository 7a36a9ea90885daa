"""Clients of other make: declare, publish with confirms, consume, and come back after a kill."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import amqpstorm
import kombu
import pytest

from scripts.rabbitmq_node import dies_with_parent
from tests.conformance.embedded import EmbeddedBroker
from tests.support.waiting import wait_until

COUNT = 50
EXPECTED = [str(number) for number in range(COUNT)]
NODE = shutil.which("node")
MODULES = Path(".limehub/bench/node/node_modules")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path, tmp_path / "broker.db") as broker:
        yield broker


def die_and_come_back(broker: EmbeddedBroker) -> None:
    broker.kill()
    broker.start()


# In a process without gevent's patches, as asyncio is used.
AIO_PIKA = """
import asyncio, json, sys
import aio_pika

url, count = sys.argv[1], int(sys.argv[2])


def tell(**what):
    print(json.dumps(what), flush=True)


async def main():
    connection = await aio_pika.connect_robust(url, reconnect_interval=0.1)
    channel = await connection.channel(publisher_confirms=True)
    await channel.set_qos(5)
    exchange = await channel.declare_exchange("aio", aio_pika.ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue("aio", durable=True)
    await queue.bind(exchange, "a.#")
    for number in range(count):
        message = aio_pika.Message(str(number).encode(), delivery_mode=2)
        await exchange.publish(message, "a.b", mandatory=True)
    back = asyncio.Event()
    connection.reconnect_callbacks.add(lambda *_: back.set(), weak=False)
    tell(confirmed=count)
    await back.wait()
    seen = []
    async with queue.iterator() as messages:
        async for message in messages:
            async with message.process():
                seen.append(message.body.decode())
            if len(seen) == count:
                break
    await connection.close()
    tell(seen=seen)


asyncio.run(main())
"""


def script_traffic(broker: EmbeddedBroker, command: list[str], **environ: str) -> list[str]:
    """What a client consumes that published, lost its broker, and got it back."""
    client = subprocess.Popen(
        dies_with_parent([*command, broker.url, str(COUNT)]),
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.defpath, **environ},
    )
    assert client.stdout is not None
    assert json.loads(client.stdout.readline()) == {"confirmed": COUNT}
    die_and_come_back(broker)
    told, _ = client.communicate(timeout=90)
    assert client.returncode == 0
    return list(json.loads(told)["seen"])


def test_aio_pika_comes_back_by_itself_and_misses_nothing(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    script = tmp_path / "client.py"
    script.write_text(AIO_PIKA)
    assert script_traffic(broker, [sys.executable, str(script)]) == EXPECTED


def test_amqpstorm_publishes_mandatory_with_confirms_and_consumes(broker: EmbeddedBroker) -> None:
    storm_publish(broker, EXPECTED)
    die_and_come_back(broker)
    assert storm_consume(broker) == EXPECTED
    assert bodies_left(broker, "storm") == []


def storm_publish(broker: EmbeddedBroker, numbers: list[str]) -> None:
    with amqpstorm.UriConnection(broker.url) as connection, connection.channel() as channel:
        channel.confirm_deliveries()
        channel.queue.declare("storm", durable=True)
        for number in numbers:
            properties = {"delivery_mode": 2}
            assert channel.basic.publish(number, "storm", properties=properties, mandatory=True)
        with pytest.raises(amqpstorm.AMQPMessageError, match="NO_ROUTE"):
            channel.basic.publish("lost", "nowhere", mandatory=True)


def storm_consume(broker: EmbeddedBroker) -> list[str]:
    seen: list[str] = []
    with amqpstorm.UriConnection(broker.url) as connection, connection.channel() as channel:

        def consume(message: Any) -> None:
            seen.append(message.body)
            message.ack()
            if len(seen) == COUNT:
                channel.stop_consuming()

        channel.basic.qos(5)
        channel.basic.consume(consume, "storm")
        channel.start_consuming()
    return seen


def test_kombu_reconnects_with_its_own_retry_policy(broker: EmbeddedBroker) -> None:
    seen: list[str] = []
    options = {"confirm_publish": True}
    with kombu.Connection(broker.url, transport_options=options) as connection:
        queue = kombu.Queue("kombu", durable=True)
        producer = connection.Producer()

        def publish(number: str) -> None:
            producer.publish(
                number, routing_key="kombu", declare=[queue], retry=True, content_type="text/plain"
            )

        publish(EXPECTED[0])
        die_and_come_back(broker)
        for number in EXPECTED[1:]:
            publish(number)

        def consume(body: str, message: Any) -> None:
            seen.append(body)
            message.ack()

        with kombu.Connection(broker.url) as other, other.Consumer(queue, callbacks=[consume]):
            wait_until(lambda: other.drain_events(timeout=30) or len(seen) == COUNT)
    assert seen == EXPECTED


AMQPLIB = """
const amqplib = require('amqplib');
const [url, count] = [process.argv[2], Number(process.argv[3])];
const tell = (what) => console.log(JSON.stringify(what));
const pause = () => new Promise((done) => setTimeout(done, 50));

async function open() {
  for (;;) {
    try {
      const connection = await amqplib.connect(url);
      connection.on('error', () => {});
      return connection;
    } catch (error) { await pause(); }
  }
}

async function main() {
  let connection = await open();
  const lost = new Promise((done) => connection.on('close', done));
  let channel = await connection.createConfirmChannel();
  await channel.assertExchange('node', 'topic', { durable: true });
  await channel.assertQueue('node', { durable: true, arguments: { 'x-max-priority': 3 } });
  await channel.bindQueue('node', 'node', 'a.#');
  for (let n = 0; n < count; n++) {
    channel.publish('node', 'a.b', Buffer.from(String(n)), { persistent: true, mandatory: true });
  }
  await channel.waitForConfirms();
  tell({ confirmed: count });
  await lost;
  connection = await open();
  channel = await connection.createChannel();
  await channel.prefetch(5);
  const seen = [];
  await channel.consume('node', async (message) => {
    seen.push(message.content.toString());
    channel.ack(message);
    if (seen.length === count) {
      await channel.close();
      await connection.close();
      tell({ seen });
    }
  });
}
main();
"""


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.skipif(
    not (MODULES / "amqplib").exists(), reason="no amqplib: scripts/install-clients"
)
def test_amqplib_of_node_publishes_with_confirms_and_reconnects(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    script = tmp_path / "client.js"
    script.write_text(AMQPLIB)
    seen = script_traffic(broker, [str(NODE), str(script)], NODE_PATH=str(MODULES.resolve()))
    assert seen == EXPECTED


@pytest.mark.skipif(
    shutil.which("amqp-publish") is None, reason="no amqp-tools: scripts/install-clients"
)
def test_amqp_tools_declare_publish_and_get(broker: EmbeddedBroker) -> None:
    run: Callable[..., str] = tool(broker)
    assert run("amqp-declare-queue", "-d", "-q", "tools").strip() == "tools"
    run("amqp-publish", "-r", "tools", "-p", "-b", "hello")
    run("amqp-declare-queue", "-d", "-q", "tools")  # knows no confirms; this is answered after them
    die_and_come_back(broker)
    assert run("amqp-get", "-q", "tools") == "hello"
    run("amqp-publish", "-r", "tools", "-p", "-b", "again")
    assert run("amqp-consume", "-q", "tools", "-c", "1", "cat") == "again"
    run("amqp-delete-queue", "-q", "tools")


def tool(broker: EmbeddedBroker) -> Callable[..., str]:
    def run(name: str, *args: str) -> str:
        command = [name, f"--url={broker.url}", *args]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    return run


def bodies_left(broker: EmbeddedBroker, queue: str) -> list[str]:
    with kombu.Connection(broker.url) as connection:
        channel = connection.channel()
        count = channel.queue_declare(queue, passive=True).message_count
        return [channel.basic_get(queue, no_ack=True).body for _ in range(count)]
