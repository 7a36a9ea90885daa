"""One queue: what waits in it, who consumes it, and how messages leave it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

from limehub.broker.state.arguments import QueueSettings
from limehub.broker.state.backlog import Backlog
from limehub.broker.state.consumers import Consumer, Consumers
from limehub.broker.state.message import Message
from limehub.broker.tables import Table

if TYPE_CHECKING:
    from limehub.broker.state.exchanges import Exchange
    from limehub.broker.state.vhost import VirtualHost

__all__ = ["DEEP", "Queue"]

DEEP = 1000
"""From this many ready or unacked messages on, what the file has does not stay in memory."""
_PAGE = 200
"""Messages read from the file at a time."""
_TRY_AGAIN = 5.0
"""Seconds until a dead letter that no queue took is tried again (at-least-once only)."""


@define(eq=False)
class Queue:
    """A queue of *vhost*. *owner*: the connection that an exclusive queue belongs to."""

    name: str
    vhost: VirtualHost
    settings: QueueSettings = field(factory=QueueSettings)
    durable: bool = False
    auto_delete: bool = False
    arguments: Table = field(factory=dict)
    owner: object | None = None
    row: int = 0
    deleted: bool = False
    unacked: int = 0
    held: int = 0
    """Bytes of the bodies of all messages, ready and unacked."""
    bound_from: dict[Exchange, int] = field(factory=dict)
    backlog: Backlog = field(init=False)
    consumers: Consumers = field(init=False)
    _keeps: bool = field(init=False)
    _expires_any: bool = field(default=False, init=False)
    _timer: float | None = field(default=None, init=False)
    _used: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self.backlog = Backlog(self.settings.max_priority)
        self.consumers = Consumers(single_active=self.settings.single_active)
        self._keeps = self.durable and self.owner is None and self.vhost.store.durable
        self.touch()

    @property
    def where(self) -> str:
        """For texts of refusals."""
        return f"queue '{self.name}' in vhost '{self.vhost.name}'"

    @property
    def keeps_messages(self) -> bool:
        """Whether persistent messages here outlive the broker."""
        return self._keeps

    # Coming in

    def publish(self, message: Message, *, persistent: bool) -> bool:
        """Take a new message; False if it is refused because the queue is full."""
        settings = self.settings
        if settings.is_limited and settings.overflow != "drop-head" and self._is_full(message):
            if settings.overflow == "reject-publish-dlx":
                self.held += message.size
                self._dead_letter(message, "maxlen")
            return False
        if settings.ttl is not None:
            self._limit_life(message, settings.ttl)
        if persistent and self._keeps:
            message.stored = True
            self.vhost.store.add(self, message)
        self.backlog.push(message)
        self.held += message.size
        if message.expires is not None or settings.is_limited:
            self._admit(message)
        else:
            self.vhost.dirty[self] = None
        return True

    def restore(self, message: Message) -> None:
        """Take a message from the file back at the start."""
        self.backlog.push(message)
        self.held += message.size
        self._expires_any = self._expires_any or message.expires is not None
        self.vhost.dirty[self] = None

    def _limit_life(self, message: Message, ttl: float) -> None:
        ends = self.vhost.timers.clock() + ttl
        message.expires = ends if message.expires is None else min(message.expires, ends)

    def _admit(self, message: Message) -> None:
        """A message that may not stay: consumers first, then limits."""
        if message.expires is not None:
            self._expires_any = True
        self._serve()
        self._drop_surplus()
        self._drop_expired()

    def _is_full(self, message: Message) -> bool:
        settings, backlog = self.settings, self.backlog
        if settings.max_length is not None and len(backlog) + 1 > settings.max_length:
            return True
        return settings.max_bytes is not None and backlog.size + message.size > settings.max_bytes

    def _drop_surplus(self) -> None:
        settings, backlog = self.settings, self.backlog
        while backlog and (
            (settings.max_length is not None and len(backlog) > settings.max_length)
            or (settings.max_bytes is not None and backlog.size > settings.max_bytes)
        ):
            self._dead_letter(backlog.pop(), "maxlen")

    # Going out

    def dispatch(self) -> None:
        """Send what is ready to those who can take it; drop what has expired."""
        if self._expires_any:
            self._drop_expired()
        self._serve()
        if self._expires_any:
            self._set_timer()

    def get(self) -> Message | None:
        """Take the next message for `basic.get`; None when the queue is empty."""
        self.touch()
        self.dispatch()
        return self._take() if self.backlog else None

    def _serve(self) -> None:
        backlog, next_ready = self.backlog, self.consumers.next_ready
        while backlog:
            consumer = next_ready()
            if consumer is None:
                return
            consumer.channel.deliver(consumer, self._take())

    def _take(self) -> Message:
        message = self.backlog.pop()
        if message.body is None:
            self._load(message)
        self.unacked += 1
        return message

    def _load(self, message: Message) -> None:
        following = [one for one in self.backlog.oldest(_PAGE) if one.body is None]
        self.vhost.store.load([message, *following[: _PAGE - 1]])

    # Coming to an end

    def settle(self, message: Message) -> None:
        """The consumer is done with it."""
        self.unacked -= 1
        self._forget(message)

    def requeue(self, message: Message) -> None:
        """Put a message back to its place; beyond the delivery limit it is a dead letter."""
        if self.deleted:
            self.settle(message)
            return
        self.unacked -= 1
        message.redelivered = True
        if self.settings.quorum and self._was_last_delivery(message):
            self._dead_letter(message, "delivery_limit")
            return
        self.backlog.put_back(message)
        self.vhost.dirty[self] = None
        if self.settings.is_limited and self.settings.overflow == "drop-head":
            self._serve()
            self._drop_surplus()

    def reject(self, message: Message) -> None:
        """The consumer does not want it and nobody else shall have it."""
        if self.deleted:
            self.settle(message)
            return
        self.unacked -= 1
        self._dead_letter(message, "rejected")

    def purge(self) -> int:
        """Drop all ready messages, without dead letters; returns how many."""
        self.held -= self.backlog.size
        messages = self.backlog.clear()
        self.vhost.store.remove([message for message in messages if message.stored])
        return len(messages)

    def _was_last_delivery(self, message: Message) -> bool:
        message.deliveries += 1
        if message.stored:
            self.vhost.store.count_delivery(message)
        limit = self.settings.delivery_limit
        return limit is not None and message.deliveries > limit

    def _forget(self, message: Message) -> None:
        self.held -= message.size
        if message.stored:
            self.vhost.store.remove((message,))

    def _dead_letter(self, message: Message, reason: str) -> None:
        if self.settings.dead_letter_exchange is None:
            self._forget(message)
            return
        if message.body is None:
            self._load(message)
        taken = self.vhost.dead_letter(self, message, reason)
        if taken or not self._must_arrive():
            self._forget(message)
            return
        self.unacked += 1  # neither ready nor gone
        again = self.vhost.timers.clock() + _TRY_AGAIN
        self.vhost.timers.at(again, lambda: self._dead_letter_again(message, reason))

    def _must_arrive(self) -> bool:
        strategy = self.arguments.get("x-dead-letter-strategy")
        reject = self.settings.overflow == "reject-publish"
        return strategy is not None and strategy.value == b"at-least-once" and reject

    def _dead_letter_again(self, message: Message, reason: str) -> None:
        self.unacked -= 1
        if self.deleted:
            self._forget(message)
        else:
            self._dead_letter(message, reason)

    # Time

    def touch(self) -> None:
        """It is in use: `x-expires` starts anew."""
        expires = self.settings.expires
        if expires is None:
            return
        first = not self._used
        self._used = self.vhost.timers.clock()
        if first:
            self.vhost.timers.at(self._used + expires, self._expire_if_unused)

    def _expire_if_unused(self) -> None:
        expires, timers = self.settings.expires, self.vhost.timers
        if self.deleted or expires is None:
            return
        if self.consumers:
            self._used = timers.clock()
        if timers.clock() >= self._used + expires:
            self.vhost.remove_queue(self)
        else:
            timers.at(self._used + expires, self._expire_if_unused)

    def _drop_expired(self) -> None:
        now = self.vhost.timers.clock()
        while (message := self.backlog.pop_if_expired(now)) is not None:
            self._dead_letter(message, "expired")
        self._set_timer()

    def _set_timer(self) -> None:
        when = self.backlog.next_expiry()
        if when is not None and (self._timer is None or when < self._timer):
            self._timer = when
            self.vhost.timers.at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self.deleted:
            self._drop_expired()

    # Consumers

    def add_consumer(self, consumer: Consumer) -> None:
        """Let *consumer* have messages from the next `dispatch` on."""
        self.touch()
        self.consumers.add(consumer)
        self.vhost.dirty[self] = None

    def remove_consumer(self, consumer: Consumer) -> None:
        """Forget *consumer*; the last one takes an auto-delete queue along."""
        self.consumers.remove(consumer)
        self.touch()
        if self.auto_delete and not len(self.consumers) and not self.deleted:
            self.vhost.remove_queue(self)
        else:
            self.vhost.dirty[self] = None

    def wake(self, consumer: Consumer) -> None:
        """*consumer* may have room again."""
        self.consumers.wake(consumer)
        if self.backlog:
            self.vhost.dirty[self] = None
