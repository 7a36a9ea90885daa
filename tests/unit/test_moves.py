"""Moves: whatever a publisher sent, the copy can be sent, fits, and nobody forges a tenant."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limehub.amqp import headers as own
from limehub.amqp import moves
from limehub.amqp.delivery import Delivery
from limehub.amqp.message import Outgoing, wire_properties
from limehub.amqp.moves import Failure, failure_of
from tests.support.deliveries import QUEUE, delivered

FRAME_MAX = 131_072
SMALLEST_FRAME = 8_192
"""RabbitMQ refuses less since 4.1."""
HEADER_FRAME_BYTES = 20
"""Type, channel, size, class, weight, body size, end."""
DLQ = "lime.event_handler.test.dlq"
ACTING = ("CC", "BCC", "x-death", "x-first-death-queue", "x-last-death-reason")

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.integers(-(2**31), 2**31 - 1).map(Decimal),
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-99, max_value=99, places=4),
    st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1)).map(lambda d: d.replace(tzinfo=UTC)),
)
names = st.one_of(
    st.sampled_from([*ACTING, own.EXCHANGE, own.ROUTING_KEY, own.DROPPED, own.RETRIES, own.ID]),
    st.text(max_size=60),
    st.binary(max_size=255),
    st.text(alphabet="é€x", max_size=80).map(lambda text: f"x-limehub-{text}"),
    st.text(alphabet="é€x", max_size=80).map(lambda text: f"x-death-{text}"),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)
tables = st.dictionaries(names, values, max_size=8)
property_tables = st.fixed_dictionaries(
    {},
    optional={
        "content_type": st.binary(max_size=255),
        "content_encoding": st.text(max_size=40),
        "correlation_id": st.text(max_size=40),
        "message_id": st.text(max_size=40),
        "reply_to": st.text(max_size=40),
        "type": st.text(max_size=40),
        "app_id": st.text(max_size=40),
        "user_id": st.text(max_size=40),
        "cluster_id": st.text(max_size=40),
        "expiration": st.integers(0, 10**9).map(str),
        "priority": st.integers(0, 255),
        "delivery_mode": st.sampled_from([1, 2]),
        "timestamp": st.integers(0, 2**64 - 1),
    },
)


def failure(**changes: Any) -> Failure:
    values = {
        "handler": "test.handler",
        "reason": "exception",
        "exception_type": "ValueError",
        "exception_text": "no",
        "traceback": "Traceback ...",
        "where": "x.py:1 in handler",
        "attempts": 1,
        "at": datetime(2026, 11, 21, 12, 0, tzinfo=UTC),
    }
    return Failure(**(values | changes))


def dead(
    delivery: Delivery, *, frame_max: int = FRAME_MAX, ttl: float = 60, **why: Any
) -> Outgoing:
    return moves.dead_letter(delivery, failure(**why), dlq=DLQ, ttl=ttl, frame_max=frame_max)


def sent(message: Outgoing) -> pika.BasicProperties:
    """Return the properties as the other side reads them."""
    came = pika.BasicProperties()
    came.decode(wire_properties(message))
    return came


def frame_bytes(message: Outgoing) -> int:
    return HEADER_FRAME_BYTES + len(wire_properties(message))


def arrived(message: Outgoing, queue: str) -> Delivery:
    """Return *message* as the handler of *queue* gets it: over the default exchange."""
    properties = {k: v for k, v in sent(message).__dict__.items() if v is not None}
    return delivered(
        message.body,
        queue=queue,
        exchange=message.exchange,
        routing_key=message.routing_key,
        **properties,
    )


@given(tables, property_tables, st.sampled_from([SMALLEST_FRAME, FRAME_MAX]))
def test_any_message_can_be_moved_fits_the_frame_and_acts_on_no_routing(
    headers: Mapping[Any, Any], properties: Mapping[str, Any], frame_max: int
) -> None:
    delivery = delivered(b"\x00body\xff", headers=headers, **properties)
    waiting = moves.retry(
        delivery, failure(), retry_queue=f"{QUEUE}.retry.15", retries=1, frame_max=frame_max
    )
    for message in (dead(delivery, frame_max=frame_max), waiting):
        came = sent(message)
        assert frame_bytes(message) <= frame_max
        assert not [name for name in came.headers if str(name) in ("CC", "BCC")]
        assert not [name for name in came.headers if str(name).startswith(moves._DEATH_PREFIXES)]
        assert came.headers[own.EXCHANGE] == "lime.acme"
        assert came.headers[own.ROUTING_KEY] == delivery.wire_routing_key
        assert (came.user_id, came.cluster_id, came.delivery_mode) == (None, None, 2)
        assert message.body == b"\x00body\xff"
        assert (message.exchange, message.mandatory) == ("", True)
    assert sent(waiting).expiration is None


@given(tables, property_tables)
def test_a_requeued_dead_letter_gives_its_handler_tenant_and_key_back(
    headers: Mapping[Any, Any], properties: Mapping[str, Any]
) -> None:
    original = delivered(headers=headers, routing_key="core.limeobject.deal.new.v1", **properties)
    letter = arrived(dead(original), DLQ)
    again = arrived(moves.requeue(letter, queue=QUEUE), QUEUE)
    assert (again.exchange, again.routing_key) == (original.exchange, original.routing_key)
    assert again.properties.get("expiration") is None
    assert (again.attempts, again.retries) == (1, 0)
    assert again.message_id == original.message_id


@pytest.mark.parametrize("name", ACTING)
def test_a_header_that_acts_on_routing_is_renamed_not_lost(name: str) -> None:
    came = sent(dead(delivered(headers={name: ["elsewhere"]}))).headers
    assert came[own.ORIGINAL + name] == ["elsewhere"]
    assert name not in came


def test_a_publisher_cannot_forge_a_tenant() -> None:
    forged = {own.EXCHANGE: "lime.globex", own.ROUTING_KEY: "stolen", own.ATTEMPTS: 9}
    delivery = delivered(headers=forged)
    assert (delivery.exchange, delivery.attempts) == ("lime.acme", 0)
    came = sent(dead(delivery)).headers
    assert came[own.EXCHANGE] == "lime.acme"
    assert came[own.ORIGINAL + own.EXCHANGE] == "lime.globex"
    assert came[own.ATTEMPTS] == 1


def test_a_forged_list_of_dropped_headers_does_not_hold_the_event_for_ever() -> None:
    headers = {own.DROPPED: 5, "big": "x" * FRAME_MAX}
    came = sent(dead(delivered(headers=headers))).headers
    assert came[own.DROPPED] == ["big"]


@pytest.mark.parametrize(
    "name",
    ["x-limehub-" + "é" * 122, "x-death-" + "é" * 123, b"\xff" * 255, "x-limehub-" + "x" * 245],
)
def test_a_name_that_grows_by_its_new_prefix_still_fits_255_bytes(name: str | bytes) -> None:
    came = sent(dead(delivered(headers={name: "kept"}))).headers
    assert "kept" in came.values()


def test_text_that_is_not_utf_8_is_carried_within_255_bytes() -> None:
    came = sent(dead(delivered(content_type=b"\xff" * 255)))
    assert came.content_type.startswith("\\xff\\xff")


def test_headers_nested_deeper_than_python_recurses_do_not_hold_the_event() -> None:
    deep: dict[str, Any] = {}
    inner = deep
    for _ in range(300):
        inner["a"] = inner = {}
    came = sent(dead(delivered(headers={"deep": deep, "flat": 1}))).headers
    assert came["flat"] == 1


def test_the_original_user_id_and_expiration_move_to_headers() -> None:
    came = sent(dead(delivered(user_id="guest", expiration="100"), ttl=7))
    assert came.headers[own.USER_ID] == "guest"
    assert came.headers[own.EXPIRATION] == "100"
    assert (came.user_id, came.expiration) == (None, "7000")


@pytest.mark.parametrize(("ttl", "expiration"), [(0, None), (0.0001, "1"), (2592000, "2592000000")])
def test_the_expiration_is_the_dead_letter_queues_never_0(
    ttl: float, expiration: str | None
) -> None:
    assert sent(dead(delivered(), ttl=ttl)).expiration == expiration


def test_every_dead_letter_gets_an_id_of_its_own() -> None:
    delivery = delivered()
    first, second = (dead(delivery).headers[own.ID] for _ in range(2))
    assert first != second


def test_attempts_go_on_counting_over_moves_and_the_first_failure_is_kept() -> None:
    letter = arrived(dead(delivered(), attempts=3), DLQ)
    again = arrived(moves.requeue(letter, queue=QUEUE), QUEUE)
    assert (again.attempts, again.retries) == (3, 0)
    later = datetime(2027, 1, 1, tzinfo=UTC)
    twice = sent(dead(again, attempts=4, at=later)).headers
    assert twice[own.FIRST_FAILURE] == "2026-11-21T12:00:00.000+00:00"
    assert twice[own.LAST_FAILURE] == "2027-01-01T00:00:00.000+00:00"


def test_retries_survive_the_retry_queue_and_start_anew_when_a_person_requeues() -> None:
    waiting = moves.retry(
        delivered(), failure(), retry_queue=f"{QUEUE}.retry.15", retries=2, frame_max=FRAME_MAX
    )
    back = arrived(waiting, QUEUE)
    assert back.retries == 2
    letter = arrived(dead(back), DLQ)
    assert arrived(moves.requeue(letter, queue=QUEUE), QUEUE).retries == 0


def test_the_traceback_is_cut_first_then_the_text_and_foreign_headers_stay() -> None:
    message = dead(
        delivered(headers={"mine": "x" * 3_000}),
        frame_max=SMALLEST_FRAME,
        traceback="é" * 16_000,
        exception_text="what went wrong",
    )
    came = sent(message).headers
    assert came["mine"] == "x" * 3_000
    assert came[own.EXCEPTION_TEXT] == "what went wrong"
    assert len(came[own.TRACEBACK]) < 16_000
    assert frame_bytes(message) <= SMALLEST_FRAME
    assert own.DROPPED not in came


def test_the_largest_foreign_headers_go_when_nothing_of_ours_is_left_to_cut() -> None:
    headers = {"small": "kept", "big": "x" * (FRAME_MAX - 500)}
    came = sent(dead(delivered(headers=headers))).headers
    assert came["small"] == "kept"
    assert came[own.DROPPED] == ["big"]


@pytest.mark.parametrize("count", [500, 25_000])
def test_a_frame_full_of_small_headers_is_made_to_fit_in_no_time(count: int) -> None:
    """500 names of 250 bytes, or 25,000 of 5: dropping one must not cost as much as it frees."""
    width = 250 if count == 500 else 4
    headers = {f"{number:x}".zfill(width): None for number in range(count)}
    began = time.thread_time()
    message = dead(delivered(headers=headers))
    assert time.thread_time() - began < 10
    assert frame_bytes(message) <= FRAME_MAX
    assert len(message.headers) > count // 2


def test_a_trusted_header_that_is_none_of_ours_cannot_fill_the_frame() -> None:
    headers = {own.EXCHANGE: "lime.acme", "x-limehub-bogus": "x" * FRAME_MAX}
    assert frame_bytes(dead(delivered(exchange="", headers=headers))) <= FRAME_MAX


def test_an_absurd_number_of_attempts_counts_as_none() -> None:
    headers = {own.EXCHANGE: "lime.acme", own.ATTEMPTS: 2**63 - 1, own.RETRIES: -1}
    delivery = delivered(exchange="", headers=headers)
    assert (delivery.attempts, delivery.retries) == (0, 0)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("\ud800"),
        ValueError("x" * 10**6),
        Unspeakable(),
        type("Long" * 50_000, (Exception,), {})("x"),
        ExceptionGroup("many", [ValueError("\udcff")] * 50),
        SystemExit("no"),
    ],
    ids=["surrogate", "huge", "unspeakable", "long-name", "group", "exit"],
)
def test_any_exception_can_be_described_in_a_frame(error: BaseException) -> None:
    why = failure_of(raised(error), handler="test.handler", reason="exception", attempts=1)
    message = moves.dead_letter(delivered(), why, dlq=DLQ, ttl=1, frame_max=FRAME_MAX)
    came = sent(message).headers
    assert frame_bytes(message) <= FRAME_MAX
    assert came[own.EXCEPTION_TYPE]
    assert "test_moves.py" in came[own.WHERE]


def test_a_failure_without_exception_carries_its_text_cut_and_clean() -> None:
    why = failure_of(None, handler="h", reason="rejected", attempts=1, text="\ud800" + "x" * 10**6)
    assert len(why.exception_text) <= moves.MAX_TEXT_CHARS
    why.exception_text.encode()


def test_a_failure_names_class_text_and_place() -> None:
    why = failure_of(raised(KeyError("deal")), handler="h", reason="exception", attempts=2)
    assert why.exception_type == "KeyError"
    assert why.exception_text == "'deal'"
    assert why.where.endswith("in raised")
    assert why.traceback.endswith("KeyError: 'deal'\n")
    assert why.at.tzinfo is UTC
