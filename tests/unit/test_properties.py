"""Our encoder of properties against pika's."""

from __future__ import annotations

from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limehub.amqp.properties import encode_properties

TEXTS = (
    "content_type", "content_encoding", "correlation_id", "reply_to", "expiration", "message_id",
    "type", "user_id", "app_id", "cluster_id",
)  # fmt: skip
properties = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(TEXTS, st.text(max_size=40)),
        "delivery_mode": st.sampled_from([1, 2]),
        "priority": st.integers(0, 255),
        "timestamp": st.integers(0, 2**40),
    },
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
headers = st.dictionaries(st.text(max_size=20), values, max_size=4)


@given(properties, headers)
def test_it_writes_what_pika_writes(
    given_properties: dict[str, Any], table: dict[str, Any]
) -> None:
    ours = encode_properties(given_properties, table)
    pikas = pika.BasicProperties(headers=table or None, **given_properties)
    assert ours == b"".join(pikas.encode())


def test_a_text_that_no_short_string_holds_is_an_error() -> None:
    with pytest.raises(ValueError, match="256"):
        encode_properties({"message_id": "x" * 256}, {})
