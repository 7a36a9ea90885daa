"""A channel: delivery tags, prefetch, acknowledgements, confirms, transactions."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from limehub.broker.properties import Properties, headers_of
from limehub.broker.refusals import ChannelRefusal, ConnectionRefusal
from limehub.broker.state.confirms import Confirms
from limehub.broker.state.consumers import Consumer
from limehub.broker.state.message import Message
from limehub.broker.state.publication import (
    Publication,
    checked_properties,
    copies,
    without_blind_copies,
)
from limehub.broker.state.queue import DEEP, Queue
from limehub.broker.state.vhost import VirtualHost
from limehub.broker.tables import Table

__all__ = ["Channel", "Link", "Outlet"]


class Link(Protocol):
    """The connection of a channel."""

    user: str

    @property
    def congested(self) -> bool:
        """Whether it has more to send than its client reads."""


class Outlet(Protocol):
    """Where a channel sends what its client has not asked for."""

    def deliver(self, consumer: Consumer, tag: int, message: Message) -> None:
        """Send a message to a consumer."""

    def give_back(self, publication: Publication) -> None:
        """Return a mandatory message that reached no queue."""

    def cancelled(self, consumer: Consumer) -> None:
        """Tell that a consumer's queue is gone."""

    def confirms_ready(self) -> None:
        """`channel.confirms.collect()` has something."""


class Unacked(NamedTuple):
    """A delivery that waits for its acknowledgement; *consumer* is None after `basic.get`."""

    message: Message
    queue: Queue
    consumer: Consumer | None


class Settlement(NamedTuple):
    """What a transaction will do to some deliveries."""

    entries: list[tuple[int, Unacked]]
    finish: Callable[[Queue, Message], None]


