"""Which handlers can run in a child process: those that it finds where this one has them."""

from __future__ import annotations

import pickle
from collections.abc import Callable

from limehub.errors import PluginError
from limehub.plugins.functions import describe, underlying
from limehub.plugins.handlers import Handler

__all__ = ["refuse_uncrossable"]


def refuse_uncrossable(handler: Handler) -> None:
    """Raise PluginError if a child process could not find the function of *handler*."""
    problem = _problem(handler.function)
    if problem:
        raise PluginError(
            f"{handler.name} ({handler.origin}): {describe(handler.function)} cannot run in lane "
            f"'process': {problem}; a child process finds only what has a name at the top level "
            "of its module"
        )


def _problem(function: Callable[..., object]) -> str:
    try:
        back = pickle.loads(pickle.dumps(function))  # noqa: S301 - pickled just now
    except Exception as error:  # noqa: BLE001 - a plugin's objects may raise anything here
        return _in_words(function, error)
    return "" if callable(back) else "it comes back as something that cannot be called"


def _in_words(function: Callable[..., object], error: Exception) -> str:
    inner = underlying(function)
    name = inner.__qualname__ if inner else ""
    if "<lambda>" in name:
        return "it is a lambda"
    if "<locals>" in name:
        return "it is defined inside another function"
    return f"it cannot be pickled ({type(error).__name__}: {error})"
