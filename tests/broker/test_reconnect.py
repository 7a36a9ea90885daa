"""Connections, channels, queues, exchanges and nodes go away: limehub consumes again, and says so.

Half of these tests would pass by luck if an event was published before the loss was noticed, so
each waits for the loss first.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal
from pika.adapters.blocking_connection import BlockingChannel

from limehub import Event
from limehub.workers import session
from scripts.rabbitmq_node import answers_amqp
from tests.support.hub import Hub
from tests.support.proxy import Proxy
from tests.support.serving import APP, DLQ, QUEUE, handles, publish_all, queue_of, together
from tests.support.vhost import Vhost
from tests.support.waiting import quickest, wait_until

Serve = Callable[..., Hub]

MANY_KEYS = [f"many.{number}" for number in range(1200)]
"""Binding them takes several answers of the broker."""

BYTES_BEFORE_BINDINGS = 5_000
"""More than a server sends until it binds; those bindings are ten times as many."""

THREE_GROUPS = """
    [event_handler]
    prefetch_count = 20
    catch_handler_exceptions = true
    [event_handler.workers.one]
    queue_prefix = "app-one"
    [event_handler.workers.two]
    queue_prefix = "app-two"
"""


def consumer_of(hub: Hub, queue: str) -> dict[str, Any]:
    """The status of one queue."""
    groups = hub.server.status()["groups"]
    return next(each for group in groups for each in group["queues"] if each["queue"] == queue)


def reconnects(hub: Hub) -> list[int]:
    return [group.reconnects for group in hub.server.groups]


def ready_again(hub: Hub) -> float:
    """Wait for it. Returns the seconds that it took."""
    started = time.monotonic()
    wait_until(lambda: not hub.server.missing(), message="every queue to be consumed again")
    return time.monotonic() - started


def test_a_connection_closed_by_an_operator_comes_back_at_once(serve: Serve, vhost: Vhost) -> None:
    seen: list[Any] = []
    names = ("app-one", "app-two", "app-three")
    hub = serve({name: handles(seen.append) for name in names}, THREE_GROUPS)

    def loss() -> float:
        lost = [count + 1 for count in reconnects(hub)]
        vhost.close_connections()
        wait_until(lambda: reconnects(hub) == lost)
        return ready_again(hub)

    assert quickest(loss, 2) < 2
    hub.publish("t.a", {"n": 1})
    wait_until(lambda: len(seen) == 3)


def test_a_channel_closed_by_the_broker_costs_only_its_own_queue(
    serve: Serve, vhost: Vhost
) -> None:
    release = Signal()
    runs: Counter[str] = Counter()

    def handler(name: str) -> Callable[[Event], None]:
        def run(event: Event) -> None:
            runs[f"{name} {'again' if event.redelivered else 'first'}"] += 1
            release.wait()

        return run

    plugins = {
        APP: together(
            handles(handler("hit"), "t.#", "hit"), handles(handler("kept"), "t.#", "kept")
        )
    }
    hub = serve(plugins, "[event_handler.workers.default]\nconcurrency = 4\n")
    hub.publish("t.a", {})
    wait_until(lambda: runs == {"hit first": 1, "kept first": 1})
    assert vhost.close_channels(queue_of("hit")) == 1
    group = hub.server.groups[0]
    wait_until(lambda: group.status()["absorbed"] == 1, message="its event to come back")
    ready_again(hub)
    assert consumer_of(hub, queue_of("hit"))["rebuilds"] == 1
    assert consumer_of(hub, queue_of("kept"))["rebuilds"] == 0
    assert reconnects(hub) == [0]
    release.set()
    wait_until(lambda: vhost.depth(queue_of("hit")) + vhost.depth(queue_of("kept")) == 0)
    assert runs == {"hit first": 1, "kept first": 1}


@pytest.mark.parametrize("fails", [False, True], ids=["ack", "dead-letter"])
def test_what_finishes_after_its_connection_was_lost_settles_what_comes_again(
    serve: Serve, vhost: Vhost, fails: bool
) -> None:
    release = Signal()
    runs: list[bool] = []

    def handler(event: Event) -> None:
        runs.append(event.redelivered)
        if len(runs) == 1:
            release.wait()
        assert not fails, "as asked for"

    hub = serve({APP: handles(handler)}, THREE_GROUPS)
    hub.publish("t.a", {})
    wait_until(lambda: runs)
    vhost.close_connections()
    wait_until(lambda: hub.server.groups[0].status()["absorbed"] == 1)
    release.set()
    wait_until(lambda: vhost.depth(QUEUE) == 0 and vhost.depth(DLQ) == fails)
    assert runs == [False]
    assert hub.server.missing() == []


def test_a_queue_deleted_under_its_consumer_is_declared_bound_and_consumed_again(
    serve: Serve, vhost: Vhost
) -> None:
    seen: list[Any] = []
    hub = serve({APP: handles(seen.append, ["t.#", "u.v"])})
    before = vhost.bindings()
    vhost.delete_queue(QUEUE)
    wait_until(lambda: consumer_of(hub, QUEUE)["rebuilds"] == 1)
    ready_again(hub)
    assert vhost.bindings() == before
    hub.publish("u.v", {"n": 1})
    wait_until(lambda: seen == [{"n": 1}])
    assert reconnects(hub) == [0]


def test_a_queue_is_not_ready_before_the_broker_has_confirmed_its_consumer_again(
    serve: Serve, proxy: Proxy, vhost: Vhost
) -> None:
    hub = serve({APP: handles(print)}, url=proxy.url)
    before = vhost.bindings()
    proxy.latency = 0.2
    vhost.delete_queue(QUEUE)
    wait_until(lambda: consumer_of(hub, QUEUE)["rebuilds"] == 1)
    wait_until(lambda: not hub.server.missing(), interval=0.01)
    assert vhost.queues()[QUEUE]["consumers"] == 1
    assert vhost.bindings() == before


def test_a_queue_deleted_while_others_are_being_bound_gets_its_bindings_back(
    serve: Serve, proxy: Proxy, vhost: Vhost
) -> None:
    quick, slow = handles(print, "a.b", "quick"), handles(print, MANY_KEYS, "slow")
    hub = serve({APP: together(quick, slow)}, url=proxy.url, ready=False)
    wait_until(lambda: proxy.passed["up"] > BYTES_BEFORE_BINDINGS, interval=0.001)
    proxy.hold("down")  # without an answer it does not send the last of them
    binding = ("lime.default", "a.b", queue_of("quick"))
    wait_until(lambda: binding in vhost.bindings())
    vhost.delete_queue(queue_of("quick"))
    unbound = consumer_of(hub, queue_of("slow"))["problem"]
    assert unbound == "bindings not checked yet", "the queue was deleted too late"
    proxy.pass_all()
    wait_until(lambda: consumer_of(hub, queue_of("quick"))["rebuilds"] == 1)
    ready_again(hub)
    assert binding in vhost.bindings()


def test_a_descriptor_that_a_handler_has_closed_is_a_lost_connection(
    serve: Serve, vhost: Vhost
) -> None:
    runs: list[int] = []

    def handler(body: Any) -> None:
        runs.append(body["n"])
        if runs == [1]:
            session = hub.server.groups[0]._session
            assert session is not None
            os.close(session.connection.stream.sock.fileno())

    hub = serve({APP: handles(handler)})
    hub.publish("t.a", {"n": 1})
    wait_until(lambda: reconnects(hub) == [1])
    ready_again(hub)
    hub.publish("t.a", {"n": 2})
    wait_until(lambda: 2 in runs and vhost.depth(QUEUE) == 0)


@pytest.mark.parametrize("level", [logging.WARNING, logging.DEBUG])
@pytest.mark.parametrize("lose", ["connection", "channel"])
def test_a_log_handler_that_makes_everybody_wait_does_not_keep_a_group_from_coming_back(
    serve: Serve,
    proxy: Proxy,
    vhost: Vhost,
    lose: str,
    level: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The hub may not wait for its lock: logging there raises. No other thread waits for it."""
    caplog.set_level(level)
    hub = serve({APP: handles(print)}, '[event_handler]\nguard = "none"\n', url=proxy.url)
    busy = logging.StreamHandler(io.StringIO())
    logging.getLogger().addHandler(busy)
    try:
        with busy.lock:
            if lose == "connection":
                proxy.reset()
            else:
                vhost.close_channels(QUEUE)
            if lose == "connection" or level == logging.WARNING:  # at DEBUG pika itself waits
                wait_until(hub.server.missing)
            gevent.sleep(0.5)
        wait_until(lambda: reconnects(hub) != [0] or consumer_of(hub, QUEUE)["rebuilds"])
        ready_again(hub)
    finally:
        logging.getLogger().removeHandler(busy)


