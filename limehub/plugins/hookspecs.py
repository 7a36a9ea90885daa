"""The hooks of a plugin. Each is a plain function of the plugin's module, all are optional.

Parameters are given by name when all their names are known, else by position, so that
`def register_event_handlers(worker, config)` and `(w, c)` both work. The examples are run by the
test suite.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limehub.plugins.markers import hookspec

__all__ = [
    "default_config",
    "delivery_settled",
    "register_commands",
    "register_event_handlers",
    "register_routes",
    "server_started",
    "server_stopping",
]


@hookspec
def default_config() -> Mapping[str, Any]:  # type: ignore[empty-body]  # a specification
    """Return the plugin's settings and their defaults; called once, before anything else.

    `[plugins.<name>]` of limehub.toml overrides them; a value of another type is an error.

    Example::

        def default_config():
            return {"targets": [], "timeout": 10.0}
    """


@hookspec
def register_event_handlers(worker: Any, config: Any) -> None:
    """Register the plugin's handlers; called once at start. *config*: the whole configuration.

    `worker.register_event_handler(handler_func, key, queue_name=None, **options)`: *key* is a
    topic binding key or a list of them, *queue_name* defaults to the function's name.

    Example::

        def on_deal(worker, body, message):
            message.ack()

        def register_event_handlers(worker, config):
            worker.register_event_handler(
                handler_func=on_deal, key="core.limeobject.deal.update.v1", queue_name="deal"
            )
    """


@hookspec
def server_started(server: Any) -> None:
    """Called once when every group consumes for the first time. What it raises is logged.

    Example::

        import time

        started_at = []

        def server_started(server):
            started_at.append(time.time())
    """


@hookspec
def server_stopping(server: Any) -> None:
    """Called once, before consumers are cancelled, if server_started was. What it raises is logged.

    Example::

        import logging

        def server_stopping(server):
            logging.getLogger(__name__).info("saying goodbye")
    """


@hookspec
def delivery_settled(
    event: Any, handler: Any, outcome: Any, seconds: float, error: BaseException | None
) -> None:
    """Called after each delivery: be quick. An exception is logged, never fatal.

    *handler*: has `name`, `app`, `queue`; *seconds*: how long the handler ran; *error*: what it
    raised, or None.

    Example::

        slow = []

        def delivery_settled(event, handler, outcome, seconds, error):
            if seconds > 1:
                slow.append((handler.name, event.routing_key, seconds))
    """


@hookspec
def register_commands(cli: Any) -> None:
    """Add the plugin's own click commands. A name that limehub uses itself is refused.

    Example::

        import click

        def register_commands(cli):
            @cli.command("deal-report")
            def deal_report():
                click.echo("all is well")
    """


@hookspec
def register_routes(app: Any, settings: Mapping[str, Any]) -> Any:
    """Return a Flask blueprint; it is served under `/plugins/<name>/`, same authentication.

    *settings*: the plugin's own table.

    Example::

        from flask import Blueprint

        def register_routes(app, settings):
            pages = Blueprint("deal_pages", __name__)

            @pages.get("/hello")
            def hello():
                return {"hello": "world"}

            return pages
    """
