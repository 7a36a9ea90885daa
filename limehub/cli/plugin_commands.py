"""Commands that plugins bring by their hook `register_commands(cli)`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import click

from limehub.cli.options import config_path
from limehub.cli.output import warn
from limehub.errors import ConfigError

if TYPE_CHECKING:
    from limehub.config import Loaded

__all__ = ["plugin_commands"]


def plugin_commands(context: click.Context, taken: Iterable[str]) -> Mapping[str, click.Command]:
    """Return the commands of all working plugins; names in *taken* are refused.

    What is wrong is said on standard error in one line: help must come whatever is broken.
    """
    if not _any_installed():
        return {}
    own = set(taken)
    group = click.Group(commands={name: click.Command(name) for name in own})
    try:
        _register(group, context)
    except ConfigError as error:
        first = error.problems[0]
        warn(f"commands of plugins are left out: {first}; see `limehub check`")
    return {name: command for name, command in group.commands.items() if name not in own}


def _any_installed() -> bool:
    from importlib.metadata import entry_points

    from limehub.plugins.discovery import GROUPS

    return any(entry_points(group=group) for group in GROUPS)


def _register(group: click.Group, context: click.Context) -> None:
    from limehub.cli.loading import load_plugins

    registry = load_plugins(_loaded(context))
    if registry.broken:
        names = ", ".join(one.name for one in registry.broken)
        warn(f"commands of broken plugins are left out ({names}); see `limehub plugins`")
    registry.add_commands(group)


def _loaded(context: click.Context) -> Loaded:
    """The configuration; the defaults where there is no limehub.toml yet."""
    from limehub.cli.loading import config_file, load_config
    from limehub.config import Config, Loaded

    path = config_path(context)
    file = config_file(path)
    if file.exists():
        return load_config(path)
    return Loaded(config=Config(), origins={}, warnings=(), path=file)
