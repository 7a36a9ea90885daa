"""The way of a message through exchanges into queues."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from limehub.broker.properties import headers_of
from limehub.broker.state.exchanges import Exchange
from limehub.broker.state.queue import Queue
from limehub.broker.tables import Table

__all__ = ["Router"]

_REMEMBERED_ROUTES = 10_000


class Router:
    """Finds queues, and remembers what it found until `forget()`."""

    def __init__(self, exchanges: Mapping[str, Exchange], queues: Mapping[str, Queue]) -> None:
        self._exchanges = exchanges
        self._queues = queues
        self._routes: dict[tuple[str, str], Sequence[Queue]] = {}

    def forget(self) -> None:
        """Names or bindings have changed."""
        self._routes.clear()

    def route(self, exchange: Exchange, keys: Sequence[str], raw: bytes) -> Sequence[Queue]:
        """Return the queues that a message reaches, each once. *raw*: its properties."""
        if len(keys) > 1:
            return self._walk(exchange, keys, raw)[0]
        place = (exchange.name, keys[0])
        known = self._routes.get(place)
        if known is not None:
            return known
        queues, by_headers = self._walk(exchange, keys, raw)
        if not by_headers:
            if len(self._routes) > _REMEMBERED_ROUTES:
                self._routes.clear()
            self._routes[place] = queues
        return queues

    def _walk(
        self, start: Exchange, keys: Sequence[str], raw: bytes
    ) -> tuple[Sequence[Queue], bool]:
        found: dict[Queue, None] = {}
        seen, todo = {start}, [start]
        by_headers = False
        for exchange in todo:  # grows on the way
            by_headers = by_headers or exchange.kind == "headers"
            for target in self._targets(exchange, keys, lambda: headers_of(raw)):
                if isinstance(target, Queue):
                    found[target] = None
                elif target not in seen:
                    seen.add(target)
                    todo.append(target)
        return tuple(found), by_headers

    def _targets(
        self, exchange: Exchange, keys: Sequence[str], headers: Callable[[], Table]
    ) -> list[Queue | Exchange]:
        if not exchange.name:
            return [self._queues[key] for key in keys if key in self._queues]
        targets = [target for key in keys for target in exchange.matches(key, headers)]
        if targets or exchange.alternate is None:
            return targets
        alternate = self._exchanges.get(exchange.alternate)
        return [] if alternate is None else [alternate]