def test_a_deleted_queue_is_reported_once_however_often_its_prefetch_has_changed(
    serve: Serve, vhost: Vhost, caplog: pytest.LogCaptureFixture
) -> None:
    hub = serve({APP: handles(print)})
    for prefetch in (2, 3, 4):
        hub.server.groups[0].change_prefetch(lambda _plan, number=prefetch: number)
    vhost.delete_queue(QUEUE)
    wait_until(lambda: consumer_of(hub, QUEUE)["rebuilds"])
    ready_again(hub)
    told = [r for r in caplog.records if r.name == "limehub.workers.consumer"]
    assert [record.getMessage() for record in told] == ["consumer cancelled by the broker"]
    assert consumer_of(hub, QUEUE)["rebuilds"] == 1
    assert consumer_of(hub, QUEUE)["prefetch"] == 4


def test_a_deleted_exchange_and_queue_come_back_together(serve: Serve, vhost: Vhost) -> None:
    seen: list[Any] = []
    hub = serve({APP: handles(seen.append)})
    before = vhost.bindings()
    vhost.delete_exchange("lime.default")
    vhost.delete_queue(QUEUE)
    wait_until(lambda: consumer_of(hub, QUEUE)["rebuilds"] == 1)
    ready_again(hub)
    assert vhost.bindings() == before
    hub.publish("t.a", {"n": 1})
    wait_until(lambda: seen == [{"n": 1}])


