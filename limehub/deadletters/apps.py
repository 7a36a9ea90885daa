"""Which apps there are, what they are called, and how many dead letters each has."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from limehub.amqp.connection import BrokerConnection
from limehub.amqp.publisher import Publisher
from limehub.config import QUEUE_NAMESPACE, name_problem, suggestion
from limehub.config.names import find_alike
from limehub.deadletters.results import AppCount
from limehub.deadletters.trash import trash_of
from limehub.deadletters.walk import count, is_busy
from limehub.errors import NothingMatched, QueueMissing

__all__ = ["Apps", "UnknownApp", "dlq_of"]


class UnknownApp(NothingMatched):
    """No installed package and no dead letter queue has this name."""


def dlq_of(app: str) -> str:
    """Return the name of an app's dead letter queue."""
    return f"{QUEUE_NAMESPACE}{app}.dlq"


class Apps:
    """*installed*: the packages; *others*: asks which apps have a dead letter queue besides."""

    def __init__(
        self, installed: Iterable[str], others: Callable[[], Iterable[str]], publisher: Publisher
    ) -> None:
        self._installed = tuple(sorted(app for app in installed if name_problem(app) is None))
        self._others = others
        self._publisher = publisher

    def all(self) -> list[str]:
        """Return the names of all that are known."""
        others = {app for app in self._others() if name_problem(app) is None}
        return sorted({*self._installed, *others})

    def counts(self) -> tuple[AppCount, ...]:
        """Return all with the number of their dead letters. Raises BrokerError."""
        names = self.all()

        def counted(connection: BrokerConnection) -> tuple[AppCount, ...]:
            return tuple(_counted(connection, app, app in self._installed) for app in names)

        found: tuple[AppCount, ...] = self._publisher.call(counted)
        return found

    def with_trash(self) -> list[str]:
        """Return those that have deleted letters that could be brought back."""
        return [app for app in self.all() if self._ready(trash_of(dlq_of(app)))]

    def spelled(self, app: str) -> str:
        """Return its own spelling. Raises UnknownApp for what can be no queue's name."""
        if name_problem(app):
            raise self._unknown(app)
        return find_alike(app, self._installed) or app

    def require(self, app: str) -> None:
        """Raise UnknownApp unless *app* is installed or has a dead letter queue."""
        if app not in self._installed and self._ready(dlq_of(app)) is None:
            raise self._unknown(app)

    def _ready(self, queue: str) -> int | None:
        try:
            return int(self._publisher.call(lambda connection: count(connection, queue)))
        except QueueMissing:
            return None

    def _unknown(self, app: str) -> UnknownApp:
        hint = suggestion(app, self._installed)
        return UnknownApp(f"no app {app!r} and no dead letters of it{hint}")


def _counted(connection: BrokerConnection, app: str, installed: bool) -> AppCount:
    queue = dlq_of(app)
    is_walked = is_busy(connection, queue)
    try:
        total = count(connection, queue)
    except QueueMissing:
        total = 0
    return AppCount(app=app, queue=queue, total=total, busy=is_walked, installed=installed)
