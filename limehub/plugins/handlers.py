"""Values of the registry: a loaded plugin, a handler and its queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from limehub.config import QUEUE_NAMESPACE
from limehub.plugins.forms import Form
from limehub.plugins.options import HandlerOptions
from limehub.routing_keys import matches

__all__ = ["Handler", "LoadedPlugin"]


@frozen(kw_only=True, eq=False)
class LoadedPlugin:
    """A plugin in use. *name*: the app; *module*: its entry point's; *hooks*: those it has."""

    name: str
    distribution: str
    version: str
    module: str
    groups: tuple[str, ...]
    settings: Mapping[str, Any] = field(repr=False)
    hooks: tuple[str, ...]


@frozen(kw_only=True, eq=False)
class Handler:
    """A function, the queue it reads, the keys that fill the queue. *origin*: "file:line"."""

    app: str
    queue_name: str
    keys: tuple[str, ...]
    function: Callable[..., object]
    form: Form
    options: HandlerOptions
    plugin: LoadedPlugin
    origin: str

    @property
    def name(self) -> str:
        """`<app>.<queue_name>`: what worker groups claim and people read."""
        return f"{self.app}.{self.queue_name}"

    @property
    def queue(self) -> str:
        """The full name of the queue, without an application."""
        return f"{QUEUE_NAMESPACE}{self.name}"

    @property
    def dlq(self) -> str:
        """The dead letter queue of the app."""
        return f"{QUEUE_NAMESPACE}{self.app}.dlq"

    def queue_of(self, application: str) -> str:
        """The queue's full name when each application has its own."""
        return f"{self.queue}.{application}"

    def matches(self, routing_key: str) -> bool:
        """Whether an event with *routing_key* reaches this handler."""
        return any(matches(key, routing_key) for key in self.keys)
