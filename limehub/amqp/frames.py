"""AMQP frames on the fast path, read and packed without pika's objects. Pure.

Only what runs once per message is here: Basic.Deliver with its header and body, Basic.Ack both
ways, Basic.Reject. Everything else is pika's. Layout: AMQP 0-9-1, sections 2.3.5 and 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from struct import Struct
from typing import Protocol, TypeVar

__all__ = [
    "DELIVER",
    "END",
    "HEARTBEAT",
    "Route",
    "ack_frame",
    "address_of",
    "confirm_of",
    "content_coding",
    "content_frames",
    "publish_method",
    "reject_frame",
    "scan",
    "short_string",
]

METHOD, HEADER, BODY = 1, 2, 3
END = 0xCE
OVERHEAD = 8
"""Bytes of a frame beside its payload: type, channel, size, end."""

SMALLEST_HEADER = OVERHEAD + 14
DELIVER = b"\x00\x3c\x00\x3c"
PUBLISH = b"\x00\x3c\x00\x28\x00\x00"
ACK_METHOD, NACK_METHOD = 80, 120
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"

_frame = Struct(">BHI").unpack_from
_header = Struct(">BHIHHQ").unpack_from
_tag = Struct(">QB").unpack_from
_confirm = Struct(">BHIHHQB").unpack_from
_begin = Struct(">BHI").pack
_next = Struct(">BBHI").pack
_content = Struct(">BBHIHHQ").pack
_END = bytes((END,))
_settle = Struct(">BHIHHQBB").pack

Found = TypeVar("Found")


class Route(Protocol):
    """The consumer of one channel. Its methods' payloads begin with DELIVER and its tag."""

    @property
    def prefix(self) -> bytes:
        """DELIVER and the consumer's tag as a short string."""
        ...


ARoute = TypeVar("ARoute", bound=Route)

Make = Callable[[ARoute, int, bool, bytes, bytes, bytes], Found]
"""(route, delivery tag, redelivered, address, properties, body) -> a delivery"""


def scan(  # noqa: C901 - one pass without calls, because it runs once per message
    buffer: bytes,
    at: int,
    routes: Mapping[int, ARoute],
    make: Make[ARoute, Found],
    found: list[Found],
) -> tuple[int, int]:
    """Collect the deliveries in *buffer* on from *at*. Returns (where it stopped, end of a frame).

    The end is 0 if more bytes are needed; else the frame between the two is somebody else's to
    read. A delivery is taken only if its method, header and single body frame are all there.
    Raises ValueError for a frame that does not end as it must.
    """
    length = len(buffer)
    add, route_of, begins = found.append, routes.get, buffer.startswith
    while length - at >= OVERHEAD:
        kind, channel, size = _frame(buffer, at)
        end = at + OVERHEAD + size
        if end > length:
            break
        route = route_of(channel)
        if kind != METHOD or route is None or not begins(route.prefix, at + 7):
            return at, end
        if length - end < SMALLEST_HEADER:
            break
        kind, header_channel, size, _class, _weight, body_size = _header(buffer, end)
        body_at = end + OVERHEAD + size
        if kind != HEADER or header_channel != channel:
            return at, end
        if body_size:
            if length - body_at < OVERHEAD:
                break
            kind, body_channel, size = _frame(buffer, body_at)
            if kind != BODY or size != body_size or body_channel != channel:
                return at, end
            stop = body_at + OVERHEAD + size
            if stop > length:
                break
            body = buffer[body_at + 7 : stop - 1]
        else:
            if body_at > length:
                break
            stop, body = body_at, b""
        if not buffer[end - 1] == buffer[body_at - 1] == buffer[stop - 1] == END:
            raise ValueError("a frame does not end with 0xCE")
        tag_at = at + 7 + len(route.prefix)
        tag, redelivered = _tag(buffer, tag_at)
        address = buffer[tag_at + 9 : end - 1]
        properties = buffer[end + 19 : body_at - 1]
        add(make(route, tag, redelivered == 1, address, properties, body))
        at = stop
    return at, 0


def ack_frame(channel: int, tag: int, multiple: bool) -> bytes:
    """Return Basic.Ack of *tag*; with *multiple* of all unacked ones before it, too."""
    return _settle(METHOD, channel, 13, 60, 80, tag, multiple, END)


def reject_frame(channel: int, tag: int, requeue: bool) -> bytes:
    """Return Basic.Reject of *tag*."""
    return _settle(METHOD, channel, 13, 60, 90, tag, requeue, END)


@lru_cache(maxsize=1024)
def publish_method(exchange: str, routing_key: str, mandatory: bool) -> bytes:
    """Return the payload of Basic.Publish. Raises ValueError for a name above 255 bytes."""
    addressed = short_string(exchange) + short_string(routing_key)
    return PUBLISH + addressed + bytes((mandatory,))


def content_frames(
    channel: int, method: bytes, properties: bytes, body: bytes, frame_max: int
) -> bytes:
    """Return the frames of a message: *method* payload, header with *properties*, body."""
    header_size, room = 12 + len(properties), frame_max - OVERHEAD
    pieces = [
        _begin(METHOD, channel, len(method)),
        method,
        _content(END, HEADER, channel, header_size, 60, 0, len(body)),
        properties,
    ]
    for at in range(0, len(body), room):
        part = body[at : at + room]
        pieces += (_next(END, BODY, channel, len(part)), part)
    pieces.append(_END)
    return b"".join(pieces)


def confirm_of(buffer: bytes, at: int) -> tuple[int, int, bool, bool] | None:
    """Return (channel, tag, multiple, acked) if the frame at *at* is Basic.Ack or Basic.Nack."""
    if buffer[at] != METHOD or buffer[at + 7 : at + 10] != b"\x00\x3c\x00":
        return None
    kind = buffer[at + 10]
    if kind not in (ACK_METHOD, NACK_METHOD):
        return None
    _, channel, _size, _class, _method, tag, multiple = _confirm(buffer, at)
    return channel, tag, multiple & 1 == 1, kind == ACK_METHOD


def short_string(text: str) -> bytes:
    """Return *text* as AMQP's short string. Raises ValueError above 255 bytes."""
    encoded = text.encode()
    if len(encoded) > 255:
        raise ValueError(f"{len(encoded)} bytes do not fit into a short string: {text!r}")
    return bytes((len(encoded),)) + encoded


@lru_cache(maxsize=4096)
def address_of(address: bytes) -> tuple[str, str]:
    """Return (exchange, routing key) from the two short strings that end Basic.Deliver.

    What is not UTF-8 is shown with backslashes, as everywhere in limehub.
    """
    cut = 1 + address[0]
    return _text(address[1:cut]), _text(address[cut + 1 : cut + 1 + address[cut]])


def content_coding(properties: bytes) -> tuple[str | None, str | None]:
    """Return (content type, content encoding): the first two properties, if they are set.

    *properties*: the header's payload from its flags on. Raises IndexError if it is cut off.
    """
    flags, at = properties[0], 2
    if properties[1] & 1:  # flags go on in another word, which no known property needs
        raise IndexError("more property flags than AMQP 0-9-1 knows")
    content_type = content_encoding = None
    if flags & 0x80:
        end = at + 1 + properties[at]
        content_type, at = _text(properties[at + 1 : end]), end
    if flags & 0x40:
        end = at + 1 + properties[at]
        content_encoding = _text(properties[at + 1 : end])
    return content_type, content_encoding


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
