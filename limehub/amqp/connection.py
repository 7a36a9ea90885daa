"""One broker connection: opened from a greenlet, owned by whoever opened it, lost exactly once.

pika speaks the protocol on its public `BaseConnection`; `stream.Stream` moves the bytes. Callers
see greenlet-blocking calls and limehub's own exceptions.
"""

from __future__ import annotations

import contextlib
import logging
import re
import ssl
import struct
from collections.abc import Callable
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

import gevent
import pika
import pika.exceptions
import pika.frame
from attrs import define, field, frozen
from gevent.event import AsyncResult
from pika.adapters.base_connection import BaseConnection
from pika.adapters.utils.nbio_interface import AbstractIOServices, AbstractTimerReference

from limehub.amqp.channel import Channel
from limehub.amqp.delivery import Delivery, Subscription
from limehub.amqp.frames import END, confirm_of, scan
from limehub.amqp.heartbeat import HeartbeatChecker
from limehub.amqp.keepalive import Keepalive, apply_keepalive
from limehub.amqp.outlet import Outlet
from limehub.amqp.stream import Stream, dial
from limehub.config.url import BrokerUrl
from limehub.errors import BrokerError, BrokerRefused, BrokerUnreachable, ConnectionLost

__all__ = ["BrokerConnection", "ConnectionSettings", "Keeps"]

log = logging.getLogger(__name__)

HEADER_FRAME = 2
PROTOCOL_HEADER = b"AMQP"

Confirm = Callable[[int, bool, bool], None]
"""(delivery tag, multiple, acked)"""


class Keeps(Protocol):
    """Who looks after connections while the hub is busy; `keeper.Keeper` does."""

    def before_dial(self) -> None:
        """Be ready for another connection; may wait."""

    def opened(self, connection: BrokerConnection) -> None:
        """Look after *connection* from now on."""

    def lost(self, connection: BrokerConnection) -> None:
        """Look after it no more; harmless if it never was."""

    def ran_long(self) -> None:
        """Hear, from the hub, that a handler has just ended that may have kept it busy."""


@frozen(kw_only=True)
class ConnectionSettings:
    """What a connection needs to know. Times in seconds; *heartbeat* 0 = none."""

    url: BrokerUrl
    heartbeat: int = 15
    keepalive: Keepalive = field(factory=lambda: Keepalive(idle=120.0))
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None
    timeout: float = 10.0
    keeper: Keeps | None = field(default=None, eq=False, repr=False)

    def tls(self) -> tuple[ssl.SSLContext, str] | None:
        """Return (context, host name to verify); None = plain TCP. Raises BrokerUnreachable."""
        if self.url.scheme != "amqps":
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            raise BrokerUnreachable(f"TLS files cannot be used: {error}") from error
        return context, self.server_name or self.url.host


