"""How fast handlers are and how long they take, from counters that only grow. No clock of its own.

Percentiles are of the last five minutes, and are upper ends of the steps by which the durations
are counted: p95 = 0.05 means that 95 % of the runs took at most 50 ms.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import field, frozen

from limehub.workers.handling import BOUNDS

__all__ = ["GOOD", "Pace", "Tempo", "Totals", "percentile"]

MARK_EVERY = 10.0
MARKS = 31
GOOD = frozenset(["ack", "discard", "open"])
"""Outcomes that are no failure."""


@frozen(kw_only=True)
class Totals:
    """One point of the charts. *at*: seconds since 1970; *done*, *failed*: a second; *waiting*: in
    the queues, None if not known."""

    at: float
    done: float
    failed: float
    in_flight: int
    waiting: int | None


@frozen(kw_only=True)
class Pace:
    """One handler of late. *per_second*, *failures_per_second*: None with nothing to compare;
    *percentiles*: of 50, 95, 99 %, seconds; None without a run, infinite beyond the last step."""

    per_second: float | None = None
    failures_per_second: float | None = None
    percentiles: tuple[float | None, float | None, float | None] = (None, None, None)


@frozen(kw_only=True)
class _Counts:
    done: int
    failed: int
    durations: tuple[int, ...]


@frozen(kw_only=True)
class _Mark:
    at: float
    handlers: Mapping[str, _Counts] = field(factory=dict)

    @property
    def sums(self) -> tuple[int, int]:
        counts = self.handlers.values()
        return sum(each.done for each in counts), sum(each.failed for each in counts)


class Tempo:
    """Remembers counters for five minutes. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._marks: deque[_Mark] = deque(maxlen=MARKS)
        self._last: _Mark | None = None
        self._before: _Mark | None = None

    def note(self, now: float, handlers: Iterable[Mapping[str, Any]]) -> dict[str, Pace]:
        """Take the `handlers` table of a status. Returns name -> pace."""
        mark = _Mark(at=now, handlers={each["name"]: _counts(each) for each in handlers})
        self._before, self._last = self._last, mark
        if not self._marks or now - self._marks[-1].at >= MARK_EVERY:
            self._marks.append(mark)
        recent, oldest = self._recent(now), self._marks[0]
        return {
            name: _pace(
                counts,
                now - recent.at,
                recent.handlers.get(name, counts),
                oldest.handlers.get(name, counts),
            )
            for name, counts in mark.handlers.items()
        }

    def totals(self, at: float, *, in_flight: int, waiting: int | None) -> Totals:
        """Return the point of the charts for what was noted last."""
        done, failed = self._rates()
        return Totals(at=at, done=done, failed=failed, in_flight=in_flight, waiting=waiting)

    def _rates(self) -> tuple[float, float]:
        last, before = self._last, self._before
        if last is None or before is None or last.at <= before.at:
            return 0.0, 0.0
        seconds = last.at - before.at
        done, failed = (new - old for new, old in zip(last.sums, before.sums, strict=True))
        return round(max(0, done) / seconds, 3), round(max(0, failed) / seconds, 3)

    def _recent(self, now: float) -> _Mark:
        """Return the mark to compare with: the youngest that is old enough, else the oldest."""
        old = [mark for mark in self._marks if now - mark.at >= MARK_EVERY]
        return old[-1] if old else self._marks[0]


def percentile(durations: Iterable[int], share: float) -> float | None:
    """Return the upper end of the step in which the run at *share* (0 to 1) lies."""
    counts = list(durations)
    wanted, seen = share * sum(counts), 0
    if not wanted:
        return None
    for bound, count in zip((*BOUNDS, float("inf")), counts, strict=False):
        seen += count
        if seen >= wanted:
            return float(bound)
    return float("inf")


def _counts(handler: Mapping[str, Any]) -> _Counts:
    outcomes = handler["outcomes"]
    failed = sum(count for name, count in outcomes.items() if name not in GOOD)
    durations = tuple(handler.get("durations", ()))
    return _Counts(done=sum(outcomes.values()), failed=failed, durations=durations)


def _pace(counts: _Counts, seconds: float, recent: _Counts, oldest: _Counts) -> Pace:
    """*recent*: *seconds* ago; *oldest*: at the beginning of the five minutes."""
    lately = tuple(new - old for new, old in zip(counts.durations, oldest.durations, strict=False))
    median, nearly_all, all_but_few = (percentile(lately, share) for share in (0.5, 0.95, 0.99))
    return Pace(
        per_second=(counts.done - recent.done) / seconds if seconds > 0 else None,
        failures_per_second=(counts.failed - recent.failed) / seconds if seconds > 0 else None,
        percentiles=(median, nearly_all, all_but_few),
    )
