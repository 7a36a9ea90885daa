"""A virtual host: names, bindings, and the way of a message from an exchange into queues."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from limehub.broker.properties import headers_of, read_properties
from limehub.broker.refusals import ChannelRefusal, ConnectionRefusal
from limehub.broker.state.arguments import (
    COMPARED,
    COMPARED_QUORUM,
    assert_equivalent,
    queue_settings,
    string_argument,
)
from limehub.broker.state.deaths import carbon_copies, dead_properties, died_in_a_circle
from limehub.broker.state.exchanges import TYPES, Binding, Exchange, check_binding_arguments
from limehub.broker.state.message import Message, address_of, read_address
from limehub.broker.state.names import generated_name, not_default, not_reserved
from limehub.broker.state.queue import Queue
from limehub.broker.state.routing import Router
from limehub.broker.state.store import Store
from limehub.broker.state.timers import Timers
from limehub.broker.tables import Field, Table

__all__ = ["VirtualHost"]

_BUILT_IN = (
    ("", "direct"),
    ("amq.direct", "direct"),
    ("amq.fanout", "fanout"),
    ("amq.topic", "topic"),
    ("amq.headers", "headers"),
    ("amq.match", "headers"),
)
_SIZES = 4096
_CLASSIC = Field(b"S", b"classic")


class VirtualHost:
    """Exchanges and queues by name. `settle()` sends out what the last calls have made ready."""

    def __init__(
        self,
        name: str,
        *,
        store: Store,
        timers: Timers,
        numbers: Iterator[int] | None = None,
        rows: Iterator[int] | None = None,
    ) -> None:
        self.name = name
        self.store = store
        self.timers = timers
        self.queues: dict[str, Queue] = {}
        self.exchanges: dict[str, Exchange] = {
            name: Exchange(name=name, kind=kind, durable=True, internal=False)
            for name, kind in _BUILT_IN
        }
        self.dirty: dict[Queue, None] = {}
        self._numbers = itertools.count(1) if numbers is None else numbers
        self._rows = itertools.count(1) if rows is None else rows
        self._sizes: dict[int, int] = {}
        self._router = Router(self.exchanges, self.queues)

    def settle(self) -> None:
        """Dispatch every queue in which something changed."""
        while self.dirty:
            for queue in list(self.dirty):
                del self.dirty[queue]
                if not queue.deleted:
                    queue.dispatch()

    # Looking up

    def exchange(self, name: str) -> Exchange:
        """Return an exchange. Raises ChannelRefusal (404)."""
        found = self.exchanges.get(name)
        if found is None:
            raise ChannelRefusal(404, f"no exchange '{name}' in vhost '{self.name}'")
        return found

    def queue(self, name: str, owner: object) -> Queue:
        """Return a queue that *owner* may use. Raises ChannelRefusal (404, 405)."""
        found = self.queues.get(name)
        if found is None:
            raise ChannelRefusal(404, f"no queue '{name}' in vhost '{self.name}'")
        if found.owner is not None and found.owner is not owner:
            raise _locked(found)
        return found

    # Exchanges

    def declare_exchange(
        self,
        name: str,
        kind: str,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Table | None = None,
    ) -> Exchange:
        """Make an exchange or check that the one there is the same.

        Raises ChannelRefusal (403, 406), ConnectionRefusal (503) for an unknown kind.
        """
        arguments = arguments or {}
        if kind not in TYPES:
            raise ConnectionRefusal(503, f"invalid exchange type '{kind}'")
        not_default(name)
        found = self.exchanges.get(name)
        if found is not None:
            wanted = (("type", kind), ("durable", durable), ("auto_delete", auto_delete))
            self._compare_exchange(found, (*wanted, ("internal", internal)), arguments)
            return found
        not_reserved("exchange", name)
        where = f"exchange '{name}' in vhost '{self.name}'"
        exchange = Exchange(
            name=name,
            kind=kind,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=arguments,
            alternate=string_argument(arguments, "alternate-exchange", where),
        )
        self.add_exchange(exchange)
        if durable:
            self.store.add_exchange(self.name, exchange)
        return exchange

    def add_exchange(self, exchange: Exchange) -> None:
        """Put an exchange into its place."""
        self.exchanges[exchange.name] = exchange
        self._router.forget()

    def _compare_exchange(
        self, found: Exchange, wanted: tuple[tuple[str, object], ...], arguments: Table
    ) -> None:
        where = f"exchange '{found.name}' in vhost '{self.name}'"
        has = {
            "type": found.kind,
            "durable": found.durable,
            "auto_delete": found.auto_delete,
            "internal": found.internal,
        }
        for name, value in wanted:
            assert_equivalent(where, name, value, has[name])
        alternate = "alternate-exchange"
        assert_equivalent(
            where, alternate, arguments.get(alternate), found.arguments.get(alternate)
        )

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        """Remove an exchange with its bindings; fine if there is none.

        Raises ChannelRefusal (403, 406).
        """
        not_default(name)
        if name.startswith("amq."):
            text = f"deletion of system exchange '{name}' in vhost '{self.name}' not allowed"
            raise ChannelRefusal(403, text)
        exchange = self.exchanges.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            raise ChannelRefusal(406, f"exchange '{name}' in vhost '{self.name}' in use")
        self._remove_exchange(exchange)

    def _remove_exchange(self, exchange: Exchange) -> None:
        self.exchanges.pop(exchange.name, None)
        self._router.forget()
        if exchange.durable:
            self.store.remove_exchange(self.name, exchange)
        for binding in list(exchange.bindings.values()):
            self._unbind(binding)
        self._unbind_destination(exchange)

    # Queues

    def declare_queue(
        self,
        name: str,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        owner: object | None = None,
        by: object | None = None,
        arguments: Table | None = None,
    ) -> Queue:
        """Make a queue or check that the one there is the same; "" gives it a name.

        *owner*: the connection of an exclusive queue; *by*: the connection that asks.
        Raises ChannelRefusal (403, 405, 406).
        """
        arguments = arguments or {}
        found = self.queues.get(name) if name else None
        if found is not None:
            self._compare_queue(found, durable, auto_delete, owner, by, arguments)
            found.touch()
            return found
        if name:
            not_reserved("queue", name)
        name = name or generated_name()
        where = f"queue '{name}' in vhost '{self.name}'"
        settings = queue_settings(arguments, where)
        _check_quorum(settings.quorum, where, durable, auto_delete, owner)
        queue = Queue(
            name=name,
            vhost=self,
            settings=settings,
            durable=durable,
            auto_delete=auto_delete,
            arguments=arguments,
            owner=owner,
            row=next(self._rows),
        )
        self.add_queue(queue)
        if queue.durable and queue.owner is None:
            self.store.add_queue(self.name, queue)
        return queue

    def add_queue(self, queue: Queue) -> None:
        """Put a queue into its place."""
        self.queues[queue.name] = queue
        self._router.forget()

    def _compare_queue(
        self,
        found: Queue,
        durable: bool,
        auto_delete: bool,
        owner: object | None,
        by: object | None,
        arguments: Table,
    ) -> None:
        if found.owner is not owner or (found.owner is not None and found.owner is not by):
            raise _locked(found)
        assert_equivalent(found.where, "durable", durable, found.durable)
        assert_equivalent(found.where, "auto_delete", auto_delete, found.auto_delete)
        for name in COMPARED:
            assert_equivalent(found.where, name, arguments.get(name), found.arguments.get(name))
        kind = "x-queue-type"
        if arguments.get(kind, _CLASSIC) != found.arguments.get(kind, _CLASSIC):
            assert_equivalent(found.where, kind, arguments.get(kind), found.arguments.get(kind))
        for name in COMPARED_QUORUM if found.settings.quorum else ():
            assert_equivalent(found.where, name, arguments.get(name), found.arguments.get(name))

    def delete_queue(
        self, name: str, by: object, *, if_unused: bool = False, if_empty: bool = False
    ) -> int:
        """Remove a queue; returns how many messages were ready. Fine if there is none.

        Raises ChannelRefusal (405, 406).
        """
        if name not in self.queues:
            return 0
        queue = self.queue(name, by)
        if if_unused and len(queue.consumers):
            raise ChannelRefusal(406, f"{queue.where} in use")
        if if_empty and len(queue.backlog):
            raise ChannelRefusal(406, f"{queue.where} not empty")
        return self.remove_queue(queue)

    def remove_queue(self, queue: Queue) -> int:
        """Remove *queue* and tell its consumers; returns how many messages were ready."""
        count = len(queue.backlog)
        queue.deleted = True
        self.queues.pop(queue.name, None)
        self._router.forget()
        if queue.durable and queue.owner is None:
            self.store.remove_queue(self.name, queue)
        for consumer in queue.consumers:
            consumer.channel.queue_is_gone(consumer)
        self._unbind_destination(queue)
        queue.purge()
        return count

    # Bindings

    def bind(self, source: str, destination: Queue | Exchange, key: str, arguments: Table) -> None:
        """Bind *destination* to the exchange *source*. Raises ChannelRefusal (403, 404, 406)."""
        not_default(source)
        exchange = self.exchange(source)
        check_binding_arguments(exchange, arguments)
        binding = Binding(exchange, destination, key, arguments)
        if self.restore_binding(binding) and self._is_kept(binding):
            self.store.add_binding(self.name, binding)

    def restore_binding(self, binding: Binding) -> bool:
        """Put *binding* into its place; False if it is there."""
        if not binding.source.bind(binding):
            return False
        self._router.forget()
        bound_from = binding.destination.bound_from
        bound_from[binding.source] = bound_from.get(binding.source, 0) + 1
        return True

    def unbind(self, source: str, destination: Queue | Exchange, key: str, table: Table) -> None:
        """Take a binding away; fine if there is none. Raises ChannelRefusal (403, 404)."""
        not_default(source)
        self._unbind(Binding(self.exchange(source), destination, key, table))

    def _unbind(self, wanted: Binding) -> None:
        binding = wanted.source.unbind(wanted)
        if binding is None:
            return
        self._router.forget()
        source, bound_from = binding.source, binding.destination.bound_from
        bound_from[source] -= 1
        if not bound_from[source]:
            del bound_from[source]
        if self._is_kept(binding):
            self.store.remove_binding(self.name, binding)
        if source.auto_delete and not source.bindings and source.name in self.exchanges:
            self._remove_exchange(source)

    def _unbind_destination(self, destination: Queue | Exchange) -> None:
        for source in list(destination.bound_from):
            for binding in list(source.bindings.values()):
                if binding.destination is destination:
                    self._unbind(binding)

    @staticmethod
    def _is_kept(binding: Binding) -> bool:
        exclusive = isinstance(binding.destination, Queue) and binding.destination.owner is not None
        return binding.durable and not exclusive

    # Routing

    def route(self, exchange: Exchange, keys: Sequence[str], raw: bytes) -> Sequence[Queue]:
        """Return the queues that a message reaches, each once. *raw*: its properties."""
        return self._router.route(exchange, keys, raw)

    def one_size(self, size: int) -> int:
        """Return the number that all messages of this *size* share: a million of them add up."""
        if len(self._sizes) > _SIZES:
            self._sizes.clear()
        return self._sizes.setdefault(size, size)

    def next_number(self) -> int:
        """Return the number of a new message."""
        return next(self._numbers)

    def dead_letter(self, queue: Queue, message: Message, reason: str) -> bool:
        """Publish what leaves *queue* to its dead-letter exchange; whether all went well."""
        settings = queue.settings
        exchange = self.exchanges.get(settings.dead_letter_exchange or "")
        if exchange is None or message.address is None or message.properties is None:
            return False
        if message.body is None:
            return False
        origin, key = read_address(message.address)
        rerouted = settings.dead_letter_key is not None
        raw = dead_properties(
            message.properties,
            reason=reason,
            queue=queue.name,
            exchange=origin,
            key=key,
            now=self.timers.clock(),
            rerouted=rerouted,
        )
        headers = headers_of(raw)
        keys = [settings.dead_letter_key if settings.dead_letter_key is not None else key]
        if not rerouted:
            keys += [one.decode(errors="surrogateescape") for one in carbon_copies(headers)]
        targets = self.route(exchange, keys, raw)
        if reason != "rejected":
            targets = [one for one in targets if not died_in_a_circle(headers, one.name)]
        return self._spread(targets, address_of(exchange.name, keys[0]), raw, message.body)

    def _spread(self, queues: Sequence[Queue], address: bytes, raw: bytes, body: bytes) -> bool:
        known = read_properties(raw)
        taken = bool(queues)
        for queue in queues:
            copy = Message(self.next_number(), address, raw, body, len(body), known.priority)
            taken = queue.publish(copy, persistent=known.persistent) and taken
        return taken


def _locked(queue: Queue) -> ChannelRefusal:
    return ChannelRefusal(
        405,
        f"cannot obtain exclusive access to locked {queue.where}. It could be originally declared "
        "on another connection or the exclusive property value does not match that of the "
        "original declaration.",
    )


def _check_quorum(
    quorum: bool, where: str, durable: bool, auto_delete: bool, owner: object | None
) -> None:
    wrong = {
        "non-durable": not durable,
        "auto-delete": auto_delete,
        "exclusive-owner": owner is not None,
    }
    for name in (name for name, is_so in wrong.items() if quorum and is_so):
        raise ChannelRefusal(406, f"invalid property '{name}' for {where}")