class BrokerConnection:
    """An open connection. *name* shows in the broker's own lists."""

    def __init__(self, settings: ConnectionSettings, name: str) -> None:
        self.settings = settings
        self.name = name
        self.reason: BrokerError | None = None
        self.blocked: str | None = None
        self.on_lost: list[Callable[[BrokerError], None]] = []
        self._opened: AsyncResult[None] = AsyncResult()
        self._lost: AsyncResult[None] = AsyncResult()
        self._channels: set[Channel] = set()
        self._server: dict[str, Any] = {}
        self.stream: Stream
        """Its bytes, also when it is lost."""

        self._pika: Any = _PikaConnection(
            _parameters(settings, name),
            on_open=self._on_open,
            on_open_error=self._on_open_error,
            on_close=self._on_close,
        )

    @classmethod
    def open(cls, settings: ConnectionSettings, name: str) -> BrokerConnection:
        """Connect and shake hands. Raises BrokerUnreachable or BrokerRefused."""
        connection = cls(settings, name)
        connection._dial()
        return connection

    def _dial(self) -> None:
        url, timeout = self.settings.url, self.settings.timeout
        if self.settings.keeper:
            self.settings.keeper.before_dial()
        sock, tls = dial(url.host, url.port, timeout=timeout, tls=self.settings.tls())
        apply_keepalive(sock, self.settings.keepalive, heartbeat=self.settings.heartbeat)
        stream = self.stream = Stream(sock, tls, self._pika)
        self._pika.add_on_connection_blocked_callback(self._on_blocked)
        self._pika.add_on_connection_unblocked_callback(self._on_unblocked)
        self._pika._proto_connection_made(stream)
        stream.start()
        try:
            self._opened.wait(timeout)
            if not self._opened.ready():
                where = f"{url.host}:{url.port}"
                raise BrokerUnreachable(
                    f"{where}: no AMQP handshake in {timeout:g} s; is it an AMQP port?"
                )
            self._opened.get()
        except BaseException:
            self._pika.drop_stream()
            raise

    @property
    def is_open(self) -> bool:
        """Whether it can be used now."""
        return self.reason is None and bool(self._pika.is_open)

    @property
    def outlet(self) -> Outlet:
        """What writes to its socket."""
        return self.stream.outlet

    @property
    def routes(self) -> dict[int, Subscription]:
        """Channel number -> its consumer."""
        return self._pika.routes  # type: ignore[no-any-return]

    @property
    def confirms(self) -> dict[int, Confirm]:
        """Channel number -> who hears of its confirms."""
        return self._pika.confirms  # type: ignore[no-any-return]

    @property
    def heartbeat(self) -> int:
        """The negotiated heartbeat in seconds, 0 = none."""
        return int(self._pika.params.heartbeat or 0)

    @property
    def frame_max(self) -> int:
        """The negotiated largest frame in bytes."""
        return int(self._pika.params.frame_max)

    @property
    def channel_max(self) -> int:
        """How many channels this connection may have."""
        return int(self._pika.params.channel_max or 65535)

    @property
    def server(self) -> str:
        """The broker's product and version, as `RabbitMQ 3.10.8`."""
        said = self._server
        return f"{said.get('product', 'unknown')} {said.get('version', '')}".strip()

    @property
    def server_version(self) -> tuple[int, ...]:
        """The broker's version as numbers, (0,) if it does not say."""
        version = str(self._server.get("version", "0"))
        return tuple(
            int(part) for part in version.split("-", maxsplit=1)[0].split(".") if part.isdigit()
        ) or (0,)

    def open_channel(self) -> Channel:
        """Open a channel. Raises ConnectionLost."""
        self._check_open()
        channel = Channel(self)
        self._channels.add(channel)
        try:
            channel.open(self._pika)
        except pika.exceptions.NoFreeChannels:
            raise BrokerError(
                f"all {self.channel_max} channels of the connection are open"
            ) from None
        finally:
            if not channel.is_open:
                self._channels.discard(channel)
        return channel

    def forget(self, channel: Channel) -> None:
        """Take *channel*, which has closed, off the list."""
        self._channels.discard(channel)

    def wait_lost(self, timeout: float | None = None) -> bool:
        """Wait until the connection is lost, at most *timeout* seconds. Returns whether it is."""
        return bool(self._lost.wait(timeout=timeout)) or self._lost.ready()

    def close(self, timeout: float = 5.0) -> None:
        """Close in order: what was written before is processed by the broker first."""
        if self._pika.is_open:
            for channel in self._channels:
                channel.usable = False
            with contextlib.suppress(pika.exceptions.ConnectionWrongStateError):
                self._pika.close()
        if not self.wait_lost(timeout):
            self.abort(ConnectionLost(f"the broker did not answer the close in {timeout:g} s"))

    def abort(self, error: BrokerError) -> None:
        """Drop the connection at once; unacked deliveries go back to their queues."""
        self.reason = self.reason or error
        self._pika.drop_stream()

    def _check_open(self) -> None:
        if not self.is_open:
            raise self.reason or ConnectionLost("the connection is closed")

    def _on_open(self, _connection: Any) -> None:
        # pika forgets it when the connection ends; logs still want it
        self._server = dict(self._pika.server_properties or {})
        if self.settings.keeper:
            self.settings.keeper.opened(self)
        self._opened.set(None)

    def _on_open_error(self, _connection: Any, error: BaseException) -> None:
        translated = _open_error(error, self.settings.url)
        self._end(translated)
        self._opened.set_exception(translated)

    def _on_close(self, _connection: Any, error: BaseException) -> None:
        self._end(ConnectionLost(_words(error)))

    def _end(self, error: BrokerError) -> None:
        self.reason = self.reason or error
        if self.settings.keeper:
            self.settings.keeper.lost(self)
        for channel in list(self._channels):
            channel.connection_lost(self.reason)
        self._channels.clear()
        self._lost.set(None)
        for callback in self.on_lost:
            callback(self.reason)

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self.blocked = str(frame.method.reason or "blocked")
        log.warning(
            "broker blocks publishing", extra={"connection": self.name, "reason": self.blocked}
        )

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self.blocked = None
        log.info("broker takes messages again", extra={"connection": self.name})


