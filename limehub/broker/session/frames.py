"""AMQP frames: type, channel, length, payload, end mark."""

from __future__ import annotations

import struct

from limehub.broker.refusals import ConnectionRefusal

__all__ = [
    "BODY",
    "END",
    "HEADER",
    "HEARTBEAT",
    "HEARTBEAT_FRAME",
    "METHOD",
    "PROTOCOL_HEADER",
    "check_size",
    "content_frames",
    "frame",
    "frame_error",
]

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = 0xCE
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"
OVERHEAD = 8
_HEAD = struct.Struct(">BHI")
_CONTENT_HEAD = struct.Struct(">BHIHHQ")
_BASIC = 60


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """Return one frame."""
    return b"%b%b\xce" % (_HEAD.pack(kind, channel, len(payload)), payload)


def content_frames(channel: int, raw: bytes, body: bytes, frame_max: int) -> list[bytes]:
    """Return the header frame and the body frames of a message. *frame_max*: 0 is no limit."""
    size = len(body)
    head = _CONTENT_HEAD.pack(HEADER, channel, 12 + len(raw), _BASIC, 0, size)
    if not size:
        return [head, raw, b"\xce"]
    step = frame_max - OVERHEAD if frame_max else size
    if size <= step:
        return [head, raw, b"\xce", _HEAD.pack(BODY, channel, size), body, b"\xce"]
    frames = [head, raw, b"\xce"]
    for at in range(0, size, step):
        part = body[at : at + step]
        frames += [_HEAD.pack(BODY, channel, len(part)), part, b"\xce"]
    return frames


def check_size(kind: int, size: int, frame_max: int) -> None:
    """Refuse a frame that is larger than was agreed. Raises ConnectionRefusal (501)."""
    if frame_max and size > frame_max - OVERHEAD:
        complaint = f"{{frame_too_large,{size},{frame_max - OVERHEAD}}}"
        raise ConnectionRefusal(501, f"type {kind}, all octets = <<>>: {complaint}")


def frame_error(kind: int, payload: bytes, complaint: str) -> ConnectionRefusal:
    """Return RabbitMQ's words for a frame that is none."""
    shown = payload[:64]
    text = shown.decode("ascii") if shown.isascii() and shown.decode().isprintable() else ""
    octets = f'<<"{text}">>' if text else "<<" + ",".join(map(str, shown)) + ">>"
    return ConnectionRefusal(501, f"type {kind}, all octets = {octets}: {complaint}")
