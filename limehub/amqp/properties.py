"""AMQP properties as bytes, for what is published once per event. Pure.

pika's encoder takes longer than everything else that a publish does; only tables are left to it.
The order and the flags are AMQP 0-9-1's, section 4.2.6.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Any

import pika

__all__ = ["encode_properties"]

_u16 = Struct(">H").pack
_u32 = Struct(">I").pack
_u64 = Struct(">Q").pack

_TEXT, _OCTET, _TIME = range(3)
_BEFORE_HEADERS = (("content_type", 15), ("content_encoding", 14))
_AFTER_HEADERS = (
    ("delivery_mode", 12, _OCTET),
    ("priority", 11, _OCTET),
    ("correlation_id", 10, _TEXT),
    ("reply_to", 9, _TEXT),
    ("expiration", 8, _TEXT),
    ("message_id", 7, _TEXT),
    ("timestamp", 6, _TIME),
    ("type", 5, _TEXT),
    ("user_id", 4, _TEXT),
    ("app_id", 3, _TEXT),
    ("cluster_id", 2, _TEXT),
)


def encode_properties(properties: Mapping[str, Any], headers: Mapping[str, Any]) -> bytes:
    """Return flags and values of *properties*, which go by their AMQP names, with *headers*.

    Raises ValueError for a text above 255 bytes, struct.error for a number out of range, and what
    pika raises for a header that no table can hold.
    """
    flags, pieces = 0, [b""]
    for name, bit in _BEFORE_HEADERS:
        value = properties.get(name)
        if value is not None:
            flags |= 1 << bit
            pieces.append(_short(value))
    if headers:
        flags |= 1 << 13
        pieces.append(_table(headers))
    for name, bit, kind in _AFTER_HEADERS:
        value = properties.get(name)
        if value is not None:
            flags |= 1 << bit
            pieces.append(_encoded(value, kind))
    pieces[0] = _u16(flags)
    return b"".join(pieces)


def _table(headers: Mapping[str, Any]) -> bytes:
    """Return *headers* as a table; plain texts, the usual ones, without pika."""
    pieces = [b""]
    for name, value in headers.items():
        if type(value) is not str:
            return _any_table(headers)
        text = value.encode()
        pieces += (_short(name), b"S", _u32(len(text)), text)
    size = sum(map(len, pieces))
    pieces[0] = _u32(size)
    return b"".join(pieces)


def _any_table(headers: Mapping[str, Any]) -> bytes:
    pieces: list[bytes] = []
    pika.data.encode_table(pieces, dict(headers))
    return b"".join(pieces)


def _encoded(value: Any, kind: int) -> bytes:
    if kind == _TEXT:
        return _short(value)
    return bytes((value,)) if kind == _OCTET else _u64(value)


def _short(text: str | bytes) -> bytes:
    encoded = text if isinstance(text, bytes) else text.encode()
    return bytes((len(encoded),)) + encoded
