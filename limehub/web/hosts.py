"""Under which names the pages may be opened: the guard against DNS rebinding. Pure.

A hostile page can make its own name point at 127.0.0.1 and so reach a server that trusts loopback;
the browser still sends that name as Host. Names are therefore listed. An address in figures cannot
be rebound.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from limehub.config.address import Address

__all__ = ["is_allowed_host", "is_same_origin"]


def is_allowed_host(host: str, *, bound: Address | None, allowed: Iterable[str]) -> bool:
    """Whether a Host header is one of ours. *allowed*: `web.allowed_hosts`, port optional."""
    name, port = _split(host)
    if not name:
        return False
    if name == "localhost" or _is_loopback(name):
        return True
    if bound is not None and (name == _plain(bound.host) or _is_figure_of_wildcard(name, bound)):
        return True
    listed = [_split(each) for each in allowed]
    return (name, port) in listed or (name, "") in listed


def is_same_origin(host: str, *, origin: str | None, fetch_site: str | None) -> bool:
    """Whether a change was asked for by our own page, or by no page at all (curl)."""
    if fetch_site is not None and fetch_site not in ("same-origin", "none"):
        return False
    return origin is None or origin.partition("://")[2].lower() == host.lower()


def _split(host: str) -> tuple[str, str]:
    """Return name and port of `name:port`, `[::1]:port`, or without a port."""
    host = host.strip().lower()
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        return (name, port) if bracket and colon in ("", ":") and _is_port(port) else ("", "")
    name, _, port = host.partition(":")
    return (_plain(name), port) if _is_port(port) else ("", "")


def _is_port(text: str) -> bool:
    """Whether it is a port's number, or nothing: `localhost:80@evil` is no name of ours."""
    return not text or (text.isascii() and text.isdigit())


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _is_loopback(name: str) -> bool:
    address = _figure(name)
    return address is not None and address.is_loopback


def _is_figure_of_wildcard(name: str, bound: Address) -> bool:
    wildcard = _figure(bound.host)
    return wildcard is not None and wildcard.is_unspecified and _figure(name) is not None


def _figure(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
