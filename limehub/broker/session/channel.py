"""One channel on the wire: methods and contents in, deliveries, returns and confirms out."""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, Any

from limehub.broker.refusals import ChannelRefusal, ConnectionRefusal
from limehub.broker.session.commands import COMMANDS
from limehub.broker.session.frames import BODY, HEADER, METHOD, content_frames, frame
from limehub.broker.session.methods import read_method
from limehub.broker.state.channel import Channel
from limehub.broker.state.consumers import Consumer
from limehub.broker.state.deaths import with_delivery_count
from limehub.broker.state.message import Message
from limehub.broker.state.publication import Publication
from limehub.broker.state.vhost import VirtualHost

if TYPE_CHECKING:
    from limehub.broker.session.connection import Connection

__all__ = ["ChannelSession"]

_PUBLISH = b"\x00\x3c\x00\x28"
_ACK = b"\x00\x3c\x00\x50"
_ACK_PAYLOAD = struct.Struct(">4xQB")
_HEAD = struct.Struct(">BHI")
_CONTENT = struct.Struct(">HHQ")
_TAG = struct.Struct(">QB")
_DELIVER = b"\x00\x3c\x00\x3c"
_ACK_FRAME = struct.Struct(">BHIHHQBB")
_REMEMBERED = 1000
_HELD = 4 * 1024 * 1024
"""Bytes that wait for an answer that waits for the disk, from which on no more are read."""


