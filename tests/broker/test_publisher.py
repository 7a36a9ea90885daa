"""The publisher: confirmed or an error, from many greenlets and threads, through every fault."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import monkey
from gevent.event import Event as Signal
from gevent.pool import Pool
from pika.adapters.blocking_connection import BlockingChannel

from limehub import Publisher
from limehub.amqp.connection import ConnectionSettings
from limehub.amqp.message import Outgoing
from limehub.config import BrokerUrl
from limehub.errors import (
    BrokerError,
    BrokerRefused,
    ConfirmTimeout,
    ExchangeMissing,
    MessageRefused,
    Unroutable,
)
from tests.support.embedded_node import EmbeddedNode, only_rabbitmq
from tests.support.hub import Hub
from tests.support.proxy import BASIC_ACK, BASIC_PUBLISH, Proxy
from tests.support.serving import APP, handles, publish_all
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

Serve = Callable[..., Hub]
Open = Callable[..., Publisher]

EXCHANGE = "lime.default"
# Suspends each channel in confirm mode; returns how many. One may end while it is asked.
FREEZE = """
begin
  Frozen = [Pid || Pid <- rabbit_channel:list_local(),
    (catch rabbit_channel:info(Pid, [vhost, confirm])) =:=
    [{{vhost, <<"{vhost}">>}}, {{confirm, true}}]],
  persistent_term:put(frozen, Frozen),
  [sys:suspend(Pid) || Pid <- Frozen],
  length(Frozen)
end
"""
THAW = "[sys:resume(Pid) || Pid <- persistent_term:get(frozen)]"
start_native_thread = monkey.get_original("_thread", "start_new_thread")


@pytest.fixture
def publishers(vhost: Vhost) -> Iterator[Open]:
    """Make publishers, to the test's vhost unless told otherwise; all are closed at the end."""
    made: list[Publisher] = []

    def make(broker: str | ConnectionSettings | None = None, **options: Any) -> Publisher:
        made.append(Publisher(broker or vhost.url, **options))
        return made[-1]

    yield make
    for publisher in made:
        publisher.close()


@pytest.fixture
def sink(amqp: BlockingChannel) -> str:
    """A queue that gets everything which is published on `lime.default`."""
    amqp.exchange_declare(EXCHANGE, "topic", durable=True)
    amqp.queue_declare("sink", durable=True)
    amqp.queue_bind("sink", EXCHANGE, "#")
    return "sink"


def taken(amqp: BlockingChannel, queue: str) -> list[tuple[str, bytes]]:
    """Take (message id, body) of all that is in *queue*."""
    found = []
    while True:
        method, properties, body = amqp.basic_get(queue, auto_ack=True)
        if method is None:
            return found
        found.append((properties.message_id, body))


def test_a_publish_is_a_persistent_json_message_with_an_id_and_a_time(
    publishers: Open, sink: str, amqp: BlockingChannel
) -> None:
    before = int(time.time())
    identity = publishers().publish("own.paid.v1", {"total": "12 €"}, headers={"by": "me"})
    method, properties, body = amqp.basic_get(sink, auto_ack=True)
    assert (method.exchange, method.routing_key) == (EXCHANGE, "own.paid.v1")
    assert body == '{"total": "12 €"}'.encode()
    assert properties.message_id == identity
    assert properties.delivery_mode == 2
    assert properties.content_type == "application/json"
    assert properties.headers == {"by": "me"}
    assert before <= properties.timestamp <= time.time()


def test_confirms_are_pipelined_across_greenlets(
    publishers: Open, sink: str, proxy: Proxy, vhost: Vhost
) -> None:
    publisher = publishers(proxy.url)
    publisher.publish("warm.up", 0)
    proxy.swallow("down")
    publishing = gevent.spawn(publish_all, publisher, "t.a", range(100), at_once=100)
    wait_until(lambda: vhost.depth(sink) == 101, message="all to be there before a confirm is")
    assert publisher.published == 1
    proxy.pass_all()
    proxy.reset()
    publishing.get()
    assert publisher.published == 101


