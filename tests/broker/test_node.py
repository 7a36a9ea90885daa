"""The private node and what the tests can see and do on it."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from scripts.rabbitmq_node import NodeError, RabbitNode, answers_amqp
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until


def test_a_vhost_starts_empty_and_counts_exactly(vhost: Vhost, amqp: BlockingChannel) -> None:
    assert vhost.queues() == {}
    amqp.queue_declare("q", durable=True, arguments={"x-max-length": 5})
    for _ in range(3):
        amqp.basic_publish("", "q", b"x")
    amqp.basic_get("q")

    queue = vhost.queues()["q"]

    assert (queue["ready"], queue["unacked"], queue["consumers"]) == (2, 1, 0)
    assert queue["arguments"]["x-max-length"] == 5
    assert vhost.depth("q") == 3
    assert vhost.depth("no such queue") == 0


def test_vhosts_of_two_tests_do_not_see_each_other(vhost: Vhost, amqp: BlockingChannel) -> None:
    amqp.queue_declare("q")
    with Vhost.create(vhost.node) as other:
        assert other.queues() == {}


def test_bindings_and_exchanges_are_listed(vhost: Vhost, amqp: BlockingChannel) -> None:
    amqp.exchange_declare("lime.default", "topic", durable=True)
    amqp.queue_declare("q")
    amqp.queue_bind("q", "lime.default", "core.#")

    assert vhost.bindings() == [("lime.default", "core.#", "q")]
    assert vhost.exchanges()["lime.default"]["type"] == "topic"
    vhost.delete_exchange("lime.default")
    assert vhost.bindings() == []


def test_an_operator_can_close_connections(vhost: Vhost) -> None:
    connection = vhost.connect(client_properties={"connection_name": "to be closed"})
    wait_until(vhost.connections, message="the connection to be listed")
    assert vhost.connections()[0]["name"] == "to be closed"

    assert vhost.close_connections() == 1

    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
        connection.process_data_events(30)
    assert closed.value.reply_code == 320
    wait_until(lambda: vhost.connections() == [], message="no connection left")


def test_the_broker_can_be_made_to_close_one_channel(
    vhost: Vhost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "pika")  # limehub's own logs silence it
    connection = vhost.connect()
    victim, witness = connection.channel(), connection.channel()
    victim.queue_declare("q")
    victim.basic_consume("q", lambda *_: None)

    assert vhost.close_channels("q") == 1

    wait_until(lambda: connection.process_data_events(0.1) or victim.is_closed)
    assert "Received remote Channel.Close (406)" in caplog.text
    assert witness.is_open
    connection.close()


def test_a_queue_can_be_deleted_under_its_consumer(vhost: Vhost, amqp: BlockingChannel) -> None:
    amqp.queue_declare("q")
    tag = amqp.basic_consume("q", lambda *_: None)
    vhost.delete_queue("q")
    wait_until(
        lambda: amqp.connection.process_data_events(0.1) or tag not in amqp.consumer_tags,
        message="the broker to cancel the consumer",
    )
    assert vhost.queues() == {}


def test_a_policy_makes_the_broker_refuse_messages(vhost: Vhost, amqp: BlockingChannel) -> None:
    amqp.queue_declare("q", durable=True)
    vhost.set_policy("full", "^q$", {"max-length": 1, "overflow": "reject-publish"})

    def refused() -> bool:
        try:
            amqp.basic_publish("", "q", b"x")
        except pika.exceptions.NackError:
            return True
        return False

    wait_until(refused, message="the policy to act")
    vhost.clear_policy("full")
    wait_until(lambda: not refused(), message="the policy to end")


def test_the_management_api_says_why_it_refuses(vhost: Vhost) -> None:
    with pytest.raises(AssertionError, match="404"):
        vhost.delete_queue("missing")


def test_a_failed_question_is_an_error_that_names_it(rabbit_node: RabbitNode) -> None:
    with pytest.raises(NodeError, match="no_such_module"):
        rabbit_node.eval("no_such_module:call()")
    with pytest.raises(NodeError, match="no_such_command"):
        rabbit_node.ctl("no_such_command")


def test_rabbitmqctl_talks_to_this_node(vhost: Vhost) -> None:
    assert vhost.name in vhost.node.ctl("list_vhosts")


def test_a_killed_node_comes_back_on_the_same_port_with_its_messages(
    killable_vhost: Vhost,
) -> None:
    node = killable_vhost.node
    connection = killable_vhost.connect()
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("q", durable=True)
    persistent = pika.BasicProperties(delivery_mode=2)
    channel.basic_publish("", "q", b"kept", persistent)
    url, pid = node.url, node.pid

    node.settle()
    node.kill()
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        connection.process_data_events(30)
    assert not answers_amqp("127.0.0.1", node.ports.amqp)
    with pytest.raises(NodeError, match="not running"):
        node.pause()
    node.start()

    assert (node.url, node.pid != pid) == (url, True)
    connection = killable_vhost.connect()
    assert connection.channel().basic_get("q")[2] == b"kept"
    connection.close()


def test_a_paused_node_is_silent_until_it_is_resumed(killable_node: RabbitNode) -> None:
    killable_node.pause()
    wait_until(lambda: not answers_amqp("127.0.0.1", killable_node.ports.amqp, timeout=0.3))
    killable_node.resume()
    wait_until(lambda: answers_amqp("127.0.0.1", killable_node.ports.amqp))


def test_a_port_that_a_node_has_chosen_is_not_free_for_another_one(tmp_path: Path) -> None:
    node = RabbitNode(tmp_path)  # not yet started
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", node.ports.amqp))


def test_a_node_that_cannot_start_says_what_it_logged(
    tmp_path: Path, rabbit_node: RabbitNode
) -> None:
    broken = RabbitNode(tmp_path / "node", settings={"broken": "["})
    with pytest.raises(NodeError, match=r"ended while starting:\n(?s:.*)advanced_configuration"):
        broken.start()
    assert not broken.running


@pytest.mark.rabbitmq4
def test_the_harness_works_on_rabbitmq_4_too(rabbitmq4_vhost: Vhost) -> None:
    connection = rabbitmq4_vhost.connect()
    connection.channel().queue_declare("q", durable=True)
    assert rabbitmq4_vhost.queues()["q"]["ready"] == 0
    assert rabbitmq4_vhost.node.eval("rabbit_misc:version()").startswith('"4.')
    assert wait_until(rabbitmq4_vhost.close_connections) == 1
