"""The bytes of one broker connection: a raw socket watched by the hub, TLS on top by MemoryBIO.

pika's own gevent adapter leaks two descriptors a connection and is deprecated; this is the small
part of its transport contract (`AbstractStreamTransport`) that a connection needs. Everything runs
in the hub's thread; nothing here blocks but `dial`, which must be called from a greenlet.
"""

from __future__ import annotations

import _socket
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, Protocol

import gevent
import gevent.socket
from pika.adapters.utils.nbio_interface import AbstractStreamTransport

from limehub.amqp.outlet import Outlet
from limehub.errors import BrokerUnreachable

__all__ = ["Stream", "StreamProtocol", "TlsSession", "dial"]

log = logging.getLogger(__name__)

READ_BYTES = 128 * 1024


class StreamProtocol(Protocol):
    """The connection above the stream, by pika's names."""

    def _proto_data_received(self, data: bytes) -> None: ...
    def _proto_eof_received(self) -> bool: ...
    def _proto_connection_lost(self, error: BaseException | None) -> None: ...


class TlsSession:
    """A TLS client without a socket: ciphertext in, plaintext out, and the other way round."""

    def __init__(self, context: ssl.SSLContext, server_hostname: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_hostname
        )

    def handshake(self, sock: Any) -> None:
        """Shake hands over *sock* (a cooperative socket); returns when the session stands."""
        while True:
            try:
                self._ssl.do_handshake()
                sock.sendall(self._outgoing.read())
                return
            except ssl.SSLWantReadError:
                sock.sendall(self._outgoing.read())
                data = sock.recv(READ_BYTES)
                if not data:
                    raise ConnectionResetError("closed during the TLS handshake") from None
                self._incoming.write(data)

    def decrypt(self, data: bytes) -> tuple[bytes, bool]:
        """Return (plaintext, whether the peer closed the session)."""
        self._incoming.write(data)
        plain: list[bytes] = []
        while True:
            try:
                chunk = self._ssl.read(READ_BYTES)
            except ssl.SSLWantReadError:
                return b"".join(plain), False
            except ssl.SSLZeroReturnError:
                return b"".join(plain), True
            if not chunk:
                return b"".join(plain), True
            plain.append(chunk)

    @property
    def has_output(self) -> bool:
        """Whether there is something to send, data of ours or not."""
        return self._outgoing.pending > 0

    def encrypt(self, data: bytes) -> bytes:
        """Return what has to go out for the plaintext *data*, with anything else pending."""
        if data:
            self._ssl.write(data)
        return self._outgoing.read()


def dial(
    host: str, port: int, *, timeout: float, tls: tuple[ssl.SSLContext, str] | None
) -> tuple[Any, TlsSession | None]:
    """Connect to *host*:*port* within *timeout* seconds; DNS, TCP and TLS cooperate with the hub.

    Returns the connected raw socket and its TLS session. Raises BrokerUnreachable with the cause.
    """
    where = f"{host}:{port}"
    with gevent.Timeout(timeout, BrokerUnreachable(f"{where}: no connection in {timeout:g} s")):
        try:
            sock = gevent.socket.create_connection((host, port))
        except OSError as error:
            raise BrokerUnreachable(f"{where}: {error.strerror or error}") from error
        try:
            return _secured(sock, where, tls)
        except BaseException:
            sock.close()
            raise


def _secured(
    sock: Any, where: str, tls: tuple[ssl.SSLContext, str] | None
) -> tuple[Any, TlsSession | None]:
    session = TlsSession(*tls) if tls else None
    if session:
        try:
            session.handshake(sock)
        except ssl.SSLCertVerificationError as error:
            raise BrokerUnreachable(
                f"{where}: certificate refused: {error.verify_message}"
            ) from error
        except OSError as error:
            raise BrokerUnreachable(f"{where}: TLS handshake failed: {_told(error)}") from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    raw = _socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
    raw.setblocking(False)
    return raw, session


def _told(error: OSError) -> str:
    """Return what *error* says; OpenSSL's words for a peer without TLS tell nobody anything."""
    if getattr(error, "reason", None) in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return "this port speaks no TLS; is it one for amqp://?"
    return str(error)