def test_native_threads_publish_while_the_hub_turns(
    publishers: Open, sink: str, amqp: BlockingChannel
) -> None:
    publisher = publishers()
    ended: list[int] = []
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for each in range(20):
                publisher.publish("t.a", {"n": number * 20 + each}, message_id=f"{number}-{each}")
        except BaseException as error:
            errors.append(error)
        ended.append(number)

    for number in range(8):
        start_native_thread(work, (number,))
    wait_until(lambda: len(ended) == 8)
    assert errors == []
    identities = {identity for identity, _ in taken(amqp, sink)}
    assert identities == {f"{number}-{each}" for number in range(8) for each in range(20)}


def test_what_reaches_no_queue_is_unroutable_and_only_that(
    publishers: Open, amqp: BlockingChannel, vhost: Vhost
) -> None:
    amqp.exchange_declare(EXCHANGE, "topic", durable=True)
    amqp.queue_declare("bound", durable=True)
    amqp.queue_bind("bound", EXCHANGE, "known.#")
    publisher = publishers()
    keys = [("unknown" if number % 5 == 0 else "known") + ".a" for number in range(50)]
    jobs = [gevent.spawn(publisher.publish, key, {"same": "body"}) for key in keys]
    gevent.joinall(jobs)
    failed = [isinstance(job.exception, Unroutable) for job in jobs]
    assert failed == [key == "unknown.a" for key in keys]
    assert "unknown.a" in str(jobs[0].exception)
    assert vhost.depth("bound") == 40
    publisher.publish("unknown.a", {}, mandatory=False)


def test_a_missing_exchange_fails_its_own_publish_and_none_of_fifty_others(
    publishers: Open, sink: str, vhost: Vhost
) -> None:
    publisher = publishers()
    pool = Pool(60)
    good = [pool.spawn(publisher.publish, "t.a", number) for number in range(50)]
    bad = [
        pool.spawn(publisher.publish, "t.a", number, exchange=f"lime.missing-{number % 2}")
        for number in range(5)
    ]
    gevent.joinall([*good, *bad])
    assert [job.exception for job in good if job.exception] == []
    assert {type(job.exception) for job in bad} == {ExchangeMissing}
    assert "lime.missing-0" in str(bad[0].exception)
    assert vhost.depth(sink) == 50
    assert len(vhost.connections()) == 2, "the test's and the publisher's: nothing was opened anew"


def test_an_exchange_that_is_deleted_later_is_missing_for_its_publishes_only(
    publishers: Open, sink: str, amqp: BlockingChannel, vhost: Vhost
) -> None:
    amqp.exchange_declare("lime.short-lived", "fanout", durable=True)
    amqp.queue_bind(sink, "lime.short-lived")
    publisher = publishers()
    publisher.publish("t.a", 0, exchange="lime.short-lived")
    vhost.delete_exchange("lime.short-lived")
    pool = Pool(60)
    good = [pool.spawn(publisher.publish, "t.a", number) for number in range(20)]
    bad = pool.spawn(publisher.publish, "t.a", 0, exchange="lime.short-lived")
    good += [pool.spawn(publisher.publish, "t.a", number) for number in range(20)]
    gevent.joinall([*good, bad])
    assert isinstance(bad.exception, ExchangeMissing)
    assert [job.exception for job in good if job.exception] == []
    with pytest.raises(ExchangeMissing):
        publisher.publish("t.a", 0, exchange="lime.short-lived")
    amqp.exchange_declare("lime.short-lived", "fanout", durable=True)
    amqp.queue_bind(sink, "lime.short-lived")
    publisher.publish("t.a", 0, exchange="lime.short-lived")


def test_a_lone_publish_to_an_exchange_that_was_deleted_names_the_exchange(
    publishers: Open, sink: str, vhost: Vhost
) -> None:
    publisher = publishers()
    publisher.publish("t.a", 0)
    vhost.delete_exchange(EXCHANGE)
    with pytest.raises(ExchangeMissing, match=EXCHANGE):
        publisher.publish("t.a", 0)


