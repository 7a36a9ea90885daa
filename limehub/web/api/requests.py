"""What the API is asked: attrs classes, filled strictly from the query or a JSON body.

Each attribute names, by its metadata, its schema and how its value is read; so the contract and
the reading cannot differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import attrs
from attrs import field, frozen
from werkzeug.exceptions import BadRequest

from limehub.config import name_problem, suggestion
from limehub.deadletters.filters import Filter, moment

__all__ = [
    "ABSENT",
    "DeleteItem",
    "DeleteQuery",
    "ExportQuery",
    "GroupQuery",
    "ItemChange",
    "ListQuery",
    "RequeueQuery",
    "UndoQuery",
    "read",
]

ABSENT: Any = ...
"""No JSON value."""
MOST_ITEMS, USUAL_ITEMS = 500, 50
MOST_IDS = 10_000
MOST_TEXT = 300
MOST_LETTERS = 1_000_000_000
_NUMBER = re.compile(r"[0-9]{1,10}")
_NAME = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,200}$"}
_MOMENT = {
    "description": "RFC 3339, a date, or 15m, 2h, 7d ago",
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "string", "format": "date"},
        {"type": "string", "pattern": "^[0-9]{1,5}[smhd]$"},
    ],
}
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_FOR_GOOD = {"type": "boolean", "default": False, "description": "without undo"}

Query = TypeVar("Query")
Read = Callable[[Any], Any]
"""A value of JSON, or the text of a query, -> the attribute's value. Raises ValueError."""


def _a_text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        raise ValueError(f"must be a string of at most {MOST_TEXT} characters")
    return value


def _a_name(value: Any) -> str:
    problem = name_problem(_a_text(value))
    if problem:
        raise ValueError(problem)
    return str(value)


def _a_moment(value: Any) -> datetime:
    return moment(_a_text(value), now=datetime.now(UTC))


def _a_number(most: int) -> Read:
    def number(value: Any) -> int:
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = int(value)
        if isinstance(value, float) and value.is_integer():  # 5.0 is whole to JSON Schema
            value = int(value)
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"must be a whole number from 1 to {most}")
        return value

    return number


def _a_flag(value: Any) -> bool:
    found = {"true": True, "false": False}.get(value) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise ValueError("must be true or false")
    return found


def _some_ids(value: Any) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise ValueError("must be a list of strings")
    if not 1 <= len(given) <= MOST_IDS:
        raise ValueError(f"must have 1 to {MOST_IDS} ids")
    return tuple(given)


def _a_body(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def _anything(value: Any) -> Any:
    return value


def _attribute(read: Read, schema: Mapping[str, Any], default: Any = None) -> Any:
    return field(default=default, metadata={"read": read, "schema": schema})


def _text(about: str) -> Any:
    return _attribute(_a_text, {"type": "string", "maxLength": MOST_TEXT, "description": about})


def _number(about: str, most: int, default: int | None = None) -> Any:
    schema: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": most}
    schema["description"] = about
    return _attribute(
        _a_number(most), schema if default is None else {**schema, "default": default}, default
    )


def _moment(about: str) -> Any:
    return _attribute(_a_moment, {**_MOMENT, "description": f"{about}: {_MOMENT['description']}"})


def _ids() -> Any:
    items = {"type": "string"}
    schema = {"type": "array", "items": items, "minItems": 1, "maxItems": MOST_IDS}
    return _attribute(_some_ids, schema)


@frozen(kw_only=True)
class GroupQuery:
    """Which dead letters; all conditions must hold."""

    handler: str | None = _text("`<app>.<queue_name>`, the queue name, or the full queue")
    application: str | None = _text("the tenant")
    routing_key: str | None = _text("a topic pattern: * one word, # any number")
    exception_type: str | None = _text("the whole name or its last part")
    text: str | None = _text("in body (first 64 KiB), exception, routing key or message id")
    group: str | None = _text("the id of a group")
    since: datetime | None = _moment("failed then or later")  # noqa: RUF009 - a field
    until: datetime | None = _moment("failed before then")  # noqa: RUF009

    @property
    def filter(self) -> Filter:
        """Return it for the desk."""
        names = [attribute.name for attribute in attrs.fields(GroupQuery)]
        ids = getattr(self, "ids", None)
        conditions = {name: getattr(self, name) for name in names}
        return Filter(ids=None if ids is None else frozenset(ids), **conditions)


@frozen(kw_only=True)
class ListQuery(GroupQuery):
    """A page of them."""

    limit: int = _number("so many on a page", MOST_ITEMS, USUAL_ITEMS)
    after: str | None = _text("`next` of the page before")


@frozen(kw_only=True)
class ExportQuery(GroupQuery):
    """What is exported."""

    limit: int | None = _number("the oldest so many of them", MOST_LETTERS)


@frozen(kw_only=True)
class RequeueQuery(GroupQuery):
    """What is requeued; no condition is everything that is there at the start."""

    ids: tuple[str, ...] | None = _ids()
    limit: int | None = _number("a trial: the oldest so many of them", MOST_LETTERS)
    to: str | None = _attribute(_a_name, {**_NAME, "description": "this queue, not the handler's"})


@frozen(kw_only=True)
class DeleteQuery(GroupQuery):
    """What is deleted; no condition is everything that is there at the start."""

    ids: tuple[str, ...] | None = _ids()
    limit: int | None = _number("the oldest so many of them", MOST_LETTERS)
    for_good: bool = _attribute(_a_flag, _FOR_GOOD, False)


@frozen(kw_only=True)
class DeleteItem:
    """How one is deleted."""

    for_good: bool = _attribute(_a_flag, _FOR_GOOD, False)


@frozen(kw_only=True)
class UndoQuery:
    """Where the deletion was; what this server deleted, or a listed app, it finds by itself."""

    app: str | None = _attribute(_a_name, {**_NAME, "description": "the app it deleted from"})


@frozen(kw_only=True)
class ItemChange:
    """How one is requeued; with a body, in one of three forms, it is edited first."""

    to: str | None = _attribute(_a_name, {**_NAME, "description": "this queue, not the handler's"})
    body: Any = _attribute(_anything, {"description": "JSON instead of its own body"}, ABSENT)  # noqa: RUF009
    body_text: str | None = _attribute(_a_body, {"type": "string"})
    body_base64: str | None = _attribute(_a_body, {"type": "string", "pattern": _BASE64})

    @property
    def bodies(self) -> list[str]:
        """Return which bodies are given; there should be one at most."""
        given = {
            "body": self.body is not ABSENT,
            "body_text": self.body_text is not None,
            "body_base64": self.body_base64 is not None,
        }
        return [name for name, is_given in given.items() if is_given]


def read(kind: type[Query], given: Mapping[str, Any]) -> Query:
    """Return *given* as a *kind*. Raises BadRequest with every problem."""
    attributes = {attribute.name: attribute for attribute in attrs.fields(kind)}  # type: ignore[arg-type]
    values, problems = dict[str, Any](), list[str]()
    for name, value in given.items():
        if name not in attributes:
            problems.append(f"{name!a} is unknown{suggestion(name, attributes)}")
            continue
        try:
            values[name] = attributes[name].metadata["read"](value)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise BadRequest("; ".join(problems))
    return kind(**values)
