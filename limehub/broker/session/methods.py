"""AMQP's methods as bytes: one table, one reader, one writer.

After the specification (amqp0-9-1.extended.xml) with RabbitMQ's extensions. pika's codec is not
used here: it gives field values another type, and loading it takes longer than all of the broker.
"""

from __future__ import annotations

import struct
from typing import Any

from limehub.broker.refusals import ConnectionRefusal
from limehub.broker.tables import encode_table, read_table, text_of

__all__ = ["Arguments", "index_of", "name_of", "read_method", "write_method"]

Arguments = dict[str, Any]
"""Values by name: int, bool, str (short strings), bytes (long strings), Table."""

# class.method number, name, then the fields: o octet, h short, l long, q longlong, s short string,
# S long string, T table, b bit, _ what is reserved (a short, a short string or a bit).
_SPECIFICATION = """
10.10 connection.start o:version_major o:version_minor T:properties S:mechanisms S:locales
10.11 connection.start-ok T:properties s:mechanism S:response s:locale
10.20 connection.secure S:challenge
10.21 connection.secure-ok S:response
10.30 connection.tune h:channel_max l:frame_max h:heartbeat
10.31 connection.tune-ok h:channel_max l:frame_max h:heartbeat
10.40 connection.open s:vhost s:_capabilities b:_insist
10.41 connection.open-ok s:_known_hosts
10.50 connection.close h:code s:text h:class_id h:method_id
10.51 connection.close-ok
10.60 connection.blocked s:reason
10.61 connection.unblocked
10.70 connection.update-secret S:secret s:reason
10.71 connection.update-secret-ok
20.10 channel.open s:_out_of_band
20.11 channel.open-ok S:_channel_id
20.20 channel.flow b:active
20.21 channel.flow-ok b:active
20.40 channel.close h:code s:text h:class_id h:method_id
20.41 channel.close-ok
30.10 access.request s:realm b:exclusive b:passive b:active b:write b:read
30.11 access.request-ok h:ticket
40.10 exchange.declare h:_ticket s:exchange s:type b:passive b:durable b:auto_delete b:internal b:nowait T:arguments
40.11 exchange.declare-ok
40.20 exchange.delete h:_ticket s:exchange b:if_unused b:nowait
40.21 exchange.delete-ok
40.30 exchange.bind h:_ticket s:destination s:source s:key b:nowait T:arguments
40.31 exchange.bind-ok
40.40 exchange.unbind h:_ticket s:destination s:source s:key b:nowait T:arguments
40.51 exchange.unbind-ok
50.10 queue.declare h:_ticket s:queue b:passive b:durable b:exclusive b:auto_delete b:nowait T:arguments
50.11 queue.declare-ok s:queue l:messages l:consumers
50.20 queue.bind h:_ticket s:queue s:exchange s:key b:nowait T:arguments
50.21 queue.bind-ok
50.30 queue.purge h:_ticket s:queue b:nowait
50.31 queue.purge-ok l:messages
50.40 queue.delete h:_ticket s:queue b:if_unused b:if_empty b:nowait
50.41 queue.delete-ok l:messages
50.50 queue.unbind h:_ticket s:queue s:exchange s:key T:arguments
50.51 queue.unbind-ok
60.10 basic.qos l:size h:count b:global
60.11 basic.qos-ok
60.20 basic.consume h:_ticket s:queue s:tag b:no_local b:no_ack b:exclusive b:nowait T:arguments
60.21 basic.consume-ok s:tag
60.30 basic.cancel s:tag b:nowait
60.31 basic.cancel-ok s:tag
60.40 basic.publish h:_ticket s:exchange s:key b:mandatory b:immediate
60.50 basic.return h:code s:text s:exchange s:key
60.60 basic.deliver s:tag q:delivery_tag b:redelivered s:exchange s:key
60.70 basic.get h:_ticket s:queue b:no_ack
60.71 basic.get-ok q:delivery_tag b:redelivered s:exchange s:key l:messages
60.72 basic.get-empty s:_cluster_id
60.80 basic.ack q:delivery_tag b:multiple
60.90 basic.reject q:delivery_tag b:requeue
60.100 basic.recover-async b:requeue
60.110 basic.recover b:requeue
60.111 basic.recover-ok
60.120 basic.nack q:delivery_tag b:multiple b:requeue
85.10 confirm.select b:nowait
85.11 confirm.select-ok
90.10 tx.select
90.11 tx.select-ok
90.20 tx.commit
90.21 tx.commit-ok
90.30 tx.rollback
90.31 tx.rollback-ok
"""  # noqa: E501 - one method a line

