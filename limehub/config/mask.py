"""What must never be shown: secrets by the name of their key, and credentials inside URLs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["HIDDEN", "is_secret", "mask_text", "mask_tree", "mask_value", "path_is_secret"]

HIDDEN = "***"

_WORDS = ("secret", "token", "password", "key", "dsn")
_TOKEN = re.compile(r"\S*://\S*")


def is_secret(key: str) -> bool:
    """Whether the value of *key* is hidden. Paths of files and routing keys are no secrets."""
    plain = key.lower().replace("-", "_")
    if "routing_key" in plain or plain.endswith(("_file", "_path")):
        return False
    return any(word in plain for word in _WORDS)


def path_is_secret(path: Sequence[str | int]) -> bool:
    """Whether the value at *path* is hidden; names of plugins and groups do not count."""
    keys = path[2:] if path[:1] == ("plugins",) else path[-1:]
    return any(isinstance(key, str) and is_secret(key) for key in keys)


def mask_value(path: Sequence[str | int], value: Any) -> Any:
    """Return *value* as it may be shown at *path*: hidden whole, or free of URL credentials."""
    return _hidden(value) if path_is_secret(path) else mask_tree(value)


def mask_tree(value: Any) -> Any:
    """Return a copy of a nested *value* without secrets."""
    if isinstance(value, Mapping):
        return {
            key: _hidden(inner) if is_secret(str(key)) else mask_tree(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask_tree(inner) for inner in value]
    return mask_text(value) if isinstance(value, str) else value


def mask_text(text: str) -> str:
    """Return *text* with *** for the credentials of every URL in it."""
    return _TOKEN.sub(lambda match: _mask_url(match.group()), text) if "://" in text else text


def _hidden(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _hidden(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(inner) for inner in value]
    return value if value is None or isinstance(value, bool) else HIDDEN


def _mask_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    # The last @: an unescaped one inside the password must not let its tail through.
    userinfo, at, tail = rest.rpartition("@")
    if at:
        rest = f"{_mask_userinfo(scheme, userinfo)}@{tail}"
    before, question, query = rest.partition("?")
    return f"{scheme}://{before}{question}{_mask_query(query)}"


def _mask_userinfo(scheme: str, userinfo: str) -> str:
    user, colon, _ = userinfo.partition(":")
    if colon:
        return f"{user}:{HIDDEN}"
    # A lone user name is a name for brokers, but a token for web services (a Sentry DSN).
    return user if scheme.lower().endswith(("amqp", "amqps")) else HIDDEN


def _mask_query(query: str) -> str:
    return "&".join(
        f"{name}={HIDDEN}" if equals and is_secret(name) else pair
        for pair in query.split("&")
        for name, equals, _ in [pair.partition("=")]
    )
