"""Publisher confirms of one channel, told in as few frames as possible."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Confirm", "Confirms"]


class Confirm(NamedTuple):
    """One frame: basic.ack or, if *refused*, basic.nack."""

    tag: int
    multiple: bool
    refused: bool


class Confirms:
    """Counts publications; `collect()` gives what can be told since the last time."""

    def __init__(self) -> None:
        self._last = 0
        self._low = 1  # the oldest publication that is not settled
        self._settled: set[int] = set()  # above it
        self._fresh: list[int] = []
        self._refused: list[int] = []

    def begin(self) -> int:
        """Number the next publication."""
        self._last += 1
        return self._last

    def settle(self, tag: int) -> None:
        """Publication *tag* is safe."""
        self._fresh.append(tag)

    def refuse(self, tag: int) -> None:
        """Publication *tag* was not accepted by all its queues."""
        self._refused.append(tag)

    def collect(self) -> list[Confirm]:
        """Return the frames to send: refusals first, so that no multiple ack includes them."""
        told = [Confirm(tag, False, True) for tag in self._refused]
        self._advance()
        prefix = [tag for tag in self._fresh if tag < self._low]
        if prefix:
            told.append(Confirm(max(prefix), len(prefix) > 1, False))
        told += [Confirm(tag, False, False) for tag in self._fresh if tag >= self._low]
        self._fresh.clear()
        self._refused.clear()
        return told

    def _advance(self) -> None:
        self._settled.update(self._fresh, self._refused)
        while self._low in self._settled:
            self._settled.discard(self._low)
            self._low += 1
