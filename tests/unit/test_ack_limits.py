"""What the broker's acknowledgement limit is, and who is told that it comes near."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from limehub.amqp.delivery import Delivery
from limehub.errors import ChannelClosed, ConnectionLost
from limehub.workers.ack_limits import (
    RUNS,
    WAITS,
    AckWatch,
    Held,
    effective_limit,
    is_ack_timeout,
    limit_in,
    limit_of,
    may_cancel,
)
from tests.support.deliveries import Wire, delivered

LOGGER = "limehub.workers.ack_limits"
TIMED_OUT = ChannelClosed(
    406,
    "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: "
    "20000 ms. This timeout value can be configured, see consumers doc guide to learn more",
)


@pytest.mark.parametrize(
    ("server", "is_quorum", "own", "told", "limit"),
    [
        ("RabbitMQ 3.8.9", False, None, None, None),
        ("RabbitMQ 3.8.15", False, None, None, 900.0),
        ("RabbitMQ 3.8.17", False, None, None, 1800.0),
        ("RabbitMQ 3.10.8", True, None, None, 1800.0),
        ("RabbitMQ 3.10.8", True, 60.0, None, 1800.0),  # not before 3.12
        ("RabbitMQ 3.12.0", True, 60.0, None, 60.0),
        ("RabbitMQ 4.0.5", False, 3600.0, None, 3600.0),
        ("RabbitMQ 4.0.5", False, 3600.0, 20.0, 20.0),
        ("RabbitMQ 4.3.0", False, 60.0, None, None),
        ("RabbitMQ 4.3.0", True, None, None, 1800.0),
        ("RabbitMQ 4.3.0-rc.1", True, 60.0, None, 60.0),
        ("limehub 1.0.0", False, None, None, None),
        ("unknown", True, 60.0, None, None),
    ],
)
def test_the_limit_follows_version_queue_and_the_brokers_own_words(
    server: str, is_quorum: bool, own: float | None, told: float | None, limit: float | None
) -> None:
    assert effective_limit(server, is_quorum, own=own, told=told) == limit


@pytest.mark.parametrize(
    ("queue", "limit"),
    [
        ({"arguments": {}, "effective_policy_definition": {}}, None),
        ({"arguments": {"x-consumer-timeout": 5000}}, 5.0),
        ({"effective_policy_definition": {"consumer-timeout": 7000}}, 7.0),
        (
            {
                "arguments": {"x-consumer-timeout": 9000},
                "effective_policy_definition": {"consumer-timeout": 7000},
            },
            7.0,
        ),
        ({"arguments": {"x-consumer-timeout": "soon"}, "effective_policy_definition": None}, None),
        ({"arguments": []}, None),  # what the API shows for none in some versions
    ],
)
def test_a_queues_own_limit_is_the_smaller_of_argument_and_policy(
    queue: dict[str, Any], limit: float | None
) -> None:
    assert limit_of(queue) == limit


def test_the_brokers_words_tell_the_limit() -> None:
    assert is_ack_timeout(TIMED_OUT)
    assert limit_in(TIMED_OUT) == 20.0
    other = ChannelClosed(406, "PRECONDITION_FAILED - unknown delivery tag 1")
    assert not is_ack_timeout(other)
    assert not is_ack_timeout(ConnectionLost("timed out"))
    assert limit_in(other) is None


def test_only_quorum_queues_of_rabbitmq_4_3_are_cancelled() -> None:
    assert may_cancel("RabbitMQ 4.3.1", True)
    assert not may_cancel("RabbitMQ 4.3.1", False)
    assert not may_cancel("RabbitMQ 4.2.9", True)


class Watching:
    """A watch with a clock that the test turns."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.now = 0.0
        self.watch = AckWatch(lambda: self.now)
        self._caplog = caplog
        caplog.set_level(logging.WARNING, LOGGER)

    def look(self, now: float, *held: Held) -> list[tuple[str, int]]:
        """What is said at *now*: (message, per cent)."""
        self.now = now
        self._caplog.clear()
        self.watch.look(held)
        said = [each for each in self._caplog.records if each.name == LOGGER]
        return [(each.getMessage(), each.__dict__["percent"]) for each in said]


@pytest.fixture
def watching(caplog: pytest.LogCaptureFixture) -> Watching:
    return Watching(caplog)


def held(delivery: Delivery, started: float | None) -> Held:
    return Held(delivery=delivery, handler="solution-x.deal", limit=100.0, started=started)


def test_a_long_run_is_named_at_50_and_at_80_per_cent_once_each(watching: Watching) -> None:
    run = held(delivered(), 10.0)
    said = [watching.look(now, run) for now in (20, 59, 60, 61, 89, 90, 95, 200)]
    assert said == [[], [], [(RUNS, 50)], [], [], [(RUNS, 80)], [], []]
    assert watching.watch.level_of(run.delivery) == 80


def test_a_run_that_is_found_late_is_told_of_once(watching: Watching) -> None:
    run = held(delivered(), 0.0)
    assert watching.look(85, run) == [(RUNS, 80)]
    assert watching.look(86, run) == []


def test_the_time_before_the_run_counts_too(watching: Watching) -> None:
    delivery = delivered()
    assert watching.look(0, held(delivery, None)) == []
    assert watching.look(45, held(delivery, 40.0)) == []
    assert watching.look(50, held(delivery, 40.0)) == [(RUNS, 50)]


def test_of_those_that_wait_one_stands_for_its_queue(watching: Watching) -> None:
    wire = Wire()
    waiting = [held(delivered(tag=tag, wire=wire), None) for tag in range(1, 100)]
    assert watching.look(0, *waiting) == []
    assert watching.look(50, *waiting) == [(WAITS, 50)]
    assert watching.look(51, *waiting) == []


def test_what_came_again_counts_from_then_on(watching: Watching) -> None:
    wire = Wire()
    first = delivered(tag=1, wire=wire)
    assert watching.look(60, held(first, 0.0)) == [(RUNS, 50)]
    first.take_over(delivered(tag=1, redelivered=True))
    assert watching.look(70, held(first, 0.0)) == []
    assert watching.watch.level_of(first) == 0
    assert watching.look(120, held(first, 0.0)) == [(RUNS, 50)]


def test_what_is_settled_is_forgotten(watching: Watching) -> None:
    run = held(delivered(), 0.0)
    watching.look(90, run)
    watching.look(91)
    assert watching.watch.level_of(run.delivery) == 0
