"""Errors as RFC 9457 `application/problem+json`."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

__all__ = ["CONTENT_TYPE", "problem", "problem_body"]

CONTENT_TYPE = "application/problem+json"


def problem(status: int, detail: str | None = None) -> dict[str, Any]:
    """Return the fields of a problem: type, title, status, and detail if there is any."""
    fields: dict[str, Any] = {"type": "about:blank", "title": _title(status), "status": status}
    return fields if detail is None else fields | {"detail": detail}


def problem_body(status: int, detail: str | None = None) -> bytes:
    """Return a problem as JSON."""
    return json.dumps(problem(status, detail)).encode() + b"\n"


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
