"""The fault proxy does to real AMQP connections what it says."""

from __future__ import annotations

import time

import gevent
import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.support.proxy import BASIC_ACK, BASIC_PUBLISH, Proxy
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until


def connect(proxy: Proxy) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.URLParameters(proxy.url))


def test_everything_passes_at_first(proxy: Proxy) -> None:
    connection = connect(proxy)
    channel = connection.channel()
    channel.queue_declare("q")
    assert (proxy.accepted, proxy.open) == (1, 1)
    assert proxy.passed["up"] > 0 < proxy.passed["down"]
    connection.close()
    wait_until(lambda: proxy.open == 0, message="the link to end with its connection")


def test_a_reset_ends_open_connections_and_lets_new_ones_in(proxy: Proxy) -> None:
    connection = connect(proxy)
    proxy.reset()
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        connection.process_data_events(30)
    connect(proxy).close()
    assert proxy.accepted == 2


def test_refused_connections_work_again_on_the_same_port(proxy: Proxy) -> None:
    url = proxy.url
    proxy.refuse()
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        connect(proxy)
    proxy.listen()
    assert proxy.url == url
    connect(proxy).close()


def test_a_black_hole_keeps_the_connection_open_and_silent(proxy: Proxy, vhost: Vhost) -> None:
    channel = connect(proxy).channel()
    channel.confirm_delivery()
    channel.queue_declare("q")
    proxy.swallow("down")
    publishing = gevent.spawn(channel.basic_publish, "", "q", b"x")
    wait_until(lambda: vhost.depth("q") == 1, message="what the broker cannot confirm")
    vhost.close_connections()
    assert not publishing.ready()
    assert proxy.open == 1  # the end is hidden too
    proxy.reset()
    assert proxy.open == 0
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        publishing.get()


def test_what_is_held_arrives_when_it_is_let_go(proxy: Proxy, vhost: Vhost) -> None:
    channel = connect(proxy).channel()
    proxy.hold("down")
    declaring = gevent.spawn(channel.queue_declare, "q")
    wait_until(lambda: "q" in vhost.queues(), message="what goes up to pass")
    assert not declaring.ready()
    proxy.pass_all()
    assert declaring.get().method.queue == "q"
    channel.connection.close()


def test_latency_is_added_to_each_direction(proxy: Proxy) -> None:
    connection = connect(proxy)
    channel = connection.channel()
    proxy.latency = 0.1
    began = time.monotonic()
    channel.queue_declare("q")
    assert time.monotonic() - began >= 0.2
    proxy.pass_all()
    connection.close()


def test_slices_arrive_whole(proxy: Proxy) -> None:
    proxy.slice = 3
    connection = connect(proxy)
    channel = connection.channel()
    channel.queue_declare("q")
    channel.basic_publish("", "q", b"x" * 500)
    assert wait_until(lambda: channel.basic_get("q", auto_ack=True)[2]) == b"x" * 500
    connection.close()


@pytest.mark.parametrize(("forward", "left"), [(False, 1), (True, 0)])
def test_a_cut_on_an_ack_loses_it_or_lets_it_pass_first(
    proxy: Proxy, vhost: Vhost, amqp: BlockingChannel, forward: bool, left: int
) -> None:
    amqp.queue_declare("q")
    amqp.basic_publish("", "q", b"x")
    connection = connect(proxy)
    channel = connection.channel()
    method, _, _ = channel.basic_get("q")
    proxy.cut_on(BASIC_ACK, "up", forward=forward)

    channel.basic_ack(method.delivery_tag)

    with pytest.raises(pika.exceptions.AMQPConnectionError):
        connection.process_data_events(30)
    wait_until(lambda: vhost.queues()["q"]["unacked"] == 0)
    assert vhost.depth("q") == left
    assert (proxy.cuts, proxy.open) == (1, 0)


def test_a_pattern_in_two_pieces_is_seen(proxy: Proxy, vhost: Vhost, amqp: BlockingChannel) -> None:
    amqp.queue_declare("q")
    with Proxy(proxy.url) as slicer:  # slices what the second proxy then reads
        slicer.slice, slicer.latency = 2, 0.001
        connection = connect(slicer)
        channel = connection.channel()
        proxy.cut_on(BASIC_PUBLISH, "up", times=1)
        channel.basic_publish("", "q", b"x")
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            connection.process_data_events(30)
    assert proxy.cuts == 1
    assert vhost.depth("q") == 0
