"""JSON Schema (draft 2020-12) of attrs classes: what the code uses is what the contract says."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, get_args, get_origin

import attrs

from limehub.deadletters.wire import is_optional

__all__ = ["Schemas", "title_of"]

TIME: dict[str, Any] = {"type": "string", "format": "date-time"}
_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    datetime: TIME,
    Any: {},
    type(None): {"type": "null"},
}


def title_of(kind: type) -> str:
    """Return the first sentence that *kind* says about itself."""
    text = " ".join((kind.__doc__ or "").split())
    return text.partition(". ")[0].rstrip(".")


class Schemas:
    """Collects `components/schemas`."""

    def __init__(self) -> None:
        self.components: dict[str, dict[str, Any]] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        """Return the schema of a type; that of an attrs class is a reference."""
        if attrs.has(kind):
            return self._reference(kind)
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (typing.Union, types.UnionType):
            return self._either(arguments)
        if origin is tuple:
            return {"type": "array", "items": self.of(arguments[0])}
        if origin in (Mapping, dict) or kind in (Mapping, dict):
            return {"type": "object"}
        return dict(_PLAIN[kind])

    def attribute(self, attribute: attrs.Attribute[Any], hints: Mapping[str, Any]) -> Any:
        """Return the schema of one attribute; its metadata may add to it."""
        kind = hints[attribute.name]
        if is_optional(attribute):
            kind = _without_none(kind)
        schema = attribute.metadata.get("schema")
        return dict(schema) if schema else self.of(kind)

    def _reference(self, kind: Any) -> dict[str, Any]:
        name = str(kind.__name__)
        if name not in self.components:
            self.components[name] = {}  # a class may hold itself
            self.components[name] = self._object(kind)
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, kind: Any) -> dict[str, Any]:
        properties, required = self._members(kind)
        return {
            "type": "object",
            "description": title_of(kind),
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    def _members(self, kind: Any) -> tuple[dict[str, Any], list[str]]:
        hints, properties, required = typing.get_type_hints(kind), dict[str, Any](), list[str]()
        for attribute in attrs.fields(kind):
            if attribute.metadata.get("flat"):
                more, needed = self._members(hints[attribute.name])
                properties |= more
                required += needed
                continue
            properties[attribute.name] = self.attribute(attribute, hints)
            if attribute.default is attrs.NOTHING:
                required.append(attribute.name)
        return properties, required

    def _either(self, kinds: Iterable[Any]) -> dict[str, Any]:
        return {"anyOf": [self.of(kind) for kind in kinds]}


def _without_none(kind: Any) -> Any:
    kinds = [each for each in get_args(kind) if each is not type(None)]
    return kinds[0] if len(kinds) == 1 else kind
