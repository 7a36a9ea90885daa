"""What commands begin with: the configuration, the plugins, and where the broker is."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from limehub.config import DEFAULT_FILE, BrokerUrl, Loaded, RunInfo, load, runfile
from limehub.errors import ConfigError

if TYPE_CHECKING:
    from limehub.amqp.connection import ConnectionSettings
    from limehub.amqp.publisher import Publisher
    from limehub.config import Config
    from limehub.plugins.registry import Registry

__all__ = [
    "BrokerPlace",
    "broker_of",
    "config_file",
    "load_config",
    "load_plugins",
    "open_publisher",
    "registry_of",
]

CONNECT_TIMEOUT = 5.0
"""Seconds that a person waits for a broker that does not answer."""


@frozen(kw_only=True)
class BrokerPlace:
    """The broker that a command talks to. *server*: the running server that it belongs to."""

    url: BrokerUrl
    server: RunInfo | None

    def __str__(self) -> str:
        whose = f" (of the running server, pid {self.server.pid})" if self.server else ""
        return f"{self.url.masked()}{whose}"

    def settings(self, config: Config, *, timeout: float = CONNECT_TIMEOUT) -> ConnectionSettings:
        """Return how to connect to it."""
        from limehub.amqp.settings import connection_settings

        return connection_settings(config, url=self.url, timeout=timeout)


def config_file(path: Path | None) -> Path:
    """Return the file of `-c`, else of LIMEHUB_CONFIG, else ./limehub.toml."""
    return path or Path(os.environ.get("LIMEHUB_CONFIG") or DEFAULT_FILE)


def load_config(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Loaded:
    """Read limehub.toml and the environment. Raises ConfigError with every problem."""
    return load(path, os.environ, overrides)


def load_plugins(loaded: Loaded) -> Registry:
    """Load what is installed; what plugins print goes to standard error, not into our output.

    Raises ConfigError with the place of each setting that a plugin does not take.
    """
    _log_only_warnings()
    with contextlib.redirect_stdout(sys.stderr):
        return registry_of(loaded)


def registry_of(loaded: Loaded) -> Registry:
    """As `load_plugins`, for the server: what plugins print and log is left as it is."""
    from limehub.plugins.registry import load_registry

    try:
        return load_registry(loaded.config)
    except ConfigError as error:
        raise ConfigError(*map(loaded.located, error.problems)) from error


def broker_of(loaded: Loaded) -> BrokerPlace:
    """Return the broker of the running server, else that of the configuration.

    Raises ConfigError for the embedded broker when no server runs: nobody else has it.
    """
    server = runfile.read(loaded.path)
    url = BrokerUrl.parse(server.amqp_url) if server else loaded.config.events.url
    if url.embedded:
        raise ConfigError(
            "the embedded broker lives in the server, and none runs here; start `limehub serve`"
        )
    return BrokerPlace(url=url, server=server)


def open_publisher(config: Config, place: BrokerPlace) -> Publisher:
    """Return a connected publisher. Raises BrokerUnreachable or BrokerRefused at once."""
    from limehub.amqp.publisher import Publisher

    _log_only_warnings()
    publisher = Publisher(
        place.settings(config),
        applications=config.applications,
        exchange=config.events.exchange,
        routing_key_template=config.events.routing_key_template,
        name="limehub command",
        timeout=10.0,
    )
    publisher.call(lambda _connection: None)
    return publisher


def _log_only_warnings() -> None:
    """A command's own words are its output; libraries' complaints would only repeat them."""
    from limehub.observe import logs

    logs.configure("warning", "text")
