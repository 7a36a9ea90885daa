"""The two marks of plugin code: `hookimpl` for hooks, `event_handler` for handlers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import pluggy
from attrs import frozen

__all__ = ["HandlerMark", "event_handler", "hookimpl", "hookspec", "marks_of"]

hookspec = pluggy.HookspecMarker("limehub")
hookimpl = pluggy.HookimplMarker("limehub")
"""Optional: a module function with a hook's name is a hook. Needed for `tryfirst`, `trylast`."""

_ATTRIBUTE = "__limehub_event_handlers__"

F = TypeVar("F", bound=Callable[..., Any])


@frozen(kw_only=True)
class HandlerMark:
    """What one `@event_handler(...)` says; checked when the plugin is loaded."""

    keys: tuple[Any, ...]
    queue_name: str | None
    options: dict[str, Any]


def event_handler(*keys: str, queue_name: str | None = None, **options: Any) -> Callable[[F], F]:
    """Mark a function as a handler of *keys*; *options* are those of HandlerOptions.

    The plugin's module registers it by having it at top level, defined or imported there from its
    own package; modules of an `event_handlers` folder are looked through too. Marks add up.

        @event_handler("core.limeobject.deal.*.v1", on_error="retry")
        def on_deal(event, settings): ...
    """

    def mark(function: F) -> F:
        new = HandlerMark(keys=keys, queue_name=queue_name, options=options)
        setattr(function, _ATTRIBUTE, (new, *marks_of(function)))
        return function

    return mark


def marks_of(thing: object) -> tuple[HandlerMark, ...]:
    """Return the marks of *thing*, () for anything unmarked; runs no code of *thing*."""
    marks = inspect.getattr_static(thing, _ATTRIBUTE, ())
    return marks if isinstance(marks, tuple) else ()
