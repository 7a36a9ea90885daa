"""A small server to show on the web: the members that the pages use, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from limehub.amqp.settings import connection_settings
from limehub.config import Config
from limehub.deadletters.office import Office


class NoRoutes:
    """No plugin has pages."""

    plugins: Mapping[str, Any] = MappingProxyType({})

    def add_routes(self, app: Any) -> None:
        """Add nothing."""


@dataclass
class ShownServer:
    """A server that says what the test wants it to say."""

    config: Config = field(default_factory=Config)
    causes: list[str] = field(default_factory=list)
    stalled: float = 0.0
    max_stall: float = 600.0
    details: dict[str, Any] = field(default_factory=lambda: {"ready": True, "groups": []})
    registry: Any = field(default_factory=NoRoutes)

    def status(self) -> dict[str, Any]:
        return self.details

    def missing(self) -> list[str]:
        return self.causes

    def stalled_for(self) -> float:
        return self.stalled


def office_of(server: ShownServer) -> Office:
    """The dead-letter desk of *server*; it connects to nothing until it is asked."""
    return Office.of(server.config, connection_settings(server.config), server.registry.plugins)