class _PikaConnection(BaseConnection):  # type: ignore[type-arg] # generic in the stubs only
    """pika's connection on our stream; the stream is handed in when it stands."""

    def __init__(
        self,
        parameters: pika.ConnectionParameters,
        *,
        on_open: Callable[..., None],
        on_open_error: Callable[..., None],
        on_close: Callable[..., None],
    ) -> None:
        self.routes: dict[int, Subscription] = {}
        self.confirms: dict[int, Confirm] = {}
        self._unread = b""
        super().__init__(
            parameters,
            on_open,
            on_open_error,
            on_close,
            _HubServices(),
            internal_connection_workflow=False,
        )

    @property
    def stream(self) -> Stream:
        """The bytes of this connection."""
        state: Any = self
        stream: Stream = state._transport
        return stream

    @property
    def outlet(self) -> Outlet:
        """What writes to this connection's socket."""
        return self.stream.outlet

    def _create_heartbeat_checker(self) -> HeartbeatChecker | None:
        state: Any = self
        heartbeat = state.params.heartbeat
        return HeartbeatChecker(self, heartbeat) if heartbeat else None

    def has_unread(self) -> bool:
        """Whether the kernel holds bytes that nobody has read yet."""
        return self.stream.has_unread()

    def later(self, seconds: float, callback: Callable[[], None]) -> AbstractTimerReference:
        """Call *callback* in *seconds*."""
        services: Any = getattr(self, "_nbio")  # noqa: B009 - not in the stubs
        timer: AbstractTimerReference = services.call_later(seconds, callback)
        return timer

    def give_up(self, error: BaseException) -> None:
        """Drop the stream because of *error*."""
        state: Any = self
        state._terminate_stream(error)

    if TYPE_CHECKING:  # pika's stubs leave out what they call private
        bytes_received: int

    def _on_data_available(self, data: bytes) -> None:
        """Read deliveries off the bytes; every other frame is pika's to read."""
        buffer = self._unread + data if self._unread else data
        if buffer.startswith(PROTOCOL_HEADER):  # the broker speaks another version: no frame
            self._pika_reads(buffer)
            return
        at, end = 0, 0
        while True:
            found: list[Delivery] = []
            start, (at, end) = at, scan(buffer, at, self.routes, Delivery, found)
            self.bytes_received += at - start  # pika counts its own; silence is judged by it
            if found:
                self._hand_out(found)
            if not end:
                break
            if not self.confirms or not self._read_confirm(buffer, at, end):
                self._pika_reads(buffer[at:end])
            at = end
        self._unread = buffer[at:]

    def _read_confirm(self, buffer: bytes, at: int, end: int) -> bool:
        """Tell a publisher; pika's way takes longer than the rest of the publish."""
        confirm = confirm_of(buffer, at)
        if confirm is None or confirm[0] not in self.confirms:
            return False
        self.bytes_received += end - at
        channel, tag, multiple, acked = confirm
        self.confirms[channel](tag, multiple, acked)
        return True

    def _pika_reads(self, frames: bytes) -> None:
        super()._on_data_available(frames)  # type: ignore[misc] # not in the stubs

    def _hand_out(self, found: list[Delivery]) -> None:
        if len(self.routes) == 1:
            found[0].subscription.on_deliveries(found)
            return
        for subscription, deliveries in groupby(found, attrgetter("subscription")):
            subscription.on_deliveries(list(deliveries))

    @classmethod
    def create_connection(cls, *_args: Any, **_kwargs: Any) -> Any:
        """pika's own way to connect; ours is `BrokerConnection.open`."""
        raise TypeError("open connections with BrokerConnection.open")

    def _read_frame(self) -> Any:
        """Decode one frame; properties that pika's decoder cannot read cost only their message.

        A table nested too deeply or a timestamp out of range would otherwise end the connection,
        and the message would come back and end the next one.
        """
        buffer: bytes = getattr(self, "_frame_buffer")  # noqa: B009 - not in the stubs
        try:
            return pika.frame.decode_frame(buffer)
        except Exception as error:
            if not buffer or buffer[0] != HEADER_FRAME:
                raise
            return _damaged_header(bytes(buffer), error)

    def _proto_connection_lost(self, error: BaseException | None) -> None:
        """As pika's, but the closed stream stays while pika's log keeps us waiting: others ask it.

        And without a line at ERROR: limehub has words of its own.
        """
        state: Any = self
        if error is not None:
            error = pika.exceptions.StreamLostError(f"Stream connection lost: {error!r}")
        elif state._got_eof:
            error = pika.exceptions.StreamLostError("Transport indicated EOF")
        state._on_stream_terminated(error)
        state._transport = None

    def drop_stream(self) -> None:
        """Close the socket without a word to the broker."""
        state: Any = self  # the stubs leave pika's own attributes out
        if state._transport is not None:
            state._error = state._error or pika.exceptions.StreamLostError("aborted")
            state._transport.abort()


