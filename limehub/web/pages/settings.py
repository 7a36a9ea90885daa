"""The configuration as the pages show it: by table, with what said so, secrets hidden. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from attrs import frozen

from limehub.config.paths import dotted, split
from limehub.config.show import Row, toml_value

__all__ = ["Setting", "Table", "tables_of"]


@frozen(kw_only=True)
class Setting:
    """One key. *is_set*: whether anybody said so; *is_missing*: it has no value at all."""

    key: str
    value: str
    origin: str
    is_set: bool
    is_missing: bool


@frozen(kw_only=True)
class Table:
    """One table of limehub.toml; the keys above all tables have none."""

    name: str
    settings: tuple[Setting, ...]


def tables_of(rows: Iterable[Row], file: Path, *, embedded: bool = False) -> tuple[Table, ...]:
    """Return *rows*, which are masked, table by table in their order. *file*: most come from it;
    *embedded*: whether the broker that they name is our own."""
    tables: dict[str, list[Setting]] = {}
    for row in rows:
        path = split(row.path)
        origin = row.origin.replace(str(file), file.name)
        if embedded and row.path == "events.connection_string":
            origin = f"{origin}: the embedded broker"
        setting = _setting(path[-1], row, origin)
        tables.setdefault(dotted(path[:-1]) if path[1:] else "", []).append(setting)
    return tuple(Table(name=name, settings=tuple(own)) for name, own in tables.items())


def _setting(key: str, row: Row, origin: str) -> Setting:
    return Setting(
        key=key,
        value="not set" if row.value is None else toml_value(row.value),
        origin=origin,
        is_set=row.origin != "default",
        is_missing=row.value is None,
    )
