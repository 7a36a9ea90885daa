"""What goes out: anything a plugin hands over is encoded by pika, or refused before it is sent."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limehub.amqp.message import (
    Outgoing,
    encodable,
    encode_body,
    encoded_size,
    header_size,
    short,
    wire_properties,
)


def travelled(headers: dict[Any, Any]) -> dict[str, Any]:
    came = pika.BasicProperties()
    came.decode(b"".join(pika.BasicProperties(headers=encodable(headers)).encode()))
    return dict(came.headers or {})


anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.text(alphabet=st.characters(categories=["Cs", "Lu"])),
        st.binary(),
        st.decimals(),
        st.datetimes(),
        st.just(object()),
        st.frozensets(st.integers()),
    ),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=300) | st.binary(max_size=300), anything, max_size=5))
def test_any_headers_can_be_encoded_and_read_again(headers: dict[Any, Any]) -> None:
    assert set(travelled(headers)) == {short(name) for name in headers}


@pytest.mark.parametrize(
    ("value", "comes_as"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (2**63, b"9223372036854775808"),
        (1.5, b"1.5"),
        (math.nan, b"nan"),
        ("Å", "Å"),
        ("\ud800", "\\ud800"),
        (b"\xff", b"\xff"),
        (Decimal("-1.50"), Decimal("-1.5")),
        (Decimal("NaN"), b"NaN"),
        (Decimal("1E+999999"), b"1E+999999"),
        (Decimal("1E-200"), Decimal("1E-200")),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
        (datetime(1960, 1, 1, tzinfo=UTC), "1960-01-01T00:00:00+00:00"),
        ((1, [2.5]), [1, [b"2.5"]]),
        ({"a": {1: 2.5}}, {"a": {"1": b"2.5"}}),
    ],
    ids=range(19),
)
def test_a_header_value_comes_as_itself_or_as_bytes(value: Any, comes_as: Any) -> None:
    assert travelled({"h": value}) == {"h": comes_as}


def test_the_first_second_of_1970_in_another_zone_is_before_the_epoch_and_still_goes() -> None:
    east = timezone(timedelta(hours=5))
    assert travelled({"h": datetime(1970, 1, 1, 1, tzinfo=east)})["h"].startswith("1970-01-01T01")


def test_headers_nested_without_end_are_cut_off() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    inner = travelled(endless)
    while isinstance(inner, dict):
        inner = inner["again"]
    assert inner == b"nested too deeply"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("x" * 300, "x" * 255), ("é" * 200, "é" * 127), (b"\xff", "\\xff"), ("\ud800", "\\ud800")],
)
def test_a_short_string_is_at_most_255_bytes_of_whole_characters(
    text: str | bytes, expected: str
) -> None:
    assert short(text) == expected


def test_every_message_is_persistent_and_mandatory_whatever_its_properties_say() -> None:
    message = Outgoing(exchange="", routing_key="q", body=b"", properties={"delivery_mode": 1})
    came = pika.BasicProperties()
    came.decode(wire_properties(message))
    assert came.delivery_mode == 2
    assert message.mandatory


@given(st.dictionaries(st.text(max_size=50), st.text(max_size=50) | st.integers(-9, 9), max_size=5))
def test_the_size_of_each_header_adds_up_to_the_size_of_all(headers: dict[str, Any]) -> None:
    empty = Outgoing(exchange="", routing_key="q", body=b"")
    full = Outgoing(exchange="", routing_key="q", body=b"", headers=headers)
    table = 4 if headers else 0
    expected = encoded_size(empty) + table + sum(header_size(*each) for each in headers.items())
    assert encoded_size(full) == expected


@pytest.mark.parametrize(
    ("body", "encoded"),
    [(b"\xff", b"\xff"), ({"å": 1}, '{"å": 1}'.encode()), ("text", b'"text"'), (None, b"null")],
)
def test_bytes_go_as_they_are_and_the_rest_as_json(body: Any, encoded: bytes) -> None:
    assert encode_body(body) == encoded


@pytest.mark.parametrize("body", [math.nan, math.inf, object(), {1, 2}, {"a": "\ud800"}])
def test_a_body_that_is_no_json_is_refused_before_it_is_sent(body: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode_body(body)
