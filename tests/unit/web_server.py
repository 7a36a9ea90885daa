"""A small server to show on the web: the members that the pages use, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from limehub.config import Config


class NoRoutes:
    """No plugin has pages."""

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
