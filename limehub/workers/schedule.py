"""Which delivery runs next: round robin over the queues, keeping each handler's order. Pure.

`queue`: one at a time per queue. `object`: one at a time per key (limetype and id). `none`: free.
A delivery holds its turn from `take` to `done`, retries that wait here included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, Literal, Protocol, TypeVar

from attrs import define, field

__all__ = ["Order", "Schedule"]

Order = Literal["queue", "object", "none"]


class Queued(Protocol):
    """Anything that came from a queue."""

    @property
    def queue(self) -> str: ...


Item = TypeVar("Item", bound=Queued)


@define(eq=False)
class _Turn(Generic[Item]):
    order: Order
    key_of: Callable[[Item], Hashable]
    waiting: deque[Item] = field(factory=deque)
    behind: dict[Hashable, deque[Item]] = field(factory=dict)
    running: set[Item] = field(factory=set)
    listed: bool = False
    free: bool = field(init=False)

    @free.default
    def _is_free(self) -> bool:
        return self.order == "none"

    @property
    def runnable(self) -> bool:
        return bool(self.waiting) and not (self.order == "queue" and self.running)


class Schedule(Generic[Item]):
    """Deliveries that wait for a worker. Items need identity equality."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn[Item]] = {}
        self._ready: deque[_Turn[Item]] = deque()
        self._due: deque[Item] = deque()

    def add_queue(
        self, queue: str, order: Order = "none", key_of: Callable[[Item], Hashable] = id
    ) -> None:
        """Take deliveries of *queue*. *key_of*: what must not run side by side, None = anything."""
        self._turns[queue] = _Turn(order, key_of)

    def put(self, *items: Item) -> None:
        """Queue *items*, all of one queue, at its end."""
        turn = self._turns[items[0].queue]
        turn.waiting.extend(items)
        self._list(turn)

    def resume(self, item: Item) -> None:
        """Run *item*, which still holds its turn, again: before all that wait."""
        self._due.append(item)

    def take(self) -> Item | None:
        """Return the next item that may run, or None."""
        if self._due:
            return self._due.popleft()
        ready = self._ready
        while ready:
            turn = ready[0]
            if turn.free and turn.waiting:
                return self._take_freely(turn)
            ready.popleft()
            turn.listed = False
            item = self._next_of(turn)
            self._list(turn)
            if item is not None:
                return item
        return None

    def _take_freely(self, turn: _Turn[Item]) -> Item:
        """Take from the first of those that are ready, then let the others go before it."""
        item = turn.waiting.popleft()
        if not turn.waiting:
            self._ready.popleft()
            turn.listed = False
        elif len(self._ready) > 1:
            self._ready.rotate(-1)
        return item

    def done(self, item: Item) -> bool:
        """End the turn of *item*, if it has one. Returns whether that lets another one run."""
        turn = self._turns[item.queue]
        if turn.free or item not in turn.running:
            return False
        turn.running.remove(item)
        if turn.order == "object":
            self._release(turn, turn.key_of(item))
        self._list(turn)
        return turn.listed

    def drain(self, queue: str | None = None) -> list[Item]:
        """Take out all that wait, of one queue or of all; what was due gives up its turn."""
        turns = [self._turns[queue]] if queue else list(self._turns.values())
        items = [item for item in self._due if queue in (None, item.queue)]
        self._due = deque(item for item in self._due if queue not in (None, item.queue))
        for item in items:
            self.done(item)
        for turn in turns:
            items.extend(turn.waiting)
            turn.waiting.clear()
            for held in turn.behind.values():
                items.extend(held)
                held.clear()
        return items

    def waiting_items(self) -> list[Item]:
        """All that wait for their turn."""
        turns = self._turns.values()
        held = (item for turn in turns for items in turn.behind.values() for item in items)
        return [*(item for turn in turns for item in turn.waiting), *held]

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(self.waiting_of(queue) for queue in self._turns)

    def waiting_of(self, queue: str) -> int:
        """How many of *queue* wait."""
        turn = self._turns[queue]
        return len(turn.waiting) + sum(len(held) for held in turn.behind.values())

    @property
    def has_ready(self) -> bool:
        """Whether `take` would return something (or find it held back by its object)."""
        return bool(self._ready or self._due)

    def _list(self, turn: _Turn[Item]) -> None:
        if not turn.listed and turn.runnable:
            turn.listed = True
            self._ready.append(turn)

    def _next_of(self, turn: _Turn[Item]) -> Item | None:
        if turn.order != "object":
            return self._start(turn) if turn.runnable else None
        while turn.waiting:
            key = turn.key_of(turn.waiting[0])
            if key is None or key not in turn.behind:
                if key is not None:
                    turn.behind[key] = deque()
                return self._start(turn)
            turn.behind[key].append(turn.waiting.popleft())
        return None

    def _start(self, turn: _Turn[Item]) -> Item:
        item = turn.waiting.popleft()
        turn.running.add(item)
        return item

    def _release(self, turn: _Turn[Item], key: Hashable) -> None:
        held = turn.behind.pop(key, None)
        if held:  # the first may run; those behind it keep their order by going first, too
            turn.waiting.extendleft(reversed(held))
