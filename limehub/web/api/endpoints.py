"""An endpoint: what is asked where, what it answers; the routes and the contract come from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from attrs import field, frozen
from flask import Blueprint, request
from werkzeug.exceptions import BadRequest, UnsupportedMediaType
from werkzeug.routing import BaseConverter

from limehub.deadletters.wire import to_json
from limehub.web.api.requests import read

__all__ = ["BYTES", "JSON_LINES", "Answers", "Endpoint", "LetterId", "blueprint_of"]

BYTES = "application/octet-stream"
JSON_LINES = "application/jsonl"

Answers = Mapping[int, Any]
"""HTTP status -> attrs class, type, media type as text, or None for no content."""


class LetterId(BaseConverter):
    """The id of a dead letter in a path: `<letter:id>`; not what is another URL beside it."""

    regex = "(?!(?:groups|deletions|export)(?:/|$))[^/]+"


@frozen(kw_only=True)
class Endpoint:
    """*path*: as Flask writes it; *query*: read from the query string; *body*: from JSON, or from
    the query string where both can say it. *view*: gets the path's parts and what was read;
    *fails*: the statuses of its problems; *takes_any_query*: probes may send what they like."""

    method: str
    path: str
    name: str
    summary: str
    answers: Answers
    view: Callable[..., Any]
    query: type | None = None
    body: type | None = None
    fails: tuple[int, ...] = field(default=())
    takes_any_query: bool = False

    def answer(self, **parts: str) -> Any:
        """Answer the current request."""
        wanted = self.body or self.query
        if wanted is None:
            if not self.takes_any_query:
                _refuse_query()
            return _plain(self.view(**parts))
        return _plain(self.view(read(wanted, self._asked()), **parts))

    def _asked(self) -> dict[str, Any]:
        asked = _from_query() if self.query is not None else {}
        if self.query is None:
            _refuse_query()
        body = _from_body() if self.body is not None else {}
        twice = asked.keys() & body.keys()
        if twice:
            raise BadRequest(f"both query and body say {', '.join(sorted(twice))}")
        return asked | body


def blueprint_of(endpoints: Iterable[Endpoint]) -> Blueprint:
    """Return the routes of *endpoints*."""
    blueprint = Blueprint("api", __name__)
    for each in endpoints:
        blueprint.add_url_rule(
            each.path, endpoint=each.name, view_func=each.answer, methods=[each.method]
        )
    return blueprint


def _plain(answer: Any) -> Any:
    """Flask's own answers stay; values of attrs become JSON, alone or with status and headers."""
    if isinstance(answer, tuple) and answer and _is_value(answer[0]):
        return to_json(answer[0]), *answer[1:]
    return to_json(answer) if _is_value(answer) else answer


def _is_value(answer: Any) -> bool:
    return attrs.has(type(answer)) or isinstance(answer, list)


def _from_query() -> dict[str, Any]:
    repeated = [name for name, values in request.args.lists() if len(values) > 1 and name != "ids"]
    if repeated:
        raise BadRequest(f"given twice: {', '.join(map(ascii, repeated))}")
    return {name: values if name == "ids" else values[0] for name, values in request.args.lists()}


def _refuse_query() -> None:
    if request.args:
        raise BadRequest(f"unknown: {', '.join(map(ascii, request.args))}")


def _from_body() -> dict[str, Any]:
    if not request.get_data(cache=True):
        return {}
    if not request.is_json:
        raise UnsupportedMediaType("The body must be application/json.")
    body = request.get_json()
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    return body
