"""Logging in: a token is exchanged for a cookie, once."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import urlencode

from attrs import frozen
from flask import Blueprint, redirect, request

from limehub.web.gatekeeper import Gatekeeper
from limehub.web.pages.showing import Pages
from limehub.web.sessions import COOKIE, SECONDS

__all__ = ["Login", "local"]

log = logging.getLogger(__name__)


@frozen(kw_only=True)
class Login:
    """The views; they are open to all."""

    pages: Pages
    gatekeeper: Gatekeeper

    def add_to(self, blueprint: Blueprint) -> None:
        """Add them."""
        blueprint.add_url_rule("/login", "login", self.login, methods=["GET", "POST"])
        blueprint.add_url_rule("/logout", "logout", self.logout, methods=["POST"])

    def login(self) -> Any:
        """Show the form; POST begins a session."""
        target = local(request.values.get("next", ""))
        if not self.gatekeeper.tokens.required:
            return redirect(target, 303)
        if request.method == "GET":
            return self.pages.show("login", target=target, refused=False)
        found = self.gatekeeper.tokens.identify(f"Bearer {request.form.get('token', '').strip()}")
        if found is None:
            log.warning("login refused", extra={"client": request.remote_addr})
            return self.pages.show("login", 401, target=target, refused=True)
        response = redirect(target, 303)
        self._give(response, self.gatekeeper.sessions.begin(found))
        return response

    def logout(self) -> Any:
        """End the session."""
        self.gatekeeper.sessions.end(request.cookies.get(COOKIE))
        response = redirect("/login", 303)
        response.delete_cookie(COOKIE)
        return response

    def ask(self) -> Any:
        """Answer a request that lacks a token."""
        if request.method != "GET":
            return redirect("/login", 303)
        # The browser keeps the cookie back on the way in from another site; asked by a page of
        # ours, it sends it. So a shared link opens without logging in again.
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            return self.pages.show("knock", 401)
        target = request.full_path.removesuffix("?")
        return redirect("/login" if target == "/" else f"/login?{urlencode({'next': target})}", 303)

    def _give(self, response: Any, value: str) -> None:
        response.set_cookie(
            COOKIE,
            value,
            max_age=int(SECONDS),
            httponly=True,
            samesite="Strict",
            secure=_is_https(),
        )


def local(target: str) -> str:
    """Return *target* if it is a path of ours, else the first page."""
    is_ours = target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if is_ours and target.isprintable() else "/"


def _is_https() -> bool:
    """Also behind a proxy that speaks https for us; who forges that only harms himself."""
    return request.is_secure or request.headers.get("X-Forwarded-Proto") == "https"
