"""From the configuration to what a connection needs to know."""

from __future__ import annotations

from limehub.amqp.connection import ConnectionSettings
from limehub.amqp.keepalive import Keepalive
from limehub.config import BrokerUrl, Config

__all__ = ["connection_settings"]


def connection_settings(
    config: Config, *, url: BrokerUrl | None = None, timeout: float = 10.0
) -> ConnectionSettings:
    """Return how to connect to the broker of *config*, or to *url* with its other settings.

    *timeout*: seconds for name, TCP, TLS and handshake, each.
    """
    events, tls = config.events, config.events.tls
    return ConnectionSettings(
        url=url or events.url,
        heartbeat=events.heartbeat,
        keepalive=Keepalive(idle=float(events.tcp_keepalive_timeout)),
        ca_file=tls.ca_file,
        cert_file=tls.cert_file,
        key_file=tls.key_file,
        server_name=tls.server_name,
        timeout=timeout,
    )
