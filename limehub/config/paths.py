"""Paths of keys: a tuple inside, dotted text outside, quoted where TOML needs it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

__all__ = ["KEY_TOKEN", "Path", "dotted", "quoted_key", "split"]

Path = tuple[str | int, ...]
"""Keys, and indexes into arrays."""

KEY_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|[A-Za-z0-9_-]+')
"""One part of a TOML key: basic string, literal string, or bare."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def quoted_key(key: str) -> str:
    """Return *key* as TOML writes it."""
    if _BARE.fullmatch(key):
        return key
    # JSON's escapes are TOML's, but for DEL, which TOML does not allow raw.
    return json.dumps(key, ensure_ascii=False).replace("\x7f", "\\u007F")


def dotted(path: Iterable[str | int]) -> str:
    """Return `events.tls.ca_file`, `plugins."a.b".list[2]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{quoted_key(part)}" if text else quoted_key(part)
    return text


def split(text: str) -> tuple[str, ...]:
    """Return the keys of a dotted *text*, the reverse of dotted() for paths without indexes."""
    return tuple(_plain(match.group()) for match in KEY_TOKEN.finditer(text))


def _plain(token: str) -> str:
    if token.startswith('"'):
        plain: str = json.loads(token)
        return plain
    return token.strip("'")
