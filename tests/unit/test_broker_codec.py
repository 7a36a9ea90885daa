"""The embedded broker's codec: what comes in goes out unchanged, whatever is broken is refused."""

from __future__ import annotations

import struct
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limehub.broker.properties import (
    headers_of,
    read_properties,
    with_headers,
    without_expiration,
)
from limehub.broker.refusals import ConnectionRefusal, Refusal
from limehub.broker.session.methods import index_of, read_method, write_method
from limehub.broker.tables import Field, decode_table, encode_table, longstr

NAMES = st.text(max_size=20)
SCALARS = st.one_of(
    st.builds(Field, st.just(b"t"), st.booleans()),
    st.builds(Field, st.just(b"b"), st.integers(-128, 127)),
    st.builds(Field, st.just(b"B"), st.integers(0, 255)),
    st.builds(Field, st.just(b"s"), st.integers(-(2**15), 2**15 - 1)),
    st.builds(Field, st.just(b"u"), st.integers(0, 2**16 - 1)),
    st.builds(Field, st.just(b"I"), st.integers(-(2**31), 2**31 - 1)),
    st.builds(Field, st.just(b"i"), st.integers(0, 2**32 - 1)),
    st.builds(Field, st.just(b"l"), st.integers(-(2**63), 2**63 - 1)),
    st.builds(Field, st.just(b"f"), st.floats(width=32, allow_nan=False)),
    st.builds(Field, st.just(b"d"), st.floats(allow_nan=False)),
    st.builds(Field, st.just(b"T"), st.integers(0, 2**64 - 1)),
    st.builds(Field, st.just(b"D"), st.binary(min_size=5, max_size=5)),
    st.builds(Field, st.sampled_from([b"S", b"x"]), st.binary(max_size=40)),
    st.builds(Field, st.just(b"V"), st.none()),
)
FIELDS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.builds(Field, st.just(b"A"), st.lists(inner, max_size=4)),
        st.builds(Field, st.just(b"F"), st.dictionaries(NAMES, inner, max_size=4)),
    ),
    max_leaves=12,
)
TABLES = st.dictionaries(NAMES, FIELDS, max_size=5)


@given(TABLES)
def test_a_table_of_any_types_survives_the_round_trip(table: dict[str, Field]) -> None:
    assert decode_table(encode_table(table)) == table


@given(st.binary(max_size=80))
def test_bytes_that_are_no_table_are_refused(data: bytes) -> None:
    try:
        table = decode_table(data)
    except ConnectionRefusal as refusal:
        assert refusal.code == 502
    else:
        assert isinstance(table, dict)


def test_a_table_that_is_nested_without_end_is_refused() -> None:
    data = b""
    for _ in range(5000):
        data = b"A" + struct.pack(">I", len(data)) + data
    table = b"\x01a" + data
    with pytest.raises(ConnectionRefusal, match="malformed field table"):
        decode_table(struct.pack(">I", len(table)) + table)


def encoded(**properties: Any) -> bytes:
    return b"".join(pika.BasicProperties(**properties).encode())


SHORT = st.one_of(st.none(), st.text("abc", max_size=5))


@given(
    st.fixed_dictionaries(
        {
            "content_type": SHORT,
            "content_encoding": SHORT,
            "delivery_mode": st.sampled_from([None, 1, 2]),
            "priority": st.one_of(st.none(), st.integers(0, 255)),
            "correlation_id": SHORT,
            "reply_to": SHORT,
            "expiration": SHORT,
            "message_id": SHORT,
            "timestamp": st.one_of(st.none(), st.integers(0, 2**40)),
            "type": SHORT,
            "user_id": SHORT,
            "app_id": SHORT,
            "cluster_id": SHORT,
        }
    ),
    st.booleans(),
)
def test_properties_are_read_and_edited_without_touching_the_rest(
    given_ones: dict[str, Any], headers: bool
) -> None:
    raw = encoded(**given_ones, headers={"a": 1} if headers else None)
    known = read_properties(raw)
    assert known.persistent == (given_ones["delivery_mode"] == 2)
    assert known.priority == (given_ones["priority"] or 0)
    wanted = given_ones["expiration"]
    assert known.expiration == (None if wanted is None else wanted.encode())
    assert without_expiration(raw) == encoded(
        **{**given_ones, "expiration": None}, headers={"a": 1} if headers else None
    )
    changed = with_headers(raw, {"b": longstr("x")})
    assert changed == encoded(**given_ones, headers={"b": "x"})
    assert headers_of(changed) == {"b": longstr("x")}


@given(st.binary(max_size=60))
def test_bytes_that_are_no_properties_are_refused(raw: bytes) -> None:
    try:
        read_properties(raw)
        headers_of(raw)
    except ConnectionRefusal as refusal:
        assert refusal.code == 502


METHODS: list[tuple[Any, str, dict[str, Any]]] = [
    (pika.spec.Basic.Deliver("c", 7, True, "x", "k"), "basic.deliver", {"redelivered": True}),
    (pika.spec.Basic.Nack(3, True, False), "basic.nack", {"multiple": True, "requeue": False}),
    (pika.spec.Queue.DeclareOk("q", 2, 1), "queue.declare-ok", {"messages": 2, "consumers": 1}),
    (pika.spec.Connection.Tune(1, 2, 3), "connection.tune", {"heartbeat": 3}),
    (
        pika.spec.Queue.Declare(0, "q", False, True, False, True, False, {"x-expires": 5}),
        "queue.declare",
        {"durable": True, "auto_delete": True, "arguments": {"x-expires": Field(b"I", 5)}},
    ),
]


@pytest.mark.parametrize(("method", "name", "expected"), METHODS, ids=lambda one: str(one)[:20])
def test_methods_are_those_that_pika_writes(
    method: Any, name: str, expected: dict[str, Any]
) -> None:
    payload = struct.pack(">I", method.INDEX) + b"".join(method.encode())
    read, arguments = read_method(payload)
    assert read == name
    assert {key: arguments[key] for key in expected} == expected
    assert write_method(name, **arguments) == payload
    assert struct.pack(">HH", *index_of(name)) == payload[:4]


@given(st.binary(max_size=40))
def test_bytes_that_are_no_method_are_refused(payload: bytes) -> None:
    try:
        read_method(payload)
    except ConnectionRefusal as refusal:
        assert refusal.code in (501, 502, 503)


def test_a_reply_text_fits_into_a_short_string() -> None:
    text = Refusal(404, "ö" * 300).reply_text
    assert text.startswith("NOT_FOUND - ")
    assert len(text.encode()) in (254, 255)
