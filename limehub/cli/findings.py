"""Findings of `limehub check`, and the exit code that they add up to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Literal

from attrs import frozen

from limehub.cli.placement import Placement
from limehub.config import Config, Loaded
from limehub.plugins.registry import Registry

__all__ = [
    "Finding",
    "Kind",
    "Level",
    "configuration_findings",
    "exit_code_of",
    "group_findings",
    "plugin_findings",
]

Kind = Literal["configuration", "plugin", "group", "broker", "topology"]

EXIT_CODES: dict[Kind, int] = {
    "configuration": 2,
    "group": 2,
    "plugin": 3,
    "broker": 4,
    "topology": 5,
}


class Level(StrEnum):
    """How bad a finding is. OK: as it should be; INFO: worth knowing."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@frozen(kw_only=True)
class Finding:
    """One thing that was looked at. *subject*: which; *text*: what, and what to do next."""

    kind: Kind
    level: Level
    subject: str
    text: str


def exit_code_of(findings: Iterable[Finding], *, strict: bool) -> int:
    """Return the exit code of the worst finding; *strict*: warnings are 1 instead of 0.

    The worst error is the one that stops a start first: configuration, plugin, broker, topology.
    """
    found = list(findings)
    errors = [EXIT_CODES[each.kind] for each in found if each.level is Level.ERROR]
    if errors:
        return min(errors)
    return int(strict and any(each.level is Level.WARNING for each in found))


def configuration_findings(loaded: Loaded) -> Iterator[Finding]:
    """Say that the configuration can be used, and what is odd about it."""
    yield Finding(
        kind="configuration", level=Level.OK, subject=str(loaded.path), text="every key is valid"
    )
    for warning in loaded.warnings:
        yield Finding(
            kind="configuration", level=Level.WARNING, subject=str(loaded.path), text=warning
        )


def plugin_findings(registry: Registry) -> Iterator[Finding]:
    """Say which plugins work, which are broken, and what their names and keys look like."""
    for broken in registry.broken:
        yield Finding(kind="plugin", level=Level.ERROR, subject=broken.name, text=str(broken))
    for plugin in registry.plugins.values():
        count = sum(one.app == plugin.name for one in registry.handlers.values())
        text = f"{plugin.distribution} {plugin.version}: {count} handlers"
        yield Finding(kind="plugin", level=Level.OK, subject=plugin.name, text=text)
    for app in registry.disabled:
        text = f"switched off by packages.{app}.enabled"
        yield Finding(kind="plugin", level=Level.INFO, subject=app, text=text)
    for warning in registry.warnings:
        subject, _, text = warning.partition(": ")
        yield Finding(
            kind="plugin",
            level=Level.WARNING,
            subject=subject,
            text=text or "see `limehub plugins`",
        )


def group_findings(config: Config, found: Iterable[Placement]) -> Iterator[Finding]:
    """Say which worker groups have handlers; one whose prefix matches nothing is a warning."""
    names = [placement.group for placement in found]
    if not names:
        text = "no handler is installed: the server would have nothing to do"
        yield Finding(kind="group", level=Level.WARNING, subject="default", text=text)
    for group, settings in config.event_handler.workers.items():
        if group in names or settings.queue_prefix is None:
            continue
        text = f"queue_prefix {settings.queue_prefix!r} matches no queue"
        yield Finding(kind="group", level=Level.WARNING, subject=group, text=text)
    for group in dict.fromkeys(names):
        text = f"{names.count(group)} handlers"
        yield Finding(kind="group", level=Level.OK, subject=group, text=text)
