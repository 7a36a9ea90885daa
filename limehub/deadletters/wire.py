"""From the desk's values to JSON: one rule for all, which the contract of the API follows too.

Times are RFC 3339, tuples lists. An attribute whose default is None is left out while it is None;
one with `metadata=FLAT` puts its own attributes in its place, one with `metadata=PLAIN` is JSON
already: going through a body of 1 MiB takes the hub from the handlers for a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from limehub.deadletters.plain import rfc3339

__all__ = ["FLAT", "PLAIN", "is_optional", "to_json"]

FLAT = {"flat": True}
PLAIN = {"plain": True}


def to_json(value: Any) -> Any:
    """Return *value* (of attrs, or what it holds) as JSON has it."""
    if attrs.has(type(value)):
        return _fields_of(value)
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, frozenset)):
        return [to_json(item) for item in value]
    return value


def is_optional(attribute: attrs.Attribute[Any]) -> bool:
    """Whether JSON has it only when there is something to say."""
    return attribute.default is None


def _fields_of(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for attribute in attrs.fields(type(value)):
        given = getattr(value, attribute.name)
        if attribute.metadata.get("flat"):
            found |= _fields_of(given)
        elif attribute.metadata.get("plain"):
            found[attribute.name] = given
        elif given is not None or not is_optional(attribute):
            found[attribute.name] = to_json(given)
    return found