def test_a_deleted_exchange_is_noticed_and_bound_again(
    serve: Serve, vhost: Vhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "EXCHANGES_EVERY", 0.5)
    seen: list[Any] = []
    hub = serve({APP: handles(seen.append)})
    before = vhost.bindings()
    vhost.delete_exchange("lime.default")
    wait_until(lambda: vhost.bindings() == before)
    ready_again(hub)
    hub.publish("t.a", {"n": 1})
    wait_until(lambda: seen == [{"n": 1}])


def test_a_binding_that_somebody_took_away_is_made_again(
    serve: Serve, vhost: Vhost, amqp: BlockingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "BIND_EVERY", 0.5)
    serve({APP: handles(lambda body: None)})
    before = vhost.bindings()
    exchange, key, queue = before[0]
    amqp.queue_unbind(queue, exchange, key)
    wait_until(lambda: vhost.bindings() == before)


def test_bindings_that_a_second_loss_kept_from_being_checked_are_checked_after_it(
    serve: Serve, proxy: Proxy, vhost: Vhost, amqp: BlockingChannel
) -> None:
    hub = serve({APP: handles(print)}, url=proxy.url)
    before = vhost.bindings()
    proxy.reset()
    wait_until(lambda: reconnects(hub) == [1] and not hub.server.missing(), interval=0.001)
    proxy.hold("down")  # so the check does not end
    ((exchange, key, queue),) = before
    amqp.queue_unbind(queue, exchange, key)
    proxy.pass_all()
    proxy.reset()
    wait_until(lambda: vhost.bindings() == before)


def test_a_deleted_dead_letter_queue_is_made_again_for_the_next_failure(
    serve: Serve, vhost: Vhost
) -> None:
    def handler(body: Any) -> None:
        raise ValueError("no")

    hub = serve({APP: handles(handler)}, THREE_GROUPS)
    vhost.delete_queue(DLQ)
    hub.publish("t.a", {})
    wait_until(lambda: vhost.depth(DLQ) == 1 and vhost.depth(QUEUE) == 0)
    assert hub.server.missing() == []


