"""What is known of the hub's stalls: who kept it busy, where, for how long.

Written by the sentinel's thread, read by the hub: plain values, replaced, never changed in place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from types import FrameType, MappingProxyType
from typing import Any, Protocol

from attrs import evolve, frozen

__all__ = ["UNKNOWN", "Culprit", "NamesCulprits", "Stall", "StallBook"]

KEPT = 20


@frozen(kw_only=True)
class Culprit:
    """Who keeps the hub busy. *name*: a handler, else a function; *where*: file:line.

    *of_a_plugin*: whether it is code of neither limehub nor what it is built on.
    """

    name: str
    where: str | None = None
    stack: str = ""
    of_a_plugin: bool = True


UNKNOWN = Culprit(name="unknown")


class NamesCulprits(Protocol):
    """Finds out who is at work; `workers.culprit.Suspects` does."""

    def __call__(self, frame: FrameType) -> Culprit:
        """Return who runs in *frame*, the innermost one of the hub's thread."""


@frozen(kw_only=True)
class Stall:
    """A stall. *seconds*: how long so far, or in all."""

    culprit: Culprit
    seconds: float
    began_at: datetime

    def as_json(self) -> dict[str, Any]:
        """Return it for status pages."""
        return {
            "culprit": self.culprit.name,
            "where": self.culprit.where,
            "seconds": round(self.seconds, 3),
            "began_at": self.began_at.isoformat(timespec="milliseconds"),
            "stack": self.culprit.stack,
        }


@frozen(kw_only=True)
class _Sum:
    count: int = 0
    seconds: float = 0.0
    longest: float = 0.0

    def plus(self, seconds: float) -> _Sum:
        return _Sum(
            count=self.count + 1,
            seconds=self.seconds + seconds,
            longest=max(self.longest, seconds),
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "seconds": round(self.seconds, 3),
            "longest": round(self.longest, 3),
        }


class StallBook:
    """All stalls since the start in numbers, the last ones whole."""

    def __init__(self) -> None:
        self.current: Stall | None = None
        self._all = _Sum()
        self._by_culprit: Mapping[str, _Sum] = MappingProxyType({})
        self._last: deque[Stall] = deque(maxlen=KEPT)

    def begin(self, culprit: Culprit, seconds: float) -> None:
        """Note a stall that has lasted *seconds*, or a new view of the current one."""
        began_at = self.current.began_at if self.current else _ago(seconds)
        self.current = Stall(culprit=culprit, seconds=seconds, began_at=began_at)

    def goes_on(self, seconds: float) -> None:
        """Note how long the current one has lasted."""
        if self.current is not None:
            self.current = evolve(self.current, seconds=seconds)

    def end(self) -> Stall | None:
        """Close the current one. Returns it."""
        stall, self.current = self.current, None
        if stall is not None:
            name, seconds = stall.culprit.name, stall.seconds
            before = self._by_culprit.get(name, _Sum())
            self._by_culprit = {**self._by_culprit, name: before.plus(seconds)}
            self._all = self._all.plus(seconds)
            self._last.append(stall)
        return stall

    @property
    def total(self) -> int:
        """How many there were."""
        return self._all.count

    def status(self) -> dict[str, Any]:
        """Return the `stalls` table of status pages; times in seconds, the last one first."""
        current = self.current
        return {
            "total": self._all.count,
            "seconds": round(self._all.seconds, 3),
            "longest": round(self._all.longest, 3),
            "by_culprit": {name: each.as_json() for name, each in self._by_culprit.items()},
            "current": current.as_json() if current else None,
            "last": [stall.as_json() for stall in reversed(self._last)],
        }


def _ago(seconds: float) -> datetime:
    now = datetime.now(UTC)
    return datetime.fromtimestamp(now.timestamp() - seconds, UTC)
