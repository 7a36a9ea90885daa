"""`limehub init`: a commented limehub.toml to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from limehub.cli.loading import config_file
from limehub.cli.options import config_option
from limehub.cli.output import say
from limehub.config.template import TEMPLATE
from limehub.errors import ConfigError

__all__ = ["init"]


@click.command()
@config_option
@click.option("--force", is_flag=True, help="Overwrite the file if it is there.")
def init(config: Path | None, force: bool) -> None:
    """Write a commented limehub.toml that runs as it is."""
    path = config_file(config)
    _write(path, force=force)
    say(f"wrote {path}; next: `limehub check`, then `limehub serve`")


def _write(path: Path, *, force: bool) -> None:
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError:
        raise ConfigError(f"{path} is there already; --force overwrites it") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
