"""Waiting for a condition instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["quickest", "wait_until"]

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T], timeout: float = 60.0, message: str = "", interval: float = 0.02
) -> T:
    """Call *predicate* until it gives something true, and return that.

    *timeout*, *interval*: seconds; a long timeout costs nothing where all is well. Raises
    AssertionError with *message* and the last value.
    """
    deadline = time.monotonic() + timeout
    while True:
        is_late = time.monotonic() > deadline  # before the look: perhaps we stood still
        if value := predicate():
            return value
        if is_late:
            text = f"{message or 'condition'}: not within {timeout} s; last {value!r}"
            raise AssertionError(text)
        time.sleep(interval)


def quickest(measure: Callable[[], float], limit: float, tries: int = 3) -> float:
    """Return the least of up to *tries* measurements; ends early with one below *limit*.

    For promises about time: a busy machine only ever adds to what a measurement shows.
    """
    least = measure()
    while least >= limit and (tries := tries - 1):
        least = min(least, measure())
    return least
