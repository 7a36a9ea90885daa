"""A message on its way out, before pika encodes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import pika
from attrs import field, frozen

__all__ = ["Outgoing", "encodable", "encode_body", "encoded_size", "to_pika"]

PERSISTENT = 2


@frozen(kw_only=True)
class Outgoing:
    """A message to publish. *properties* by their AMQP names, *headers* apart; always mandatory
    and persistent unless said otherwise."""

    exchange: str
    routing_key: str
    body: bytes
    headers: Mapping[str, Any] = field(factory=dict)
    properties: Mapping[str, Any] = field(factory=dict)
    mandatory: bool = True


def encode_body(body: Any) -> bytes:
    """Return bytes as they are, anything else as JSON. Raises TypeError, ValueError."""
    if isinstance(body, bytes):
        return body
    return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()


def to_pika(message: Outgoing) -> pika.BasicProperties:
    """Return pika's form of the properties and headers of *message*."""
    properties = {**message.properties, "delivery_mode": PERSISTENT}
    return pika.BasicProperties(headers=dict(message.headers) or None, **properties)


def encoded_size(message: Outgoing) -> int:
    """Return the bytes of the content header frame of *message*; it must fit into frame_max."""
    return 22 + sum(len(piece) for piece in to_pika(message).encode())


def encodable(value: Any) -> Any:
    """Return *value* as pika can encode it in a table; what it cannot is carried as bytes.

    pika 1.4 decodes floats, 64-bit unsigned and more, but refuses to encode floats (measured).
    """
    if value is None or isinstance(value, (bool, str, bytes, datetime)):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value).encode()
    if isinstance(value, Decimal):
        return value if _fits(value) else str(value).encode()
    if isinstance(value, Mapping):
        return {_key(key): encodable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encodable(item) for item in value]
    return repr(value).encode()


def _key(key: Any) -> str:
    text = key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)
    while len(text.encode()) > 255:
        text = text[:-1]
    return text


def _fits(value: Decimal) -> bool:
    """Whether AMQP's decimal (8-bit scale, 32-bit value) can hold *value*."""
    if not value.is_finite():
        return False
    exponent = value.normalize().as_tuple().exponent
    scale = max(0, -int(exponent))
    return scale < 256 and -(2**31) <= int(value * (Decimal(10) ** scale)) < 2**31