def _damaged_header(buffer: bytes, error: Exception) -> tuple[int, Any]:
    """Return (bytes used, header frame without properties); they are kept raw as `damaged`."""
    channel, size = struct.unpack_from(">HL", buffer, 1)
    end = 7 + size
    if buffer[end] != END:
        raise pika.exceptions.InvalidFrameError("Invalid FRAME_END marker") from error
    _class, _weight, body_size = struct.unpack_from(">HHQ", buffer, 7)
    properties = pika.BasicProperties()
    properties.damaged = (buffer[19:end], repr(error))  # type: ignore[attr-defined] # for Delivery
    return end + 1, pika.frame.Header(channel, body_size, properties)


@define(eq=False)
class _Timer(AbstractTimerReference):
    watcher: Any = field()

    def cancel(self) -> None:
        self.watcher.stop()
        self.watcher.close()


class _HubServices(AbstractIOServices):
    """Timers and callbacks in the hub of the thread that made it."""

    def __init__(self) -> None:
        self._loop = gevent.get_hub().loop

    def get_native_ioloop(self) -> Any:
        return self._loop

    def call_later(self, delay: float, callback: Callable[..., None]) -> _Timer:
        watcher = self._loop.timer(max(delay, 0.0))
        watcher.start(self._fire, watcher, callback)
        return _Timer(watcher)

    def add_callback_threadsafe(self, callback: Callable[..., None]) -> None:
        self._loop.run_callback_threadsafe(callback)

    def _fire(self, watcher: Any, callback: Callable[..., None]) -> None:
        watcher.stop()
        watcher.close()
        callback()

    def _unused(self, *_args: Any, **_kwargs: Any) -> Any:
        raise TypeError("the stream is made by limehub.amqp.stream.dial")

    close = run = stop = getaddrinfo = connect_socket = create_streaming_connection = _unused


def _parameters(settings: ConnectionSettings, name: str) -> pika.ConnectionParameters:
    url = settings.url
    return pika.ConnectionParameters(
        host=url.host,
        port=url.port,
        virtual_host=url.vhost,
        credentials=pika.PlainCredentials(url.username, url.password),
        heartbeat=settings.heartbeat,
        client_properties={"connection_name": name, "product": "limehub"},
    )


def _open_error(error: BaseException, url: BrokerUrl) -> BrokerError:
    """Only the broker's own 403 and 530 are a refusal; pika guesses one from a hang-up, too."""
    where, said = f"{url.host}:{url.port}", _words(error)
    if said.startswith("403"):
        return BrokerRefused(f"{where}: the broker refuses user {url.username!r}: {said}")
    if said.startswith("530"):
        return BrokerRefused(f"{where}: vhost {url.vhost!r} is refused: {said}")
    return BrokerUnreachable(f"{where}: {said}")


_CLOSED_INSIDE = re.compile(r"ConnectionClosed\w*: \((?P<code>\d+)\) (['\"])(?P<text>.*)\2")


def _words(error: BaseException) -> str:
    """Return what *error* says; some of pika's errors say it in their arguments only."""
    if isinstance(error, pika.exceptions.ConnectionClosed):
        return f"{error.reply_code} {error.reply_text}"
    text = str(error) or ", ".join(str(part) for part in error.args)
    if wrapped := _CLOSED_INSIDE.search(text):  # pika guesses what a close means and wraps it
        return f"{wrapped['code']} {wrapped['text']}"
    return text or type(error).__name__
