"""The properties of a message, left as the bytes that came and looked into only where needed.

Layout (AMQP 0-9-1, 4.2.6.1): 16 flags, then the values of those that are set, in a fixed order.
"""

from __future__ import annotations

import functools
import struct
from typing import NamedTuple

from limehub.broker.refusals import ConnectionRefusal
from limehub.broker.tables import Table, decode_table, encode_table

__all__ = ["Properties", "headers_of", "read_properties", "with_headers", "without_expiration"]

HEADERS = 13
EXPIRATION = 8
_TABLE, _OCTET, _TIMESTAMP, _SHORT = range(4)
_KINDS = {
    15: _SHORT,  # content_type
    14: _SHORT,  # content_encoding
    13: _TABLE,  # headers
    12: _OCTET,  # delivery_mode
    11: _OCTET,  # priority
    10: _SHORT,  # correlation_id
    9: _SHORT,  # reply_to
    8: _SHORT,  # expiration
    7: _SHORT,  # message_id
    6: _TIMESTAMP,  # timestamp
    5: _SHORT,  # type
    4: _SHORT,  # user_id
    3: _SHORT,  # app_id
    2: _SHORT,  # cluster_id
}
_ORDER = tuple(_KINDS.items())
_FLAGS = struct.Struct(">H")
_LENGTH = struct.Struct(">I")
_ONLY_MODE = 0x1000


class Properties(NamedTuple):
    """What the broker itself acts on."""

    persistent: bool = False
    priority: int = 0
    expiration: bytes | None = None
    user_id: bytes | None = None
    reply_to: bytes | None = None
    has_headers: bool = False
    mode: int = 1


_NOTHING = Properties()
_PERSISTENT = Properties(persistent=True, mode=2)
_SHORT_HEADERS = 512


def read_properties(raw: bytes) -> Properties:
    """Read what the broker acts on. Raises ConnectionRefusal (502) for what is malformed."""
    if raw == b"\x10\x00\x02":
        return _PERSISTENT
    if raw == b"\x00\x00":
        return _NOTHING
    spans = _spans(raw)
    span = spans.get(12)
    mode = 1 if span is None else raw[span[0]]
    priority = spans.get(11)
    if headers := spans.get(HEADERS):
        _check_table(raw[headers[0] : headers[1]])
    return Properties(
        mode == 2,
        raw[priority[0]] if priority is not None else 0,
        _short(raw, spans, EXPIRATION),
        _short(raw, spans, 4),
        _short(raw, spans, 9),
        headers is not None,
        mode,
    )


def _check_table(data: bytes) -> None:
    """What consumers could not read must not reach them. Raises ConnectionRefusal (502)."""
    if len(data) <= _SHORT_HEADERS:
        _is_table(data)
    else:
        decode_table(data)


@functools.lru_cache(maxsize=1024)
def _is_table(data: bytes) -> bool:
    """Many messages have the same headers."""
    decode_table(data)
    return True


def headers_of(raw: bytes) -> Table:
    """Return the headers; empty when there are none."""
    span = _spans(raw).get(HEADERS)
    return decode_table(raw[span[0] : span[1]]) if span else {}


def with_headers(raw: bytes, headers: Table) -> bytes:
    """Return *raw* with its headers replaced."""
    return _replaced(raw, HEADERS, encode_table(headers))


def without_expiration(raw: bytes) -> bytes:
    """Return *raw* without its expiration."""
    return _replaced(raw, EXPIRATION, None)


def _short(raw: bytes, spans: dict[int, tuple[int, int]], bit: int) -> bytes | None:
    span = spans.get(bit)
    return raw[span[0] + 1 : span[1]] if span else None


def _replaced(raw: bytes, bit: int, value: bytes | None) -> bytes:
    spans = _spans(raw)
    (flags,) = _FLAGS.unpack_from(raw)
    flags = flags & ~(1 << bit) if value is None else flags | 1 << bit
    pieces = [_FLAGS.pack(flags)]
    for other, _kind in _ORDER:
        if other == bit:
            pieces.append(value or b"")
        elif other in spans:
            begin, end = spans[other]
            pieces.append(raw[begin:end])
    return b"".join(pieces)


def _spans(raw: bytes) -> dict[int, tuple[int, int]]:
    """Return bit -> (begin, end) of each property that is set."""
    try:
        return _walk(raw)
    except (IndexError, struct.error) as error:
        raise _malformed() from error


def _walk(raw: bytes) -> dict[int, tuple[int, int]]:
    (flags,) = _FLAGS.unpack_from(raw)
    spans = {}
    at = 2
    for bit, kind in _layout(flags):
        if kind == _SHORT:
            end = at + 1 + raw[at]
        elif kind == _TABLE:
            end = at + 4 + int(_LENGTH.unpack_from(raw, at)[0])
        else:
            end = at + 1 if kind == _OCTET else at + 8
        spans[bit] = (at, end)
        at = end
    if at != len(raw) or flags & 3:
        raise _malformed()
    return spans


@functools.lru_cache(maxsize=256)
def _layout(flags: int) -> tuple[tuple[int, int], ...]:
    """Return (bit, kind) of the properties that are set; clients use few combinations."""
    return tuple((bit, kind) for bit, kind in _ORDER if flags & 1 << bit)


def _malformed() -> ConnectionRefusal:
    return ConnectionRefusal(502, "malformed message properties")
