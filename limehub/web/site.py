"""Everything of the server that is reached over HTTP: the web server and the health listener."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from limehub.amqp.settings import connection_settings
from limehub.config import Config
from limehub.config.address import Address
from limehub.errors import ConfigError
from limehub.web.binding import url_of
from limehub.web.health import HealthListener, HealthState, Pulse
from limehub.web.shown import Shown
from limehub.web.tokens import Tokens

if TYPE_CHECKING:
    from limehub.deadletters.office import Office
    from limehub.web.listener import WebServer
    from limehub.web.live import Live

__all__ = ["Site"]

log = logging.getLogger(__name__)


class Installed(Protocol):
    """The plugins and their blueprints, as `limehub.plugins.registry.Registry` has them."""

    @property
    def plugins(self) -> Mapping[str, Any]: ...

    def add_routes(self, app: Any) -> None: ...


class Hosting(Shown, Protocol):
    """What a site needs of the server."""

    @property
    def registry(self) -> Installed: ...


class Site:
    """Raises ConfigError for tokens that cannot be read. Whoever starts it stops it."""

    def __init__(self, server: Hosting) -> None:
        web = server.config.web
        self._server = server
        self._tokens = Tokens(web.token_file)
        self._address = web.address
        self._health_address = web.health_address
        self._state = HealthState(max_stall=server.max_stall, detail=self._detail())
        self._pulse = Pulse(self._state)
        self._web_server: WebServer | None = None
        self._office: Office | None = None
        self._live: Live | None = None
        self._health_listener: HealthListener | None = None
        self.web_url: str | None = None
        self.health_url: str | None = None

    def start(self) -> None:
        """Listen where the configuration says. Raises ConfigError if an address is taken."""
        self._pulse.start()
        if self._health_address is not None:
            self._health_listener = HealthListener(self._state, self._health_address)
            self.health_url = url_of(*self._health_listener.start())
        if self._address is not None:
            self._web_server = self._build(self._address)
            self.web_url = url_of(*self._web_server.start())
            if self._live is not None:
                self._live.start()

    def stop(self) -> None:
        """Stop listening; harmless if it never started."""
        if self._live is not None:
            self._live.stop()  # first: who watches ends, and no request is left to wait for
        if self._office is not None:
            self._office.operations.stop()  # who waits for one still gets its answer
        if self._web_server is not None:
            self._web_server.stop()
        if self._office is not None:
            self._office.close()
            self._office = None
        if self._health_listener is not None:
            self._health_listener.stop()
        self._pulse.stop()

    def note(self, missing: tuple[str, ...]) -> None:
        """Tell the health listener what keeps the server from being ready; () = nothing."""
        self._state.missing = missing

    def blame(self, culprit: str | None) -> None:
        """Tell the health listener who keeps the hub busy; None = nobody. From any thread."""
        self._state.culprit = culprit

    def stalled_for(self) -> float:
        """Return the seconds since the hub last turned, 0 if it turns."""
        return self._state.stalled_for()

    def reload(self, config: Config) -> None:
        """Read the tokens again; a broken file is logged, and the old tokens stay."""
        try:
            self._tokens.reload(config.web.token_file)
        except ConfigError as error:
            log.error("new tokens are broken; the old ones stay", extra={"cause": str(error)})
            return
        self._state.detail = self._detail()

    def _build(self, address: Address) -> WebServer:
        # Flask costs 12 MB and a tenth of a second: not where there is no web.
        from limehub.deadletters.office import Office
        from limehub.web.app import create_app
        from limehub.web.listener import WebServer
        from limehub.web.live import Live

        config, registry = self._server.config, self._server.registry
        self._office = Office.of(config, connection_settings(config), registry.plugins)
        self._live = Live(self._server.status, self._office)
        app = create_app(self._server, self._tokens, self._office, self._live)
        registry.add_routes(app)
        return WebServer(app, address)

    def _detail(self) -> bool:
        """Whether the health port says more than yes and no: it knows neither token nor Host."""
        address = self._health_address
        return not self._tokens.required and address is not None and address.is_loopback
