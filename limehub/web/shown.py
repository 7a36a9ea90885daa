"""What the web shows of the server."""

from __future__ import annotations

from typing import Any, Protocol

from limehub.config import Config, Loaded

__all__ = ["Shown"]


class Shown(Protocol):
    """What the pages show of the server."""

    @property
    def config(self) -> Config:
        """What it runs with."""

    @property
    def loaded(self) -> Loaded:
        """The same with its history: who set which key."""

    @property
    def registry(self) -> Any:
        """The installed packages, a `limehub.plugins.registry.Registry`."""

    @property
    def max_stall(self) -> float:
        """Seconds that the hub may stand still."""

    def status(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""

    def missing(self) -> list[str]:
        """Return what keeps it from being ready."""

    def stalled_for(self) -> float:
        """Return the seconds since the hub last turned."""
