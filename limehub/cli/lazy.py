"""A click group that imports a command when it is used, and plugins when they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """*lazy*: command -> ("module:attribute", one line of help).

    Commands of plugins are loaded for `--help` and for names that are not in *lazy*: a broken
    plugin cannot break limehub's own commands.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy
        self._from_plugins: Mapping[str, click.Command] | None = None

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return limehub's own commands, then those of plugins."""
        return [*self.lazy, *sorted(self._plugin_commands(ctx))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, imported; None if nobody has it."""
        if cmd_name not in self.lazy:
            return self._plugin_commands(ctx).get(cmd_name)
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of *args*. Raises UsageError with the nearest name."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not ctx.resilient_parsing:
            from limehub.config.names import suggestion

            ctx.fail(f"no such command {name!r}{suggestion(name, self.list_commands(ctx))}")
        return name if command else None, command, args[1:]

    def invoke(self, ctx: click.Context) -> None:
        """Run the command. What a plugin's command returns is not an exit code."""
        super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands without importing limehub's own."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in self.lazy.items()])
        plugins = self._plugin_commands(ctx)
        if plugins:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(
                    [(name, plugins[name].get_short_help_str()) for name in sorted(plugins)]
                )

    def _plugin_commands(self, ctx: click.Context) -> Mapping[str, click.Command]:
        if self._from_plugins is None:
            from limehub.cli.plugin_commands import plugin_commands

            # While they load, plugins may not ask for themselves.
            self._from_plugins = {}
            self._from_plugins = plugin_commands(ctx, self.lazy)
        return self._from_plugins
