"""Waiting for a condition instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["wait_until"]

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T], timeout: float = 10.0, message: str = "", interval: float = 0.02
) -> T:
    """Call *predicate* until it gives something true, and return that.

    *timeout*, *interval*: seconds. Raises AssertionError with *message* and the last value.
    """
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(
                f"{message or 'condition'}: not within {timeout} s; last {value!r}"
            )
        time.sleep(interval)
    return value
