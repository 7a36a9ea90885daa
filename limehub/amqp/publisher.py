"""Publishing with the broker's word for it: confirms, mandatory, persistent, a connection apart.

    publisher = Publisher("amqp://guest@localhost//", applications=["acme"])
    publisher.publish("solution.invoices.paid.v1", {"invoice": 7})     # returns when stored
    publisher.close()

Calls from many greenlets and threads share one channel; each returns after its own confirm. When
the connection is lost before the confirm nobody knows whether the message is stored: it is sent
again with the same message id, so a duplicate is possible and a loss is not.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from itertools import takewhile
from typing import Any
from uuid import uuid4

import gevent
from attrs import evolve
from gevent.hub import Waiter
from gevent.lock import RLock

from limehub.amqp.channel import Channel
from limehub.amqp.connection import BrokerConnection, ConnectionSettings
from limehub.amqp.home import Home
from limehub.amqp.message import Outgoing, encodable, encode_body
from limehub.config.url import BrokerUrl
from limehub.errors import (
    BrokerError,
    BrokerRefused,
    ChannelClosed,
    ConfirmTimeout,
    ConnectionLost,
    ExchangeMissing,
    MessageRefused,
    Unroutable,
)

__all__ = ["Publisher", "current_application"]

log = logging.getLogger(__name__)

current_application: ContextVar[str | None] = ContextVar("current_application", default=None)
"""The application whose event is being handled in this greenlet."""

RECONNECT_CAP = 1.0
CHANNELS = 200
"""Of a publisher that keeps queues apart; further queues share one."""

CLOCK = 0.1
"""Seconds between two looks at deadlines."""


class Publisher:
    """Publishes events. Usable by any service, with or without gevent's patching.

    *broker*: a URL or ConnectionSettings; *exchange*: one exchange instead of
    `lime.<application>`; *routing_key_template*: as `events.routing_key_template`; *timeout*:
    seconds that one publish may take, reconnects included; *apart*: a channel for each queue that
    is sent to directly, since RabbitMQ holds a channel up for a queue which has lost its leader.
    """

    def __init__(
        self,
        broker: str | ConnectionSettings,
        *,
        applications: Iterable[str] = ("default",),
        exchange: str | None = None,
        routing_key_template: str = "{routing_key}",
        name: str = "limehub publisher",
        timeout: float = 30.0,
        apart: bool = False,
    ) -> None:
        self.timeout = timeout
        self._apart = apart
        self._settings = (
            ConnectionSettings(url=BrokerUrl.parse(broker)) if isinstance(broker, str) else broker
        )
        self._applications = tuple(applications)
        self._exchange = exchange
        self._template = routing_key_template
        self._name = name
        self._home = Home()
        self._session: _Session | None = None
        self._connecting: RLock | None = None
        self._closed = False
        self.published = 0

    def publish(
        self,
        routing_key: str,
        body: Any,
        *,
        application: str | None = None,
        exchange: str | None = None,
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        mandatory: bool = True,
        content_type: str = "application/json",
    ) -> str:
        """Publish *body* (bytes as they are, anything else as JSON); returns the message id.

        In a handler *application* is that of the event; elsewhere, with several configured, it
        must be named. Raises Unroutable if no queue is bound (not with *mandatory* False),
        ExchangeMissing, MessageRefused, ConfirmTimeout, BrokerError; ValueError for a bad call.
        """
        target = exchange or self.exchange_of(application)
        key = self._template.format(exchange=target, routing_key=routing_key)
        if len(key.encode()) > 255:
            raise ValueError(f"routing key of {len(key.encode())} bytes; AMQP allows 255: {key!r}")
        identity = message_id or str(uuid4())
        properties: dict[str, Any] = {"content_type": content_type, "content_encoding": "utf-8"}
        properties |= {"message_id": identity, "timestamp": int(time.time())}
        message = Outgoing(
            exchange=target,
            routing_key=key,
            body=encode_body(body),
            headers=encodable(headers) if headers else {},
            properties=properties,
            mandatory=mandatory,
        )
        self.send(message)
        return identity

    def send(self, message: Outgoing, *, timeout: float | None = None) -> None:
        """Publish a finished *message* and return after its confirm. Raises as `publish`."""
        if self._closed:
            raise BrokerError("the publisher is closed")
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        self._home.run(lambda: self._send_until(deadline, message))
        self.published += 1

    @property
    def frame_max(self) -> int:
        """The broker's largest frame in bytes; before the first connection RabbitMQ's default."""
        session = self._session
        return session.connection.frame_max if session else 131072

    @property
    def state(self) -> str:
        """`idle` (never used), `connected`, `blocked: why` or `disconnected`, for status pages."""
        session = self._session
        if session is None:
            return "idle"
        if not session.is_open:
            return "disconnected"
        blocked = session.connection.blocked
        return f"blocked: {blocked}" if blocked else "connected"

    def call(self, work: Callable[[BrokerConnection], Any]) -> Any:
        """Run *work*(connection) on this publisher's connection, as for a missing queue."""
        deadline = time.monotonic() + self.timeout
        return self._home.run(lambda: work(self._connected(deadline).connection))

    def exchange_of(self, application: str | None) -> str:
        """Return where `publish` sends an event of *application*. Raises ValueError."""
        if self._exchange is not None:
            return self._exchange
        name = application or current_application.get()
        if name is None and len(self._applications) == 1:
            name = self._applications[0]
        if name is None:
            known = ", ".join(self._applications)
            raise ValueError(f"publish(): name the application; configured are {known}")
        return f"lime.{name}"

    def close(self) -> None:
        """Close the connection in order. Publishing afterwards raises BrokerError."""
        if not self._closed:
            self._closed = True
            self._home.run(self._disconnect)
            self._home.close()

    def _send_until(self, deadline: float, message: Outgoing) -> None:
        attempt = 0
        while True:
            try:
                session = self._connected(deadline)
                session.check_exchange(message.exchange)
                session.publish(message, deadline)
            except (ExchangeMissing, Unroutable, MessageRefused, ConfirmTimeout, BrokerRefused):
                raise
            except BrokerError as error:
                attempt += 1
                delay = random.uniform(0, min(RECONNECT_CAP, 0.05 * 2**attempt))  # noqa: S311
                if time.monotonic() + delay > deadline:
                    raise ConfirmTimeout(f"not confirmed in time: {error}") from error
                gevent.sleep(delay)
            else:
                return

    def _connected(self, deadline: float) -> _Session:
        if self._session is not None and self._session.is_open:
            return self._session
        self._connecting = self._connecting or RLock()
        with self._connecting:
            if self._session is None or not self._session.is_open:
                left = max(0.1, min(self._settings.timeout, deadline - time.monotonic()))
                self._disconnect()
                settings = evolve(self._settings, timeout=left)
                self._session = _open_session(settings, self._name, apart=self._apart)
            return self._session

    def _disconnect(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.connection.close(timeout=2.0)


def _open_session(settings: ConnectionSettings, name: str, *, apart: bool) -> _Session:
    connection = BrokerConnection.open(settings, name)
    try:
        return _Session(connection, apart=apart)
    except BaseException:
        connection.close(timeout=1.0)
        raise


class _Pending:
    """A message on its way: whoever published it waits in *confirmed*."""

    __slots__ = ("confirmed", "deadline", "message", "returned")

    def __init__(self, message: Outgoing, deadline: float) -> None:
        self.message = message
        self.deadline = deadline
        self.confirmed: Waiter[None] = Waiter()
        self.returned: str | None = None


class _Session:
    """One connection: the exchanges that are known to be there, and its confirm channels."""

    def __init__(self, connection: BrokerConnection, *, apart: bool) -> None:
        self.connection = connection
        self._exchanges = {""}
        self._apart = apart
        self._opening = RLock()
        self._line = _Line(connection)
        self._by_queue: dict[str, _Line] = {}

    @property
    def is_open(self) -> bool:
        return self._line.is_open

    def check_exchange(self, name: str) -> None:
        """Ask for *name* on a channel of its own: a missing one would close ours under others."""
        if name in self._exchanges:
            return
        channel = self.connection.open_channel()
        try:
            channel.check_exchange(name)
            self._exchanges.add(name)
        finally:
            channel.close()

    def publish(self, message: Outgoing, deadline: float) -> None:
        line = self._line_to(message.routing_key) if self._apart else self._line
        line.publish(message, deadline)

    def _line_to(self, queue: str) -> _Line:
        found = self._by_queue.get(queue)
        if found is None and len(self._by_queue) < CHANNELS:
            with self._opening:
                found = self._by_queue.get(queue) or _Line(self.connection)
                self._by_queue[queue] = found
        return found or self._line


class _Line:
    """A confirm channel and what is on its way."""

    def __init__(self, connection: BrokerConnection) -> None:
        self.connection = connection
        self._pending: dict[int, _Pending] = {}
        self._next_tag = 1
        self._loop = gevent.get_hub().loop
        self._clock: Any = None
        self._channel: Channel = connection.open_channel()
        self._channel.on_closed = self._fail_all
        self._channel.confirm(self._on_confirm, self._on_return)

    @property
    def is_open(self) -> bool:
        return self._channel.usable

    def publish(self, message: Outgoing, deadline: float) -> None:
        if not self.is_open:  # closed for another message: its error is not this one's
            raise ConnectionLost("the channel was closed meanwhile")
        self._channel.publish(message)
        tag = self._next_tag
        self._next_tag += 1
        pending = self._pending[tag] = _Pending(message, deadline)
        if self._clock is None:
            self._start_clock()
        try:
            pending.confirmed.get()
        finally:
            self._pending.pop(tag, None)

    def _on_confirm(self, tag: int, multiple: bool, acked: bool) -> None:
        upto = takewhile(lambda each: each <= tag, self._pending)  # they stand in their order
        for each in list(upto) if multiple else [tag]:
            pending = self._pending.pop(each, None)
            if pending is not None:
                self._answer(pending, _verdict(pending, acked))

    def _answer(self, pending: _Pending, error: BrokerError | None) -> None:
        # Not at once: this runs in the hub while it reads.
        if error is None:
            self._loop.run_callback(pending.confirmed.switch, None)
        else:
            self._loop.run_callback(pending.confirmed.throw, error)

    # One clock for all that wait: a timer each would cost more than the publish.

    def _start_clock(self) -> None:
        self._clock = self._loop.timer(CLOCK, CLOCK)
        self._clock.start(self._tick)

    def _tick(self) -> None:
        if not self._pending:
            self._clock.stop()
            self._clock.close()
            self._clock = None
            return
        now = time.monotonic()
        for tag in [tag for tag, each in self._pending.items() if each.deadline <= now]:
            self._answer(self._pending.pop(tag), self._too_late())

    def _too_late(self) -> ConfirmTimeout:
        blocked = self.connection.blocked
        why = f"the broker blocks publishing: {blocked}" if blocked else "no confirm in time"
        return ConfirmTimeout(f"{why}; the message may or may not be stored")

    def _on_return(self, method: Any, properties: Any, body: bytes) -> None:
        """A return names no tag and comes before its confirm; equal messages are alike to it."""
        for pending in self._pending.values():
            message = pending.message
            if (
                pending.returned is None
                and message.routing_key == method.routing_key
                and message.exchange == method.exchange
                and message.properties.get("message_id") == properties.message_id
                and message.body == body
            ):
                pending.returned = f"{method.reply_code} {method.reply_text}"
                return

    def _fail_all(self, error: BrokerError) -> None:
        """The channel ended. A lone message caused it; of several nobody knows which: all retry.

        For a missing exchange all retry, too: the next session's check tells whose it was.
        """
        waiting = list(self._pending.values())
        self._pending.clear()
        ours = isinstance(error, ChannelClosed)
        refused = ours and len(waiting) == 1 and not isinstance(error, ExchangeMissing)
        verdict = MessageRefused(str(error)) if refused else ConnectionLost(str(error))
        for pending in waiting:
            self._answer(pending, verdict)
        if ours:  # confirms of this channel will never come
            self.connection.abort(ConnectionLost(str(error)))


def _verdict(pending: _Pending, acked: bool) -> BrokerError | None:
    """Return what went wrong with a message that the broker has answered for, if anything."""
    if acked and pending.returned is None:
        return None
    message = pending.message
    where = f"routing key {message.routing_key!r} on exchange {message.exchange!r}"
    if pending.returned is not None:
        return Unroutable(f"{where} reaches no queue ({pending.returned})")
    return MessageRefused(f"the broker refused a message: {where}")