class Stream(AbstractStreamTransport):
    """Reads when readable, writes once per loop turn, tells its protocol when it is over."""

    def __init__(self, sock: Any, tls: TlsSession | None, protocol: StreamProtocol) -> None:
        self.sock = sock
        self.outlet = Outlet(sock, tls, self._flush_soon)
        self._tls = tls
        self._protocol = protocol
        self._loop = gevent.get_hub().loop
        self._over = False
        self._paused = False
        self._reader = self._loop.io(sock.fileno(), 1)
        self._writer = self._loop.io(sock.fileno(), 2)

    def start(self) -> None:
        """Begin to read; what TLS already holds is delivered first."""
        self._reader.start(self._guarded, self._readable)

    def pause(self) -> None:
        """Read no more until `resume`: the peer waits once the kernel's buffers are full. A peer
        whose bytes wait unread is not taken for dead."""
        self._paused = True
        self._reader.stop()

    def resume(self) -> None:
        """Read on after `pause`; else harmless."""
        if self._paused and not self._over:
            self._paused = False
            self.start()

    def get_protocol(self) -> Any:
        """Return the connection above."""
        return self._protocol

    def write(self, data: bytes) -> None:
        """Send *data* with everything else that this loop turn brings."""
        if not self._over:
            self.outlet.write(data)

    def get_write_buffer_size(self) -> int:
        """Return the bytes that wait for the next turn."""
        return self.outlet.size

    def abort(self) -> None:
        """Close at once; the protocol hears of it in a later loop turn."""
        self._lose(None)

    def abandon(self) -> None:
        """Leave it to the process that this one was forked from, without a word to the broker."""
        self._over = True
        self.outlet.abandon()
        with contextlib.suppress(OSError):
            self.sock.close()

    def flush_from_afar(self) -> None:
        """Have the hub send what waits; for other threads."""
        self._loop.run_callback_threadsafe(self._guarded, self._flush)

    @property
    def is_encrypted(self) -> bool:
        """Whether it speaks TLS."""
        return self._tls is not None

    def has_unread(self) -> bool:
        """Whether the kernel holds bytes, or the end, that nobody has read yet."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True  # the next read tells
        return True

    @property
    def is_over(self) -> bool:
        """Whether it has ended; the protocol hears of that in a later loop turn."""
        return self._over

    def read_now(self) -> None:
        """Read once as the hub would; from any greenlet of its thread."""
        self._guarded(self._readable)

    def _flush_soon(self) -> None:
        self._loop.run_callback(self._guarded, self._flush)

    def _flush(self) -> None:
        if not self.outlet.flush():
            self._writer.start(self._guarded, self._writable)

    def _writable(self) -> None:
        self._writer.stop()
        self._flush()

    def _readable(self) -> None:
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        ended = not data
        if self._tls and data:
            with self.outlet.lock:
                data, ended = self._tls.decrypt(data)
            if self._tls.has_output:  # a key update wants its answer
                self.outlet.ask()
        if data:
            self._protocol._proto_data_received(data)
        if ended and not self._over:
            self._protocol._proto_eof_received()
            self._lose(None)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Run *step* in the hub; whatever it raises ends this connection and nothing else."""
        if self._over:
            return
        try:
            step()
        except OSError as error:
            self._lose(error)
        except Exception as error:  # border of the hub: a decoder bug must not idle silently
            self._lose(error)  # before the log, which raises if somebody holds its lock
            log.exception("connection aborted by an error in its own callbacks")

    def _lose(self, error: BaseException | None) -> None:
        if self._over:
            return
        self._over = True
        # Not in the hub: pika logs a lot then, and there nobody may wait for a log handler's lock.
        # Raw, so that nobody who kills all greenlets keeps the loss from being told.
        gevent.spawn_raw(self._protocol._proto_connection_lost, error)
        self.outlet.close()
        for watcher in (self._reader, self._writer):
            watcher.stop()
            watcher.close()
        # A plugin may have closed our descriptor; the end must be told all the same.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self.sock.close()