_NUMBERS = {
    "o": struct.Struct(">B"),
    "h": struct.Struct(">H"),
    "l": struct.Struct(">I"),
    "q": struct.Struct(">Q"),
}
_LENGTH = struct.Struct(">I")
_INDEX = struct.Struct(">HH")
_Fields = tuple[tuple[str, str], ...]


def _parse(text: str) -> dict[str, tuple[bytes, _Fields]]:
    table = {}
    for line in text.strip().splitlines():
        number, name, *fields = line.split()
        class_id, _, method_id = number.partition(".")
        kinds = [field.partition(":") for field in fields]
        index = _INDEX.pack(int(class_id), int(method_id))
        table[name] = (index, tuple((kind, field) for kind, _, field in kinds))
    return table


_METHODS = _parse(_SPECIFICATION)
_BY_INDEX = {index: (name, fields) for name, (index, fields) in _METHODS.items()}


def index_of(name: str) -> tuple[int, int]:
    """Return class and method number of a method."""
    class_id, method_id = _INDEX.unpack(_METHODS[name][0])
    return class_id, method_id


def name_of(payload: bytes) -> str:
    """Return the name of the method in a frame's *payload*. Raises ConnectionRefusal (503)."""
    known = _BY_INDEX.get(payload[:4])
    if known is None:
        raise ConnectionRefusal(503, "unimplemented method")
    return known[0]


def read_method(payload: bytes) -> tuple[str, Arguments]:
    """Read a method frame's *payload*. Raises ConnectionRefusal (501, 502, 503)."""
    name = name_of(payload)
    try:
        return name, _read_fields(payload, _METHODS[name][1])
    except (struct.error, IndexError) as error:
        raise ConnectionRefusal(501, f"cannot decode {name}") from error


def _read_fields(payload: bytes, fields: _Fields) -> Arguments:
    arguments: Arguments = {}
    at, bit = 4, 0
    for kind, name in fields:
        if kind == "b":
            arguments[name] = bool(payload[at] & 1 << bit)
            bit += 1
            continue
        if bit:
            at, bit = at + 1, 0
        arguments[name], at = _read(payload, at, kind)
    return arguments


def _read(payload: bytes, at: int, kind: str) -> tuple[Any, int]:
    if kind == "s":
        end = at + 1 + payload[at]
        _within(payload, end)
        return text_of(payload[at + 1 : end]), end
    if kind == "S":
        end = at + 4 + int(_LENGTH.unpack_from(payload, at)[0])
        _within(payload, end)
        return payload[at + 4 : end], end
    if kind == "T":
        return read_table(payload, at)
    number = _NUMBERS[kind]
    return number.unpack_from(payload, at)[0], at + number.size


def _within(payload: bytes, end: int) -> None:
    if end > len(payload):
        raise IndexError


def write_method(name: str, **arguments: Any) -> bytes:
    """Return the payload of a method frame; what is not given is empty or 0."""
    index, fields = _METHODS[name]
    pieces = [index]
    bits, count = 0, 0
    for kind, field in fields:
        value = arguments.get(field)
        if kind == "b":
            bits |= bool(value) << count
            count += 1
            continue
        if count:
            pieces.append(bytes((bits,)))
            bits, count = 0, 0
        pieces.append(_write(kind, value))
    if count:
        pieces.append(bytes((bits,)))
    return b"".join(pieces)


def _write(kind: str, value: Any) -> bytes:
    if kind == "T":
        return encode_table(value or {})
    if kind in "sS":
        data = value or b""
        data = data.encode(errors="surrogateescape") if isinstance(data, str) else data
        return (bytes((len(data),)) if kind == "s" else _LENGTH.pack(len(data))) + data
    return _NUMBERS[kind].pack(value or 0)
