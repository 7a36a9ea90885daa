"""The packages as the pages show them: what works and how it runs, what is broken and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import fields, frozen

from limehub.config import Config
from limehub.plugins.handlers import Handler, LoadedPlugin
from limehub.plugins.options import HandlerOptions
from limehub.plugins.registry import BrokenPlugin, Registry
from limehub.plugins.retry_policy import RetryPolicy
from limehub.web.pages.letters import place_of
from limehub.web.pages.words import duration
from limehub.workers.plan import policy_of, prefetch_of

__all__ = ["BrokenRow", "HandlerCard", "PackageRow", "broken_rows", "package_rows"]

_ON_ERROR = {
    "crash": "stops the server",
    "dead-letter": "dead letter",
    "retry": "retried, then dead letter",
    "discard": "dropped",
}


@frozen(kw_only=True)
class HandlerCard:
    """One handler. *options*: name -> value, only what says something."""

    name: str
    origin: str
    keys: tuple[str, ...]
    queues: tuple[str, ...]
    options: Mapping[str, str]


@frozen(kw_only=True)
class PackageRow:
    """One package in use."""

    name: str
    distribution: str
    version: str
    module: str
    hooks: tuple[str, ...]
    handlers: tuple[HandlerCard, ...]


@frozen(kw_only=True)
class BrokenRow:
    """One package that cannot be used."""

    name: str
    distribution: str
    place: str
    error: str
    traceback: str


def package_rows(registry: Registry) -> tuple[PackageRow, ...]:
    """Return the packages in use with their handlers, by name."""
    return tuple(_package(registry, registry.plugins[name]) for name in sorted(registry.plugins))


def broken_rows(registry: Registry) -> tuple[BrokenRow, ...]:
    """Return the packages that cannot be used."""
    return tuple(map(_broken, registry.broken))


def _package(registry: Registry, plugin: LoadedPlugin) -> PackageRow:
    own = [each for each in registry.handlers.values() if each.app == plugin.name]
    return PackageRow(
        name=plugin.name,
        distribution=plugin.distribution,
        version=plugin.version,
        module=plugin.module,
        hooks=plugin.hooks,
        handlers=tuple(_handler(registry, each) for each in own),
    )


def _handler(registry: Registry, handler: Handler) -> HandlerCard:
    return HandlerCard(
        name=handler.name,
        origin=place_of(handler.origin),
        keys=handler.keys,
        queues=tuple(registry.queues_of(handler)),
        options=_how(registry.config, handler) | _chosen(handler.options),
    )


def _how(config: Config, handler: Handler) -> dict[str, str]:
    """How it runs, wherever that was decided."""
    settings = config.event_handler
    group = settings.group_of(handler.app, handler.queue_name)
    timeout = handler.options.timeout or settings.timeout_of(group)
    return {
        "called with": handler.form.description,
        "worker group": group,
        "prefetch": str(prefetch_of(config, handler, group)),
        "when it raises": _ON_ERROR[policy_of(config, handler)],
        "lane": handler.options.lane or settings.lane_of(group),
        "order": handler.options.order,
        "timeout": "none" if timeout is None else duration(timeout),
    }


def _chosen(options: HandlerOptions) -> dict[str, str]:
    """The options of its own that are not the default."""
    plain, shown = HandlerOptions(), ("ack", "retry", "event_type")
    values = ((each.name, getattr(options, each.name)) for each in fields(HandlerOptions))
    return {
        name.replace("_", " "): _said(value)
        for name, value in values
        if name in shown and value != getattr(plain, name)
    }


def _said(value: Any) -> str:
    if isinstance(value, RetryPolicy):
        return f"{value.attempts} attempts"
    return value.__name__ if isinstance(value, type) else str(value)


def _broken(broken: BrokenPlugin) -> BrokenRow:
    return BrokenRow(
        name=broken.name,
        distribution=f"{broken.distribution} {broken.version}",
        place=f"{broken.file}:{broken.line}" if broken.line else broken.file,
        error=broken.error_text,
        traceback=broken.traceback,
    )
