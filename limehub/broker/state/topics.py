"""Topic patterns as a tree of words: the cost of a look-up does not grow with the patterns."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

__all__ = ["TopicTree"]

T = TypeVar("T", bound=Hashable)


class _Node(Generic[T]):
    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.values: dict[T, int] = {}


class TopicTree(Generic[T]):
    """Values under patterns of words; `*` is one word, `#` is any number of them, also none."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, pattern: str, value: T) -> None:
        """Put *value* under *pattern*; the same again counts twice."""
        node = self._root
        for word in _words(pattern):
            node = node.children.setdefault(word, _Node())
        node.values[value] = node.values.get(value, 0) + 1

    def remove(self, pattern: str, value: T) -> None:
        """Take one *value* from *pattern*, with the branches that are empty then."""
        path = [self._root]
        words = _words(pattern)
        for word in words:
            path.append(path[-1].children[word])
        values = path[-1].values
        values[value] -= 1
        if not values[value]:
            del values[value]
        for parent, word in zip(reversed(path[:-1]), reversed(words), strict=True):
            child = parent.children[word]
            if child.children or child.values:
                return
            del parent.children[word]

    def matches(self, key: str) -> Iterator[T]:
        """Yield the values whose patterns match *key*; one may come more than once."""
        words = _words(key)
        seen: set[tuple[int, int]] = set()
        todo = [(self._root, 0)]
        while todo:
            node, at = todo.pop()
            # Without this, `#.#.#` against a long key would be walked exponentially often.
            if (place := (id(node), at)) in seen:
                continue
            seen.add(place)
            if at == len(words):
                yield from node.values
            todo.extend(_steps(node, words, at))


def _words(text: str) -> list[str]:
    """Split at the dots; nothing has no words, as RabbitMQ sees it."""
    return text.split(".") if text else []


def _steps(node: _Node[T], words: list[str], at: int) -> Iterator[tuple[_Node[T], int]]:
    children = node.children
    if (rest := children.get("#")) is not None:
        for skipped in range(at, len(words) + 1):
            yield rest, skipped
    if at < len(words):
        for word in (words[at], "*"):
            if (child := children.get(word)) is not None and word != "#":
                yield child, at + 1
