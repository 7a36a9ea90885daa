"""A publisher that is nothing but frames: fills queues at the broker's speed, or keeps a pace.

Its own cost must not be seen in the measurements, so it sends what it has packed beforehand.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import pika
from pika import frame, spec

__all__ = ["Publisher", "packed"]

FRAME_MAX = 131072
BURST = 1 << 18  # bytes in one send
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"


def packed(
    exchange: str, routing_key: str, body: bytes, properties: Mapping[str, Any], channel: int = 1
) -> bytes:
    """Return one persistent message as the bytes that publish it."""
    head = pika.BasicProperties(delivery_mode=2, **properties)
    return b"".join(
        part.marshal()
        for part in (
            frame.Method(channel, spec.Basic.Publish(exchange=exchange, routing_key=routing_key)),
            frame.Header(channel, len(body), head),
            frame.Body(channel, body),
        )
    )


class Publisher:
    """One connection with one channel, without confirms; `close` returns when all has arrived."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._vhost = unquote(parts.path[1:])
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 5672))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._input = b""
        self._open(parts.username or "guest", parts.password or "guest")

    def send(self, message: bytes) -> None:
        """Send what `packed` returned."""
        self._socket.sendall(message)

    def send_many(self, message: bytes, count: int) -> None:
        """Send *message* so many times, as fast as the broker reads."""
        burst = max(1, BURST // len(message))
        whole, rest = divmod(count, burst)
        for _ in range(whole):
            self._socket.sendall(message * burst)
        self._socket.sendall(message * rest)

    def send_paced(self, message: bytes, count: int, rate: float, stamp_at: int) -> None:
        """Send *count* at *rate* a second; each gets its time of sending at byte *stamp_at*."""
        buffer = bytearray(message)
        began = time.monotonic()
        for number in range(count):
            _sleep_until(began + number / rate)
            buffer[stamp_at : stamp_at + 19] = b"%019d" % time.time_ns()
            self._socket.sendall(buffer)

    def send_method(self, method: Any) -> None:
        """Send *method* on the channel."""
        self._send(1, method)

    def call(self, method: Any, answer: type) -> None:
        """Send *method* on the channel and wait for its answer."""
        self._call(1, method, answer)

    def receive(self) -> bytes:
        """Wait for bytes; what `call` has not used comes first. Raises ConnectionError."""
        data, self._input = self._input or self._socket.recv(1 << 18), b""
        if not data:
            raise ConnectionError("the broker closed the connection")
        return data

    def unread(self, data: bytes) -> None:
        """Give back what `receive` returned and nobody has used."""
        self._input = data

    def close(self) -> None:
        """Close the channel: the answer comes when the broker has read everything."""
        self._call(1, spec.Channel.Close(200, "", 0, 0), spec.Channel.CloseOk)
        self._socket.close()

    def _open(self, user: str, password: str) -> None:
        self._socket.sendall(PROTOCOL_HEADER)
        self._expect(spec.Connection.Start)
        login = f"\0{user}\0{password}"
        self._call(0, spec.Connection.StartOk({}, "PLAIN", login, "en_US"), spec.Connection.Tune)
        self._send(0, spec.Connection.TuneOk(2047, FRAME_MAX, 0))
        self._call(0, spec.Connection.Open(self._vhost), spec.Connection.OpenOk)
        self._call(1, spec.Channel.Open(), spec.Channel.OpenOk)

    def _call(self, channel: int, method: Any, answer: type) -> None:
        self._send(channel, method)
        self._expect(answer)

    def _send(self, channel: int, method: Any) -> None:
        self._socket.sendall(frame.Method(channel, method).marshal())

    def _expect(self, answer: type) -> None:
        while True:
            size, received = frame.decode_frame(self._input)
            self._input = self._input[size:]
            if received is None:
                chunk = self._socket.recv(65536)
                if not chunk:
                    raise ConnectionError("the broker closed the connection")
                self._input += chunk
            elif isinstance(received, frame.Method):
                if isinstance(received.method, spec.Basic.Deliver):
                    continue  # on its way when the consumer had enough
                if not isinstance(received.method, answer):
                    raise ConnectionError(f"the broker answered {received.method}")
                return


def _sleep_until(due: float) -> None:
    while (left := due - time.monotonic()) > 0:
        time.sleep(left)
