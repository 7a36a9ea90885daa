"""Who gets the next message of a queue: by priority, then in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from attrs import define, field

if TYPE_CHECKING:
    from limehub.broker.state.channel import Channel
    from limehub.broker.state.queue import Queue

__all__ = ["Consumer", "Consumers"]


@define(eq=False)
class Consumer:
    """One subscription. *prefetch*: 0 is no limit; *wire*: what the session keeps with it."""

    tag: str
    channel: Channel
    queue: Queue
    no_ack: bool = False
    exclusive: bool = False
    priority: int = 0
    prefetch: int = 0
    unacked: int = 0
    parked: bool = False
    wire: Any = field(default=None)

    def can_take(self) -> bool:
        """Whether it may be sent one more message now."""
        channel = self.channel
        if channel.link.congested:
            return False
        if self.no_ack:
            return True
        if self.prefetch and self.unacked >= self.prefetch:
            return False
        return not channel.prefetch or channel.outstanding < channel.prefetch


class Consumers:
    """The consumers of one queue. Those that can take nothing are parked until `wake`."""

    def __init__(self, *, single_active: bool) -> None:
        self._single_active = single_active
        self._all: dict[Consumer, None] = {}
        self._turns: dict[int, deque[Consumer]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Consumer]:
        return iter(list(self._all))

    @property
    def exclusive(self) -> bool:
        """Whether one of them wants to be alone."""
        return any(consumer.exclusive for consumer in self._all)

    def add(self, consumer: Consumer) -> None:
        """Add a consumer at the end of its priority's turn."""
        self._all[consumer] = None
        if consumer.priority not in self._turns:
            self._turns[consumer.priority] = deque()
            self._turns = dict(sorted(self._turns.items(), reverse=True))
        self._turns[consumer.priority].append(consumer)

    def remove(self, consumer: Consumer) -> None:
        """Take a consumer out."""
        self._all.pop(consumer, None)
        turn = self._turns.get(consumer.priority)
        if turn is not None and consumer in turn:
            turn.remove(consumer)

    def next_ready(self) -> Consumer | None:
        """Return whose turn it is, None when nobody can take a message."""
        if self._single_active:
            return self._active()
        for turn in self._turns.values():
            while turn:
                consumer = turn[0]
                if consumer.can_take():
                    turn.rotate(-1)
                    return consumer
                turn.popleft()
                consumer.parked = True
        return None

    def wake(self, consumer: Consumer) -> None:
        """A parked consumer may be able to take messages again."""
        if not consumer.parked or consumer not in self._all:
            return
        consumer.parked = False
        if not self._single_active:
            self._turns[consumer.priority].append(consumer)

    def _active(self) -> Consumer | None:
        """With a single active consumer, the first that came is the one, until it goes."""
        first = next(iter(self._all), None)
        if first is None or first.can_take():
            return first
        first.parked = True
        return None
