"""`limehub serve`: the server, until a signal, a crash or an error ends it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import evolve

from limehub.cli.loading import load_config, registry_of
from limehub.cli.options import config_option
from limehub.config import Config, Loaded

if TYPE_CHECKING:
    from limehub.embedded import EmbeddedBroker
    from limehub.observe.own_log import OwnLog
    from limehub.plugins.registry import Registry
    from limehub.server import ServeOptions

__all__ = ["serve"]

log = logging.getLogger(__name__)


@click.command()
@config_option
@click.option(
    "--worker",
    "workers",
    metavar="NAME",
    multiple=True,
    help="Run only this worker group; may be given several times.",
)
@click.option("--bind", metavar="ADDR|none", help="Listen here instead of web.bind.")
@click.option("--fail-fast", is_flag=True, help="Exit 4 if the broker cannot be reached.")
@click.option("--strict-topology", is_flag=True, help="Exit 5 if a queue exists otherwise.")
@click.option("--skip-broken-plugins", is_flag=True, help="Go on without them.")
@click.pass_context
def serve(
    context: click.Context,
    config: Path | None,
    workers: tuple[str, ...],
    bind: str | None,
    fail_fast: bool,
    strict_topology: bool,
    skip_broken_plugins: bool,
) -> None:
    """Run the handlers of the installed packages until SIGTERM or Ctrl-C."""

    def read(file: Path | None = config) -> Loaded:
        return load_config(file, {"web.bind": bind})

    from limehub.server import ServeOptions

    options = ServeOptions(
        workers=tuple(dict.fromkeys(workers)),
        fail_fast=fail_fast,
        strict_topology=strict_topology,
        environ=os.environ,
    )
    context.exit(_serve(read, options, skip_broken=skip_broken_plugins))


def _serve(read: Callable[..., Loaded], options: ServeOptions, *, skip_broken: bool) -> int:
    from limehub.server import Server
    from limehub.signals import before_start

    before_start()
    loaded = read()
    file = loaded.path  # the whole path: a package may change the working directory
    own_log = _set_up_logs(loaded.config)
    with _broker_of(loaded) as broker:
        at_broker = broker.serve if broker is not None else _as_it_is
        options = evolve(options, reload=lambda: at_broker(read(file)), reclaim_log=own_log.reclaim)
        loaded = at_broker(loaded)
        registry = _registry(loaded, skip_broken=skip_broken)
        return Server(loaded, registry, options=options).run()


def _as_it_is(loaded: Loaded) -> Loaded:
    return loaded


@contextlib.contextmanager
def _broker_of(loaded: Loaded) -> Iterator[EmbeddedBroker | None]:
    """Run the embedded broker as long as the server, if the configuration asks for it."""
    if not loaded.config.events.url.embedded:
        yield None
        return
    from limehub.embedded import EmbeddedBroker

    broker = EmbeddedBroker(loaded.config)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def _set_up_logs(config: Config) -> OwnLog:
    from limehub.observe import logs
    from limehub.observe.strays import adopt_strays

    own_log = logs.configure(config.log.level, config.log.format)
    adopt_strays()
    return own_log


def _registry(loaded: Loaded, *, skip_broken: bool) -> Registry:
    registry = registry_of(loaded)
    if not skip_broken:
        registry.raise_if_broken()
    for broken in registry.broken:
        log.error("plugin skipped", extra={"plugin": broken.name, "cause": str(broken)})
    return registry
