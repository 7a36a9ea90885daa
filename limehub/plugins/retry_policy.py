"""When to run a failed handler again: a pure schedule of delays."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import frozen

from limehub.plugins.spelling import unknown

__all__ = ["MAX_DELAY", "RetryPolicy", "parse_duration", "parse_retry"]

MAX_DELAY = 86400.0
"""Seconds: the longest retry queue."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


@frozen(kw_only=True)
class RetryPolicy:
    """*attempts*: runs in all, the first included; the rest in seconds, *jitter* a part of 1.

    The n-th retry waits `delay * factor ** (n - 1)`, at most *max_delay*, give or take *jitter*.
    With *delays* those are the waits, one a retry. *on*: the exceptions worth another run; timeouts
    are no Exception, so the default is everything.
    """

    attempts: int = 5
    delay: float = 5.0
    factor: float = 4.0
    max_delay: float = 3600.0
    jitter: float = 0.1
    on: tuple[type[BaseException], ...] = (BaseException,)
    delays: tuple[float, ...] = ()

    def delay_before(self, attempt: int, random: float) -> float | None:
        """Return the seconds to wait before run number *attempt*; None: no such run.

        *attempt*: 1 is the first run (no wait), 2 the first retry. *random*: 0 <= random < 1.
        """
        if attempt > self.attempts:
            return None
        if attempt <= 1:
            return 0.0
        wait = self._plain_delay(attempt - 2) * (1 + self.jitter * (2 * random - 1))
        return min(wait, MAX_DELAY if self.delays else self.max_delay)

    def applies_to(self, error: BaseException) -> bool:
        """Whether *error* is one of those worth another run."""
        return isinstance(error, self.on)

    def _plain_delay(self, retries_before: int) -> float:
        if self.delays:
            return self.delays[retries_before]
        try:
            return min(self.delay * self.factor**retries_before, self.max_delay)
        except OverflowError:  # a float ends near 1e308, attempts need not
            return self.max_delay


def parse_duration(value: object) -> float:
    """Return seconds for a number of seconds or text such as "500ms", "5s", "1.5m", "2h", "1d".

    Raises ValueError.
    """
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return float(match[1]) * _UNITS[match[2]]
    return parse_number(value, "a number of seconds or text such as '5s', '10m', '1h'")


def parse_number(value: object, wanted: str, low: float = 0.0, high: float = float("inf")) -> float:
    """Return *value* as a float between *low* and *high*. Raises ValueError with *wanted*."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not {wanted}")
    if not (low <= value <= high) or math.isinf(value):
        raise ValueError(f"{value!r} is not {wanted}")
    return float(value)


def parse_retry(value: object) -> RetryPolicy:
    """Return the policy for a table, a list of delays or a RetryPolicy. Raises ValueError."""
    if isinstance(value, RetryPolicy):
        return value
    if isinstance(value, Mapping):
        return _from_table(value)
    if isinstance(value, list | tuple) and value:
        return _from_delays(value)
    raise ValueError(f"{value!r} is neither a table {{attempts, delay, ...}} nor a list of delays")


def _from_delays(delays: Iterable[object]) -> RetryPolicy:
    waits = tuple(_delay(delay) for delay in delays)
    return RetryPolicy(attempts=len(waits) + 1, delays=waits, jitter=0.0)


def _from_table(table: Mapping[str, Any]) -> RetryPolicy:
    values = {}
    for name, value in table.items():
        parse = _PARSERS.get(name)
        if parse is None:
            raise ValueError(f"{name!r} is {unknown(name, _PARSERS)}")
        try:
            values[name] = parse(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return RetryPolicy(**values)


def _attempts(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
        raise ValueError(f"{value!r} is not a whole number from 1 to 10000")
    return value


def _delay(value: object) -> float:
    seconds = parse_duration(value)
    if seconds > MAX_DELAY:
        raise ValueError(f"{value!r} is longer than a day, the longest delay")
    return seconds


def _factor(value: object) -> float:
    return parse_number(value, "a number of at least 1", low=1.0, high=1000.0)


def _jitter(value: object) -> float:
    return parse_number(value, "a number from 0 to 1", high=1.0)


def _on(value: object) -> tuple[type[BaseException], ...]:
    classes = tuple(value) if isinstance(value, list | tuple) else (value,)
    for one in classes:
        if not (inspect.isclass(one) and issubclass(one, BaseException)):
            raise ValueError(f"{one!r} is not an exception class")
    if not classes:
        raise ValueError("an empty list would retry nothing")
    return classes


_PARSERS: Mapping[str, Callable[[object], Any]] = {
    "attempts": _attempts,
    "delay": _delay,
    "factor": _factor,
    "max_delay": _delay,
    "jitter": _jitter,
    "on": _on,
}
