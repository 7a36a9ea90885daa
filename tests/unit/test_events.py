"""What a handler reads of its event, made of deliveries as the wire brings them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from limehub.amqp import headers as own
from limehub.decoding import UndecodableBody
from limehub.errors import AlreadySettled
from limehub.events import Event, LimeObjectEvent, Message, Retry
from limehub.plugins.retry_policy import RetryPolicy
from limehub.testing import make_event
from limehub.workers.handling import BoundHandler, Settlement, object_key
from limehub.workers.settlement import Asked, Rules
from tests.support.deliveries import Wire, delivered


class Late:
    """Hears of settlements that come after the handler has returned."""

    def __init__(self) -> None:
        self.heard: list[Settlement] = []

    def settle_late(self, settlement: Settlement) -> None:
        self.heard.append(settlement)


def settlement_of(wire: Wire | None = None, late: Late | None = None) -> Settlement:
    handler = BoundHandler(
        name="test.handler",
        app="test",
        dlq="lime.event_handler.test.dlq",
        call=lambda _event, _message: None,
        rules=Rules(policy="crash", retry=RetryPolicy()),
    )
    return Settlement(late or Late(), handler, delivered(wire=wire))


def event_of(body: bytes = b"{}", kind: type[Event] = LimeObjectEvent, **delivery: Any) -> Any:
    came = delivered(body, **delivery)
    return kind(came, application="acme", settler=settlement_of())


# -- events -------------------------------------------------------------------------------------


def test_an_event_without_headers_and_properties_has_empty_ones() -> None:
    event = event_of()
    assert (event.headers, event.properties, event.id) == ({}, {}, None)
    assert (event.timestamp, event.content_type, event.content_encoding) == (None, None, None)


@pytest.mark.parametrize("message_id", ["", None])
def test_an_empty_message_id_is_no_id(message_id: str | None) -> None:
    assert event_of(message_id=message_id).id is None


def test_the_timestamp_is_utc() -> None:
    assert event_of(timestamp=1_790_000_000).timestamp == datetime.fromtimestamp(1.79e9, UTC)


@pytest.mark.parametrize("timestamp", [1_790_000_000_000, 2**64 - 1])
def test_a_timestamp_that_is_no_date_is_none_and_no_traceback(timestamp: int) -> None:
    assert event_of(timestamp=timestamp).timestamp is None


def test_bytes_that_are_not_utf_8_reach_handlers_as_escaped_text() -> None:
    event = event_of(
        routing_key=b"core.limeobject.\xff.new.v1", message_id=b"\xfe", content_type=b"text/\xff"
    )
    assert event.limetype == "\\xff"
    assert event.id == "\\xfe"
    assert event.body == "{}"
    assert len(event.fingerprint) == 32


def test_equal_events_have_equal_fingerprints_and_still_no_id() -> None:
    first, second, other = event_of(b"1", tag=1), event_of(b"1", tag=2), event_of(b"2")
    assert first.fingerprint == second.fingerprint != other.fingerprint
    assert first.id is second.id is None


def test_parts_of_a_fingerprint_do_not_run_into_each_other() -> None:
    one = event_of(b"", exchange="ab", routing_key="c")
    two = event_of(b"", exchange="a", routing_key="bc")
    assert one.fingerprint != two.fingerprint


def test_an_undecodable_body_is_refused_when_it_is_asked_for_and_stays_as_bytes() -> None:
    event = event_of(b"\xff")
    assert event.raw_body == b"\xff"
    with pytest.raises(UndecodableBody):
        _ = event.body


def test_a_lime_event_says_what_changed() -> None:
    body = (
        b'{"id": 7, "limetype": "deal", "values": {"name": "b", "x": 1, "new": 1},'
        b' "original_values": {"name": "a", "x": 1}}'
    )
    event = event_of(body)
    assert (event.limetype, event.verb, event.object_id) == ("deal", "update", 7)
    assert event.changed("name")
    assert not event.changed("x")
    assert not event.changed("new")


@pytest.mark.parametrize(
    "body",
    [b"[]", b"7", b'"text"', b"{}", b'{"values": null}', b'{"values": [1], "original_values": 3}'],
)
def test_a_body_of_another_shape_gives_empty_values_and_the_key_speaks(body: bytes) -> None:
    event = event_of(body)
    assert (event.values, event.original_values) == ({}, {})
    assert (event.limetype, event.object_id, event.changed("name")) == ("deal", None, False)


@pytest.mark.parametrize("key", ["", "x", "core.limeobject"])
def test_a_short_routing_key_has_no_limetype_and_no_verb(key: str) -> None:
    event = event_of(routing_key=key)
    assert (event.limetype, event.verb) == ("", "")


def test_a_retry_says_what_it_wants() -> None:
    assert (str(Retry(30)), Retry(30).delay) == ("retry in 30 s", 30)
    assert (str(Retry()), Retry().delay) == ("retry", None)


# -- deliveries ---------------------------------------------------------------------------------


def test_a_delivery_is_settled_once() -> None:
    wire = Wire()
    delivery = delivered(wire=wire, tag=4)
    assert delivery.ack()
    for settle in (delivery.ack, delivery.give_back):
        with pytest.raises(AlreadySettled):
            settle()
    assert wire.told == ["ack 4"]


def test_a_stale_delivery_is_dropped_and_says_so() -> None:
    wire = Wire(usable=False)
    delivery = delivered(wire=wire)
    assert delivery.give_back() is False
    assert delivery.settled
    assert wire.told == []


def test_a_given_back_delivery_goes_to_its_own_queue() -> None:
    wire = Wire()
    delivered(wire=wire, tag=9).give_back()
    assert wire.told == ["reject 9 requeue=True"]


def test_our_headers_speak_on_the_default_exchange_only() -> None:
    moved = {own.EXCHANGE: "lime.globex", own.ROUTING_KEY: "k", own.ATTEMPTS: 2, own.RETRIES: 1}
    trusted = delivered(exchange="", routing_key="the.queue", headers=moved)
    forged = delivered(headers=moved)
    assert (trusted.exchange, trusted.routing_key) == ("lime.globex", "k")
    assert (trusted.attempts, trusted.retries) == (2, 1)
    assert (forged.exchange, forged.is_moved, forged.attempts) == ("lime.acme", False, 0)


@pytest.mark.parametrize("value", ["2", None, -1, [], 2**62])
def test_a_nonsense_count_of_attempts_is_none(value: Any) -> None:
    headers = {own.EXCHANGE: "lime.acme", own.ATTEMPTS: value}
    assert delivered(exchange="", headers=headers).attempts == 0


# -- messages and settlements -------------------------------------------------------------------


def test_the_message_has_kombus_names() -> None:
    event, message = make_event({"id": 1}, headers={"h": 1}, tag=3, redelivered=True)
    assert isinstance(message, Message)
    assert message.payload == message.decode() == {"id": 1}
    assert message.body == b'{"id": 1}'
    assert message.headers == {"h": 1}
    assert message.delivery_info == {
        "exchange": "lime.default",
        "routing_key": event.routing_key,
        "delivery_tag": 3,
        "redelivered": True,
        "queue": event.queue,
    }


@pytest.mark.parametrize(
    ("act", "asked", "told"),
    [
        (lambda m: m.ack(), Asked.ACK, ["ack 1"]),
        (lambda m: m.reject(), Asked.REJECT, []),
        (lambda m: m.reject(requeue=True), Asked.REQUEUE, []),
        (lambda m: m.requeue(), Asked.REQUEUE, []),
    ],
)
def test_a_message_is_settled_once_and_only_an_ack_goes_out_at_once(
    act: Any, asked: Asked, told: list[str]
) -> None:
    wire = Wire()
    settlement = settlement_of(wire)
    message = Message(
        Event(settlement.delivery, application="acme", settler=settlement), settlement
    )
    act(message)
    assert message.acknowledged
    assert (settlement.asked, wire.told) == (asked, told)
    for again in (message.ack, message.reject, message.requeue):
        with pytest.raises(AlreadySettled):
            again()
    assert (settlement.asked, wire.told) == (asked, told)


def test_a_settlement_after_the_return_is_handed_to_its_group() -> None:
    late = Late()
    settlement = settlement_of(late=late)
    settlement.returned = True
    settlement.reject("late")
    assert late.heard == [settlement]
    assert settlement.reason == "late"


# -- the object of an event ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"\xff", b'{"id": null}', b'{"id": [1]}', b'{"id": 1.5}', b"[" * 10**5],
)
def test_a_body_that_names_no_object_has_no_key(body: bytes) -> None:
    assert object_key(delivered(body)) is None


def test_the_key_of_an_object_is_tenant_type_and_id() -> None:
    one = object_key(delivered(b'{"id": 7, "limetype": "deal"}'))
    assert one == object_key(delivered(b'{"limetype": "deal", "id": 7, "values": {}}'))
    assert one != object_key(delivered(b'{"id": 8, "limetype": "deal"}'))
    assert one != object_key(delivered(b'{"id": 7, "limetype": "person"}'))
    assert one != object_key(delivered(b'{"id": 7, "limetype": "deal"}', exchange="lime.globex"))


def test_a_type_from_the_key_and_from_the_body_are_one_object() -> None:
    assert object_key(delivered(b'{"id": 7}')) == object_key(
        delivered(b'{"id": 7, "limetype": "deal"}')
    )


def test_a_compressed_event_keeps_its_order_too() -> None:
    import gzip

    packed = delivered(gzip.compress(b'{"id": 7}'), content_encoding="gzip")
    assert object_key(packed) == object_key(delivered(b'{"id": 7}'))
