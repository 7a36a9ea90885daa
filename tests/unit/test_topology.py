"""What queues look like, and what RabbitMQ's words about a difference mean."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limehub.amqp import topology
from limehub.amqp.topology import (
    RETRY_STEPS,
    Mismatch,
    dlq_spec,
    handler_queue_spec,
    retry_queue_spec,
    retry_step,
)
from limehub.errors import ChannelClosed, QueueMissing

QUEUE = "lime.event_handler.x.y"
TYPE = "'x-queue-type' for {}: received the value 'classic' of type 'longstr'"


def refused(words: str, code: int = 406) -> ChannelClosed:
    return ChannelClosed(code, f"PRECONDITION_FAILED - inequivalent arg {words}")


def test_a_handler_queue_says_its_type_and_has_no_dead_letter_arguments() -> None:
    assert handler_queue_spec(QUEUE).arguments == {"x-queue-type": "classic"}


def test_a_quorum_queue_never_drops_what_was_given_back_too_often() -> None:
    for spec in (
        handler_queue_spec(QUEUE, queue_type="quorum"),
        dlq_spec("d", queue_type="quorum"),
        retry_queue_spec(QUEUE, 15, queue_type="quorum"),
    ):
        assert spec.arguments["x-queue-type"] == "quorum"
        assert spec.arguments["x-delivery-limit"] == -1


def test_a_single_active_consumer_is_asked_for_in_the_arguments() -> None:
    arguments = handler_queue_spec(QUEUE, single_active_consumer=True).arguments
    assert arguments["x-single-active-consumer"] is True


def test_a_dead_letter_queue_has_no_ttl_so_that_changing_it_needs_no_deletion() -> None:
    assert dlq_spec("lime.event_handler.x.dlq").arguments == {"x-queue-type": "classic"}


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_a_retry_queue_gives_everything_back_to_its_handler_after_its_time(queue_type: str) -> None:
    spec = retry_queue_spec(QUEUE, 60, queue_type=queue_type)
    assert spec.name == f"{QUEUE}.retry.60"
    assert spec.arguments["x-message-ttl"] == 60_000
    assert spec.arguments["x-dead-letter-exchange"] == ""
    assert spec.arguments["x-dead-letter-routing-key"] == QUEUE
    safe = spec.arguments.get("x-dead-letter-strategy") == "at-least-once"
    assert safe is (queue_type == "quorum")


@pytest.mark.parametrize(
    ("delay", "step"),
    [(0, 15), (10.1, 15), (15, 15), (15.001, 30), (3600, 3600), (86_400, 86_400), (1e300, 86_400)],
)
def test_a_delay_is_rounded_up_to_the_next_step(delay: float, step: int) -> None:
    assert retry_step(delay) == step


@given(st.floats(0, 86_400))
def test_a_retry_never_comes_early_nor_later_than_asked_by_more_than_the_step(delay: float) -> None:
    step = retry_step(delay)
    assert step in RETRY_STEPS
    assert step >= delay
    assert not [other for other in RETRY_STEPS if delay <= other < step]


@pytest.mark.parametrize(
    ("words", "argument", "actual", "wanted"),
    [
        ("'x-message-ttl' for {}: received none but {} '60000' of type 'signedint'",
         "x-message-ttl", 60_000, None),
        ("'x-message-ttl' for {}: received none but {} '60000' of type 'long'",
         "x-message-ttl", 60_000, None),
        ("'x-dead-letter-exchange' for {}: received none but {} 'it's' of type 'longstr'",
         "x-dead-letter-exchange", "it's", None),
        ("'x-single-active-consumer' for {}: received none but {} 'true' of type 'bool'",
         "x-single-active-consumer", True, None),
        (f"{TYPE} but {{}} 'quorum' of type 'longstr'", "x-queue-type", "quorum", "classic"),
        ("'x-queue-type' for {}: received 'classic' but current is 'quorum'",
         "x-queue-type", "quorum", "classic"),
        (f"{TYPE} but current is none", "x-queue-type", None, "classic"),
        ("'durable' for {}: received 'true' but current is 'false'", "durable", "false", "true"),
    ],
    ids=range(8),
)  # fmt: skip
def test_the_brokers_words_name_argument_is_and_wanted(
    words: str, argument: str, actual: Any, wanted: Any
) -> None:
    sent = {"x-queue-type": "classic"}
    said = words.format("queue 'q' in vhost '/'", "current is the value")
    mismatch = topology._mismatch_of(refused(said), QUEUE, sent)
    assert mismatch == Mismatch(queue=QUEUE, argument=argument, actual=actual, wanted=wanted)


@pytest.mark.parametrize(
    "error", [refused("of another kind"), refused("'x' for queue", 405), QueueMissing(404, "no")]
)
def test_other_words_are_no_mismatch(error: ChannelClosed) -> None:
    assert topology._mismatch_of(error, QUEUE, {}) is None


@pytest.mark.parametrize(
    ("argument", "actual", "loses"),
    [
        ("x-message-ttl", 60_000, True),
        ("x-max-length", 5, True),
        ("x-max-length-bytes", 5, True),
        ("x-expires", 5, True),
        ("x-message-ttl", None, False),
        ("x-delivery-limit", 20, True),
        ("x-delivery-limit", 0, True),
        ("x-delivery-limit", None, True),
        ("x-delivery-limit", -1, False),
        ("durable", "false", True),
        ("x-dead-letter-exchange", "", False),
        ("x-max-priority", 5, False),
        ("x-queue-type", "quorum", False),
        ("auto_delete", "true", True),
    ],
)
def test_a_queue_that_would_lose_events_is_told_from_one_that_is_only_different(
    argument: str, actual: Any, loses: bool
) -> None:
    mismatch = Mismatch(queue=QUEUE, argument=argument, actual=actual, wanted=None)
    assert mismatch.loses_messages is loses


def test_a_mismatch_names_queue_argument_is_and_wanted() -> None:
    mismatch = Mismatch(queue="q", argument="x-expires", actual=5, wanted=None)
    assert str(mismatch) == "queue q exists with x-expires=5, limehub wants nothing"


def test_the_steps_of_the_retry_queues_grow() -> None:
    assert all(first < second for first, second in itertools.pairwise(RETRY_STEPS))
