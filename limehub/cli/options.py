"""Options that many commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["config_option", "config_path", "json_option"]

F = TypeVar("F", bound=Callable[..., Any])


def config_path(context: click.Context, own: Path | None = None) -> Path | None:
    """Return the file of `-c`, the command's *own* before that of `limehub -c FILE command`."""
    return own or context.find_root().obj


def config_option(command: F) -> F:
    """Add `-c FILE`; the command gets *config*: Path or None for the default."""
    return click.option(
        "-c",
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        callback=lambda context, _parameter, value: config_path(context, value),
        help="The configuration.  [default: $LIMEHUB_CONFIG, else ./limehub.toml]",
    )(command)


def json_option(command: F) -> F:
    """Add `--json`; the command gets *as_json*."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
