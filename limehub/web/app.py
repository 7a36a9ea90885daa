"""The Flask application: composed of blueprints, with one set of rules over all of them.

gatekeeper (who may ask) -> a blueprint (the API, the pages, plugins) -> errors and headers
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, request
from flask.json.provider import DefaultJSONProvider
from werkzeug.exceptions import Conflict, HTTPException, NotFound, ServiceUnavailable

from limehub.deadletters.office import Office
from limehub.deadletters.operations import TooManyOperations
from limehub.deadletters.walk import DeskBusy
from limehub.errors import BrokerError, LimehubError, NothingMatched
from limehub.web.api.contract import openapi
from limehub.web.api.deadletters import DeadLettersApi
from limehub.web.api.endpoints import LetterId, blueprint_of
from limehub.web.api.server import ServerApi
from limehub.web.gatekeeper import Gatekeeper
from limehub.web.live import Live
from limehub.web.looks import Looks
from limehub.web.metrics import metrics_page
from limehub.web.pages.routes import add_pages
from limehub.web.problems import CONTENT_TYPE, problem_body
from limehub.web.shown import Shown
from limehub.web.tokens import Tokens

__all__ = ["MAX_BODY", "Shown", "create_app"]

log = logging.getLogger(__name__)

MAX_BODY = 1_048_576
"""Bytes of a request's body."""

BUSY_SECONDS = "5"
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_API_POLICY = "default-src 'none'; frame-ancestors 'none'"
_PLUGIN_POLICY = "default-src 'self'; frame-ancestors 'none'"
_KINDS = (CONTENT_TYPE, "text/html")
_STATUS_OF: tuple[tuple[type[LimehubError], type[HTTPException]], ...] = (
    (NothingMatched, NotFound),
    (DeskBusy, Conflict),
    (TooManyOperations, Conflict),
    (BrokerError, ServiceUnavailable),
)


class _OrderedJson(DefaultJSONProvider):
    """Fields in the order in which they were thought of."""

    sort_keys = False


def create_app(server: Shown, tokens: Tokens, office: Office, live: Live | None = None) -> Flask:
    """Return the application. Plugins may add blueprints until the first request.

    *live*: what the pages watch; without one they look themselves, and nothing moves.
    """
    app = Flask("limehub", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.json = _OrderedJson(app)
    gatekeeper = Gatekeeper(server.config, tokens)
    app.before_request(gatekeeper.check)
    app.after_request(_with_headers)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(LimehubError, _known_error)
    app.register_error_handler(Exception, _failure)
    looks = Looks(office)
    _add_api(app, server, gatekeeper, office, looks)
    app.register_blueprint(metrics_page(server, office))
    live = live or Live(server.status, office)
    _add_error_page(app, add_pages(app, server, gatekeeper, office, live, looks))
    return app


def _add_error_page(app: Flask, show: Callable[[HTTPException], Response]) -> None:
    """Answer a person who mistyped an address with a page; programs get a problem."""

    def missing(error: HTTPException) -> Any:
        is_person = request.accept_mimetypes.best_match(_KINDS) == "text/html"
        has_pages = not request.path.startswith(("/api/", "/plugins/"))
        return show(error) if is_person and has_pages else _http_error(error)

    app.register_error_handler(NotFound, missing)


def _add_api(
    app: Flask, server: Shown, gatekeeper: Gatekeeper, office: Office, looks: Looks
) -> None:
    own = ServerApi(server=server, may_see_detail=gatekeeper.may_see_detail)
    letters = DeadLettersApi(
        desk=office.desk,
        looks=looks,
        operations=office.operations,
        audit=office.audit,
        may_edit=server.config.web.edit_dead_letters,
    )
    endpoints = (*own.endpoints(), *letters.endpoints())
    app.url_map.converters["letter"] = LetterId
    app.register_blueprint(blueprint_of(endpoints))

    @app.get("/api/openapi.json")
    def contract() -> Any:
        return openapi(endpoints, needs_token=gatekeeper.tokens.required)


def _known_error(error: LimehubError) -> Any:
    """What the desk refuses has a status of its own; everything else is a failure."""
    for kind, answer in _STATUS_OF:
        if isinstance(error, kind):
            response = _http_error(answer(str(error)))
            if answer is not NotFound:
                response.headers["Retry-After"] = BUSY_SECONDS
            return response
    return _failure(error)


def _http_error(error: HTTPException) -> Any:
    """Return the problem of *error*; a redirect, or an answer of a plugin's own, stays as it is."""
    if error.response is not None or error.code is None or error.code < 400:
        return error
    response = error.get_response()
    response.data = problem_body(error.code, error.description)
    response.content_type = CONTENT_TYPE
    return response


def _failure(error: Exception) -> Response:
    """A border: whatever a route raises is logged with its name, and shown without detail."""
    extra = {"endpoint": request.endpoint, "method": request.method, "path": request.path}
    log.error("request failed", extra=extra, exc_info=error)
    detail = "The server's log tells more."
    return Response(problem_body(500, detail), 500, content_type=CONTENT_TYPE)


def _with_headers(response: Response) -> Response:
    policy = _PLUGIN_POLICY if request.path.startswith("/plugins/") else _API_POLICY
    for name, value in (*_HEADERS.items(), ("Content-Security-Policy", policy)):
        response.headers.setdefault(name, value)
    return response