def test_a_peer_that_fell_silent_is_noticed_by_its_missing_heartbeats(
    serve: Serve, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []
    hub = serve({APP: handles(seen.append)}, "[events]\nconsumer_heartbeat = 1\n", url=proxy.url)
    wait_until(lambda: hub.server.groups[0].status()["heartbeat"] == 1)
    # The broker still hears us, so that nobody but us can notice.
    proxy.swallow("down")

    def losses() -> list[str]:
        told = [r for r in caplog.records if r.name == "limehub.workers.group"]
        return [vars(r)["cause"] for r in told if "connection lost" in r.getMessage()]

    wait_until(
        lambda: any("missed heartbeats" in each for each in losses()),
        message="the silence to be noticed",
    )
    proxy.pass_all()
    proxy.reset()
    ready_again(hub)
    hub.publish("t.a", {"n": 1})
    wait_until(lambda: seen == [{"n": 1}])


def test_all_groups_wait_for_a_broker_that_is_away_and_consume_when_it_is_back(
    serve: Serve, proxy: Proxy, vhost: Vhost
) -> None:
    seen: list[Any] = []
    names = ("app-one", "app-two", "app-three")
    hub = serve({name: handles(seen.append) for name in names}, THREE_GROUPS, url=proxy.url)
    address = f"127.0.0.1:{proxy.port}"

    def named(cause: str) -> bool:
        return "not connected" in cause and address in cause

    def absence() -> float:
        proxy.refuse()
        proxy.reset()
        wait_until(lambda: [named(cause) for cause in hub.server.missing()] == [True] * 3)
        proxy.listen()
        return ready_again(hub)

    assert quickest(absence, 2) < 2
    hub.publish("t.a", {"n": 1})
    wait_until(lambda: len(seen) == 3)


def test_a_node_killed_under_load_loses_nothing_and_all_groups_are_back_in_two_seconds(
    killable_vhost: Vhost, serve: Serve
) -> None:
    names = ("app-one", "app-two", "app-three")
    ran: dict[str, Counter[int]] = {name: Counter() for name in names}

    def handler(name: str) -> Callable[[Any], None]:
        def run(body: Any) -> None:
            gevent.sleep(0.001)
            ran[name][body] += 1

        return run

    hub = serve({n: handles(handler(n)) for n in names}, THREE_GROUPS, url=killable_vhost.url)
    hub.publisher.timeout = 100
    node = killable_vhost.node
    events = itertools.count()
    enough = Signal()

    def publish() -> None:
        while not enough.wait(0.02):
            hub.publish("t.a", next(events))

    def death() -> float:
        node.kill()
        wait_until(lambda: len(hub.server.missing()) == 3)
        starting = gevent.spawn(node.start)
        wait_until(lambda: answers_amqp("127.0.0.1", node.ports.amqp), 100, interval=0.05)
        back = ready_again(hub)
        starting.get()
        return back

    publishing = [gevent.spawn(publish) for _ in range(10)]
    wait_until(lambda: hub.publisher.published >= 300)
    node.settle()
    back = quickest(death, 2)
    enough.set()
    gevent.joinall(publishing, raise_error=True)
    published = set(range(next(events)))
    for name in names:
        wait_until(lambda n=name: ran[n].keys() == published, message=f"all events in {name}")
    again = sum(count - 1 for counts in ran.values() for count in counts.values())
    print(f"consuming again after {back:.2f} s; {again} of {3 * len(published)} were run again")
    assert back < 2
    for name in names:
        wait_until(lambda n=name: killable_vhost.depth(queue_of("handler", n)) == 0)
        assert killable_vhost.depth(queue_of("dlq", name)) == 0


def test_operators_and_bad_luck_at_random_lose_nothing(serve: Serve, vhost: Vhost) -> None:
    ran: Counter[int] = Counter()

    def handler(body: Any) -> None:
        gevent.sleep(0.002)
        ran[body] += 1
        if body % 50 == 0 and ran[body] == 1:
            raise ValueError("once")

    hub = serve({APP: handles(handler, retry=[0.01, 0.01])}, THREE_GROUPS)
    publishing: list[gevent.Greenlet[..., None]] = []
    faults = [vhost.close_connections, lambda: vhost.close_channels(QUEUE)] * 3
    for number, fault in enumerate(faults):
        events = range(number * 100, number * 100 + 100)
        publishing.append(gevent.spawn(publish_all, hub.publisher, "t.a", events, at_once=5))
        wait_until(lambda e=events: sum(each in ran for each in e) >= 30)
        fault()
    gevent.joinall(publishing, raise_error=True)
    wait_until(lambda: len(ran) == 600)
    ready_again(hub)
    wait_until(lambda: vhost.depth(QUEUE) == 0)
    assert vhost.depth(DLQ) == 0
