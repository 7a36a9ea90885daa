"""What a handler can be given besides its event."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from limehub.plugins.lime import Application, EventPublisher, Worker

if TYPE_CHECKING:
    from limehub.config import Config

__all__ = ["Services", "build_services"]


@frozen(kw_only=True)
class Services:
    """The arguments of one plugin's handlers that do not change from event to event.

    *settings*: the plugin's own table; *application_for*: identifier -> Application.
    """

    worker: Worker
    config: Config = field(repr=False)
    settings: dict[str, Any] = field(repr=False)
    publisher: EventPublisher = field(repr=False)
    application_for: Callable[[str], Application]
    logger: logging.Logger


def build_services(
    *, config: Config, settings: dict[str, Any], publisher: EventPublisher, logger_name: str
) -> Services:
    """Build the services of one plugin around the handlers' publisher."""

    @cache
    def application_for(identifier: str) -> Application:
        return Application(identifier=identifier, publisher=publisher)

    return Services(
        worker=Worker(
            config=config, applications=tuple(config.applications), application=application_for
        ),
        config=config,
        settings=settings,
        publisher=publisher,
        application_for=application_for,
        logger=logging.getLogger(logger_name),
    )
