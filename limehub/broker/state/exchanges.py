"""Exchanges: which destinations a routing key and headers lead to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from attrs import define, field, frozen

from limehub.broker.refusals import ChannelRefusal
from limehub.broker.state.topics import TopicTree
from limehub.broker.tables import Field, Table, encode_table, text_of

if TYPE_CHECKING:
    from limehub.broker.state.queue import Queue

__all__ = ["TYPES", "Binding", "Exchange", "Headers", "check_binding_arguments"]

_MATCHES = (b"all", b"any", b"all-with-x", b"any-with-x")

Headers = Callable[[], Table]
"""Gives the headers of a message; they are read only where they matter."""


@frozen(eq=False)
class Binding:
    """From an exchange to a queue or another exchange."""

    source: Exchange
    destination: Queue | Exchange
    key: str
    arguments: Table

    @property
    def identity(self) -> tuple[bool, str, str, bytes]:
        """What makes two bindings of one exchange the same."""
        to_exchange = isinstance(self.destination, Exchange)
        return to_exchange, self.destination.name, self.key, encode_table(self.arguments)

    @property
    def durable(self) -> bool:
        """Whether it outlives the broker: both ends do."""
        return self.source.durable and self.destination.durable


class _Matcher(Protocol):
    def add(self, binding: Binding) -> None: ...
    def remove(self, binding: Binding) -> None: ...
    def matches(self, key: str, headers: Headers) -> Iterable[Queue | Exchange]: ...


class _ByKey:
    """direct: the same key."""

    def __init__(self) -> None:
        self._destinations: dict[str, dict[Queue | Exchange, int]] = {}

    def add(self, binding: Binding) -> None:
        targets = self._destinations.setdefault(self._key(binding.key), {})
        targets[binding.destination] = targets.get(binding.destination, 0) + 1

    def remove(self, binding: Binding) -> None:
        targets = self._destinations[self._key(binding.key)]
        targets[binding.destination] -= 1
        if not targets[binding.destination]:
            del targets[binding.destination]

    def matches(self, key: str, _headers: Headers) -> Iterable[Queue | Exchange]:
        return self._destinations.get(self._key(key), ())

    def _key(self, key: str) -> str:
        return key


class _Always(_ByKey):
    """fanout: whatever the key."""

    def _key(self, _key: str) -> str:
        return ""


class _ByPattern:
    """topic: a pattern of words."""

    def __init__(self) -> None:
        self._tree: TopicTree[Queue | Exchange] = TopicTree()

    def add(self, binding: Binding) -> None:
        self._tree.add(binding.key, binding.destination)

    def remove(self, binding: Binding) -> None:
        self._tree.remove(binding.key, binding.destination)

    def matches(self, key: str, _headers: Headers) -> Iterable[Queue | Exchange]:
        return self._tree.matches(key)


class _ByHeaders:
    """headers: all or any of the binding's arguments."""

    def __init__(self) -> None:
        self._bindings: dict[tuple[bool, str, str, bytes], Binding] = {}

    def add(self, binding: Binding) -> None:
        self._bindings[binding.identity] = binding

    def remove(self, binding: Binding) -> None:
        del self._bindings[binding.identity]

    def matches(self, _key: str, headers: Headers) -> Iterable[Queue | Exchange]:
        given = headers()
        return [
            binding.destination
            for binding in self._bindings.values()
            if _headers_match(binding.arguments, given)
        ]


TYPES: dict[str, Callable[[], _Matcher]] = {
    "direct": _ByKey,
    "fanout": _Always,
    "topic": _ByPattern,
    "headers": _ByHeaders,
}


@define(eq=False)
class Exchange:
    """A named exchange. *alternate*: where goes what matches nothing here."""

    name: str
    kind: str
    durable: bool = False
    auto_delete: bool = False
    internal: bool = False
    arguments: Table = field(factory=dict)
    alternate: str | None = None
    bindings: dict[tuple[bool, str, str, bytes], Binding] = field(factory=dict)
    bound_from: dict[Exchange, int] = field(factory=dict)
    _matcher: _Matcher = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._matcher = TYPES[self.kind]()

    @property
    def where(self) -> str:
        """For texts of refusals; the virtual host is added there."""
        return f"exchange '{self.name}'"

    def bind(self, binding: Binding) -> bool:
        """Add *binding*; False if it is there."""
        if binding.identity in self.bindings:
            return False
        self.bindings[binding.identity] = binding
        self._matcher.add(binding)
        return True

    def unbind(self, binding: Binding) -> Binding | None:
        """Remove what equals *binding*; returns it, None if there was none."""
        found = self.bindings.pop(binding.identity, None)
        if found is not None:
            self._matcher.remove(found)
        return found

    def matches(self, key: str, headers: Headers) -> Iterable[Queue | Exchange]:
        """Return where a message goes from here; a destination may come twice."""
        return self._matcher.matches(key, headers)


def check_binding_arguments(exchange: Exchange, arguments: Table) -> None:
    """Check `x-match` of a headers binding. Raises ChannelRefusal (406)."""
    match = arguments.get("x-match")
    if exchange.kind != "headers" or match is None:
        return
    if match.kind != b"S":
        raise ChannelRefusal(
            406,
            f"Invalid x-match field type {match.type_name} (value {match.value}); expected longstr",
        )
    if match.value not in _MATCHES:
        raise ChannelRefusal(
            406,
            f'Invalid x-match field value <<"{text_of(match.value)}">>; '
            "expected all, any, all-with-x, or any-with-x",
        )


def _headers_match(wanted: Table, given: Table) -> bool:
    how = wanted.get("x-match", Field(b"S", b"all")).value
    with_x = how.endswith(b"-with-x")
    tests = [
        _field_matches(value, given.get(name))
        for name, value in wanted.items()
        if name != "x-match" and (with_x or not name.startswith("x-"))
    ]
    return any(tests) if how.startswith(b"any") else all(tests)


def _field_matches(wanted: Field, given: Field | None) -> bool:
    """A binding without a value (void) asks only whether the header is there."""
    return given is not None and (wanted.kind == b"V" or bool(wanted.value == given.value))
