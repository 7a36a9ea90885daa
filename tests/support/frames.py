"""AMQP 0-9-1 frames out of a byte stream, as far as a test asks; pika's own tables name them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pika.spec
from attrs import define, field, frozen

__all__ = ["CORRUPT", "HEARTBEAT", "Frame", "FrameScanner"]

HEARTBEAT = "heartbeat"
CORRUPT = "corrupt"  # nothing after it can be read
PROTOCOL_HEADER = "protocol-header"

HEAD = struct.Struct(">BHL")
FRAME_END = 0xCE
LARGEST = 1 << 24  # bytes; far above any negotiated frame_max
TYPES = {1: "method", 2: "header", 3: "body", 8: HEARTBEAT}


@frozen(kw_only=True)
class Frame:
    """One frame, or `CORRUPT`. *what*: `heartbeat`, `header`, `body`, or a method's name."""

    what: str
    channel: int = 0
    size: int = 0  # payload bytes
    tag: int | None = None
    multiple: bool | None = None
    key: str | None = None
    redelivered: bool | None = None
    code: int | None = None


@define(eq=False)
class FrameScanner:
    """Feed it the bytes of one direction in whatever pieces they come."""

    _buffer: bytearray = field(factory=bytearray)
    _broken: bool = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that *data* completes; after a corrupt one nothing more."""
        self._buffer += data
        while not self._broken and (frame := self._next()) is not None:
            self._broken = frame.what == CORRUPT
            yield frame

    @property
    def rest(self) -> int:
        """Bytes of a frame that has not ended."""
        return len(self._buffer)

    def _next(self) -> Frame | None:
        if self._buffer[:4] == b"AMQP"[: len(self._buffer)] and self._buffer:
            return Frame(what=PROTOCOL_HEADER) if self._take(8) else None
        if len(self._buffer) < HEAD.size:
            return None
        kind, channel, size = HEAD.unpack_from(self._buffer)
        if kind not in TYPES or size > LARGEST:
            return Frame(what=CORRUPT)
        whole = self._take(HEAD.size + size + 1)
        if whole is None:
            return None
        if whole[-1] != FRAME_END:
            return Frame(what=CORRUPT)
        if TYPES[kind] == "method":
            return _method(channel, whole[HEAD.size : -1])
        return Frame(what=TYPES[kind], channel=channel, size=size)

    def _take(self, count: int) -> bytes | None:
        if len(self._buffer) < count:
            return None
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def _method(channel: int, payload: bytes) -> Frame:
    methods: dict[int, Any] = pika.spec.methods
    kind = methods.get(struct.unpack_from(">L", payload)[0])
    if kind is None:
        return Frame(what=CORRUPT, channel=channel)
    method: Any = kind()
    method.decode(payload, 4)
    return Frame(
        what=kind.NAME,
        channel=channel,
        size=len(payload),
        tag=getattr(method, "delivery_tag", None),
        multiple=getattr(method, "multiple", None),
        key=getattr(method, "routing_key", None),
        redelivered=getattr(method, "redelivered", None),
        code=getattr(method, "reply_code", None),
    )
