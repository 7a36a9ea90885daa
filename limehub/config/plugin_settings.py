"""A plugin's settings: its default_config() with the user's `plugins.<name>` table laid over it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from limehub.config.model import Config
from limehub.config.names import alike
from limehub.config.paths import dotted
from limehub.errors import ConfigError

__all__ = ["plugin_settings"]


def plugin_settings(config: Config, name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fresh dict; tables are merged, everything else is replaced.

    A key that is like a default's but for case, dash and underscore is that key. Raises ConfigError
    for every value whose type differs from its default's (a default of None takes any type).
    """
    table = config.plugin_table(name)
    problems = list(_problems(("plugins", name), table, defaults))
    if problems:
        raise ConfigError(*problems)
    return _merged(table, defaults)


def _merged(table: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    result = deepcopy(dict(defaults))
    for written, value in table.items():
        key = _known_key(written, defaults)
        default = defaults.get(key)
        nested = isinstance(value, Mapping) and isinstance(default, Mapping)
        result[key] = _merged(value, default) if nested and default else deepcopy(value)
    return result


def _problems(
    path: tuple[str, ...], table: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[str]:
    seen: dict[str, str] = {}
    for written, value in table.items():
        key = _known_key(written, defaults)
        here = (*path, written)
        default = defaults.get(key)
        if seen.setdefault(key, written) != written:
            yield f"{dotted(here)}: is {seen[key]} again"
        elif not _same_type(value, default):
            # Without the value: what a plugin calls its secrets is unknown here.
            yield f"{dotted(here)}: must be {_kind(default)}, is {_kind(value)}"
        elif isinstance(default, Mapping):
            yield from _problems(here, value, default)


def _known_key(written: str, defaults: Mapping[str, Any]) -> str:
    if written in defaults:
        return written
    form = alike(written).lower()
    return next((key for key in defaults if alike(str(key)).lower() == form), written)


def _same_type(value: Any, default: Any) -> bool:
    return (
        default is None
        or _kind(value) == _kind(default)
        or (_kind(default) == "a number" and _kind(value) == "a whole number")
    )


_KINDS = (
    (bool, "true or false"),
    (int, "a whole number"),
    (float, "a number"),
    (str, "a string"),
    (Mapping, "a table"),
    ((list, tuple, set, frozenset), "an array"),
)
"""In this order: a bool is an int to isinstance()."""


def _kind(value: Any) -> str:
    for types, words in _KINDS:
        if isinstance(value, types):
            return words
    return f"a {type(value).__name__}"
