"""Who may ask what: decided before any route runs, so that plugins' blueprints are under it too."""

from __future__ import annotations

from flask import request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, HTTPException, Unauthorized

from limehub.config import Config
from limehub.web.hosts import is_allowed_host, is_same_origin
from limehub.web.identity import remember
from limehub.web.sessions import COOKIE, Sessions
from limehub.web.tokens import Identity, Tokens

__all__ = ["Gatekeeper"]

_PROBES = ("/healthz", "/readyz")
_SAFE = ("GET", "HEAD", "OPTIONS")


class MisdirectedRequest(HTTPException):
    """421: the Host header names somebody else."""

    code = 421
    description = "This host name is not served; see web.allowed_hosts."


class Gatekeeper:
    """Decides whether the current request may go on."""

    def __init__(self, config: Config, tokens: Tokens) -> None:
        self.tokens = tokens
        self.sessions = Sessions(tokens.has)
        self._web = config.web
        self._open = {"/metrics"} if config.web.metrics_public else set[str]()

    def open_to_all(self, *paths: str) -> None:
        """Ask for no token at *paths*, such as the login; one that ends with / holds what is
        below it. Host and origin are checked all the same."""
        self._open |= {*paths}

    def check(self) -> None:
        """Let the request pass, or raise an HTTPException. Notes who asks."""
        remember(self._identity())
        if request.path in _PROBES:
            return
        if not self._host_is_ours():
            raise MisdirectedRequest
        if request.method not in _SAFE:
            _refuse_foreign_page()
        _refuse_foreign_load()
        if self.tokens.required and not self._is_open():
            self._require_role()

    def may_see_detail(self) -> bool:
        """Whether a probe may say why."""
        if self.tokens.required:
            return self._identity() is not None
        return self._host_is_ours()

    def _is_open(self) -> bool:
        return any(
            request.path.startswith(path) if path.endswith("/") else request.path == path
            for path in self._open
        )

    def _require_role(self) -> None:
        identity = self._identity()
        if identity is None:
            detail = "Send `Authorization: Bearer TOKEN` with a token of web.token_file."
            raise Unauthorized(
                detail, www_authenticate=WWWAuthenticate("bearer", {"realm": "limehub"})
            )
        if request.method not in _SAFE and identity.role != "operate":
            raise Forbidden("The role `read` may only look.")

    def _identity(self) -> Identity | None:
        sent = request.headers.get("Authorization")
        if sent is not None:
            return self.tokens.identify(sent)
        return self.sessions.identify(request.cookies.get(COOKIE))

    def _host_is_ours(self) -> bool:
        host = request.headers.get("Host", "")
        return is_allowed_host(host, bound=self._web.address, allowed=self._web.allowed_hosts)


def _refuse_foreign_load() -> None:
    """Refuse what another site's page loads as a part of itself, such as an image. It cannot read
    the answer, but could keep the server at work. Links from there may be followed."""
    headers = request.headers
    is_foreign = headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
    is_link = headers.get("Sec-Fetch-Dest", "document") == "document"
    if is_foreign and not (is_link and headers.get("Sec-Fetch-Mode", "navigate") == "navigate"):
        raise Forbidden("This is not to be loaded by the pages of other sites.")


def _refuse_foreign_page() -> None:
    """Refuse a change that another site's page makes the browser ask for."""
    host, headers = request.headers.get("Host", ""), request.headers
    site = headers.get("Sec-Fetch-Site")
    if not is_same_origin(host, origin=headers.get("Origin"), fetch_site=site):
        raise Forbidden("Changes are not accepted from the pages of other sites.")
