"""Who is told about which events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from attrs import field, frozen
from urllib3.util import parse_url

__all__ = ["Target", "parse_targets"]

_KNOWN = ("url", "secret", "events", "applications")


@frozen(kw_only=True)
class Target:
    """*events*: `deal.update`, `deal.*`; *applications*: () is all; no *secret*: no signature."""

    url: str
    secret: str = field(default="", repr=False)
    events: tuple[str, ...] = ("*.*",)
    applications: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """The part of the address that is fit for logs: paths and queries may hold secrets."""
        return parse_url(self.url).netloc or "?"

    def wants(self, name: str, application: str) -> bool:
        """Whether an event called *name*, such as `deal.update`, is posted here."""
        if self.applications and application not in self.applications:
            return False
        return any(fnmatchcase(name, pattern) for pattern in self.events)


def parse_targets(written: Iterable[Any]) -> tuple[Target, ...]:
    """Return the targets of the setting. Raises ValueError that names the wrong entry."""
    return tuple(_target(f"targets[{index}]", entry) for index, entry in enumerate(written))


def _target(where: str, entry: Any) -> Target:
    table = {"url": entry} if isinstance(entry, str) else entry
    if not isinstance(table, Mapping):
        raise ValueError(f"{where} is neither an address nor a table")
    unknown = sorted(set(table) - set(_KNOWN))
    if unknown:
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(_KNOWN)}")
    return Target(
        url=_url(where, table.get("url")),
        secret=_text(f"{where}.secret", table.get("secret", "")),
        events=_texts(f"{where}.events", table.get("events", ["*.*"])),
        applications=_texts(f"{where}.applications", table.get("applications", [])),
    )


def _url(where: str, value: Any) -> str:
    url = _text(f"{where}.url", value)
    parsed = parse_url(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{where}.url is no http or https address")
    if parsed.auth:
        raise ValueError(f"{where}.url holds credentials; use secret, which signs instead")
    return url


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} is not text")
    return value


def _texts(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where} is not a list")
    return tuple(_text(where, one) for one in value)
