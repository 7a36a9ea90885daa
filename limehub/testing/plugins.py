"""Loading one plugin as the server would, to look at what it registers."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Any

from limehub.config import Config
from limehub.plugins.registry import Handler, load_registry

__all__ = ["load_plugin"]


def load_plugin(
    name: str,
    value: str,
    *,
    settings: Mapping[str, Any] | None = None,
    applications: tuple[str, ...] = ("default",),
) -> dict[str, Handler]:
    """Return queue_name -> handler of the plugin. Raises PluginError as `limehub check` reports it.

    *name*, *value*: as in the entry point; *settings*: the plugin's own table of limehub.toml.
    """
    config = Config(applications=applications, plugins={name: dict(settings or {})})
    point = EntryPoint(name=name, value=value, group="limehub")
    registry = load_registry(config, entry_points=[point])
    registry.raise_if_broken()
    return {handler.queue_name: handler for handler in registry.handlers.values()}
