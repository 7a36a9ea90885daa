"""Where a listener binds: `127.0.0.1:8080`, `[::1]:0`, `0.0.0.0:80`."""

from __future__ import annotations

import ipaddress
import re

from attrs import frozen

__all__ = ["Address"]

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")


@frozen
class Address:
    """A host and a port; port 0 is any free port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port`. Raises ValueError saying what to write."""
        host, colon, port = text.rpartition(":")
        if not colon or not host:
            raise ValueError('must be "host:port" (such as "127.0.0.1:8080") or "none"')
        if not (port.isascii() and port.isdigit() and len(port) < 6 and int(port) <= 65535):
            raise ValueError(f"has a port that is no number from 0 to 65535: {port!a}")
        return cls(_host(host), int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A host name other than localhost is public."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise ValueError(f"{text!a} holds no IPv6 address") from None
    if ":" in text:
        raise ValueError('needs brackets round an IPv6 address: "[::1]:8080"')
    if not _HOST.fullmatch(text):
        raise ValueError(f"{text!a} is no host name")
    return text
