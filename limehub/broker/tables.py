"""AMQP field tables with the type of each value kept, so that they can be written back unchanged.

pika's own codec turns values into Python's and cannot write all of them back (a float, a byte
array, a 16-bit number); a broker must hand on what it was given.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from limehub.broker.refusals import ConnectionRefusal

__all__ = ["Field", "Table", "decode_table", "encode_table", "longstr", "read_table", "text_of"]

_DEEPEST = 64
_NUMBERS = {
    b"b": struct.Struct(">b"),
    b"B": struct.Struct(">B"),
    b"s": struct.Struct(">h"),
    b"u": struct.Struct(">H"),
    b"I": struct.Struct(">i"),
    b"i": struct.Struct(">I"),
    b"l": struct.Struct(">q"),
    b"L": struct.Struct(">q"),
    b"f": struct.Struct(">f"),
    b"d": struct.Struct(">d"),
    b"T": struct.Struct(">Q"),
}
_TYPE_NAMES = {
    b"t": "bool",
    b"b": "byte",
    b"B": "unsignedbyte",
    b"s": "short",
    b"u": "unsignedshort",
    b"I": "signedint",
    b"i": "unsignedint",
    b"l": "long",
    b"L": "long",
    b"f": "float",
    b"d": "double",
    b"T": "timestamp",
    b"D": "decimal",
    b"S": "longstr",
    b"x": "binary",
    b"A": "array",
    b"F": "table",
    b"V": "void",
}
_LENGTH = struct.Struct(">I")


class Field(NamedTuple):
    """One value: AMQP's type letter and what it holds (bytes for strings, Field lists, Tables)."""

    kind: bytes
    value: Any

    @property
    def type_name(self) -> str:
        """RabbitMQ's word for the type."""
        return _TYPE_NAMES[self.kind]

    @property
    def is_integer(self) -> bool:
        """Whether it is a whole number, of whatever width."""
        return self.kind in b"bBsuIilL" and self.kind != b""


Table = dict[str, Field]


def longstr(text: str | bytes) -> Field:
    """Return a long string field."""
    return Field(b"S", text.encode(errors="surrogateescape") if isinstance(text, str) else text)


def text_of(data: bytes) -> str:
    """Return *data* as text; what is not UTF-8 survives the way back."""
    return data.decode(errors="surrogateescape")


def read_table(data: bytes, start: int) -> tuple[Table, int]:
    """Read the table with its length prefix at *start*; returns it and where it ends.

    Raises ConnectionRefusal (502) for what is no table.
    """
    try:
        (size,) = _LENGTH.unpack_from(data, start)
        begin = start + 4
        if begin + size > len(data):
            raise _malformed()
        return _table(data, begin, begin + size, 0), begin + size
    except (struct.error, IndexError) as error:
        raise _malformed() from error


def decode_table(data: bytes) -> Table:
    """Read a table that is all of *data*, length prefix included."""
    return read_table(data, 0)[0]


def encode_table(table: Table) -> bytes:
    """Write *table* with its length prefix."""
    pieces = []
    for name, field in table.items():
        key = name.encode(errors="surrogateescape")
        pieces += [bytes((len(key),)), key, _encode(field)]
    payload = b"".join(pieces)
    return _LENGTH.pack(len(payload)) + payload


def _malformed() -> ConnectionRefusal:
    return ConnectionRefusal(502, "malformed field table")


def _table(data: bytes, at: int, end: int, depth: int) -> Table:
    table: Table = {}
    while at < end:
        size = data[at]
        name = text_of(data[at + 1 : at + 1 + size])
        table[name], at = _field(data, at + 1 + size, end, depth)
    if at != end:
        raise _malformed()
    return table


def _array(data: bytes, at: int, end: int, depth: int) -> list[Field]:
    items = []
    while at < end:
        item, at = _field(data, at, end, depth)
        items.append(item)
    if at != end:
        raise _malformed()
    return items


def _field(data: bytes, at: int, end: int, depth: int) -> tuple[Field, int]:
    kind = data[at : at + 1]
    at += 1
    number = _NUMBERS.get(kind)
    if number is not None:
        return Field(kind, number.unpack_from(data, at)[0]), at + number.size
    if kind == b"t":
        return Field(kind, data[at] != 0), at + 1
    if kind == b"V":
        return Field(kind, None), at
    if kind == b"D":
        return Field(kind, data[at : at + 5]), at + 5
    return _sized(kind, data, at, end, depth)


def _sized(kind: bytes, data: bytes, at: int, end: int, depth: int) -> tuple[Field, int]:
    (size,) = _LENGTH.unpack_from(data, at)
    begin, stop = at + 4, at + 4 + size
    if stop > end or depth > _DEEPEST:
        raise _malformed()
    if kind in (b"S", b"x"):
        return Field(kind, data[begin:stop]), stop
    reader: Callable[..., Any] | None = {b"F": _table, b"A": _array}.get(kind)
    if reader is None:
        raise _malformed()
    return Field(kind, reader(data, begin, stop, depth + 1)), stop


def _encode(field: Field) -> bytes:
    kind, value = field
    number = _NUMBERS.get(kind)
    if number is not None:
        return kind + number.pack(value)
    if kind == b"t":
        return b"t\x01" if value else b"t\x00"
    if kind in (b"S", b"x"):
        return kind + _LENGTH.pack(len(value)) + bytes(value)
    if kind == b"F":
        return kind + encode_table(value)
    if kind == b"A":
        payload = b"".join(map(_encode, value))
        return kind + _LENGTH.pack(len(payload)) + payload
    return kind + (value or b"")
