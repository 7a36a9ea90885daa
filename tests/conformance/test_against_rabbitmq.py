"""The same random operations on the embedded broker and on RabbitMQ: the same must come out."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from scripts.rabbitmq_node import RabbitNode
from tests.conformance.embedded import EmbeddedBroker
from tests.conformance.wire import receive
from tests.support.waiting import wait_until

QUEUES = ("one", "two", "three")
EXCHANGES = ("direct", "topic", "fanout")
KEYS = ("a", "a.b", "b", "one", "two")
PATTERNS = (*KEYS, "#", "*", "a.*", "a.#")
ARGUMENTS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"x-max-length": 2},
    {"x-max-length": 2, "x-overflow": "reject-publish"},
    {"x-max-length-bytes": 6},
    {"x-max-priority": 3},
    {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "two"},
    {"x-dead-letter-exchange": "fanout"},
    {"x-max-length": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "three"},
)
NUMBERS = itertools.count()
Operation = tuple[Any, ...]

queues, exchanges = st.sampled_from(QUEUES), st.sampled_from(EXCHANGES)
OPERATIONS = st.one_of(
    st.tuples(st.just("declare"), queues, st.sampled_from(ARGUMENTS)),
    st.tuples(
        st.just("publish"),
        st.sampled_from(("", "", *EXCHANGES)),
        st.sampled_from(KEYS),
        st.integers(0, 4),
        st.booleans(),
    ),
    st.tuples(st.just("publish"), st.just(""), queues, st.integers(0, 4), st.just(True)),
    st.tuples(st.just("get"), queues, st.booleans()),
    st.tuples(st.just("consume"), queues, st.integers(1, 3), st.integers(0, 3)),
    st.tuples(st.just("transaction"), queues, st.integers(0, 4), st.booleans()),
    st.tuples(st.just("settle"), st.sampled_from(("ack", "nack", "reject")), st.booleans()),
    st.tuples(st.just("settle several"), st.sampled_from(("ack", "nack")), st.booleans()),
    st.tuples(st.just("recover")),
    st.tuples(st.just("bind"), queues, exchanges, st.sampled_from(PATTERNS)),
    st.tuples(st.just("unbind"), queues, exchanges, st.sampled_from(PATTERNS)),
    st.tuples(st.just("bind exchange"), exchanges, exchanges, st.sampled_from(PATTERNS)),
    st.tuples(st.just("purge"), queues),
    st.tuples(st.just("delete"), queues, st.booleans(), st.booleans()),
    st.tuples(st.just("count"), queues),
    st.tuples(st.just("another channel")),
)


class Actor:
    """Does operations on one broker and tells what came of each, names without their prefix."""

    def __init__(self, url: str, prefix: str) -> None:
        self.prefix = prefix
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self._new_channel()
        self.held: list[int] = []
        self.queues: set[str] = set()
        self.forwarding: set[str] = set()
        self.serial = itertools.count()
        for kind in EXCHANGES:
            self.channel.exchange_declare(self.name(kind), kind)
        self.do(("declare", "one", {}))

    def _new_channel(self) -> Any:
        channel = self.connection.channel()
        channel.confirm_delivery()
        return channel

    def name(self, short: str) -> str:
        return f"{self.prefix}{short}" if short in QUEUES + EXCHANGES else short

    def do(self, operation: Operation) -> Any:
        try:
            return self._do(operation)
        finally:
            self._let_letters_arrive()

    def _let_letters_arrive(self) -> None:
        """Ask every queue that hands dead letters on, once for each hop: it does so by itself.

        And once more, since in RabbitMQ a question overtakes what waits in the queue's mailbox.
        """
        for _ in range(len(self.forwarding) + 1):
            for queue in sorted(self.forwarding):
                self._count(queue)

    def ready(self) -> dict[str, int]:
        """How many messages are ready in each queue."""
        return {queue: self._count(queue)[0] for queue in sorted(self.queues)}

    def _do(self, operation: Operation) -> Any:
        verb, *rest = operation
        act: Callable[..., Any] = getattr(self, "_" + verb.replace(" ", "_"))
        try:
            return act(*rest)
        except (pika.exceptions.NackError, pika.exceptions.UnroutableError) as error:
            return type(error).__name__
        except pika.exceptions.ChannelClosedByBroker as error:
            self.channel = self._new_channel()
            self.held.clear()
            return error.reply_code, error.reply_text.replace(self.prefix, "")

    def close(self) -> None:
        with contextlib.suppress(pika.exceptions.AMQPError):
            for kind in EXCHANGES:
                self.channel.exchange_delete(self.name(kind))
        self.connection.close()

    def _declare(self, queue: str, arguments: dict[str, Any]) -> Any:
        given = {
            key: self.name(value) if isinstance(value, str) else value
            for key, value in arguments.items()
        }
        frame = self.channel.queue_declare(self.name(queue), exclusive=True, arguments=given)
        self.queues.add(queue)
        if "x-dead-letter-exchange" in arguments:
            self.forwarding.add(queue)
        return self._counts(frame)

    def _counts(self, frame: Any) -> tuple[int, int]:
        return frame.method.message_count, frame.method.consumer_count

    def _count(self, queue: str) -> Any:
        return self._counts(self.channel.queue_declare(self.name(queue), passive=True))

    def _publish(self, exchange: str, key: str, priority: int, mandatory: bool) -> None:
        body = f"{next(self.serial):03}".encode()
        properties = pika.BasicProperties(priority=priority)
        key = self.name(key) if not exchange else key
        self.channel.basic_publish(self.name(exchange), key, body, properties, mandatory)

    def _get(self, queue: str, auto_ack: bool) -> Any:
        method, properties, body = self.channel.basic_get(self.name(queue), auto_ack)
        if method is None:
            return None
        if not auto_ack:
            self.held.append(method.delivery_tag)
        return (
            body,
            method.redelivered,
            method.message_count,
            method.exchange.replace(self.prefix, ""),
            method.routing_key.replace(self.prefix, ""),
            self._plain(properties.headers),
        )

    def _consume(self, queue: str, prefetch: int, acked: int) -> Any:
        """Take what a consumer gets, ack some, and go away: the rest is back in its place."""
        waiting, _ = self._count(queue)
        expected, got = min(waiting, prefetch), list[Any]()
        channel = self.connection.channel()
        channel.basic_qos(prefetch_count=prefetch)
        tag = channel.basic_consume(
            self.name(queue), lambda _ch, method, _p, body: got.append((method, body))
        )
        receive(channel, got, expected)
        channel.basic_cancel(tag)  # so that acks bring no more
        for method, _ in got[:acked]:
            channel.basic_ack(method.delivery_tag)
        channel.close()
        left = waiting - min(acked, expected)
        wait_until(lambda: self._count(queue)[0] == left, message="the rest to be back")
        return [(method.delivery_tag, method.redelivered, body) for method, body in got]

    def _transaction(self, queue: str, priority: int, commit: bool) -> Any:
        """Publish one message and take another, both or neither."""
        channel = self.connection.channel()
        channel.tx_select()
        method, _, taken = channel.basic_get(self.name(queue))
        if method is not None:
            channel.basic_ack(method.delivery_tag)
        properties = pika.BasicProperties(priority=priority)
        channel.basic_publish("", self.name(queue), f"{next(self.serial):03}".encode(), properties)
        if commit:
            channel.tx_commit()
        else:
            channel.tx_rollback()
        channel.close()
        return taken

    def _plain(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._plain(item) for key, item in value.items() if key != "time"}
        if isinstance(value, list):
            return [self._plain(item) for item in value]
        return str(value).replace(self.prefix, "")

    def _settle(self, how: str, requeue: bool) -> None:
        if self.held:
            self._finish(how, self.held.pop(len(self.held) // 2), requeue)

    def _settle_several(self, how: str, requeue: bool) -> None:
        if self.held:
            tag = self.held[len(self.held) // 2]
            self.held = [one for one in self.held if one > tag]
            self._finish(how, tag, requeue, multiple=True)

    def _finish(self, how: str, tag: int, requeue: bool, **several: bool) -> None:
        keywords = dict(several) if how == "ack" else {**several, "requeue": requeue}
        getattr(self.channel, f"basic_{how}")(tag, **keywords)
        self.channel.basic_qos(prefetch_count=0)

    def _recover(self) -> None:
        self.held.clear()
        self.channel.basic_recover(requeue=True)

    def _bind(self, queue: str, exchange: str, pattern: str) -> None:
        self.channel.queue_bind(self.name(queue), self.name(exchange), pattern)

    def _unbind(self, queue: str, exchange: str, pattern: str) -> None:
        self.channel.queue_unbind(self.name(queue), self.name(exchange), pattern)

    def _bind_exchange(self, destination: str, source: str, pattern: str) -> None:
        self.channel.exchange_bind(self.name(destination), self.name(source), pattern)

    def _purge(self, queue: str) -> int:
        return int(self.channel.queue_purge(self.name(queue)).method.message_count)

    def _delete(self, queue: str, if_unused: bool, if_empty: bool) -> int:
        frame = self.channel.queue_delete(self.name(queue), if_unused, if_empty)
        self.queues.discard(queue)
        self.forwarding.discard(queue)
        return int(frame.method.message_count)

    def _another_channel(self) -> None:
        self.channel.close()
        self.channel = self._new_channel()
        self.held.clear()


@pytest.fixture(scope="module")
def urls(
    rabbit_node: RabbitNode, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    with EmbeddedBroker(tmp_path_factory.mktemp("compared")) as broker:
        yield broker.url, rabbit_node.url


@pytest.mark.timeout(3600)  # in the long form
@settings(
    max_examples=2000 if os.environ.get("LIMEHUB_SOAK") == "1" else 60,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
@given(operations=st.lists(OPERATIONS, min_size=5, max_size=40))
def test_both_brokers_do_the_same(urls: tuple[str, str], operations: list[Operation]) -> None:
    prefix = f"cmp{next(NUMBERS)}-"
    with contextlib.ExitStack() as ended:
        actors = [Actor(url, prefix) for url in urls]
        for actor in actors:
            ended.callback(actor.close)
        for operation in operations:
            ours, theirs = (actor.do(operation) for actor in actors)
            assert ours == theirs, operation
            _wait_until_both_have_the_same(*actors)
        for queue in QUEUES:
            ours, theirs = (_drain(actor, queue) for actor in actors)
            assert ours == theirs, queue


def _wait_until_both_have_the_same(embedded: Actor, rabbit: Actor) -> None:
    """RabbitMQ's queues hear of an ack or a nack on their own time."""
    ours = embedded.ready()
    wait_until(lambda: rabbit.ready() == ours, message=f"{ours} ready in RabbitMQ too")


def _drain(actor: Actor, queue: str) -> list[Any]:
    found = []
    while (got := actor.do(("get", queue, True))) is not None:
        found.append(got)
        if isinstance(got[0], int):
            break
    return found
