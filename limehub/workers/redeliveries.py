"""The redelivery ledger: runs whose channel was lost, until the broker gives their event out again.

Pure. It must never let a real event be skipped: a run takes the place of at most one redelivery,
and only of one that the broker flags as redelivered and that is equal in every byte. So if two
equal events come back and one run was lost, one of them runs.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from attrs import define

__all__ = ["Match", "RedeliveryLedger", "fingerprint_of"]

FORGET_AFTER = 600.0
"""Seconds after the end of a run in which its event may come again."""

ROOM = 10_000
"""Lost runs that are remembered; the events of more than these run again."""

_BROKERS_OWN = frozenset({"x-delivery-count", "x-acquired-count"})
"""Headers that quorum queues count up with each delivery of the same event."""


class Run(Protocol):
    """A delivery that was handed to a handler."""

    queue: str
    body: bytes
    redelivered: bool

    @property
    def wire_exchange(self) -> str: ...
    @property
    def wire_routing_key(self) -> str: ...
    @property
    def message_id(self) -> str | None: ...
    @property
    def headers(self) -> Mapping[str, Any]: ...
    @property
    def properties(self) -> Mapping[str, Any]: ...


ARun = TypeVar("ARun", bound=Run)

Settle = Callable[[], None]


def fingerprint_of(run: Run) -> Hashable:
    """Return what two deliveries of one event have in common: queue, address, properties, body."""
    headers = {str(k): v for k, v in run.headers.items() if k not in _BROKERS_OWN}
    values = tuple(_sorted(headers) + _sorted(run.properties))
    return (run.queue, run.wire_exchange, run.wire_routing_key, values, run.body)


def _sorted(table: Mapping[str, Any]) -> list[str]:
    # repr tells True from 1 and from 1.0, which are equal
    return sorted(repr((name, value)) for name, value in table.items())


@define(eq=False)
class Match(Generic[ARun]):
    """A lost *run* that takes the place of a redelivery. *settle*: its result; None = none kept."""

    run: ARun
    settle: Settle | None = None


@define(eq=False)
class _Entry(Generic[ARun]):
    match: Match[ARun]
    key: Hashable
    ends: float | None = None


class RedeliveryLedger(Generic[ARun]):
    """Remembers lost runs. A run that still goes on is not forgotten, whatever it takes."""

    def __init__(self, *, room: int = ROOM, clock: Callable[[], float] = time.monotonic) -> None:
        self._room = room
        self._clock = clock
        self._entries: dict[ARun, _Entry[ARun]] = {}
        self._by_key: dict[Hashable, deque[_Entry[ARun]]] = {}
        self._ending: OrderedDict[ARun, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, run: ARun) -> bool:
        return run in self._entries

    def lost(self, run: ARun, *, ack_sent: bool) -> bool:
        """Remember *run*. Returns False if its event must run again.

        *ack_sent*: the broker may have processed its ack before the loss. Then what comes may be
        another event that is equal, unless the publisher gave ids.
        """
        if run in self._entries:
            return True
        if len(self._entries) >= self._room or not _is_safe(run, ack_sent=ack_sent):
            return False
        entry = self._entries[run] = _Entry(Match(run), fingerprint_of(run))
        self._by_key.setdefault(entry.key, deque()).append(entry)
        return True

    def ended(self, run: ARun, settle: Settle | None = None) -> None:
        """Note that *run* is over, with what settles its event if it is not acked."""
        entry = self._entries.get(run)
        if entry is None:
            return
        entry.match.settle = settle
        self._ending[run] = self._clock() + FORGET_AFTER
        self._ending.move_to_end(run)

    def match(self, again: Run) -> Match[ARun] | None:
        """Take out the run whose place *again* has come to; None: it is to run."""
        self.forget_old()
        if not again.redelivered or not self._entries:
            return None
        entries = self._by_key.get(fingerprint_of(again))
        return self._remove(entries[0]).match if entries else None

    def forget_old(self) -> list[ARun]:
        """Forget what ended long ago. Returns these runs."""
        now, old = self._clock(), []
        while self._ending and next(iter(self._ending.values())) <= now:
            run = next(iter(self._ending))
            old.append(self._remove(self._entries[run]).match.run)
        return old

    def _remove(self, entry: _Entry[ARun]) -> _Entry[ARun]:
        run, entries = entry.match.run, self._by_key[entry.key]
        entries.remove(entry)
        if not entries:
            del self._by_key[entry.key]
        del self._entries[run]
        self._ending.pop(run, None)
        return entry


def _is_safe(run: Run, *, ack_sent: bool) -> bool:
    """Whether an equal redelivery is this run's event, or one that may change places with it.

    Unacked, it comes again, and equal events are as good as one another; but one that expires may
    be gone, and another that is equal have come.
    """
    return bool(run.message_id) or not (ack_sent or "expiration" in run.properties)
