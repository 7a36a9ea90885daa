"""One AMQP channel with greenlet-blocking calls and limehub's exceptions.

pika raises nothing when the broker closes a channel or cancels a consumer: here every waiting call
fails with the broker's words, and `on_closed` tells whoever owns the channel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pika
import pika.exceptions
from gevent.event import AsyncResult

from limehub.amqp.acks import AckWindow
from limehub.amqp.delivery import Delivery, Subscription
from limehub.amqp.frames import content_frames, publish_method, reject_frame
from limehub.amqp.message import Outgoing, wire_properties
from limehub.errors import (
    BrokerError,
    ChannelClosed,
    ConnectionLost,
    ExchangeMissing,
    QueueBusy,
    QueueMissing,
)

if TYPE_CHECKING:
    from limehub.amqp.connection import BrokerConnection
    from limehub.amqp.outlet import Outlet

__all__ = ["Channel"]

RPC_TIMEOUT = 60.0
"""Seconds a synchronous method may take; a broker that needs longer is as good as lost."""


class Channel:
    """A channel of a `BrokerConnection`; made by `BrokerConnection.open_channel`."""

    def __init__(self, connection: BrokerConnection) -> None:
        self.connection = connection
        self.closed: BrokerError | None = None
        self.usable = False
        self.on_closed: Callable[[BrokerError], None] | None = None
        self._waiting: set[AsyncResult[Any]] = set()
        self._getting: AsyncResult[Delivery | None] | None = None
        self._cancelling: dict[str, AsyncResult[None]] = {}
        self._on_cancelled: dict[str, Callable[[], None]] | None = None
        self._pika: Any = None
        self._consumers = 0
        self._outlet: Outlet
        self._routes: dict[int, Subscription]
        self.acks: AckWindow
        """What acks deliveries: `channel.acks.done(tag)`; the broker does not answer."""

    def open(self, connection: Any) -> None:
        """Open it on pika's *connection*."""
        self._pika = self._wait(
            lambda done: connection.channel(on_open_callback=done), returns_channel=True
        )
        self.usable = True
        self._pika.basic_reject = self._reject_late
        self._outlet = self.connection.outlet
        self._routes = self.connection.routes
        self.acks = AckWindow(self.number, self._outlet.waiting)

    @property
    def is_open(self) -> bool:
        """Whether it can be used now."""
        return self.closed is None and self._pika is not None and bool(self._pika.is_open)

    @property
    def number(self) -> int:
        """Its number on the connection."""
        return int(self._pika.channel_number)

    # -- topology ---------------------------------------------------------------------------------

    def declare_queue(
        self, name: str, arguments: Mapping[str, Any] | None = None
    ) -> tuple[int, int]:
        """Declare a durable queue. Returns (ready messages, consumers); 406 is ChannelClosed."""
        return self._declare(queue=name, durable=True, arguments=dict(arguments or {}))

    def check_queue(self, name: str) -> tuple[int, int]:
        """Return (ready messages, consumers) of a queue that must exist. Raises QueueMissing."""
        return self._declare(queue=name, passive=True)

    def declare_lock(self, name: str) -> None:
        """Declare an exclusive queue that lives as long as this connection. Raises QueueBusy."""
        self._declare(queue=name, exclusive=True, auto_delete=True)

    def _declare(self, **kwargs: Any) -> tuple[int, int]:
        method = self._call("queue_declare", **kwargs).method
        return int(method.message_count), int(method.consumer_count)

    def delete_queue(self, name: str) -> int:
        """Delete a queue; a missing one is fine. Returns how many messages went with it."""
        return int(self._call("queue_delete", queue=name).method.message_count)

    def purge_queue(self, name: str) -> int:
        """Delete all ready messages of a queue. Returns how many."""
        return int(self._call("queue_purge", queue=name).method.message_count)

    def declare_exchange(self, name: str) -> None:
        """Declare a durable topic exchange. Raises ChannelClosed (406)."""
        self._call("exchange_declare", exchange=name, exchange_type="topic", durable=True)

    def check_exchange(self, name: str) -> None:
        """Return if the exchange exists. Raises ExchangeMissing."""
        self._call("exchange_declare", exchange=name, passive=True)

    def bind(self, queue: str, exchange: str, key: str) -> None:
        """Bind without waiting: `sync` afterwards tells whether all went well."""
        self._tell("queue_bind", queue=queue, exchange=exchange, routing_key=key)

    def unbind(self, queue: str, exchange: str, key: str) -> None:
        """Take a binding away; a missing one is fine."""
        self._call("queue_unbind", queue=queue, exchange=exchange, routing_key=key)

    def sync(self) -> None:
        """Return when the broker has processed all that was sent on this channel before."""
        self._call("basic_qos", prefetch_count=0)

    # -- consuming --------------------------------------------------------------------------------

    def consume(
        self,
        queue: str,
        *,
        prefetch: int,
        on_deliveries: Callable[[list[Delivery]], None],
        on_cancelled: Callable[[], None],
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Consume *queue*; returns the confirmed consumer tag.

        *on_deliveries* runs in the hub for all that came at once and must not block; *on_cancelled*
        when the broker ends the consumer (queue deleted, acknowledgement timeout).
        """
        if self._on_cancelled is None:
            self._on_cancelled = {}
            self._pika.add_on_cancel_callback(self._cancelled_by_broker)
        self._call("basic_qos", prefetch_count=prefetch)

        self._consumers += 1
        tag = f"limehub.{self._consumers}"
        subscription = Subscription(self, queue, tag, on_deliveries)

        def deliver(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
            on_deliveries([Delivery.decoded(subscription, method, properties, body)])

        self._routes[self.number] = subscription
        self._call(
            "basic_consume",
            queue=queue,
            on_message_callback=deliver,
            arguments=dict(arguments or {}),
            consumer_tag=tag,
        )
        self._on_cancelled[tag] = on_cancelled
        return tag

    def is_consuming(self, tag: str) -> bool:
        """Whether the broker has confirmed the consumer *tag* here and it still stands."""
        # pika lists it before the answer has come.
        confirmed = self._on_cancelled or ()
        return self.is_open and tag in confirmed and tag in self._pika.consumer_tags

    def cancel(self, tag: str) -> None:
        """End the consumer; when this returns no further delivery of it comes."""
        # pika would forget the second of two who ask, also when the first was killed meanwhile.
        if tag in self._cancelling:
            self._cancelling[tag].wait(RPC_TIMEOUT)
        elif self.is_consuming(tag):
            answer = self._cancelling[tag] = AsyncResult()
            answer.rawlink(lambda _answer: self._cancelling.pop(tag, None))
            self._routes.pop(self.number, None)  # what still comes, pika gives back
            self._wait(lambda done: self._pika.basic_cancel(tag, callback=done), result=answer)

    def _cancelled_by_broker(self, frame: Any) -> None:
        on_cancelled = (self._on_cancelled or {}).pop(str(frame.method.consumer_tag), None)
        if on_cancelled is not None:
            on_cancelled()

    def get(self, queue: str) -> Delivery | None:
        """Take one message of *queue* without consuming it, or None if none is ready."""
        self._check_open()
        if self._getting is None:
            empty = [pika.spec.Basic.GetEmpty]
            self._pika.add_callback(lambda _frame: self._got(None), empty, one_shot=False)
        self._getting = AsyncResult()

        def got(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
            self._got(Delivery.decoded(Subscription(self, queue), method, properties, body))

        taken = self._wait(lambda _done: self._pika.basic_get(queue, got), result=self._getting)
        return taken if isinstance(taken, Delivery) else None

    def _got(self, delivery: Delivery | None) -> None:
        if self._getting is not None:
            self._getting.set(delivery)

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Give a delivery back (*requeue*) or away; the broker does not answer."""
        self._outlet.write(reject_frame(self.number, tag, requeue))
        self.acks.gone(tag)

    def _reject_late(self, delivery_tag: int = 0, requeue: bool = True) -> None:
        """Stand in for pika's own reject, by which it gives back what comes after a cancel."""
        if self.is_open:
            self.reject(delivery_tag, requeue=requeue)

    # -- publishing -------------------------------------------------------------------------------

    def confirm(
        self, on_confirm: Callable[[int, bool, bool], None], on_return: Callable[..., None]
    ) -> None:
        """Turn confirms on: *on_confirm*(tag, multiple, acked), *on_return*(method, ..., body)."""

        self._pika.add_on_return_callback(
            lambda _channel, method, properties, body: on_return(method, properties, body)
        )
        self.connection.confirms[self.number] = on_confirm
        self._wait(lambda done: self._pika.confirm_delivery(_read_by_ourselves, callback=done))

    def publish(self, message: Outgoing) -> None:
        """Send *message*; with confirms on the answer comes to `on_confirm`."""
        if not self.usable:
            self._check_open()
        method = publish_method(message.exchange, message.routing_key, message.mandatory)
        properties, frame_max = wire_properties(message), self.connection.frame_max
        frames = content_frames(self.number, method, properties, message.body, frame_max)
        self._outlet.write(frames)

    def close(self) -> None:
        """Close in order: acks written before are processed first; unacked deliveries go back."""
        if not self.is_open:
            return
        self.usable = False
        with contextlib.suppress(BrokerError, pika.exceptions.ChannelWrongStateError):
            self._pika.close()
            self._wait(lambda _done: None)

    # -- the end of a channel ---------------------------------------------------------------------

    def connection_lost(self, error: BrokerError) -> None:
        """Tell that the connection is gone."""
        self._end(error)

    def _on_closed(self, _channel: Any, error: BaseException) -> None:
        self.connection.forget(self)
        self._end(_translated(error))

    def _end(self, error: BrokerError) -> None:
        if self.closed is not None:
            return
        self.closed = error
        self.usable = False
        if self._pika is not None:
            self._routes.pop(self.number, None)
            self.connection.confirms.pop(self.number, None)
        for result in {*self._waiting, *self._cancelling.values()}:
            result.set_exception(error)
        if self.on_closed:
            self.on_closed(error)

    # -- calls ------------------------------------------------------------------------------------

    def _call(self, method: str, **kwargs: Any) -> Any:
        """Send a synchronous *method* and wait for its answer."""
        self._check_open()
        return self._wait(lambda done: getattr(self._pika, method)(callback=done, **kwargs))

    def _tell(self, method: str, **kwargs: Any) -> None:
        self._check_open()
        getattr(self._pika, method)(**kwargs)

    def _tell_raw(self, method: str, *args: Any) -> None:
        self._check_open()
        getattr(self._pika, method)(*args)

    def _check_open(self) -> None:
        if not self.is_open:
            raise self.closed or self.connection.reason or ConnectionLost("the channel is closed")

    def _wait(
        self,
        send: Callable[[Callable[..., None]], Any],
        *,
        result: AsyncResult[Any] | None = None,
        returns_channel: bool = False,
    ) -> Any:
        done: AsyncResult[Any] = result or AsyncResult()
        self._waiting.add(done)
        try:
            sent = send(done.set)
            if returns_channel:
                sent.add_on_close_callback(self._on_closed)
            # Not get(timeout): its Timeout could not be told from one that a handler has set.
            done.wait(RPC_TIMEOUT)
            if not done.ready():
                lost = ConnectionLost(f"the broker did not answer within {RPC_TIMEOUT:g} s")
                self.connection.abort(lost)
                raise lost
            return done.get()
        finally:
            self._waiting.discard(done)


def _read_by_ourselves(_frame: Any) -> None:
    """pika wants somebody to call; confirms never reach it."""


def _translated(error: BaseException) -> BrokerError:
    if not isinstance(error, pika.exceptions.ChannelClosed):
        return ConnectionLost(str(error) or type(error).__name__)
    code, text = int(error.reply_code), str(error.reply_text)
    if code == 404:
        return (ExchangeMissing if "no exchange" in text else QueueMissing)(code, text)
    if code in (403, 405):
        return QueueBusy(code, text)
    return ChannelClosed(code, text)
