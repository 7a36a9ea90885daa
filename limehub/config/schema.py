"""Which keys exist, read from the model: for the environment, for hints, for the documentation."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs

from limehub.config.model import Config

__all__ = ["FREE", "bare", "is_table", "key_types", "keys_of", "value_type"]

FREE = "*"
"""Stands for a name of the user's choice in a path: of a group, a package, a plugin."""


@cache
def keys_of(section: type) -> Mapping[str, Any]:
    """Return the keys of a section of the model with their types."""
    hints = get_type_hints(section)
    return {attribute.name: hints[attribute.name] for attribute in attrs.fields(section)}


def bare(kind: Any) -> Any:
    """Return X for `X | None`."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(part for part in get_args(kind) if part is not type(None))
    return kind


def value_type(kind: Any) -> Any:
    """Return the type of the values of a Mapping, else None."""
    return get_args(kind)[1] if get_origin(kind) is Mapping else None


def is_table(kind: Any) -> bool:
    """Whether a key of this type holds a table."""
    return attrs.has(kind) or value_type(kind) is not None


@cache
def key_types() -> Mapping[tuple[str, ...], Any]:
    """Return every key that holds a value, by path with FREE for chosen names.

    `plugins.*.*` stands for all that plugins define themselves.
    """
    return dict(_walk((), Config))


def _walk(path: tuple[str, ...], kind: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if attrs.has(kind):
        for name, inner in keys_of(kind).items():
            yield from _walk((*path, name), inner)
    elif value_type(kind) is not None:
        yield from _walk((*path, FREE), value_type(kind))
    else:
        yield path, kind
