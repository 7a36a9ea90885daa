"""Where a message goes: exchanges of all types, bindings, copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conformance.wire import bodies, get, publish, queue


@pytest.fixture
def exchange(channel: BlockingChannel, name: str) -> Any:
    """Declare an exchange that goes with its last binding: `exchange(kind, ...)` -> its name."""

    def declare(kind: str, suffix: str = "", **options: Any) -> str:
        options.setdefault("auto_delete", True)
        channel.exchange_declare(f"{name}{suffix}", kind, **options)
        return f"{name}{suffix}"

    return declare


def test_a_direct_exchange_wants_the_same_key(
    channel: BlockingChannel, exchange: Callable[..., str]
) -> None:
    direct, q = exchange("direct"), queue(channel)
    channel.queue_bind(q, direct, "a")
    publish(channel, "a", "yes", exchange=direct)
    publish(channel, "b", "no", exchange=direct)
    assert bodies(channel, q) == ["yes"]


def test_a_fanout_exchange_takes_any_key_and_gives_one_copy_to_each_queue(
    channel: BlockingChannel, exchange: Callable[..., str]
) -> None:
    fanout, one, two = exchange("fanout"), queue(channel), queue(channel)
    channel.queue_bind(one, fanout, "a")
    channel.queue_bind(one, fanout, "b")
    channel.queue_bind(two, fanout)
    publish(channel, "whatever", "x", exchange=fanout)
    assert bodies(channel, one) == ["x"]
    assert bodies(channel, two) == ["x"]


TOPICS = [
    ("core.limeobject.deal.new.v1", "core.limeobject.deal.new.v1", True),
    ("core.limeobject.*.new.v1", "core.limeobject.deal.new.v1", True),
    ("core.*.new.v1", "core.limeobject.deal.new.v1", False),
    ("core.#", "core.limeobject.deal.new.v1", True),
    ("core.#", "core", True),
    ("#.v1", "core.limeobject.deal.new.v1", True),
    ("core.#.deal.#.v1", "core.limeobject.deal.new.v1", True),
    ("#.#", "", True),
    ("*", "", False),
    ("", "", True),
    ("*.*", "a.", True),
    ("a.*", "a", False),
    ("#", "", True),
    ("a.#.b.#.c", "a.b.c", True),
    ("a.#.b.#.c", "a.c.b", False),
    ("a..b", "a..b", True),
    ("a.*.b", "a..b", True),
]


@pytest.mark.parametrize(("pattern", "key", "matches"), TOPICS)
def test_a_topic_exchange_matches_words(
    channel: BlockingChannel,
    exchange: Callable[..., str],
    pattern: str,
    key: str,
    matches: bool,
) -> None:
    topic, q = exchange("topic"), queue(channel)
    channel.queue_bind(q, topic, pattern)
    publish(channel, key, "x", exchange=topic)
    assert bodies(channel, q) == (["x"] if matches else [])


HEADERS = [
    ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1, "b": "x", "c": 2}, True),
    ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1}, False),
    ({"x-match": "any", "a": 1, "b": "x"}, {"a": 1}, True),
    ({"x-match": "any", "a": 1, "b": "x"}, {"a": 2}, False),
    ({"a": 1}, {"a": 1}, True),
    ({}, {"a": 1}, True),
    ({"x-match": "any"}, {"a": 1}, False),
    ({"a": None}, {"a": 17}, True),
    ({"a": None}, {"b": 17}, False),
    ({"x-match": "all", "x-a": 1}, {}, True),
    ({"x-match": "all-with-x", "x-a": 1}, {}, False),
    ({"x-match": "any-with-x", "x-a": 1}, {"x-a": 1}, True),
]


@pytest.mark.parametrize(("arguments", "headers", "matches"), HEADERS, ids=str)
def test_a_headers_exchange_matches_arguments(
    channel: BlockingChannel,
    exchange: Callable[..., str],
    arguments: dict[str, Any],
    headers: dict[str, Any],
    matches: bool,
) -> None:
    by_headers, q = exchange("headers"), queue(channel)
    channel.queue_bind(q, by_headers, "", arguments=arguments)
    publish(channel, "", "x", exchange=by_headers, headers=headers)
    assert bodies(channel, q) == (["x"] if matches else [])


def test_the_default_exchange_knows_every_queue(channel: BlockingChannel) -> None:
    q = queue(channel)
    publish(channel, q, "x")
    assert bodies(channel, q) == ["x"]


def test_an_exchange_can_be_bound_to_another_and_circles_end(
    channel: BlockingChannel, exchange: Callable[..., str]
) -> None:
    first, second = exchange("topic", "-1"), exchange("fanout", "-2")
    q = queue(channel)
    channel.queue_bind(queue(channel), first, "keeps it")
    channel.exchange_bind(second, first, "a.#")
    channel.exchange_bind(first, second, "")
    channel.queue_bind(q, second)
    publish(channel, "a.b", "yes", exchange=first)
    publish(channel, "b", "no", exchange=first)
    assert bodies(channel, q) == ["yes"]
    channel.exchange_unbind(second, first, "a.#")
    publish(channel, "a.b", "no", exchange=first)
    assert bodies(channel, q) == []


def test_what_matches_nothing_goes_to_the_alternate_exchange(
    channel: BlockingChannel, exchange: Callable[..., str]
) -> None:
    other = exchange("fanout", "-other")
    first = exchange("direct", "-first", arguments={"alternate-exchange": other})
    here, there = queue(channel), queue(channel)
    channel.queue_bind(here, first, "a")
    channel.queue_bind(there, other)
    publish(channel, "a", "matched", exchange=first)
    publish(channel, "b", "not matched", exchange=first, mandatory=True)
    assert bodies(channel, here) == ["matched"]
    assert bodies(channel, there) == ["not matched"]


def test_an_auto_delete_exchange_goes_with_its_last_binding(
    channel: BlockingChannel, exchange: Callable[..., str]
) -> None:
    name, q = exchange("direct"), queue(channel)
    channel.queue_bind(q, name, "a")
    channel.queue_bind(q, name, "b")
    channel.queue_unbind(q, name, "a")
    channel.exchange_declare(name, passive=True)
    channel.queue_unbind(q, name, "b")
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="no exchange"):
        channel.exchange_declare(name, passive=True)


def test_a_binding_goes_with_its_queue(
    channel: BlockingChannel, exchange: Callable[..., str]
) -> None:
    name, q = exchange("direct"), queue(channel)
    channel.queue_bind(q, name, "a")
    channel.queue_delete(q)
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="no exchange"):
        channel.exchange_declare(name, passive=True)


def test_binding_twice_is_binding_once(
    channel: BlockingChannel, exchange: Callable[..., str]
) -> None:
    name, q = exchange("direct"), queue(channel)
    for _ in range(2):
        channel.queue_bind(q, name, "a")
    publish(channel, "a", "x", exchange=name)
    assert bodies(channel, q) == ["x"]


def test_without_names_the_last_queue_is_bound_by_its_own(
    channel: BlockingChannel, exchange: Callable[..., str]
) -> None:
    name, q = exchange("direct"), queue(channel)
    channel.queue_bind("", name, "")
    publish(channel, q, "x", exchange=name)
    assert bodies(channel, q) == ["x"]


def test_copies_go_where_the_headers_say_and_blind_ones_are_not_shown(
    channel: BlockingChannel,
) -> None:
    to, copy, blind = queue(channel), queue(channel), queue(channel)
    publish(channel, to, "x", headers={"CC": [copy, to], "BCC": [blind], "mine": 1})
    for name in (to, copy, blind):
        method, properties, _ = get(channel, name)
        assert method.routing_key == to
        assert properties.headers == {"CC": [copy, to], "mine": 1}
    assert bodies(channel, to) == []
