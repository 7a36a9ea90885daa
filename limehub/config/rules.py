"""What must hold between keys. Pure: a Config in, problems and warnings out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from limehub.config.layers import Problem
from limehub.config.model import Config, Tls
from limehub.config.names import alike, suggestion

__all__ = ["rule_problems", "rule_warnings"]


def rule_problems(config: Config) -> list[Problem]:
    """Return what makes *config* unusable although each key is sound."""
    return [
        *_exchange(config),
        *_groups(config),
        *_packages(config),
        *_twins(("packages",), config.packages),
        *_twins(("plugins",), config.plugins),
        *_tls(config),
        *_web(config),
    ]


def rule_warnings(config: Config) -> list[Problem]:
    """Return what works but is hardly meant."""
    return [*_heartbeat_warnings(config), *_tls_warnings(config)]


def _exchange(config: Config) -> Iterator[Problem]:
    if config.events.exchange is not None and len(config.applications) > 1:
        yield Problem(
            ("events", "exchange"),
            f"serves one application only, but there are {len(config.applications)}; "
            "leave it out, and each has its own lime.<application>",
        )


def _groups(config: Config) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for group, settings in config.event_handler.workers.items():
        path = ("event_handler", "workers", group)
        if settings.claim is None:
            if group != "default":
                yield Problem((*path, "queue_prefix"), "is required; only `default` has none")
        elif settings.claim in seen:
            other = seen[settings.claim]
            yield Problem((*path, "queue_prefix"), f"is that of the group {other} already")
        else:
            seen[settings.claim] = group


def _packages(config: Config) -> Iterator[Problem]:
    known = set(config.applications)
    for app, package in config.packages.items():
        for application in package.applications or ():
            if application not in known:
                hint = suggestion(application, config.applications)
                yield Problem(
                    ("packages", app, "applications"),
                    f"{application} is not in the top-level `applications`{hint}",
                )


def _twins(path: tuple[str, ...], names: Iterable[str]) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(alike(name), name)
        if other != name:
            yield Problem((*path, name), f"is {other} again: dash and underscore are alike")


def _tls(config: Config) -> Iterator[Problem]:
    tls = config.events.tls
    if tls.key_file and not tls.cert_file:
        yield Problem(("events", "tls", "key_file"), "is of no use without cert_file")


def _web(config: Config) -> Iterator[Problem]:
    web = config.web
    if web.address and not web.address.is_loopback and not web.token_file:
        yield Problem(
            ("web", "bind"),
            f"{web.bind} can be reached from other machines; set web.token_file "
            "(one `name role token` a line), or bind 127.0.0.1",
        )
    if web.address and web.address == web.health_address and web.address.port:
        yield Problem(("web", "health_bind"), "is the same address as web.bind")


def _heartbeat_warnings(config: Config) -> Iterator[Problem]:
    events = config.events
    if 1 <= events.heartbeat < 5:
        yield Problem(
            ("events", "consumer_heartbeat"),
            f"{events.heartbeat} s is short: under 5 s the broker takes a slow network for a dead "
            "peer (https://www.rabbitmq.com/docs/heartbeats)",
        )
    if events.consumer_heartbeat not in (15, events.heartbeat):
        yield Problem(
            ("events", "consumer_heartbeat"),
            f"is not used: the connection string says heartbeat={events.heartbeat}",
        )


def _tls_warnings(config: Config) -> Iterator[Problem]:
    if not config.events.url.tls and config.events.tls != Tls():
        yield Problem(("events", "tls"), "is not used: the connection string is not amqps://")
