"""A message on its way out, before pika encodes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import pika
from attrs import field, frozen

from limehub.amqp.properties import encode_properties

__all__ = [
    "Outgoing",
    "encodable",
    "encode_body",
    "encoded_size",
    "header_size",
    "short",
    "wire_properties",
]

PERSISTENT = 2
MAX_DEPTH = 64
"""Tables and lists nested deeper than this are not carried: pika encodes them by recursion."""


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


def wire_properties(message: Outgoing) -> bytes:
    """Return properties and headers of *message* as they go over the wire."""
    return encode_properties({**message.properties, "delivery_mode": PERSISTENT}, message.headers)


def encoded_size(message: Outgoing) -> int:
    """Return the bytes of the content header frame of *message*; it must fit into frame_max."""
    return 20 + len(wire_properties(message))


def header_size(name: str, value: Any) -> int:
    """Return the bytes that one header takes in the frame."""
    pieces: list[bytes] = []
    return 1 + len(name.encode()) + int(pika.data.encode_value(pieces, value))


def short(text: str | bytes) -> str:
    """Return *text* as an AMQP short string: at most 255 bytes of UTF-8."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    return text.encode("utf-8", "backslashreplace")[:255].decode("utf-8", "ignore")


def encodable(value: Any, depth: int = 0) -> Any:
    """Return *value* as pika can encode it in a table; what it cannot is carried as bytes.

    pika 1.4 decodes 64-bit unsigned and more, but refuses to encode floats (measured).
    """
    if not depth and _is_plain(value):
        return value
    if value is None or isinstance(value, (bool, bytes)):
        return value
    if isinstance(value, str):
        return value if value.isascii() else _text(value)
    if isinstance(value, datetime):
        return value if 1970 < value.year < 9999 else value.isoformat()  # UTC may differ by a day
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value).encode()
    if isinstance(value, Decimal):
        return value if _fits(value) else str(value).encode()
    if isinstance(value, (Mapping, list, tuple)):
        return _nested(value, depth + 1)
    return repr(value).encode("utf-8", "backslashreplace")


def _is_plain(value: Any) -> bool:
    """Whether it is a table of short ASCII texts, as nearly all headers are."""
    return type(value) is dict and all(
        type(name) is str is type(text) and len(name) < 256 and name.isascii() and text.isascii()
        for name, text in value.items()
    )


def _nested(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        return b"nested too deeply"
    if isinstance(value, Mapping):
        return {_key(key): encodable(item, depth) for key, item in value.items()}
    return [encodable(item, depth) for item in value]


def _key(key: Any) -> str:
    return short(key if isinstance(key, (str, bytes)) else str(key))


def _text(text: str) -> str:
    """Lone surrogates cannot be sent; everything else stays as it is."""
    return text.encode("utf-8", "backslashreplace").decode()


def _fits(value: Decimal) -> bool:
    """Whether AMQP's decimal (8-bit scale, 32-bit value) can hold *value*."""
    if not value.is_finite() or abs(value.adjusted()) > 300:  # int() of 1E+999999 takes minutes
        return False
    exponent = value.normalize().as_tuple().exponent
    scale = max(0, -int(exponent))
    return scale < 256 and -(2**31) <= int(value * (Decimal(10) ** scale)) < 2**31
