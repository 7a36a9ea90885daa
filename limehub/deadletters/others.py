"""Dead letter queues of packages that are not installed (any more); AMQP alone cannot list them."""

from __future__ import annotations

import logging
import time

from limehub.config import QUEUE_NAMESPACE, BrokerUrl
from limehub.errors import BrokerError
from limehub.management import queue_names

__all__ = ["OtherApps"]

log = logging.getLogger(__name__)

FRESH = 15.0
_DLQ = ".dlq"


class OtherApps:
    """Asks the management API, at most every 15 s. Call it: it returns the names of apps."""

    def __init__(self, management_url: str | None, broker: BrokerUrl) -> None:
        self._url = management_url
        self._broker = broker
        self._found: tuple[str, ...] = ()
        self._asked = float("-inf")

    def __call__(self) -> tuple[str, ...]:
        """Return all apps that have a dead letter queue; none if nobody can tell."""
        if self._url is not None and time.monotonic() - self._asked > FRESH:
            self._asked = time.monotonic()
            self._ask(self._url)
        return self._found

    def _ask(self, url: str) -> None:
        try:
            names = queue_names(url, self._broker)
        except BrokerError as error:
            log.warning("cannot list other apps' dead letters", extra={"cause": str(error)})
            return
        self._found = tuple(
            name.removeprefix(QUEUE_NAMESPACE).removesuffix(_DLQ)
            for name in names
            if name.startswith(QUEUE_NAMESPACE) and name.endswith(_DLQ)
        )
