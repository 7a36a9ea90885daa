"""The ready messages of one queue, in their order: by priority, then by age."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator

from limehub.broker.state.message import Message

__all__ = ["Backlog"]


class _Level:
    """Messages of one priority. New ones come at the end, returned ones go to their old place."""

    __slots__ = ("returned", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Message] = deque()
        self.returned: list[tuple[int, Message]] = []

    def __len__(self) -> int:
        return len(self.waiting) + len(self.returned)

    @property
    def first_returned(self) -> bool:
        """Whether the oldest message is one that came back."""
        if not self.returned:
            return False
        return not self.waiting or self.returned[0][0] < self.waiting[0].number

    def peek(self) -> Message:
        return self.returned[0][1] if self.first_returned else self.waiting[0]

    def pop(self) -> Message:
        if self.returned and self.first_returned:
            return heapq.heappop(self.returned)[1]
        return self.waiting.popleft()

    def oldest(self, limit: int) -> Iterator[Message]:
        """Yield about *limit* messages from the old end; nothing may change meanwhile."""
        yield from (message for _, message in self.returned[:limit])  # a heap: the top is old
        yield from itertools.islice(self.waiting, limit)


class Backlog:
    """`pop()` gives the oldest message of the highest priority. All in constant time, nearly."""

    def __init__(self, max_priority: int = 0) -> None:
        self._levels = [_Level() for _ in range(max_priority + 1)]
        self._lowest = self._levels[0]
        self._only = max_priority == 0
        self._count = 0
        self.size = 0
        """Bytes of all bodies."""

    def __len__(self) -> int:
        return self._count

    def push(self, message: Message) -> None:
        """Add a new message."""
        level = self._lowest if self._only else self._level(message)
        level.waiting.append(message)
        self._count += 1
        self.size += message.size

    def put_back(self, message: Message) -> None:
        """Return a message to its place."""
        heapq.heappush(self._level(message).returned, (message.number, message))
        self._count += 1
        self.size += message.size

    def peek(self) -> Message:
        """Return the next message. Raises IndexError when there is none."""
        return self._next_level().peek()

    def pop(self) -> Message:
        """Take the next message. Raises IndexError when there is none."""
        message = self._next_level().pop()
        self._count -= 1
        self.size -= message.size
        return message

    def clear(self) -> list[Message]:
        """Take all messages, in no order."""
        found: list[Message] = []
        for level in self._levels:
            found += level.waiting
            found += [message for _, message in level.returned]
            level.waiting.clear()
            level.returned.clear()
        self._count = self.size = 0
        return found

    def pop_if_expired(self, now: float) -> Message | None:
        """Take a message that is at the head of its priority and has expired."""
        for level in self._levels:
            if level and (head := level.peek()).expires is not None and head.expires <= now:
                level.pop()
                self._count -= 1
                self.size -= head.size
                return head
        return None

    def next_expiry(self) -> float | None:
        """When the first of the heads expires, None for never."""
        heads = [level.peek().expires for level in self._levels if level]
        return min((when for when in heads if when is not None), default=None)

    def oldest(self, limit: int) -> Iterator[Message]:
        """Yield about *limit* of the messages that come next, in no exact order."""
        for level in reversed(self._levels):
            yield from level.oldest(limit)

    def _level(self, message: Message) -> _Level:
        return self._levels[min(message.priority, len(self._levels) - 1)]

    def _next_level(self) -> _Level:
        if self._only:
            return self._lowest
        for level in reversed(self._levels):
            if level:
                return level
        return self._lowest
