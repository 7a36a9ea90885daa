"""One client's connection: handshake, frames to channels, heartbeats, alarms, the end."""

from __future__ import annotations

import logging
import struct
import time
from typing import TYPE_CHECKING, Any

import gevent

from limehub.broker.refusals import ConnectionRefusal, Refusal
from limehub.broker.session.channel import ChannelSession
from limehub.broker.session.frames import (
    BODY,
    END,
    HEADER,
    HEARTBEAT,
    HEARTBEAT_FRAME,
    METHOD,
    check_size,
    frame,
    frame_error,
)
from limehub.broker.session.handshake import Handshake
from limehub.broker.session.methods import Arguments, index_of, name_of, read_method, write_method
from limehub.broker.session.stream import Stream
from limehub.broker.state.vhost import VirtualHost
from limehub.broker.tables import Table

if TYPE_CHECKING:
    from limehub.broker.node import Node

__all__ = ["Connection"]

log = logging.getLogger(__name__)

_HEAD = struct.Struct(">BHI")
_CLOSE_OK = frame(METHOD, 0, write_method("connection.close-ok"))
_CHANNEL_FRAMES = (METHOD, HEADER, BODY)
_HANDSHAKE_SECONDS = 10.0
_CLOSING_SECONDS = 10.0
_PROBE_SECONDS = 2.0
_ANSWERS = "answers"
_TOO_MUCH_UNREAD = 16 * 1024 * 1024
"""Bytes that wait for a client from which on nothing more that it asks is answered."""


