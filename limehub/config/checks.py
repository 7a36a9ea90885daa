"""attrs validators for single values. They raise ValueError without the key's name: the loader
puts file, line and path in front."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from limehub.config.address import Address
from limehub.config.names import name_problem
from limehub.config.url import BrokerUrl

__all__ = [
    "Check",
    "address",
    "applications",
    "between",
    "broker_url",
    "file_path",
    "host_names",
    "name",
    "routing_key_template",
    "web_url",
]

Check = Callable[[Any, Any, Any], None]
"""(instance, attribute, value); the first two may be None."""


def between(low: float, high: float, unit: str = "") -> Check:
    """Allow numbers from *low* to *high*, both included; nan is never between."""
    suffix = f" {unit}" if unit else ""

    def check(_instance: Any, _attribute: Any, value: float) -> None:
        if not low <= value <= high:
            raise ValueError(f"must be {low} to {high}{suffix}, is {value}")

    return check


def name(_instance: Any, _attribute: Any, value: str) -> None:
    """Allow a name that may reach the broker."""
    problem = name_problem(value)
    if problem:
        raise ValueError(problem)


def applications(_instance: Any, _attribute: Any, value: tuple[str, ...]) -> None:
    """Allow one or more different names."""
    if not value:
        raise ValueError("must name at least one application")
    seen: set[str] = set()
    for application in value:
        name(None, None, application)
        if application in seen:
            raise ValueError(f"names {application} twice")
        seen.add(application)


def broker_url(_instance: Any, _attribute: Any, value: str) -> None:
    """Allow what BrokerUrl.parse reads."""
    BrokerUrl.parse(value)


def address(_instance: Any, _attribute: Any, value: str) -> None:
    """Allow `host:port` and `none`."""
    if value != "none":
        Address.parse(value)


def web_url(_instance: Any, _attribute: Any, value: str) -> None:
    """Allow http and https URLs with a host."""
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is no URL") from None
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\x00-\x20\x7f]", value):
        raise ValueError("must be an http:// or https:// URL")


def file_path(_instance: Any, _attribute: Any, value: str) -> None:
    """Allow text that can name a file."""
    if not value or re.search(r"[\x00-\x1f\x7f]", value):
        raise ValueError("must name a file")


def host_names(_instance: Any, _attribute: Any, value: tuple[str, ...]) -> None:
    """Allow host names, each with or without a port."""
    for host in value:
        if not re.fullmatch(
            r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?", host
        ):
            raise ValueError(f"{host!a} is no host name")


def routing_key_template(_instance: Any, _attribute: Any, value: str) -> None:
    """Allow text with {routing_key}, and with {exchange} or without it."""
    fields = _placeholders(value)
    wrong = [text for text in fields if text not in ("exchange", "routing_key")]
    if wrong:
        raise ValueError(
            f"{{{wrong[0]}}} is no placeholder; known are {{exchange}}, {{routing_key}}"
        )
    if "routing_key" not in fields:
        raise ValueError("must hold {routing_key}, else all events would have one key")


def _placeholders(template: str) -> list[str]:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"is no template: {error}") from None
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise ValueError("takes placeholders without format or conversion")
    literal = "".join(text for text, _, _, _ in parts)
    if len(literal) > 100 or not re.fullmatch(r"[A-Za-z0-9._:/-]*", literal):
        raise ValueError("may hold up to 100 letters, digits and ._:/- besides its placeholders")
    return [field for _, field, _, _ in parts if field is not None]
