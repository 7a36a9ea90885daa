"""`limehub plugins`: what is installed, how it would run, and what is broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import click

from limehub.cli.loading import load_config, load_plugins
from limehub.cli.options import config_option, json_option
from limehub.cli.output import print_json, print_table, warn
from limehub.cli.placement import Placement, placements
from limehub.errors import PluginError
from limehub.plugins.options import HandlerOptions
from limehub.plugins.registry import BrokenPlugin, Handler, LoadedPlugin, Registry

__all__ = ["plugins"]

COLUMNS = (
    "package", "version", "handler", "form", "keys", "queue", "group", "prefetch", "order",
    "on error", "options",
)  # fmt: skip
BROKEN_COLUMNS = ("broken", "distribution", "entry point", "place", "error")


@click.command()
@config_option
@json_option
def plugins(config: Path | None, as_json: bool) -> None:
    """List the installed packages, their handlers, and what is broken (exit code 3)."""
    registry = load_plugins(load_config(config))
    found = placements(registry)
    if as_json:
        print_json(_as_json(registry, found))
    else:
        _print(registry, found)
    if registry.broken:
        raise PluginError("\n".join(_broken_line(one) for one in registry.broken))


def _print(registry: Registry, found: tuple[Placement, ...]) -> None:
    print_table(COLUMNS, _rows(registry, found), empty=_nothing(registry))
    broken = [
        (
            one.name,
            f"{one.distribution} {one.version}",
            one.entry_point,
            _place(one),
            one.error_text,
        )
        for one in registry.broken
    ]
    print_table(BROKEN_COLUMNS, broken, style=lambda _row: "red")
    for app in registry.disabled:
        warn(f"{app} is switched off by packages.{app}.enabled")
    for warning in registry.warnings:
        warn(f"warning: {warning}")


def _rows(registry: Registry, found: tuple[Placement, ...]) -> list[tuple[object, ...]]:
    rows = [_row(placement) for placement in found]
    busy = {placement.handler.app for placement in found}
    rows += [_idle_row(one) for one in registry.plugins.values() if one.name not in busy]
    return sorted(rows, key=lambda row: (str(row[0]), str(row[2])))


def _row(placement: Placement) -> tuple[object, ...]:
    handler = placement.handler
    return (
        handler.app,
        handler.plugin.version,
        handler.queue_name,
        handler.form.description,
        ", ".join(handler.keys),
        placement.queue_names,
        placement.group,
        placement.prefetch,
        handler.options.order,
        placement.policy,
        _options(handler),
    )


def _idle_row(plugin: LoadedPlugin) -> tuple[object, ...]:
    hooks = f"no handlers; hooks: {', '.join(plugin.hooks) or 'none'}"
    return (plugin.name, plugin.version, "", hooks, *[""] * 7)


def _options(handler: Handler) -> str:
    """Return the options that are not in a column of their own and were chosen."""
    shown = ("ack", "retry", "timeout", "lane", "event_type")
    plain = HandlerOptions(ack="manual" if handler.form.manual else "success")
    chosen = ((name, getattr(handler.options, name)) for name in shown)
    return " ".join(
        f"{name}={_short(value)}" for name, value in chosen if value != getattr(plain, name)
    )


def _short(value: Any) -> str:
    if isinstance(value, type):
        return value.__name__
    attempts = getattr(value, "attempts", None)
    return f"{attempts}x" if attempts is not None else str(value)


def _nothing(registry: Registry) -> str:
    if registry.broken:
        return "no package works"
    return "no package with an entry point `limehub` or `lime_plugins` is installed here"


def _place(broken: BrokenPlugin) -> str:
    return f"{broken.file}:{broken.line}" if broken.line else broken.file


def _broken_row(broken: BrokenPlugin) -> tuple[object, ...]:
    distribution = f"{broken.distribution} {broken.version}"
    return (broken.name, distribution, broken.entry_point, _place(broken), broken.error_text)


def _broken_line(broken: BrokenPlugin) -> str:
    return f"{broken.name} is broken: {_place(broken)}: {broken.error_text}"


def _as_json(registry: Registry, found: tuple[Placement, ...]) -> dict[str, Any]:
    return {
        "plugins": [_plugin_as_json(one, found) for one in registry.plugins.values()],
        "broken": [attrs.asdict(one) for one in registry.broken],
        "disabled": list(registry.disabled),
        "warnings": list(registry.warnings),
    }


def _plugin_as_json(plugin: LoadedPlugin, found: tuple[Placement, ...]) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "module": plugin.module,
        "groups": list(plugin.groups),
        "hooks": list(plugin.hooks),
        "handlers": [one.as_dict() for one in found if one.handler.plugin is plugin],
    }
