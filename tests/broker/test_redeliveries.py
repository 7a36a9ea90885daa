"""A handler that runs while its connection or channel is lost: its redelivery does not run beside.

The handlers are held by a signal, so each test decides whether a run ends before or after the
broker gives its event out again.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import gevent
import pika
import pytest
from attrs import define, field
from gevent.event import Event as Signal
from pika.adapters.blocking_connection import BlockingChannel

from limehub import Event
from tests.support.hub import Hub
from tests.support.proxy import BASIC_ACK, Proxy
from tests.support.serving import APP, DLQ, QUEUE, handles
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

Serve = Callable[..., Hub]

TCP_ESTABLISHED = 1  # in the first byte of TCP_INFO

DEAD_LETTERS = (
    "[event_handler]\nshutdown_grace = 2\nprefetch_count = 2\ncatch_handler_exceptions = true\n"
)


@define(eq=False)
class Held:
    """A handler whose first run waits for `release`; *fails*: and then raises."""

    fails: bool = False
    release: Signal = field(factory=Signal)
    runs: list[Any] = field(factory=list)
    ended: int = 0

    def __call__(self, event: Event) -> None:
        self.runs.append(event.body)
        if len(self.runs) == 1:
            self.release.wait()
        self.ended += 1
        if self.fails:
            raise ValueError("as asked for")


def status_of(hub: Hub) -> dict[str, Any]:
    return hub.server.groups[0].status()


def absorbed(hub: Hub) -> int:
    return int(status_of(hub)["absorbed"])


def lose_connection(hub: Hub, vhost: Vhost) -> None:
    vhost.close_connections()
    wait_until(lambda: status_of(hub)["reconnects"] == 1)


def lose_channel(hub: Hub, vhost: Vhost) -> None:
    vhost.close_channels(QUEUE)
    wait_until(lambda: status_of(hub)["queues"][0]["rebuilds"] == 1)


def when_lost(hub: Hub, then: Callable[[], object]) -> None:
    """Have *then* called at the loss, so before the redelivery can come."""
    consumer = hub.server.groups[0]._consumers[QUEUE]
    told = consumer.on_gone

    def on_gone(channel: Any) -> None:
        told(channel)
        gevent.spawn(then)

    consumer.on_gone = on_gone


def release_around_loss(hub: Hub, vhost: Vhost, release: Signal, early: bool) -> None:
    """Lose the connection and let the handler end before its event comes again, or after.

    Never before the loss is noticed: its ack or its attempt would go to a broker that has hung up.
    """
    if early:
        when_lost(hub, release.set)
    vhost.close_connections()
    if early:
        wait_until(release.is_set)
    else:
        wait_until(lambda: absorbed(hub) == 1)
        release.set()


LOSSES = pytest.mark.parametrize("lose", [lose_connection, lose_channel])
ENDS_EARLY = pytest.mark.parametrize("early", [True, False], ids=["before", "after"])


def publish_plainly(vhost: Vhost, body: bytes, times: int = 1) -> None:
    """As a service without message ids does."""
    connection = vhost.connect()
    channel = connection.channel()
    channel.confirm_delivery()
    lasting = pika.BasicProperties(delivery_mode=2, content_type="application/json")
    for _ in range(times):
        channel.basic_publish("lime.default", "t.a", body, lasting)
    connection.close()


@LOSSES
@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
@pytest.mark.parametrize("has_id", [True, False], ids=["id", "no-id"])
def test_a_run_that_outlives_its_channel_is_the_only_one_and_its_ack_counts(
    serve: Serve, vhost: Vhost, lose: Callable[[Hub, Vhost], None], queue_type: str, has_id: bool
) -> None:
    handler = Held()
    toml = f'[event_handler]\nprefetch_count = 2\nqueue_type = "{queue_type}"\n'
    hub = serve({APP: handles(handler)}, toml)
    if has_id:
        hub.publish("t.a", {"n": 1}, headers={"a": 1})
    else:
        publish_plainly(vhost, b'{"n": 1}')
    wait_until(lambda: handler.runs)
    lose(hub, vhost)
    wait_until(lambda: absorbed(hub) == 1)
    handler.release.set()
    # Quorum queues count every 5 s only, so that an old count may be the first.
    wait_until(lambda: handler.ended and vhost.depth(QUEUE) == 0)
    assert (len(handler.runs), handler.ended) == (1, 1)
    assert status_of(hub)["lost_runs"] == 0


@LOSSES
@ENDS_EARLY
@pytest.mark.parametrize("order", ["none", "queue"])
def test_a_failure_after_the_loss_dead_letters_the_redelivery_once(
    serve: Serve, vhost: Vhost, lose: Callable[[Hub, Vhost], None], early: bool, order: str
) -> None:
    handler = Held(fails=True)
    hub = serve({APP: handles(handler, order=order)}, DEAD_LETTERS)
    hub.publish("t.a", {"n": 1})
    wait_until(lambda: handler.runs)
    if early:
        when_lost(hub, handler.release.set)
    lose(hub, vhost)
    if not early:
        wait_until(lambda: absorbed(hub) == 1)
    handler.release.set()
    wait_until(lambda: vhost.depth(DLQ) == 1 and vhost.depth(QUEUE) == 0)
    assert len(handler.runs) == 1
    assert absorbed(hub) == 1
    hub.publish("t.a", {"n": 2})
    wait_until(lambda: vhost.depth(DLQ) == 2 and vhost.depth(QUEUE) == 0)


@ENDS_EARLY
def test_limes_own_ack_after_the_loss_acks_the_redelivery(
    serve: Serve, vhost: Vhost, early: bool
) -> None:
    release, runs = Signal(), []

    def handler(worker: Any, body: Any, message: Any) -> None:
        runs.append(body)
        release.wait()
        message.ack()

    hub = serve({APP: handles(handler)})
    publish_plainly(vhost, b"{}")
    wait_until(lambda: runs)
    release_around_loss(hub, vhost, release, early)
    wait_until(lambda: absorbed(hub) == 1 and vhost.depth(QUEUE) == 0)
    assert runs == [{}]
    assert status_of(hub)["lost_runs"] == 0


@pytest.mark.parametrize("verb", ["ack", "reject", "requeue"])
@ENDS_EARLY
def test_a_manual_handler_that_settles_late_settles_the_redelivery(
    serve: Serve, vhost: Vhost, verb: str, early: bool
) -> None:
    kept: list[Any] = []

    def handler(worker: Any, body: Any, message: Any) -> None:
        kept.append(message)
        if len(kept) > 1:
            message.ack()

    hub = serve({APP: handles(handler)})
    hub.publish("t.a", {})
    wait_until(lambda: status_of(hub)["open"] == 1)
    if early:  # it settles between the loss and the redelivery
        when_lost(hub, getattr(kept[0], verb))
    vhost.close_connections()
    if not early:
        wait_until(lambda: absorbed(hub) == 1)
        assert status_of(hub)["open"] == 1
        getattr(kept[0], verb)()
    wait_until(lambda: vhost.depth(QUEUE) == 0)
    assert absorbed(hub) == 1
    assert vhost.depth(DLQ) == (verb == "reject")
    assert len(kept) == (2 if verb == "requeue" else 1)
    assert status_of(hub)["open"] == 0


@ENDS_EARLY
def test_a_retry_after_the_loss_is_the_second_attempt(
    serve: Serve, vhost: Vhost, early: bool
) -> None:
    release, attempts = Signal(), []

    def handler(event: Event) -> None:
        attempts.append(event.attempt)
        if event.attempt == 1:
            release.wait()
            raise ValueError("once")

    hub = serve({APP: handles(handler, retry=[0.05])}, DEAD_LETTERS)
    hub.publish("t.a", {})
    wait_until(lambda: attempts)
    release_around_loss(hub, vhost, release, early)
    wait_until(lambda: attempts == [1, 2])
    wait_until(lambda: vhost.depth(QUEUE) == 0)
    assert (attempts, vhost.depth(DLQ)) == ([1, 2], 0)


def reset_connection(hub: Hub, proxy: Proxy) -> None:
    proxy.reset()


def upset_broker(hub: Hub, proxy: Proxy) -> None:
    """Give back what was never given out: the broker closes the channel for it."""
    channel = hub.server.groups[0]._consumers[QUEUE]._channel
    assert channel is not None
    channel.reject(4_294_967_295, requeue=True)


@pytest.mark.parametrize("lose", [reset_connection, upset_broker])
def test_a_retry_that_waits_at_the_loss_stays_the_second_attempt(
    serve: Serve, vhost: Vhost, proxy: Proxy, lose: Callable[[Hub, Proxy], None]
) -> None:
    """The loss comes at once: an operator might come when the retry waits no more."""
    attempts: list[int] = []

    def handler(event: Event) -> None:
        attempts.append(event.attempt)
        if event.attempt == 1:
            raise ValueError("once")

    hub = serve({APP: handles(handler, retry=[4.0])}, DEAD_LETTERS, url=proxy.url)
    hub.publish("t.a", {})
    wait_until(lambda: status_of(hub)["waiting_for_retry"] == 1)
    lose(hub, proxy)
    wait_until(lambda: len(attempts) == 2)
    wait_until(lambda: vhost.depth(QUEUE) == 0)
    assert (attempts, vhost.depth(DLQ), absorbed(hub)) == ([1, 2], 0, 1)


def test_an_ack_that_never_arrived_is_made_good_for_an_event_with_an_id(
    serve: Serve, vhost: Vhost, proxy: Proxy
) -> None:
    handler = Held()
    hub = serve({APP: handles(handler)}, url=proxy.url)
    hub.publish("t.a", {})
    wait_until(lambda: handler.runs)
    proxy.cut_on(BASIC_ACK)
    gevent.sleep(0.05)  # a run so short that its ack is not remembered is not what this is about
    handler.release.set()
    wait_until(lambda: absorbed(hub) == 1)
    wait_until(lambda: vhost.depth(QUEUE) == 0)
    assert len(handler.runs) == 1


def test_acks_that_the_broker_has_answered_are_not_remembered(serve: Serve, vhost: Vhost) -> None:
    handler = Held()
    hub = serve({APP: handles(handler)})
    lost_runs = hub.server.groups[0].runner.fates.lost_runs
    hub.publish("t.a", {})
    wait_until(lambda: handler.runs)
    gevent.sleep(0.05)  # as above
    handler.release.set()
    while not handler.ended:
        gevent.sleep(0)
    assert lost_runs.unproven
    wait_until(lambda: not lost_runs.unproven)
    vhost.close_connections()
    wait_until(lambda: status_of(hub)["reconnects"] == 1)
    assert status_of(hub)["lost_runs"] == 0


def test_two_equal_events_without_ids_run_twice_when_the_node_dies_during_the_first(
    serve: Serve, killable_vhost: Vhost
) -> None:
    handler = Held()
    toml = "[event_handler]\nprefetch_count = 2\n[event_handler.workers.default]\nconcurrency = 1\n"
    hub = serve({APP: handles(handler)}, toml, url=killable_vhost.url)
    publish_plainly(killable_vhost, b'{"n": 1}', times=2)
    wait_until(lambda: killable_vhost.queues()[QUEUE]["unacked"] == 2)
    killable_vhost.node.settle()
    killable_vhost.node.kill()
    wait_until(lambda: hub.server.missing())
    killable_vhost.node.start()
    wait_until(lambda: absorbed(hub) == 1)
    handler.release.set()
    wait_until(lambda: killable_vhost.depth(QUEUE) == 0)
    assert handler.runs == [{"n": 1}] * 2
    assert status_of(hub)["lost_runs"] == 0


def test_a_competing_server_that_took_the_redelivery_keeps_it(
    serve: Serve, vhost: Vhost, proxy: Proxy, amqp: BlockingChannel
) -> None:
    handler = Held(fails=True)
    hub = serve({APP: handles(handler)}, DEAD_LETTERS, url=proxy.url)
    hub.publish("t.a", {"n": 1})
    wait_until(lambda: handler.runs)
    proxy.refuse()
    proxy.reset()
    taken = wait_until(lambda: amqp.basic_get(QUEUE)[0])
    handler.release.set()
    wait_until(lambda: handler.ended == 1)
    amqp.basic_ack(taken.delivery_tag)
    proxy.listen()
    wait_until(lambda: not hub.server.missing())
    assert status_of(hub)["lost_runs"] == 1  # until it is forgotten
    hub.publish("t.a", {"n": 1})
    wait_until(lambda: len(handler.runs) == 2, message="an equal event that is new to run")
    wait_until(lambda: vhost.depth(QUEUE) == 0 and vhost.depth(DLQ) == 1)
    assert absorbed(hub) == 0


def test_a_held_redelivery_goes_back_when_its_run_does_not_end_before_the_stop(
    serve: Serve, vhost: Vhost
) -> None:
    handler = Held()
    hub = serve({APP: handles(handler)}, "[event_handler]\nshutdown_grace = 0.2\n")
    hub.publish("t.a", {})
    wait_until(lambda: handler.runs)
    vhost.close_connections()
    wait_until(lambda: absorbed(hub) == 1)
    hub.server.shut_down()
    wait_until(lambda: vhost.queues()[QUEUE]["ready"] == 1)
    assert len(handler.runs) == 1


def test_order_is_kept_over_the_loss(serve: Serve, vhost: Vhost) -> None:
    handler = Held()
    toml = "[event_handler]\nprefetch_count = 20\n"
    hub = serve({APP: handles(handler, order="queue")}, toml)
    for number in range(10):
        hub.publish("t.a", number)
    wait_until(lambda: vhost.queues()[QUEUE]["unacked"] == 10)
    vhost.close_connections()
    wait_until(lambda: absorbed(hub) == 1)
    assert handler.runs == [0]
    handler.release.set()
    wait_until(lambda: vhost.depth(QUEUE) == 0)
    assert handler.runs == list(range(10))


def test_what_was_lost_twice_still_runs_once(serve: Serve, vhost: Vhost) -> None:
    handler = Held()
    hub = serve({APP: handles(handler)})
    hub.publish("t.a", {})
    wait_until(lambda: handler.runs)
    for times in (1, 2, 3):
        vhost.close_connections()
        wait_until(lambda n=times: absorbed(hub) == n)
    handler.release.set()
    wait_until(lambda: vhost.depth(QUEUE) == 0)
    assert len(handler.runs) == 1


def hang_until_the_broker_has_hung_up(hub: Hub) -> None:
    """Let nothing else run until the end of the connection has come; a minute at most."""
    session = hub.server.groups[0]._session
    assert session is not None
    sock, ends = session.connection.stream.sock, time.monotonic() + 60
    while sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_ESTABLISHED:
        assert time.monotonic() < ends, "the broker did not hang up"


def test_a_stall_that_costs_the_connection_does_not_cost_a_second_run(
    serve: Serve, vhost: Vhost
) -> None:
    """The broker hangs up while nobody can notice; the ack comes before the hub has read that."""
    runs: list[Any] = []

    def handler(body: Any) -> None:
        runs.append(body)
        if len(runs) == 1:
            hang_until_the_broker_has_hung_up(hub)

    toml = '[events]\nconsumer_heartbeat = 1\n[event_handler]\nguard = "none"\n'
    hub = serve({APP: handles(handler)}, toml)
    publish_plainly(vhost, b"{}")
    wait_until(lambda: runs)
    wait_until(lambda: absorbed(hub))
    wait_until(lambda: vhost.depth(QUEUE) == 0)
    assert runs == [{}]
