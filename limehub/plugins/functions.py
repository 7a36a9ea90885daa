"""What a callable really is: the Python function inside, its name, its place."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

__all__ = ["describe", "origin_of", "place_of", "underlying"]

_FUNCTION = types.FunctionType


def underlying(function: Callable[..., object]) -> types.FunctionType | None:
    """Return the Python function inside partials, methods, wrappers and callable objects."""
    found: Any = function
    while not isinstance(found, _FUNCTION) or hasattr(found, "__wrapped__"):
        if isinstance(found, functools.partial):
            found = found.func
        elif inspect.ismethod(found):
            found = found.__func__
        elif hasattr(found, "__wrapped__"):
            found = found.__wrapped__
        elif isinstance(call := inspect.getattr_static(type(found), "__call__", None), _FUNCTION):
            found = call
        else:
            return None
    return found


def describe(function: Callable[..., object]) -> str:
    """Return the name of *function* for messages."""
    inner = underlying(function)
    return inner.__qualname__ if inner else repr(function)


def place_of(function: Callable[..., object]) -> tuple[str, int]:
    """Return file and line of *function*; ("", 0) for what is not written in Python."""
    inner = underlying(function)
    return (inner.__code__.co_filename, inner.__code__.co_firstlineno) if inner else ("", 0)


def origin_of(function: Callable[..., object]) -> str:
    """Return "file:line" of *function*, its repr for what is not written in Python."""
    file, line = place_of(function)
    return f"{file}:{line}" if file else repr(function)
