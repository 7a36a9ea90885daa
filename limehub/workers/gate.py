"""The gate to the broker: when it is down, one greenlet of the process knocks for all groups.

Unreachable: full jitter, at most a second apart, so that all groups consume again within two
seconds of the broker's return. Refused (403, 530): 5 to 30 s, so that nobody is locked out.
"""

from __future__ import annotations

import logging
import random
import time
from typing import Any

import gevent
from attrs import define
from gevent.event import Event as Signal
from gevent.lock import Semaphore

from limehub.amqp.connection import BrokerConnection, ConnectionSettings
from limehub.errors import BrokerError, BrokerRefused

__all__ = ["BrokerGate", "Streak", "knock_delay"]

log = logging.getLogger(__name__)

CAP_UNREACHABLE = 0.6
FIRST_REFUSED = 5.0
CAP_REFUSED = 30.0
SPREAD = 0.2
SAY_EVERY = 60.0


def knock_delay(error: BrokerError, failures: int, chance: float) -> float:
    """Return the seconds until the next try. *failures*: in a row; *chance*: 0 <= chance < 1."""
    exponent = min(failures, 20) - 1
    if isinstance(error, BrokerRefused):
        return min(CAP_REFUSED, FIRST_REFUSED * 2.0**exponent * (1.0 + 0.2 * chance))
    return min(CAP_UNREACHABLE, 0.1 * 2.0**exponent) * chance


@define
class Streak:
    """Failures of one kind in a row: a minute of silence must not count against a first refusal."""

    kind: type[BrokerError] | None = None
    length: int = 0

    def add(self, error: BrokerError) -> int:
        """Count *error*. Returns how many of its kind came in a row."""
        self.length = self.length + 1 if type(error) is self.kind else 1
        self.kind = type(error)
        return self.length


class BrokerGate:
    """Opens the groups' connections. With *fail_fast* the first failure is raised."""

    def __init__(self, settings: ConnectionSettings, *, fail_fast: bool = False) -> None:
        self.settings = settings
        self.fail_fast = fail_fast
        self.trouble: str | None = None
        self._up = Signal()
        self._up.set()
        self._knocking = Semaphore(1)
        self._stopping = Signal()
        self._said_at = 0.0

    def stop(self) -> None:
        """Let all that wait return None."""
        self._stopping.set()
        self._up.set()

    def open(self, name: str) -> BrokerConnection | None:
        """Return an open connection, however long it takes; None after `stop`.

        Raises BrokerError with *fail_fast* only.
        """
        while not self._stopping.is_set():
            if self._up.is_set():
                connection = self._try(name)
            elif self._knocking.acquire(blocking=False):
                connection = self._knock(name)
            else:
                self._up.wait()
                gevent.sleep(random.uniform(0, SPREAD))  # noqa: S311
                continue
            if connection is not None:
                return connection
        return None

    def _try(self, name: str) -> BrokerConnection | None:
        try:
            return BrokerConnection.open(self.settings, name)
        except BrokerError as error:
            self._failed(error)
            return None

    def _knock(self, name: str) -> BrokerConnection | None:
        streak = Streak()
        try:
            while not self._stopping.is_set():
                try:
                    connection = BrokerConnection.open(self.settings, name)
                except BrokerError as error:
                    self._failed(error)
                    delay = knock_delay(error, streak.add(error), random.random())  # noqa: S311
                    self._stopping.wait(delay)
                else:
                    self._succeeded()
                    return connection
            return None
        finally:
            self._knocking.release()

    def _failed(self, error: BrokerError) -> None:
        if self.fail_fast:
            raise error
        self._up.clear()
        self.trouble = str(error)
        now = time.monotonic()
        if now - self._said_at >= SAY_EVERY or not self._said_at:
            self._said_at = now
            context: dict[str, Any] = {"cause": str(error), "url": str(self.settings.url)}
            log.warning("broker not available; trying on", extra=context)

    def _succeeded(self) -> None:
        if self.trouble is not None:
            log.info("broker is back", extra={"url": str(self.settings.url)})
        self.trouble = None
        self._said_at = 0.0
        self._up.set()