class Channel:
    """One channel of a connection (*link*). Not usable any more after `close()`.

    *prefetch*: for all consumers together (`basic.qos global`), 0 is no limit; *consumer_prefetch*:
    for each one that comes.
    """

    def __init__(self, vhost: VirtualHost, link: Link, outlet: Outlet) -> None:
        self.vhost = vhost
        self.link = link
        self.prefetch = 0
        self.consumer_prefetch = 0
        self.outstanding = 0
        self.confirms: Confirms | None = None
        self.consumers: dict[str, Consumer] = {}
        self.last_queue = ""
        self._outlet = outlet
        self._unacked: OrderedDict[int, Unacked] = OrderedDict()
        self._last_tag = 0
        self._transaction: list[Publication | Settlement] | None = None

    @property
    def transactional(self) -> bool:
        """Whether it is in tx mode."""
        return self._transaction is not None

    # Publishing

    def publish(self, publication: Publication) -> None:
        """Take a message. Raises ChannelRefusal (403, 404, 406)."""
        if self._transaction is not None:
            self._check(publication)
            self._transaction.append(publication)
            return
        self._publish(publication)

    def _publish(self, publication: Publication) -> None:
        known, keys = self._check(publication)
        if len(keys) > 1 and b"BCC" in publication.raw:
            publication = publication._replace(raw=without_blind_copies(publication.raw))
        vhost = self.vhost
        tag = 0 if self.confirms is None else self.confirms.begin()
        queues = vhost.route(vhost.exchanges[publication.exchange], keys, publication.raw)
        if not queues and publication.mandatory:
            self._outlet.give_back(publication)
        accepted, stored = self._enqueue(publication, known, queues)
        if tag:
            self._confirm(tag, accepted, stored)

    def _enqueue(
        self, publication: Publication, known: Properties, queues: Sequence[Queue]
    ) -> tuple[bool, bool]:
        """Put it into its queues; returns (all accepted it, any of them stores it)."""
        expires = None
        if known.expiration is not None:
            expires = self.vhost.timers.clock() + int(known.expiration) / 1000
        _, _, address, raw, body, _ = publication
        persistent = known.persistent
        size = self.vhost.one_size(len(body))
        accepted, stored = True, False
        for queue in queues:
            message = Message(
                self.vhost.next_number(), address, raw, body, size, known.priority, expires
            )
            accepted = queue.publish(message, persistent=persistent) and accepted
            stored = stored or message.stored
        return accepted, stored

    def _confirm(self, tag: int, accepted: bool, stored: bool) -> None:
        confirms = self.confirms
        if confirms is None:
            return
        if not accepted:
            confirms.refuse(tag)
        elif stored and self.vhost.store.when_kept(lambda: self._kept(tag)):
            return
        else:
            confirms.settle(tag)
        self._outlet.confirms_ready()

    def _kept(self, tag: int) -> None:
        if self.confirms is not None:
            self.confirms.settle(tag)
            self._outlet.confirms_ready()

    def _check(self, publication: Publication) -> tuple[Properties, list[str]]:
        exchange = self.vhost.exchange(publication.exchange)
        if exchange.internal:
            where = f"exchange '{exchange.name}' in vhost '{self.vhost.name}'"
            raise ChannelRefusal(403, f"cannot publish to internal {where}")
        known = checked_properties(publication.raw, self.link.user)
        if known.has_headers and b"CC" in publication.raw:
            return known, [publication.key, *copies(headers_of(publication.raw))]
        return known, [publication.key]

    # Consuming

    def consume(
        self,
        queue: Queue,
        *,
        tag: str = "",
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Table | None = None,
    ) -> Consumer:
        """Subscribe; messages come with the next `settle` of the virtual host.

        Raises ChannelRefusal (403, 406), ConnectionRefusal (530) for a tag in use.
        """
        tag = tag or f"amq.ctag-{uuid.uuid4().hex}"
        if tag in self.consumers:
            raise ConnectionRefusal(530, f"attempt to reuse consumer tag '{tag}'")
        if queue.consumers.exclusive or (exclusive and len(queue.consumers)):
            raise ChannelRefusal(403, f"{queue.where} in exclusive use")
        consumer = Consumer(
            tag=tag,
            channel=self,
            queue=queue,
            no_ack=no_ack,
            exclusive=exclusive,
            priority=_priority(arguments or {}, queue),
            prefetch=self.consumer_prefetch,
        )
        self.consumers[tag] = consumer
        queue.add_consumer(consumer)
        return consumer

    def cancel(self, tag: str) -> None:
        """End a subscription; what was delivered stays unacked. Fine if there is none."""
        consumer = self.consumers.pop(tag, None)
        if consumer is not None:
            consumer.queue.remove_consumer(consumer)

    def queue_is_gone(self, consumer: Consumer) -> None:
        """The queue of *consumer* was deleted."""
        self.consumers.pop(consumer.tag, None)
        self._outlet.cancelled(consumer)

    def deliver(self, consumer: Consumer, message: Message) -> None:
        """Send *message* of its queue to *consumer*."""
        self._last_tag = tag = self._last_tag + 1
        self._outlet.deliver(consumer, tag, message)
        if consumer.no_ack:
            consumer.queue.settle(message)
            return
        self._unacked[tag] = Unacked(message, consumer.queue, consumer)
        consumer.unacked += 1
        self.outstanding += 1
        if message.in_file and consumer.queue.unacked > DEEP:
            message.leave_memory()

    def get(self, queue: Queue, *, no_ack: bool) -> tuple[int, Message, int] | None:
        """Take one message: (delivery tag, message, how many are left), or None."""
        message = queue.get()
        if message is None:
            return None
        self._last_tag += 1
        if no_ack:
            queue.settle(message)
        else:
            self._unacked[self._last_tag] = Unacked(message, queue, None)
        return self._last_tag, message, len(queue.backlog)

    def qos(self, count: int, *, shared: bool) -> None:
        """Set how many deliveries may wait for an ack: of all consumers, or of each new one."""
        if not shared:
            self.consumer_prefetch = count
            return
        self.prefetch = count
        self.wake_all()

    def wake_all(self) -> None:
        """Let parked consumers look again whether they have room."""
        for consumer in self.consumers.values():
            if consumer.parked:
                consumer.queue.wake(consumer)

    # Acknowledging

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Settle deliveries. Raises ChannelRefusal (406) for an unknown tag."""
        self._finish(self._collect(tag, multiple), Queue.settle)

    def nack(self, tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        """Put deliveries back, or make dead letters of them. Raises ChannelRefusal (406)."""
        self._finish(self._collect(tag, multiple), Queue.requeue if requeue else Queue.reject)

    def recover(self) -> None:
        """Put all deliveries back."""
        self._finish(self._collect(0, True), Queue.requeue)

    def _collect(self, tag: int, multiple: bool) -> list[tuple[int, Unacked]]:
        unacked = self._unacked
        if not multiple or tag:
            entry = unacked.get(tag)
            if entry is None:
                raise ChannelRefusal(406, f"unknown delivery tag {tag}")
            if not multiple:
                del unacked[tag]
                return [(tag, entry)]
        collected = []
        while unacked:
            entry_of_tag = unacked.popitem(last=False)
            collected.append(entry_of_tag)
            if entry_of_tag[0] == tag:
                break
        return collected

    def _finish(
        self, entries: list[tuple[int, Unacked]], finish: Callable[[Queue, Message], None]
    ) -> None:
        if self._transaction is not None:
            self._transaction.append(Settlement(entries, finish))
            return
        for _, (message, queue, consumer) in entries:
            finish(queue, message)
            if consumer is None:
                continue
            consumer.unacked -= 1
            self.outstanding -= 1
            if consumer.parked:
                queue.wake(consumer)
        if self.prefetch:
            self.wake_all()

    # Modes

    def select_confirms(self) -> None:
        """Number publications and confirm each. Raises ChannelRefusal (406) in tx mode."""
        if self._transaction is not None:
            raise ChannelRefusal(406, "cannot switch from tx to confirm mode")
        self.confirms = self.confirms or Confirms()

    def select_tx(self) -> None:
        """Hold publications and acknowledgements until `commit`. Raises ChannelRefusal (406)."""
        if self.confirms is not None:
            raise ChannelRefusal(406, "cannot switch from confirm to tx mode")
        if self._transaction is None:
            self._transaction = []

    def commit(self) -> None:
        """Do what the transaction holds. Raises ChannelRefusal (406) outside one."""
        held = self._take_transaction()
        self._transaction = None
        try:
            for step in held:
                if isinstance(step, Publication):
                    self._publish(step)
                else:
                    self._finish(step.entries, step.finish)
        finally:
            self._transaction = []

    def rollback(self) -> None:
        """Forget what the transaction holds; its deliveries are unacked again."""
        held = self._take_transaction()
        self._restore(held)
        self._transaction = []

    def _take_transaction(self) -> list[Publication | Settlement]:
        if self._transaction is None:
            raise ChannelRefusal(406, "channel is not transactional")
        return self._transaction

    def _restore(self, held: list[Publication | Settlement]) -> None:
        entries = [one for step in held if isinstance(step, Settlement) for one in step.entries]
        self._unacked = OrderedDict(sorted([*self._unacked.items(), *entries]))

    def close(self) -> None:
        """End all subscriptions and put all deliveries back."""
        if self._transaction is not None:
            self._restore(self._transaction)
            self._transaction = None
        consumers, self.consumers = self.consumers, {}
        for consumer in consumers.values():
            if not consumer.queue.deleted:
                consumer.queue.remove_consumer(consumer)
        self._finish(self._collect(0, True), Queue.requeue)
        self.confirms = None


def _priority(arguments: Table, queue: Queue) -> int:
    field = arguments.get("x-priority")
    if field is None:
        return 0
    if not field.is_integer:
        complaint = f'"expected integer, got {field.type_name}"'
        raise ChannelRefusal(406, f"invalid arg 'x-priority' for {queue.where}: {complaint}")
    return int(field.value)
