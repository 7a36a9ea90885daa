"""Dead letters: when, where to, and what they carry."""

from __future__ import annotations

from typing import Any

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conformance.wire import bodies, get, publish, queue
from tests.support.waiting import wait_until


def source(channel: BlockingChannel, target: str, **arguments: Any) -> str:
    """Declare a queue whose dead letters go to the queue *target*."""
    given = {name.replace("_", "-"): value for name, value in arguments.items()}
    given |= {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": target}
    return queue(channel, arguments=given)


def deaths(properties: Any) -> list[dict[str, Any]]:
    """The deaths of a message, without their times; counts as plain numbers."""
    return [
        {
            key: int(value) if key == "count" else value
            for key, value in one.items()
            if key != "time"
        }
        for one in properties.headers["x-death"]
    ]


@pytest.mark.differs_on_4
def test_a_rejected_message_carries_its_death(channel: BlockingChannel) -> None:
    target = queue(channel)
    q = source(channel, target)
    publish(channel, q, "x", headers={"mine": 1})
    channel.basic_reject(channel.basic_get(q)[0].delivery_tag, requeue=False)
    method, properties, body = get(channel, target)
    assert (method.exchange, method.routing_key, body) == ("", target, b"x")
    assert deaths(properties) == [
        {"count": 1, "reason": "rejected", "queue": q, "exchange": "", "routing-keys": [q]}
    ]
    headers = dict(properties.headers)
    del headers["x-death"]
    assert headers == {
        "mine": 1,
        "x-first-death-exchange": "",
        "x-first-death-queue": q,
        "x-first-death-reason": "rejected",
    }


def test_a_nacked_message_dies_too_and_a_purged_one_does_not(channel: BlockingChannel) -> None:
    target = queue(channel)
    q = source(channel, target)
    publish(channel, q, "a", "b", "c")
    for _ in range(2):
        method = channel.basic_get(q)[0]
    channel.basic_nack(method.delivery_tag, multiple=True, requeue=False)
    channel.queue_purge(q)
    assert get(channel, target)[2] == b"a"
    assert get(channel, target)[2] == b"b"
    assert bodies(channel, target) == []


def test_an_expired_message_keeps_its_expiration_as_a_header(channel: BlockingChannel) -> None:
    target = queue(channel)
    q = source(channel, target)
    publish(channel, q, "x", expiration="50")
    _, properties, _ = get(channel, target)
    assert properties.expiration is None
    assert deaths(properties) == [
        {
            "count": 1,
            "reason": "expired",
            "queue": q,
            "exchange": "",
            "routing-keys": [q],
            "original-expiration": "50",
        }
    ]


def test_what_a_full_queue_drops_is_a_dead_letter(channel: BlockingChannel) -> None:
    target = queue(channel)
    q = source(channel, target, x_max_length=1)
    publish(channel, q, "a", "b")
    _, properties, body = get(channel, target)
    assert (body, properties.headers["x-first-death-reason"]) == (b"a", "maxlen")


def test_what_a_full_queue_refuses_can_be_a_dead_letter(channel: BlockingChannel) -> None:
    target = queue(channel)
    q = source(channel, target, x_max_length=1, x_overflow="reject-publish-dlx")
    publish(channel, q, "a", "b")
    assert get(channel, target)[2] == b"b"
    assert bodies(channel, q) == ["a"]


def test_without_a_key_the_message_keeps_its_own(channel: BlockingChannel, name: str) -> None:
    channel.exchange_declare(name, "topic", auto_delete=True)
    target = queue(channel)
    channel.queue_bind(target, name, "#")
    q = queue(channel, arguments={"x-dead-letter-exchange": name})
    copy = queue(channel)
    publish(channel, q, "x", headers={"CC": [copy]})
    channel.basic_reject(channel.basic_get(q)[0].delivery_tag, requeue=False)
    method, properties, _ = get(channel, target)
    assert (method.exchange, method.routing_key) == (name, q)
    assert properties.headers["CC"] == [copy]
    assert deaths(properties)[0]["routing-keys"] == [q, copy]


def _back_to(q: str) -> dict[str, Any]:
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": q}


def test_deaths_of_a_round_trip_are_listed_newest_first(
    channel: BlockingChannel, name: str
) -> None:
    wait = f"{name}-wait"
    first = queue(channel, f"{wait}-first", arguments=_back_to(wait))
    queue(channel, wait, arguments={"x-message-ttl": 50, **_back_to(first)})
    publish(channel, first, "x")
    for turn in (1, 2):
        method, properties, _ = _next(channel, first)
        if turn == 1:
            channel.basic_reject(method.delivery_tag, requeue=False)
    told = [(one["queue"], one["reason"], one["count"]) for one in deaths(properties)]
    assert told == [(wait, "expired", 1), (first, "rejected", 1)]
    channel.basic_reject(method.delivery_tag, requeue=False)
    _, properties, _ = _next(channel, first)
    told = [(one["queue"], one["reason"], one["count"]) for one in deaths(properties)]
    assert told == [(wait, "expired", 2), (first, "rejected", 2)]


def _next(channel: BlockingChannel, name: str) -> Any:
    return wait_until(lambda: (got := channel.basic_get(name))[0] is not None and got)


def test_a_circle_that_nobody_rejected_ends(channel: BlockingChannel, name: str) -> None:
    arguments = {"x-message-ttl": 30, **_back_to(name)}
    queue(channel, name, arguments=arguments)
    other = queue(channel, arguments={"x-message-ttl": 200})
    channel.confirm_delivery()  # so that what is published is in its queue
    publish(channel, name, "x")
    _wait_until_empty(channel, name)
    publish(channel, other, "y")  # as long as several turns of the circle
    _wait_until_empty(channel, other)
    assert bodies(channel, name) == []


def _wait_until_empty(channel: BlockingChannel, name: str) -> None:
    wait_until(lambda: channel.queue_declare(name, passive=True).method.message_count == 0)


def test_a_missing_exchange_or_queue_loses_the_message(channel: BlockingChannel) -> None:
    q = queue(channel, arguments={"x-dead-letter-exchange": "none-of-these"})
    other = source(channel, "none-of-these-either")
    for name in (q, other):
        publish(channel, name, "x")
        channel.basic_reject(channel.basic_get(name)[0].delivery_tag, requeue=False)
        assert bodies(channel, name) == []


def test_a_quorum_queue_gives_up_after_its_limit(channel: BlockingChannel, name: str) -> None:
    target = queue(channel)
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 2, **_back_to(target)}
    queue(channel, name, durable=True, arguments=arguments)
    publish(channel, name, "x")
    for _ in range(3):
        method, _, _ = _next(channel, name)
        channel.basic_reject(method.delivery_tag, requeue=True)
    _, properties, _ = get(channel, target)
    assert properties.headers["x-first-death-reason"] == "delivery_limit"
    channel.queue_delete(name)
