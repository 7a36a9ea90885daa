"""OpenAPI 3.1 of the API, made from the table of endpoints and the attrs classes that it names."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import attrs

from limehub import __version__
from limehub.web.api.endpoints import BYTES, JSON_LINES, Endpoint
from limehub.web.api.schemas import Schemas
from limehub.web.problems import CONTENT_TYPE, Problem

__all__ = ["openapi"]

_PART = re.compile(r"<(?:\w+:)?(\w+)>")
_ALWAYS_FAIL = (401, 403, 421, 500)
_HEADERS = {
    "Location": {"description": "where to ask how far it is", "schema": {"type": "string"}},
    "Retry-After": {"description": "seconds", "schema": {"type": "string"}},
}


def openapi(endpoints: Iterable[Endpoint], *, needs_token: bool) -> dict[str, Any]:
    """Return the document. *needs_token*: whether every request must send one."""
    schemas, paths = Schemas(), dict[str, dict[str, Any]]()
    for each in endpoints:
        path = _PART.sub(r"{\1}", each.path)
        paths.setdefault(path, {})[each.method.lower()] = _operation(each, schemas)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "limehub", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
    return document | {"security": [{"token": []}]} if needs_token else document


def _operation(endpoint: Endpoint, schemas: Schemas) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "parameters": [*_path_parameters(endpoint), *_query_parameters(endpoint, schemas)],
        "responses": _responses(endpoint, schemas),
    }
    if endpoint.body is not None:
        found["requestBody"] = {
            "required": False,
            "content": {"application/json": {"schema": schemas.of(endpoint.body)}},
        }
    return found


def _path_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PART.findall(endpoint.path)
    ]


def _query_parameters(endpoint: Endpoint, schemas: Schemas) -> list[dict[str, Any]]:
    """What a body can say too is listed there only: it must not be said twice."""
    if endpoint.query is None or endpoint.body is not None:
        return []
    hints = typing.get_type_hints(endpoint.query)
    return [
        {"name": each.name, "in": "query", "schema": schemas.attribute(each, hints)}
        for each in attrs.fields(endpoint.query)
    ]


def _responses(endpoint: Endpoint, schemas: Schemas) -> dict[str, Any]:
    answers = {
        str(status): _answer(status, kind, schemas) for status, kind in endpoint.answers.items()
    }
    problem = {"schema": schemas.of(Problem)}
    failures = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "content": {CONTENT_TYPE: problem},
        }
        for status in sorted({*endpoint.fails, *_ALWAYS_FAIL})
    }
    return answers | failures


def _answer(status: int, kind: Any, schemas: Schemas) -> dict[str, Any]:
    found: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if kind in (BYTES, JSON_LINES):
        return found | {"content": {kind: {}}}
    found["content"] = {"application/json": {"schema": _schema(kind, schemas)}}
    return found | {"headers": _HEADERS} if status == HTTPStatus.ACCEPTED else found


def _schema(kind: Any, schemas: Schemas) -> Mapping[str, Any]:
    if typing.get_origin(kind) is list:
        return {"type": "array", "items": schemas.of(typing.get_args(kind)[0])}
    return schemas.of(kind)
