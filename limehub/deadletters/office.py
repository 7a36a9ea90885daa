"""The desk of a running server: with its own publisher, what runs there, and the audit."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from limehub.amqp.connection import BrokerConnection, ConnectionSettings
from limehub.amqp.publisher import Publisher
from limehub.config import Config
from limehub.deadletters.audit import Audit
from limehub.deadletters.operations import Operations
from limehub.deadletters.others import OtherApps
from limehub.deadletters.service import DeadLetterDesk
from limehub.deadletters.walk import LOCK_PATIENCE

__all__ = ["Office", "open_desk"]


def open_desk(
    config: Config, settings: ConnectionSettings, publisher: Publisher, apps: Iterable[str]
) -> DeadLetterDesk:
    """Return the desk of *config* on the broker of *settings*. *apps*: the installed packages."""
    return DeadLetterDesk(
        connect=lambda: BrokerConnection.open(settings, "limehub dead letter desk"),
        publisher=publisher,
        apps=apps,
        application_of=config.application_of,
        others=OtherApps(config.events.management_url, settings.url),
        patience=LOCK_PATIENCE,
        queue_type=config.event_handler.queue_type,
    )


@frozen(kw_only=True)
class Office:
    """Connects when it is first needed. Whoever made it closes it."""

    desk: DeadLetterDesk
    operations: Operations
    audit: Audit
    publisher: Publisher

    @classmethod
    def of(cls, config: Config, settings: ConnectionSettings, apps: Iterable[str]) -> Office:
        """Build it from the configuration."""
        publisher = Publisher(
            settings, applications=config.applications, name="limehub dead letter desk publisher"
        )
        return cls(
            desk=open_desk(config, settings, publisher, apps),
            operations=Operations(),
            audit=Audit(config.web.audit_file),
            publisher=publisher,
        )

    def close(self) -> None:
        """End what runs, in order."""
        self.operations.stop()
        self.publisher.close()
