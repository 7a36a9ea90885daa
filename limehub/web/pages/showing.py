"""A page: its template, filled with what every page has, and the headers that keep it inert."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from attrs import frozen
from flask import Response, make_response, render_template, request

from limehub.web.identity import identity
from limehub.web.live import Live
from limehub.web.pages import words
from limehub.web.pages.assets import asset_url
from limehub.web.pages.letters import (
    address,
    cause_of,
    done_share,
    place_of,
    rows_of,
)

__all__ = ["POLICY", "Pages"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    # With no-referrer a browser sends `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@frozen(kw_only=True)
class Pages:
    """What the views share. *needs_token*: whether one has to log in; *may_edit*: bodies."""

    live: Live
    needs_token: Callable[[], bool]
    may_edit: bool

    @property
    def may_change(self) -> bool:
        """Whether who asks may do more than look."""
        found = identity()
        return not self.needs_token() or (found is not None and found.role == "operate")

    def show(self, template: str, status: int = 200, **values: Any) -> Response:
        """Return a page."""
        return make_response(self.text(template, **values), status)

    def text(self, template: str, **values: Any) -> str:
        """Return a page as HTML."""
        return render_template(f"limehub/{template}.html", **self.context(), **values)

    def context(self) -> dict[str, Any]:
        """Return what every template may use."""
        found = identity()
        return {
            "words": words,
            "now": datetime.now(UTC),
            "asset": asset_url,
            "address": address,
            "cause_of": cause_of,
            "place_of": place_of,
            "rows_of": rows_of,
            "done_share": done_share,
            "may_change": self.may_change,
            "may_edit": self.may_edit and self.may_change,
            "who": found.name if found else "",
            "role": found.role if found else "",
            "dead_total": self.live.broker.dead_total,
            "here": request.path,
        }

    def seal(self, response: Response) -> Response:
        """Add the headers of a page; those that a view has set stay."""
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response
