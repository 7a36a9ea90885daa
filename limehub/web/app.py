"""The Flask application: who may ask what, and the first endpoints.

Every rule is applied before any route runs, so that plugins' blueprints are under them too.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from flask import Flask, Response, request
from flask.json.provider import DefaultJSONProvider
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, HTTPException, Unauthorized

from limehub.config import Config
from limehub.web.hosts import is_allowed_host, is_same_origin
from limehub.web.probes import Answer, health_answer, ready_answer
from limehub.web.problems import CONTENT_TYPE, problem_body
from limehub.web.tokens import Tokens

__all__ = ["MAX_BODY", "Shown", "create_app"]

log = logging.getLogger(__name__)

MAX_BODY = 1_048_576
"""Bytes of a request's body."""

_PROBES = ("/healthz", "/readyz")
_SAFE = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_API_POLICY = "default-src 'none'; frame-ancestors 'none'"
_PLUGIN_POLICY = "default-src 'self'; frame-ancestors 'none'"


class Shown(Protocol):
    """What the pages show of the server."""

    @property
    def config(self) -> Config:
        """What it runs with."""

    @property
    def max_stall(self) -> float:
        """Seconds that the hub may stand still."""

    def status(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""

    def missing(self) -> list[str]:
        """Return what keeps it from being ready."""

    def stalled_for(self) -> float:
        """Return the seconds since the hub last turned."""


class _OrderedJson(DefaultJSONProvider):
    """Fields in the order in which they were thought of."""

    sort_keys = False


class MisdirectedRequest(HTTPException):
    """421: the Host header names somebody else."""

    code = 421
    description = "This host name is not served; see web.allowed_hosts."


def create_app(server: Shown, tokens: Tokens) -> Flask:
    """Return the application. Plugins may add blueprints until the first request."""
    app = Flask("limehub", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.json = _OrderedJson(app)
    gatekeeper = Gatekeeper(server.config, tokens)
    app.before_request(gatekeeper.check)
    app.after_request(_with_headers)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _failure)
    _add_endpoints(app, server, gatekeeper)
    return app


class Gatekeeper:
    """Decides whether the current request may go on."""

    def __init__(self, config: Config, tokens: Tokens) -> None:
        self._web = config.web
        self._tokens = tokens

    def check(self) -> None:
        """Let the request pass, or raise an HTTPException."""
        if request.path in _PROBES:
            return
        if not self._host_is_ours():
            raise MisdirectedRequest
        if request.method not in _SAFE:
            _refuse_foreign_page()
        if self._tokens.required:
            self._require_role()

    def may_see_detail(self) -> bool:
        """Whether a probe may say why."""
        if self._tokens.required:
            return self._identity() is not None
        return self._host_is_ours()

    def _require_role(self) -> None:
        identity = self._identity()
        if identity is None:
            detail = "Send `Authorization: Bearer TOKEN` with a token of web.token_file."
            raise Unauthorized(
                detail, www_authenticate=WWWAuthenticate("bearer", {"realm": "limehub"})
            )
        if request.method not in _SAFE and identity.role != "operate":
            raise Forbidden("The role `read` may only look.")

    def _identity(self) -> Any:
        return self._tokens.identify(request.headers.get("Authorization"))

    def _host_is_ours(self) -> bool:
        host = request.headers.get("Host", "")
        return is_allowed_host(host, bound=self._web.address, allowed=self._web.allowed_hosts)


def _refuse_foreign_page() -> None:
    """Refuse a change that another site's page makes the browser ask for."""
    host, headers = request.headers.get("Host", ""), request.headers
    site = headers.get("Sec-Fetch-Site")
    if not is_same_origin(host, origin=headers.get("Origin"), fetch_site=site):
        raise Forbidden("Changes are not accepted from the pages of other sites.")


def _add_endpoints(app: Flask, server: Shown, gatekeeper: Gatekeeper) -> None:
    @app.get("/healthz")
    def healthz() -> Any:
        detail = gatekeeper.may_see_detail()
        return _answered(health_answer(server.stalled_for(), server.max_stall, detail=detail))

    @app.get("/readyz")
    def readyz() -> Any:
        return _answered(ready_answer(server.missing(), detail=gatekeeper.may_see_detail()))

    @app.get("/api/v1/status")
    def status() -> Any:
        return server.status()


def _answered(answer: Answer) -> tuple[dict[str, Any], int]:
    status, body = answer
    return body, status


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
