"""How numbers and times read on the pages. Pure functions; what is not known is a dash."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["NOTHING", "age", "amount", "clock", "duration", "plural", "rate", "size"]

NOTHING = "–"

_STEPS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))
_UNITS = ("bytes", "KiB", "MiB", "GiB")


def amount(number: float | None) -> str:
    """Return a count with thin spaces between thousands."""
    return NOTHING if number is None else f"{number:,.0f}".replace(",", "\u202f")


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return `1 event`, `2 events`."""
    return f"{amount(number)} {one if number == 1 else many or one + 's'}"


def rate(per_second: float | None) -> str:
    """Return events a second; below 1/s to three figures, so that slow is not zero."""
    if per_second is None:
        return NOTHING
    if per_second == 0:
        return "0/s"
    return f"{per_second:.2g}/s" if per_second < 10 else f"{amount(per_second)}/s"


def duration(seconds: float | None) -> str:
    """Return `3 ms`, `1.5 s`, `12 min`, `2.5 h`."""
    if seconds is None:
        return NOTHING
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    for length, unit in _STEPS:
        if seconds >= 2 * length:
            return (
                f"{seconds / length:.2g} {unit}"
                if seconds < 10 * length
                else _whole(seconds / length, unit)
            )
    return f"{seconds:.2g} s" if seconds < 10 else _whole(seconds, "s")


def age(moment: datetime | None, now: datetime) -> str:
    """Return how long ago *moment* was."""
    if moment is None:
        return NOTHING
    seconds = (now - moment).total_seconds()
    return "just now" if seconds < 2 else f"{duration(seconds)} ago"


def clock(moment: datetime | None) -> str:
    """Return the time in UTC, to the second."""
    return NOTHING if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def size(octets: int) -> str:
    """Return `812 bytes`, `1.5 MiB`."""
    number, unit = float(octets), 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{octets} bytes" if unit == 0 else f"{number:.3g} {_UNITS[unit]}"


def _whole(number: float, unit: str) -> str:
    return f"{number:.0f} {unit}"