def test_a_full_queue_that_refuses_is_an_error_of_the_publish(
    publishers: Open, sink: str, vhost: Vhost
) -> None:
    vhost.set_policy("full", "^sink$", {"max-length": 3, "overflow": "reject-publish"})
    publisher = publishers()
    jobs = [gevent.spawn(publisher.publish, "t.a", number) for number in range(20)]
    gevent.joinall(jobs)
    refused = [job.exception for job in jobs if not job.successful()]
    assert {type(error) for error in refused} == {MessageRefused}
    wait_until(lambda: vhost.depth(sink) == 20 - len(refused))
    with pytest.raises(MessageRefused, match="refused"):
        publisher.publish("t.a", 0)
    vhost.clear_policy("full")
    publisher.publish("t.a", 0)


def test_the_application_is_named_or_the_only_one(
    publishers: Open, sink: str, amqp: BlockingChannel
) -> None:
    publishers().publish("t.a", 0)
    several = publishers(applications=["default", "other"])
    with pytest.raises(ValueError, match="default, other"):
        several.publish("t.a", 0)
    several.publish("t.a", 0, application="default")
    with pytest.raises(ExchangeMissing, match=r"lime\.other"):
        several.publish("t.a", 0, application="other")
    several.publish("t.a", 0, exchange=EXCHANGE)
    publishers(applications=["x"], exchange=EXCHANGE).publish("t.a", 0)
    assert len(taken(amqp, sink)) == 4


@pytest.mark.parametrize("key", ["k" * 256, "ö" * 128])
def test_a_routing_key_longer_than_amqp_allows_is_refused_before_it_closes_the_channel(
    publishers: Open, sink: str, key: str
) -> None:
    publisher = publishers()
    with pytest.raises(ValueError, match="255"):
        publisher.publish(key, 0)
    publisher.publish(key[:127], 0)


def test_a_confirm_lost_with_its_connection_sends_the_same_message_again(
    publishers: Open, sink: str, proxy: Proxy, amqp: BlockingChannel
) -> None:
    publisher = publishers(proxy.url)
    publisher.publish("t.a", "before")
    proxy.cut_on(BASIC_ACK, "down")
    identity = publisher.publish("t.a", "twice")
    assert proxy.cuts == 1
    assert taken(amqp, sink)[1:] == [(identity, b'"twice"')] * 2


def test_queues_that_are_kept_apart_do_not_wait_for_each_other(
    publishers: Open, vhost: Vhost
) -> None:
    if isinstance(vhost.node, EmbeddedNode):
        only_rabbitmq("channels that can be frozen")
    with vhost.connect() as connection:
        for queue in ("one", "two"):
            connection.channel().queue_declare(queue, durable=True)
    publisher = publishers(apart=True)
    publisher.send(Outgoing(exchange="", routing_key="one", body=b"1"))
    assert vhost.node.eval(FREEZE.format(vhost=vhost.name)) != "0"
    try:
        publisher.send(Outgoing(exchange="", routing_key="two", body=b"2"))
        with pytest.raises(ConfirmTimeout):
            publisher.send(Outgoing(exchange="", routing_key="one", body=b"3"), timeout=0.5)
    finally:
        vhost.node.eval(THAW)


def test_a_publish_lost_with_its_connection_is_sent_again(
    publishers: Open, sink: str, proxy: Proxy, amqp: BlockingChannel
) -> None:
    publisher = publishers(proxy.url)
    publisher.publish("t.a", "before")
    proxy.cut_on(BASIC_PUBLISH, "up")
    identity = publisher.publish("t.a", "once")
    assert proxy.cuts == 1
    assert taken(amqp, sink)[1:] == [(identity, b'"once"')]


def test_publishes_under_way_survive_many_lost_connections(
    publishers: Open, sink: str, proxy: Proxy, amqp: BlockingChannel
) -> None:
    publisher = publishers(proxy.url)
    numbers, confirmed = itertools.count(), set()

    def publish_on() -> None:
        while proxy.accepted <= 4:
            number = next(numbers)
            publisher.publish("t.a", number)
            confirmed.add(number)

    jobs = [gevent.spawn(publish_on) for _ in range(20)]
    for connections in range(1, 5):
        enough = publisher.published + 20
        wait_until(lambda n=enough: publisher.published >= n)
        proxy.reset()
        wait_until(lambda n=connections: proxy.accepted > n)
    gevent.joinall(jobs, raise_error=True)
    assert {int(body) for _, body in taken(amqp, sink)} == confirmed


