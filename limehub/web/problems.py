"""Errors as RFC 9457 `application/problem+json`."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from attrs import asdict, frozen

__all__ = ["CONTENT_TYPE", "Problem", "problem", "problem_body"]

CONTENT_TYPE = "application/problem+json"


@frozen(kw_only=True)
class Problem:
    """What went wrong. *title*: the status in words; *detail*: this case."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None


def problem(status: int, detail: str | None = None) -> dict[str, Any]:
    """Return the fields of a problem: type, title, status, and detail if there is any."""
    stated = asdict(Problem(title=_title(status), status=status, detail=detail))
    return {name: value for name, value in stated.items() if value is not None}


def problem_body(status: int, detail: str | None = None) -> bytes:
    """Return a problem as JSON."""
    return json.dumps(problem(status, detail)).encode() + b"\n"


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
