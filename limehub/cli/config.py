"""`limehub config show`: every key with its effective value, secrets masked."""

from __future__ import annotations

from pathlib import Path

import click

from limehub.cli.loading import load_config
from limehub.cli.options import config_option, json_option
from limehub.cli.output import print_json, say, warn
from limehub.config.show import as_json as rows_as_json
from limehub.config.show import render, rows

__all__ = ["config"]


@click.group()
def config() -> None:
    """Look at the configuration in effect."""


@config.command(short_help="Print every key with its effective value.")
@config_option
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@json_option
def show(config: Path | None, origin: bool, as_json: bool) -> None:
    """Print every key with its effective value as TOML; secrets are masked."""
    loaded = load_config(config)
    for warning in loaded.warnings:
        warn(f"warning: {warning}")
    if as_json:
        print_json(rows_as_json(rows(loaded)))
    else:
        say(render(rows(loaded), origins=origin))
