"""A publisher with confirms and a consumer with acks that are nothing but frames.

    python -m benchmarks.traffic publish|consume URL QUEUE COUNT

prints the seconds (of the machine's monotonic clock) at which it began and ended. Its own cost must
not be the limit, so messages are packed beforehand and of the answers only tags are read.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Iterator

from pika import spec

from benchmarks.wire import Publisher, packed

__all__ = ["BODY", "PROPERTIES"]

BODY = b"x" * 400
PROPERTIES = {"content_type": "application/json", "message_id": "0" * 32}
WINDOW = 1000
"""Messages on their way before their confirms."""
BURST = 100
PREFETCH = 200
_HEAD = struct.Struct(">BHI")
_TAG = struct.Struct(">QB")
_ACK, _DELIVER = b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x3c"
_ACK_FRAME = struct.Struct(">BHIHHQBB")


class Inbox:
    """Cuts what comes into the payloads of method frames."""

    def __init__(self, wire: Publisher) -> None:
        self._wire = wire
        self.rest = b""

    def methods(self) -> Iterator[bytes]:
        """Wait for bytes; yield the methods that are whole."""
        data, at = self.rest + self._wire.receive(), 0
        while len(data) - at >= _HEAD.size:
            kind, _, size = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + size
            if end >= len(data):
                break
            if kind == 1:
                yield data[at + _HEAD.size : end]
            at = end + 1
        self.rest = data[at:]


def publish(wire: Publisher, queue: str, count: int) -> None:
    """Publish *count* messages; returns when all are confirmed."""
    wire.call(spec.Confirm.Select(), spec.Confirm.SelectOk)
    message = packed("", queue, BODY, PROPERTIES)
    inbox, sent, low, early = Inbox(wire), 0, 0, set[int]()
    while low < count:
        room = min(WINDOW - (sent - low), count - sent)
        if room and room >= min(BURST, count - sent):
            wire.send(message * room)
            sent += room
        for method in inbox.methods():
            if method[:4] != _ACK:
                raise ConnectionError(f"not a confirm: {method!r}")
            tag, multiple = _TAG.unpack_from(method, 4)
            if multiple:
                low = max(low, tag)
            else:
                early.add(tag)
        while low + 1 in early:
            low += 1
            early.discard(low)
        early = {tag for tag in early if tag > low}


def consume(wire: Publisher, queue: str, count: int) -> None:
    """Take and ack *count* messages, one by one."""
    wire.call(spec.Basic.Qos(prefetch_count=PREFETCH), spec.Basic.QosOk)
    wire.send_method(spec.Basic.Consume(queue=queue))
    inbox, left = Inbox(wire), count
    while left:
        acks = []
        for method in inbox.methods():
            if method[:4] == _DELIVER:
                (tag,) = struct.unpack_from(">Q", method, 5 + method[4])
                acks.append(_ACK_FRAME.pack(1, 1, 13, 60, 80, tag, 0, 0xCE))
        acks = acks[:left]
        left -= len(acks)
        wire.send(b"".join(acks))
    wire.unread(inbox.rest)


def main() -> None:
    """Do one or the other."""
    what, url, queue, count = sys.argv[1:]
    wire = Publisher(url)
    began = time.monotonic()
    {"publish": publish, "consume": consume}[what](wire, queue, int(count))
    if what == "publish":
        ended = time.monotonic()
        wire.close()
    else:
        wire.close()  # answered when the acks are processed
        ended = time.monotonic()
    print(began, ended)


if __name__ == "__main__":
    main()
