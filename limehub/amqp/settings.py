"""From the configuration to what a connection needs to know."""

from __future__ import annotations

from limehub.amqp.connection import ConnectionSettings
from limehub.amqp.keepalive import Keepalive
from limehub.config import BrokerUrl, Config
from limehub.errors import ConfigError

__all__ = ["connection_settings"]


def connection_settings(
    config: Config, *, url: BrokerUrl | None = None, timeout: float = 10.0
) -> ConnectionSettings:
    """Return how to connect to the broker of *config*, or to *url* with its other settings.

    *timeout*: seconds for name, TCP, TLS and handshake, each; the URL's own comes first.
    Raises ConfigError for a broker that this version has not.
    """
    events, tls = config.events, config.events.tls
    broker = url or events.url
    if broker.embedded:
        raise ConfigError(
            "events.connection_string: the embedded broker is not in this version; "
            "name a RabbitMQ, as amqp://guest@localhost//"
        )
    return ConnectionSettings(
        url=broker,
        heartbeat=events.heartbeat,
        keepalive=Keepalive(idle=float(events.tcp_keepalive_timeout)),
        ca_file=tls.ca_file,
        cert_file=tls.cert_file,
        key_file=tls.key_file,
        server_name=tls.server_name,
        timeout=float(broker.options.get("connection_timeout", timeout)),
    )
