"""`limehub broker`: the embedded broker alone, for several servers or services of one machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from limehub.cli.loading import config_file, load_config
from limehub.cli.options import config_option
from limehub.config.address import Address
from limehub.interpreter import interpreter

__all__ = ["broker"]

DEFAULT = Address("127.0.0.1", 5672)


def _address(_context: object, _option: object, text: str | None) -> Address | None:
    try:
        return Address.parse(text) if text else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _users(_context: object, _option: object, users: tuple[str, ...]) -> tuple[str, ...]:
    """NAME:PASSWORD_FILE, read by the broker itself: a password is never in a process list."""
    for user in users:
        name, colon, file = user.partition(":")
        if not (name and colon and file):
            raise click.BadParameter(f"{user!r} is not NAME:PASSWORD_FILE")
        if not Path(file).is_file():
            raise click.BadParameter(f"there is no file {file!r}")
    return users


@click.command()
@config_option
@click.option(
    "--listen",
    callback=_address,
    metavar="HOST:PORT",
    help="Port 0 is any free one.  [default: broker.listen, else 127.0.0.1:5672]",
)
@click.option(
    "--data",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep durable queues and persistent messages in this file; else all is in memory.",
)
@click.option(
    "--user",
    "users",
    callback=_users,
    metavar="NAME:PASSWORD_FILE",
    multiple=True,
    help="Who may connect; may be given several times. Default: guest, from this machine only.",
)
def broker(
    config: Path | None, listen: Address | None, data: Path | None, users: tuple[str, ...]
) -> None:
    """Run the embedded broker until SIGTERM or Ctrl-C.

    Where a limehub.toml lies here, its `broker.listen` and `broker.path` are the defaults, and its
    `log` counts.
    """
    more: list[str] = []
    if config or config_file(None).exists():
        settings = load_config(config).config
        listen = listen or settings.broker.address
        data = data or (Path(settings.broker.path) if settings.broker.path else None)
        more += ["--memory-share", str(settings.broker.memory_share)]
        more += ["--log-level", settings.log.level]
        more += ["--log-format", settings.log.format] if settings.log.format else []
    command = [*interpreter(), "-m", "limehub.broker", "--listen", str(listen or DEFAULT), *more]
    command += ["--data", str(data)] if data else []
    for user in users:
        command += ["--user", user]
    os.execv(sys.executable, command)  # noqa: S606 - a fresh interpreter without patching