class ChannelSession:
    """A channel of *connection*; what its client may not do closes the channel alone."""

    def __init__(self, connection: Connection, number: int, vhost: VirtualHost) -> None:
        self.connection = connection
        self.number = number
        self.state = Channel(vhost, connection, self)
        self._closing = False
        self._held: deque[tuple[int, bytes]] | None = None
        self._held_bytes = 0
        self._publish: tuple[str, str, bytes, bool] | None = None
        self._raw: bytes | None = None
        self._missing = 0
        self._parts: list[bytes] = []
        self._addresses: dict[bytes, tuple[str, str, bytes, bool]] = {}

    def take(self, kind: int, payload: bytes) -> None:
        """Take one frame. Raises ConnectionRefusal."""
        if self._held is not None:
            self._held.append((kind, payload))
            self._held_bytes += len(payload)
            if self._held_bytes > _HELD:
                self.connection.hold(self)
            return
        try:
            self._take(kind, payload)
        except ChannelRefusal as refusal:
            self.refuse(refusal, payload[:4] if kind == METHOD else _PUBLISH)

    def _take(self, kind: int, payload: bytes) -> None:
        if self._closing:
            self._take_while_closing(kind, payload)
        elif self._publish is not None:
            self._take_content(kind, payload)
        elif kind != METHOD:
            raise ConnectionRefusal(505, "expected method frame, got non method frame instead")
        elif payload[:4] == _PUBLISH:
            self._begin_content(payload)
        elif payload[:4] == _ACK and len(payload) == _ACK_PAYLOAD.size:
            tag, multiple = _ACK_PAYLOAD.unpack(payload)
            self.state.ack(tag, multiple=bool(multiple & 1))
        else:
            self._take_method(payload)

    def _take_method(self, payload: bytes) -> None:
        name, arguments = read_method(payload)
        command = COMMANDS.get(name)
        if command is None:
            raise _not_for_clients(name)
        # What publications before have made ready goes to its consumers first.
        self.connection.node.settle()
        command(self, arguments)

    def _take_while_closing(self, kind: int, payload: bytes) -> None:
        if kind != METHOD:
            return
        name, _ = read_method(payload)
        if name == "channel.close":
            self.send("channel.close-ok")
        if name in ("channel.close", "channel.close-ok"):
            self.connection.channels.pop(self.number, None)

    # Contents

    def _begin_content(self, payload: bytes) -> None:
        known = self._addresses.get(payload)
        if known is None:
            known = self._read_address(payload)
            if len(self._addresses) >= _REMEMBERED:
                self._addresses.clear()
            self._addresses[payload] = known
        self._publish = known
        if not self.connection.publishes:
            self.connection.began_publishing()

    def _read_address(self, payload: bytes) -> tuple[str, str, bytes, bool]:
        _, arguments = read_method(payload)
        if arguments["immediate"]:
            raise ConnectionRefusal(540, "immediate=true")
        address = payload[6:-1]
        return arguments["exchange"], arguments["key"], address, arguments["mandatory"]

    def _take_content(self, kind: int, payload: bytes) -> None:
        if self._raw is None:
            self._take_header(kind, payload)
        elif kind != BODY or len(payload) > self._missing:
            text = "expected content body, got non content body frame instead"
            raise ConnectionRefusal(505, text)
        else:
            self._parts.append(payload)
            self._missing -= len(payload)
        if not self._missing:
            self._end_content()

    def _take_header(self, kind: int, payload: bytes) -> None:
        if kind != HEADER:
            text = "expected content header for class 60, got non content header frame instead"
            raise ConnectionRefusal(505, text)
        if len(payload) < 14:
            raise ConnectionRefusal(501, "cannot decode the content header")
        class_id, _weight, size = _CONTENT.unpack_from(payload)
        if class_id != 60:
            text = f"expected content header for class 60, got one for class {class_id} instead"
            raise ConnectionRefusal(505, text)
        largest = self.connection.node.limits.message_size
        if size > largest:
            self._publish = None
            text = f"message size {size} is larger than configured max size {largest}"
            raise ChannelRefusal(406, text)
        self._raw, self._missing = payload[12:], size

    def _end_content(self) -> None:
        publish, raw, parts = self._publish, self._raw, self._parts
        self._publish, self._raw, self._parts = None, None, []
        if publish is None or raw is None:
            return
        exchange, key, address, mandatory = publish
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self.state.publish(Publication(exchange, key, address, raw, body, mandatory))

    # What the state sends

    def deliver(self, consumer: Consumer, tag: int, message: Message) -> None:
        """Send a message to a consumer."""
        address, body = message.address, message.body
        raw = self.properties_of(message)
        head = consumer.wire
        if head is None:
            name = consumer.tag.encode(errors="surrogateescape")
            head = consumer.wire = _DELIVER + bytes((len(name),)) + name
        if address is None or body is None:
            raise ConnectionRefusal(541, "a message has lost its content")
        size = len(head) + 9 + len(address)
        pieces = [
            _HEAD.pack(METHOD, self.number, size),
            head,
            _TAG.pack(tag, message.redelivered),
            address,
            b"\xce",
        ]
        pieces += content_frames(self.number, raw, body, self.connection.frame_max)
        self.connection.stream.send_content(pieces, size + len(raw) + len(body) + 30)

    def give_back(self, publication: Publication) -> None:
        """Return a mandatory message that reached no queue."""
        self.send(
            "basic.return",
            code=312,
            text="NO_ROUTE",
            exchange=publication.exchange,
            key=publication.key,
        )
        self.send_content(publication.raw, publication.body)
        self.connection.sent_answer()

    def answer_get(self, tag: int, message: Message, left: int) -> None:
        """Answer `basic.get` with a message; *left*: how many are ready behind it."""
        index, address, body = b"\x00\x3c\x00\x47", message.address, message.body
        if address is None or body is None:
            raise ConnectionRefusal(541, "a message has lost its content")
        payload = index + _TAG.pack(tag, message.redelivered) + address + left.to_bytes(4, "big")
        self.connection.stream.write(frame(METHOD, self.number, payload))
        self.send_content(self.properties_of(message), body)
        self.connection.sent_answer()

    def cancelled(self, consumer: Consumer) -> None:
        """Tell that a consumer's queue is gone."""
        if "consumer_cancel_notify" in self.connection.capabilities and not self._closing:
            self.send("basic.cancel", tag=consumer.tag, nowait=True)

    def confirms_ready(self) -> None:
        """Tell confirms at the end of this turn."""
        self.connection.want_turn(self)

    def tell_confirms(self) -> None:
        """Send the confirms that have gathered."""
        if self.state.confirms is None or self._closing:
            return
        for tag, multiple, refused in self.state.confirms.collect():
            if refused:
                self.send("basic.nack", delivery_tag=tag, multiple=multiple)
            else:
                self.connection.stream.write(
                    _ACK_FRAME.pack(METHOD, self.number, 13, 60, 80, tag, multiple, 0xCE)
                )

    def properties_of(self, message: Message) -> bytes:
        """Return the properties to send: a returned message of a quorum queue has its count."""
        raw = message.properties or b"\0\0"
        return raw if not message.deliveries else with_delivery_count(raw, message.deliveries)

    def send(self, name: str, **arguments: Any) -> None:
        """Send a method on this channel."""
        self.connection.send(self.number, name, **arguments)

    def send_content(self, raw: bytes, body: bytes) -> None:
        """Send what follows a method that has content."""
        pieces = content_frames(self.number, raw, body, self.connection.frame_max)
        self.connection.stream.send_content(pieces, len(raw) + len(body) + 20)

    # Waiting and ending

    def answer_when_kept(self, name: str, **arguments: Any) -> None:
        """Answer once what was asked is on disk; what comes meanwhile waits for its turn."""
        if self.state.vhost.store.when_kept(lambda: self._kept(name, arguments)):
            self._held = deque()
        else:
            self.send(name, **arguments)

    def _kept(self, name: str, arguments: dict[str, Any]) -> None:
        held, self._held = self._held, None
        self._held_bytes = 0
        self.connection.release(self)
        if held is None or self.connection.channels.get(self.number) is not self:
            return
        self.send(name, **arguments)
        try:
            for frame_held in held:  # one of them may have to wait again, and the rest behind it
                self.take(*frame_held)
        except ConnectionRefusal as refusal:
            self.connection.refuse(refusal)
        self.connection.node.settle_soon()

    @property
    def unfinished(self) -> int:
        """Bytes of a message that is still coming, and of what waits for its turn."""
        return sum(map(len, self._parts)) + self._held_bytes

    def close(self) -> None:
        """The client closes the channel."""
        self.state.close()
        self.connection.channels.pop(self.number, None)
        self.send("channel.close-ok")

    def refuse(self, refusal: ChannelRefusal, index: bytes = _ACK) -> None:
        """Close the channel. *index*: of the method that is to blame."""
        class_id, method_id = struct.unpack(">HH", index)
        self._publish, self._raw, self._parts, self._missing = None, None, [], 0
        self.tell_confirms()
        self._closing = True
        self.state.close()
        self.send(
            "channel.close",
            code=refusal.code,
            text=refusal.reply_text,
            class_id=class_id,
            method_id=method_id,
        )


def _not_for_clients(name: str) -> ConnectionRefusal:
    if name == "channel.open":
        return ConnectionRefusal(504, "second 'channel.open' seen")
    return ConnectionRefusal(503, "unimplemented method")
