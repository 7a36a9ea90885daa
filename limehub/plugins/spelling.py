"""Did you mean: the nearest of some known names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["nearest", "unknown"]


def nearest(name: object, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name most like *name*, or None. *cutoff*: 0 anything, 1 equal."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return near[0] if near else None


def unknown(name: object, known: Iterable[str]) -> str:
    """Return "unknown; did you mean ...?" for *name*, or all known names if none is near."""
    names = tuple(known)
    near = nearest(name, names)
    return f"unknown; did you mean {near!r}?" if near else f"unknown; known: {', '.join(names)}"
