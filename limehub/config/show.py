"""The effective configuration as `limehub config show` prints it: complete, and without secrets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time
from typing import Any, NamedTuple

import attrs

from limehub.config.load import Loaded
from limehub.config.mask import mask_value
from limehub.config.model import Config
from limehub.config.paths import dotted, quoted_key, split

__all__ = ["Row", "as_json", "flatten", "render", "rows", "toml_value"]


class Row(NamedTuple):
    """One key. *value* is masked, None if the key is not set; *origin* as in Loaded.origins."""

    path: str
    value: Any
    origin: str


def rows(loaded: Loaded) -> list[Row]:
    """Return every key with its effective value, in the order of the model."""
    return [
        Row(dotted(path), mask_value(path, value), loaded.origins.get(dotted(path), "default"))
        for path, value in flatten(loaded.config).items()
    ]


def flatten(config: Config) -> dict[tuple[str, ...], Any]:
    """Return every key's value by path; empty tables have none."""
    return dict(_flat((), config))


def _flat(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if attrs.has(type(value)):
        for attribute in attrs.fields(type(value)):
            yield from _flat((*path, attribute.name), getattr(value, attribute.name))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat((*path, key), inner)
    else:
        yield path, list(value) if isinstance(value, tuple) else value


def render(rows: Iterable[Row], *, origins: bool = False) -> str:
    """Return *rows* as valid TOML; keys that are not set are comments."""
    tables: dict[tuple[str, ...], list[str]] = {(): []}
    for row in rows:
        path = split(row.path)
        line = f"{quoted_key(path[-1])} = {toml_value(row.value)}"
        if row.value is None:
            line = f"# {quoted_key(path[-1])} is not set"
        tables.setdefault(path[:-1], []).append(line + (f"  # {row.origin}" if origins else ""))
    return "\n\n".join(_table(path, lines) for path, lines in tables.items() if lines) + "\n"


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return *rows* as objects with path, value, origin that every JSON encoder takes."""
    return [{**row._asdict(), "value": _json(row.value)} for row in rows]


def _table(path: tuple[str, ...], lines: list[str]) -> str:
    return "\n".join([f"[{dotted(path)}]", *lines] if path else lines)


def toml_value(value: Any) -> str:
    """Return *value* as TOML writes it; tables are inline."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        # A quoted key and a basic string are written alike, but for bare words.
        return f'"{value}"' if quoted_key(value) == value else quoted_key(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, Mapping):
        pairs = ", ".join(
            f"{quoted_key(key)} = {toml_value(inner)}" for key, inner in value.items()
        )
        return f"{{{pairs}}}"
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value.isoformat() if isinstance(value, date | datetime | time) else value