def test_a_broker_that_falls_silent_is_a_timeout_that_says_so(
    publishers: Open, sink: str, proxy: Proxy
) -> None:
    publisher = publishers(proxy.url)
    publisher.publish("t.a", 0)
    proxy.swallow()
    publisher.timeout = 0.5
    with pytest.raises(ConfirmTimeout, match="no confirm in time"):
        publisher.publish("t.a", 0)
    proxy.pass_all()
    proxy.reset()
    publisher.timeout = 30
    publisher.publish("t.a", 0)


def test_a_broker_that_is_away_is_waited_for_and_then_named(
    publishers: Open, sink: str, proxy: Proxy
) -> None:
    publisher = publishers(proxy.url, timeout=0.5)
    proxy.refuse()
    with pytest.raises(ConfirmTimeout, match=f"127.0.0.1:{proxy.port}"):
        publisher.publish("t.a", 0)
    publisher.timeout = 30
    job = gevent.spawn(publisher.publish, "t.a", 0)
    gevent.sleep(0)
    proxy.listen()
    job.get()


def test_a_broker_that_refuses_is_an_error_at_once(publishers: Open, vhost: Vhost) -> None:
    url = BrokerUrl.parse(vhost.url.replace("guest:guest@", "guest:wrong@"))
    publisher = publishers(ConnectionSettings(url=url), timeout=60)
    started = time.monotonic()
    with pytest.raises(BrokerRefused, match="403"):
        publisher.publish("t.a", 0)
    assert time.monotonic() - started < 30


def test_a_closed_publisher_says_so(publishers: Open, sink: str, vhost: Vhost) -> None:
    publisher = publishers()
    publisher.publish("t.a", 0)
    publisher.close()
    with pytest.raises(BrokerError, match="closed"):
        publisher.publish("t.a", 0)
    wait_until(lambda: len(vhost.connections()) == 1)


def test_a_blocking_broker_makes_publishes_wait_and_consuming_goes_on(
    killable_vhost: Vhost, serve: Serve
) -> None:
    gate = Signal()
    ran: list[Any] = []

    def handler(body: Any) -> None:
        gate.wait()
        ran.append(body)

    hub = serve({APP: handles(handler)}, url=killable_vhost.url)
    publish_all(hub.publisher, "t.a", range(50))
    killable_vhost.memory_alarm(True)
    try:
        # The broker may let the first one pass.
        waiting = gevent.spawn(publish_all, hub.publisher, "t.a", range(50, 55), at_once=1)
        wait_until(lambda: hub.publisher.state.startswith("blocked: "))
        late = Outgoing(exchange=EXCHANGE, routing_key="t.a", body=b"55")
        with pytest.raises(ConfirmTimeout, match="memory"):
            hub.publisher.send(late, timeout=0.5)
        gate.set()
        wait_until(lambda: set(ran) >= set(range(50)), message="the backlog to be worked off")
        assert hub.server.missing() == []
        assert not waiting.ready()
    finally:
        killable_vhost.memory_alarm(False)
    waiting.get()
    assert hub.publisher.state == "connected"
    wait_until(lambda: set(ran) == set(range(56)))


UNPATCHED = """
import sys, threading
from limehub import Publisher

publisher = Publisher(sys.argv[1])
ids = set()

def work():
    for number in range(25):
        ids.add(publisher.publish("t.a", {"n": number}))

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
from gevent import monkey
assert not monkey.saved, "nothing may patch a service that only publishes"
print(len(ids))
"""


@pytest.mark.parametrize("end", ["", "publisher.close()"], ids=["without-close", "with-close"])
def test_an_unpatched_service_publishes_from_plain_threads_and_ends_in_peace(
    sink: str, vhost: Vhost, tmp_path: Path, end: str
) -> None:
    script = tmp_path / "service.py"
    script.write_text(UNPATCHED + end)
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script), vhost.url],
        env={"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "100\n", "")
    assert vhost.depth(sink) == 100
