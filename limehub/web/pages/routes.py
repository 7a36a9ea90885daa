"""The blueprint of the pages: overview and its stream, packages, configuration, errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from attrs import define, field, frozen
from flask import Blueprint, Flask, Response, make_response, request
from werkzeug.exceptions import (
    Conflict,
    HTTPException,
    InternalServerError,
    NotFound,
    ServiceUnavailable,
    Unauthorized,
)

from limehub.config.show import rows
from limehub.deadletters.office import Office
from limehub.deadletters.operations import TooManyOperations
from limehub.deadletters.walk import DeskBusy
from limehub.errors import BrokerError, LimehubError, NothingMatched
from limehub.web.gatekeeper import Gatekeeper
from limehub.web.identity import identity
from limehub.web.live import Live, Reading, TooManyWatchers
from limehub.web.looks import Looks
from limehub.web.pages.assets import send
from limehub.web.pages.changes import Changes
from limehub.web.pages.desk import DeskPages
from limehub.web.pages.installed import broken_rows, package_rows
from limehub.web.pages.login import Login
from limehub.web.pages.overview import message_of, overview_of
from limehub.web.pages.settings import tables_of
from limehub.web.pages.showing import Pages
from limehub.web.shown import Shown
from limehub.web.tokens import Identity

__all__ = ["add_pages"]

log = logging.getLogger(__name__)

_TITLES = {409: "Somebody else is at it", 503: "The broker does not answer"}
"""Where what HTTP calls it says less."""
_STATUS_OF: tuple[tuple[type[LimehubError], type[HTTPException]], ...] = (
    (NothingMatched, NotFound),
    (DeskBusy, Conflict),
    (TooManyOperations, Conflict),
    (BrokerError, ServiceUnavailable),
)


def add_pages(
    app: Flask, server: Shown, gatekeeper: Gatekeeper, office: Office, live: Live, looks: Looks
) -> Callable[[HTTPException], Response]:
    """Add the pages to *app*, below its rules. Returns what shows an error as a page."""
    gatekeeper.open_to_all("/login", "/logout", "/static/")
    pages = Pages(
        live=live,
        needs_token=lambda: gatekeeper.tokens.required,
        may_edit=server.config.web.edit_dead_letters,
    )
    login = Login(pages=pages, gatekeeper=gatekeeper)
    blueprint = Blueprint("pages", __name__, template_folder="templates")
    blueprint.after_request(pages.seal)
    errors = _Errors(pages=pages, login=login)
    errors.add_to(blueprint)
    login.add_to(blueprint)
    changes = Changes(office=office)
    DeskPages(pages=pages, office=office, changes=changes, looks=looks).add_to(blueprint)
    ServerPages(
        pages=pages,
        server=server,
        live=live,
        stream=Stream(live),
        overviews=Overviews(pages),
    ).add_to(blueprint)
    app.register_blueprint(blueprint)
    return errors.shown


@frozen(kw_only=True)
class ServerPages:
    """The views about the server itself."""

    pages: Pages
    server: Shown
    live: Live
    stream: Stream
    overviews: Overviews

    def add_to(self, blueprint: Blueprint) -> None:
        """Add all of them."""
        for path, name, view in (
            ("/", "overview", self.overview),
            ("/live", "live", self.stream.answer),
            ("/plugins/", "plugins", self.plugins),
            ("/configuration/", "configuration", self.configuration),
            ("/static/<path:name>", "asset", send),
        ):
            blueprint.add_url_rule(path, name, view)

    def overview(self) -> Any:
        """Show what is wrong, and the numbers."""
        return make_response(self.overviews.text(self.live.reading()))

    def plugins(self) -> Any:
        """Show the packages."""
        registry = self.server.registry
        return self.pages.show(
            "plugins",
            packages=package_rows(registry),
            broken=broken_rows(registry),
            disabled=registry.disabled,
            warnings=registry.warnings,
        )

    def configuration(self) -> Any:
        """Show the configuration in effect."""
        loaded = self.server.loaded
        tables = tables_of(rows(loaded), loaded.path, embedded=loaded.embedded)
        return self.pages.show("configuration", tables=tables, file=loaded.path)


@define(eq=False)
class Overviews:
    """The overview as HTML: made once for each reading and who asks, however many look."""

    pages: Pages
    _reading: Reading | None = None
    _texts: dict[Identity | None, str] = field(factory=dict)

    def text(self, reading: Reading) -> str:
        """Return the page about *reading* for who asks."""
        if reading is not self._reading:
            self._reading, self._texts = reading, {}
        who = identity()
        if who not in self._texts:
            self._texts[who] = self.pages.text("overview", it=overview_of(reading))
        return self._texts[who]


@define(eq=False)
class Stream:
    """The live numbers as server-sent events: one text for all who watch."""

    live: Live
    _reading: Reading | None = None
    _text: str = ""

    def answer(self) -> Response:
        """Answer GET /live."""
        try:
            leave = self.live.admit()
        except TooManyWatchers:
            raise ServiceUnavailable(
                "Many pages are live already; this one stands still."
            ) from None
        response = Response(self._events(), content_type="text/event-stream")
        response.headers["X-Accel-Buffering"] = "no"  # nginx would collect them
        response.call_on_close(leave)
        return response

    def _events(self) -> Iterator[str]:
        yield "retry: 5000\n\n"
        for reading in self.live.readings():
            yield f"data: {self._said(reading)}\n\n"

    def _said(self, reading: Reading) -> str:
        if reading is not self._reading:
            self._reading, self._text = reading, message_of(reading)
        return self._text


@frozen(kw_only=True)
class _Errors:
    """What goes wrong is a page too, with what to do next."""

    pages: Pages
    login: Login

    def add_to(self, blueprint: Blueprint) -> None:
        blueprint.register_error_handler(HTTPException, self._http)
        blueprint.register_error_handler(LimehubError, self._known)
        blueprint.register_error_handler(Exception, self._unknown)

    def _http(self, error: HTTPException) -> Any:
        if error.response is not None or error.code is None or error.code < 400:
            return error
        if isinstance(error, Unauthorized):
            return self.login.ask()
        return self.shown(error)

    def shown(self, error: HTTPException) -> Response:
        """Return the page about *error*, for whatever was asked for."""
        status = error.code or 500
        title = _TITLES.get(status, error.name)
        page = self.pages.show("error", status, title=title, detail=error.description)
        return self.pages.seal(page)

    def _known(self, error: LimehubError) -> Any:
        kinds = [answer for kind, answer in _STATUS_OF if isinstance(error, kind)]
        return self._http(kinds[0](str(error))) if kinds else self._unknown(error)

    def _unknown(self, error: Exception) -> Any:
        """A border: whatever a view raises is logged with its name, and shown without detail."""
        extra = {"endpoint": request.endpoint, "method": request.method, "path": request.path}
        log.error("page failed", extra=extra, exc_info=error)
        return self._http(InternalServerError("The server's log tells more."))