class Connection:
    """A client of *node*. Ends by itself: `node.forget` is called then."""

    def __init__(self, node: Node, sock: Any, address: str) -> None:
        self.node = node
        self.address = address
        self.user = ""
        self.frame_max = node.limits.frame_max
        self.channel_max = node.limits.channel_max
        self.heartbeat = 0.0
        self.client_properties: Table = {}
        self.capabilities: set[str] = set()
        self.vhost: VirtualHost | None = None
        self.channels: dict[int, ChannelSession] = {}
        self.publishes = False
        self.stream = Stream(sock, self)
        self._buffer = b""
        self._handshake: Handshake | None = Handshake(self)
        self._ready: dict[ChannelSession, None] = {}
        self._closing = False
        self._lost_track = False
        self._holds: set[object] = set()
        self._told_blocked = False
        self._beats: Any = None
        self._deadline: Any = gevent.spawn_later(_HANDSHAKE_SECONDS, self.stream.abort)
        self.stream.resume_reading()

    @property
    def congested(self) -> bool:
        """Whether the client reads more slowly than it is sent."""
        return self.stream.congested

    @property
    def unfinished(self) -> int:
        """Bytes that have come and cannot be worked on yet."""
        return len(self._buffer) + sum(one.unfinished for one in self.channels.values())

    # What comes in

    def received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._lost_track:  # nobody knows where the next frame begins
            if data.endswith(_CLOSE_OK):
                self.stream.close_when_sent()
            return
        self._buffer = self._buffer + data if self._buffer else data
        try:
            if self._handshake is not None and not self._handshake.header_seen:
                self._buffer = self._handshake.header(self._buffer)
            else:
                self._take_frames()
        except ConnectionRefusal as refusal:
            self.refuse(refusal)
            self._lost_track = refusal.code == 501
        self.node.received(len(data))
        self.node.settle()
        if self.stream.waiting > _TOO_MUCH_UNREAD:
            self.hold(_ANSWERS)

    def _take_frames(self) -> None:
        data, at = self._buffer, 0
        end = len(data)
        channels, holds = self.channels, self._holds
        try:
            while end - at >= 7 and not holds:
                kind, number, size = _HEAD.unpack_from(data, at)
                stop = at + 7 + size
                if stop >= end:
                    check_size(kind, size, self.frame_max)
                    break
                payload = data[at + 7 : stop]
                if data[stop] != END:
                    complaint = f"{{invalid_frame_end_marker,{data[stop]}}}"
                    raise frame_error(kind, payload, complaint)
                at = stop + 1
                channel = channels.get(number)
                if channel is not None and kind in _CHANNEL_FRAMES and not self._closing:
                    check_size(kind, size, self.frame_max)
                    channel.take(kind, payload)
                else:
                    self._take_other(kind, number, payload)
        finally:
            self._buffer = data[at:] if at else data

    def _take_other(self, kind: int, number: int, payload: bytes) -> None:
        """A frame of the connection itself, or of no open channel."""
        check_size(kind, len(payload), self.frame_max)
        if kind == HEARTBEAT and not payload and not number:
            return
        if kind not in _CHANNEL_FRAMES:
            if kind == HEARTBEAT and not payload:
                raise ConnectionRefusal(505, f"type {kind}, all octets = <<>>")
            raise frame_error(kind, payload, "unknown_frame")
        if self._closing:
            self._take_while_closing(kind, number, payload)
        elif number == 0:
            self._take_own(kind, payload)
        else:
            self._open_channel(kind, number, payload)

    def _take_while_closing(self, kind: int, number: int, payload: bytes) -> None:
        if kind != METHOD or number:
            return
        name = name_of(payload)
        if name == "connection.close":
            self.send(0, "connection.close-ok")
        if name in ("connection.close", "connection.close-ok"):
            self.stream.close_when_sent()

    def _take_own(self, kind: int, payload: bytes) -> None:
        if kind != METHOD:
            raise ConnectionRefusal(505, "expected method frame, got non method frame instead")
        name, arguments = read_method(payload)
        if name == "connection.close":
            self._end()
            self._closing = True
            self.send(0, "connection.close-ok")
            self.stream.close_when_sent()
        elif self._handshake is not None:
            self._handshake.take(name, arguments)
        elif name == "connection.update-secret":
            raise ConnectionRefusal(540, "update-secret")
        else:
            raise ConnectionRefusal(503, f"{name} is not for channel 0 now")

    def _open_channel(self, kind: int, number: int, payload: bytes) -> None:
        if self.vhost is None:
            raise ConnectionRefusal(504, "the connection is not open")
        if kind != METHOD:
            raise ConnectionRefusal(504, "expected 'channel.open'")
        name, _ = read_method(payload)
        if name == "channel.close-ok":
            return
        if name != "channel.open":
            raise ConnectionRefusal(504, "expected 'channel.open'")
        if len(self.channels) >= self.channel_max:
            text = f"number of channels opened ({len(self.channels)}) has reached the negotiated "
            raise ConnectionRefusal(530, f"{text}channel_max ({self.channel_max})")
        self.channels[number] = ChannelSession(self, number, self.vhost)
        self.send(number, "channel.open-ok")

    # The handshake's results

    def tuned(self, arguments: Arguments) -> None:
        """The client has answered `connection.tune`."""
        self.frame_max = arguments["frame_max"] or self.node.limits.frame_max
        self.channel_max = arguments["channel_max"] or self.node.limits.channel_max
        self.heartbeat = arguments["heartbeat"]
        if self.heartbeat:
            self._beats = gevent.spawn(self._beat, self.heartbeat / 2)

    def opened(self, vhost: VirtualHost) -> None:
        """The handshake is over."""
        self.vhost = vhost
        self._handshake = None
        self._deadline.kill(block=False)

    # What goes out

    def send(self, number: int, name: str, **arguments: Any) -> None:
        """Send one method."""
        self.stream.write(frame(METHOD, number, write_method(name, **arguments)))

    def want_turn(self, channel: ChannelSession) -> None:
        """*channel* has confirms to tell at the end of this turn."""
        self._ready[channel] = None
        self.stream.schedule()

    def sent_answer(self) -> None:
        """A large answer is on its way: whoever asks without reading has to wait."""
        if self.stream.waiting > _TOO_MUCH_UNREAD:
            self.hold(_ANSWERS)

    def hold(self, reason: object) -> None:
        """Read nothing more until `release` with the same *reason*."""
        if not self._holds:
            self.stream.pause_reading()
        self._holds.add(reason)

    def release(self, reason: object) -> None:
        """Read on, unless there are other reasons not to."""
        if reason not in self._holds:
            return
        self._holds.discard(reason)
        if not self._holds:
            self.flow()
            self.stream.call_soon(lambda: self.received(b""))

    def before_send(self) -> None:
        """Add the confirms of this turn."""
        ready, self._ready = self._ready, {}
        for channel in ready:
            channel.tell_confirms()

    def congestion_changed(self) -> None:
        """Go on with deliveries when the client reads again."""
        if self.stream.congested:
            return
        self.release(_ANSWERS)
        for channel in self.channels.values():
            channel.state.wake_all()
        self.node.settle_soon()

    def flow(self) -> None:
        """Follow the node's alarm: those who publish have to wait, and are told."""
        if self.stream.over or self.vhost is None:
            return
        reason = self.node.alarm
        if self.publishes and (reason or self.node.saturated):
            self.stream.pause_reading()
        elif not self._holds:
            self.stream.resume_reading()
        if "connection.blocked" not in self.capabilities or self._told_blocked == bool(reason):
            return
        if not reason:
            self._told_blocked = False
            self.send(0, "connection.unblocked")
        elif self.publishes:
            self._told_blocked = True
            self.send(0, "connection.blocked", reason=reason)

    def look_after_client(self) -> None:
        """Find out whether a client that waits for us is still there.

        Its end stands behind data that we do not read; but whoever is gone answers with a reset.
        """
        idle = time.monotonic() - self.stream.last_sent
        if idle > _PROBE_SECONDS and self._is_waiting() and not self.stream.over:
            self.stream.write(HEARTBEAT_FRAME)

    def began_publishing(self) -> None:
        """The first publication: from now on alarms are for this connection."""
        self.publishes = True
        if self.node.alarm:
            self.flow()

    def _beat(self, interval: float) -> None:
        """Send heartbeats when idle; end the connection of a client that is silent for two."""
        while not self.stream.over:
            gevent.sleep(interval)
            now = time.monotonic()
            if now - self._last_sign() > 2 * self.heartbeat and not self._is_waiting():
                log.warning("client missed its heartbeats", extra={"client": self.address})
                self.stream.abort()
            elif now - self.stream.last_sent >= interval * 0.9:
                self.stream.write(HEARTBEAT_FRAME)

    def _last_sign(self) -> float:
        """When the client last showed that it lives: while it is not read from, by reading."""
        heard = self.stream.last_received
        return max(heard, self.stream.last_sent) if self._holds else heard

    def _is_waiting(self) -> bool:
        """Whether it is we who do not read, and not because the client does not."""
        if self._holds - {_ANSWERS}:
            return True
        return self.publishes and bool(self.node.alarm or self.node.saturated)

    # The end

    def refuse(self, refusal: Refusal, method: str | None = None) -> None:
        """Close with a code and a text. *method*: what the client did wrong."""
        log.warning(
            "connection closed",
            extra={"client": self.address, "code": refusal.code, "reason": refusal.text},
        )
        class_id, method_id = index_of(method) if method else (0, 0)
        self._close(refusal.code, refusal.reply_text, class_id, method_id)

    def failed(self) -> None:
        """Close because of an error of the broker's own (541)."""
        self.refuse(ConnectionRefusal(541, "an error of the broker; its log tells which"))
        self._lost_track = True

    def force_close(self, reason: str) -> None:
        """Close because of something that is not the client's fault (320)."""
        refusal = ConnectionRefusal(320, reason)
        self._close(refusal.code, refusal.reply_text, 0, 0)

    def _close(self, code: int, text: str, class_id: int, method_id: int) -> None:
        if self._closing:
            return
        self._closing = True
        self._holds.clear()
        self._end()
        self.send(
            0, "connection.close", code=code, text=text, class_id=class_id, method_id=method_id
        )
        self.stream.resume_reading()  # for the close-ok
        self._deadline.kill(block=False)
        self._deadline = gevent.spawn_later(_CLOSING_SECONDS, self.stream.abort)

    def lost(self, error: OSError | None) -> None:
        """The stream is over."""
        log.debug("connection over", extra={"client": self.address, "reason": str(error or "")})
        self._end()
        for greenlet in (self._deadline, self._beats):
            if greenlet is not None and greenlet is not gevent.getcurrent():
                greenlet.kill(block=False)
        self.node.forget(self)

    def _end(self) -> None:
        """Give everything back."""
        channels, self.channels = self.channels, {}
        for channel in channels.values():
            channel.state.close()
        if self.vhost is not None:
            self.node.drop_exclusive(self.vhost, self)
        self.node.settle_soon()
