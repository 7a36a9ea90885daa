"""The broker's address, as `events.connection_string` and RABBIT_URL write it.

    amqp://guest@localhost//             guest/guest, vhost /
    amqps://bob:s3cret@mq.example:5671/crm?heartbeat=30
    embedded://    embedded:///var/lib/limehub/broker.db

No message made here ever quotes a part of the text that could belong to a password.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Literal, cast
from urllib.parse import quote, unquote

from attrs import field, frozen

__all__ = ["BrokerUrl", "Scheme"]

Scheme = Literal["amqp", "amqps", "embedded"]

_PORTS = {"amqp": 5672, "amqps": 5671, "embedded": 0}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9.])?")
_ESCAPED = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")
_ESCAPE_HINT = "write special characters of a user name or password as %XX: @ is %40, / is %2F"


@frozen(kw_only=True)
class BrokerUrl:
    """A parsed address. *options*: `heartbeat`, `connection_timeout`, in seconds, when given.

    *port* is 0 and *path* is a file name or None (in memory) for `embedded`. str() and repr() hide
    the password.
    """

    scheme: Scheme
    host: str = "localhost"
    port: int = 5672
    username: str = "guest"
    password: str = field(default="guest", repr=False)
    vhost: str = "/"
    path: str | None = None
    options: Mapping[str, float] = field(factory=dict)

    @classmethod
    def parse(cls, text: str) -> BrokerUrl:
        """Read *text*. Raises ValueError saying what is wrong and what to write instead."""
        if any(ord(letter) <= 32 or ord(letter) == 127 for letter in text):
            raise ValueError("holds a space or control character")
        scheme, separator, rest = text.partition("://")
        if not separator or scheme.lower() not in _PORTS:
            raise ValueError("must begin with amqp://, amqps:// or embedded://")
        if "#" in rest:
            raise ValueError("holds a #; write it as %23")
        if scheme.lower() == "embedded":
            return cls(scheme="embedded", port=0, path=_file(rest))
        return _amqp(cast("Scheme", scheme.lower()), rest)

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme == "amqps"

    @property
    def embedded(self) -> bool:
        """Whether the broker is limehub's own."""
        return self.scheme == "embedded"

    @property
    def location(self) -> str:
        """`host:port`, with brackets round an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def masked(self) -> str:
        """Return the URL with *** for the password."""
        return self._text("***")

    def with_password(self) -> str:
        """Return the whole URL; parse() of it gives an equal BrokerUrl. For private files only."""
        return self._text(quote(self.password, safe=""))

    def _text(self, password: str) -> str:
        if self.embedded:
            return f"embedded://{quote(self.path or '')}"
        options = "&".join(
            f"{name}={seconds * _UNITS[name]:.0f}" for name, seconds in self.options.items()
        )
        user = quote(self.username, safe="")
        vhost = quote(self.vhost, safe="")
        query = f"?{options}" if options else ""
        return f"{self.scheme}://{user}:{password}@{self.location}/{vhost}{query}"

    def __str__(self) -> str:
        return self.masked()


_UNITS = {"heartbeat": 1, "connection_timeout": 1000}
"""How many of the wire's units a second has: https://www.rabbitmq.com/docs/uri-query-parameters"""
_LIMITS = {"heartbeat": (0, 65535), "connection_timeout": (1, 3_600_000)}


def _amqp(scheme: Scheme, rest: str) -> BrokerUrl:
    address, _, query = rest.partition("?")
    authority, slash, path = address.partition("/")
    if "@" in path or "@" in query:
        raise ValueError(f"has an @ behind the host; {_ESCAPE_HINT}")
    userinfo, at, location = authority.rpartition("@")
    username, password = _credentials(userinfo) if at else ("guest", "guest")
    host, port = _location(location, _PORTS[scheme])
    return BrokerUrl(
        scheme=scheme,
        host=host,
        port=port,
        username=username,
        password=password,
        vhost=_vhost(slash + path),
        options=_options(query),
    )


def _credentials(userinfo: str) -> tuple[str, str]:
    user, colon, secret = userinfo.partition(":")
    if "@" in userinfo:
        raise ValueError(f"has more than one @; {_ESCAPE_HINT}")
    username = _decoded(user, "user name")
    if not username:
        raise ValueError("has a password but no user name")
    if not colon and username == "guest":
        return "guest", "guest"
    if not secret:
        raise ValueError(
            f"user {username!a} has no password; only guest may leave it out, "
            f"write {quote(username, safe='')}:PASSWORD@"
        )
    return username, _decoded(secret, "password")


def _location(text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ValueError("has an IPv6 address without closing bracket")
        return _ipv6(address), _port(port[1:], default_port)
    host, _, port = text.partition(":")
    if host and not _HOST.fullmatch(host):
        raise ValueError(f"has a host that is no host name; {_ESCAPE_HINT}")
    return host or "localhost", _port(port, default_port)


def _ipv6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise ValueError("has brackets round something that is no IPv6 address") from None


def _port(text: str, default: int) -> int:
    if not text:
        return default
    # Not quoted in the message: with an unescaped / in it, a password ends up here.
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= 65535):
        raise ValueError(f"has a port that is no number from 1 to 65535; {_ESCAPE_HINT}")
    return int(text)


def _vhost(path: str) -> str:
    if path in ("", "/", "//"):
        return "/"
    if "/" in path[1:]:
        raise ValueError("has a / inside the vhost; write it as %2F")
    vhost = _decoded(path[1:], "vhost")
    if len(vhost.encode()) > 255:
        raise ValueError("has a vhost of more than 255 bytes")
    return vhost


def _options(query: str) -> dict[str, float]:
    options: dict[str, float] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name not in _UNITS:
            shown = f" {name}" if re.fullmatch(r"[a-z_]{1,40}", name) else ""
            raise ValueError(f"has an unknown option{shown}; known are {', '.join(_UNITS)}")
        if name in options:
            raise ValueError(f"has the option {name} twice")
        options[name] = _option(name, value)
    return options


def _option(name: str, value: str) -> float:
    low, high = _LIMITS[name]
    digits = value.isascii() and value.isdigit() and len(value) < 10
    if not digits or not low <= int(value) <= high:
        raise ValueError(f"has an option {name} that is no whole number from {low} to {high}")
    return int(value) / _UNITS[name]


def _file(rest: str) -> str | None:
    if "?" in rest:
        raise ValueError("embedded:// takes no options")
    if rest in ("", "/"):
        return None
    if not rest.startswith("/"):
        raise ValueError("embedded:// takes an absolute path: embedded:///path/file.db")
    return _decoded(rest, "path")


def _decoded(text: str, what: str) -> str:
    if not _ESCAPED.fullmatch(text):
        raise ValueError(f"has a {what} with a % that begins no %XX; write % as %25")
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"has a {what} that is not UTF-8") from None
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in decoded):
        raise ValueError(f"has a {what} with a control character")
    return decoded
