"""What the web shows of the server."""

from __future__ import annotations

from typing import Any, Protocol

from limehub.config import Config

__all__ = ["Shown"]


class Shown(Protocol):
    """What the pages show of the server."""

    @property
    def config(self) -> Config:
        """What it runs with."""

    @property
    def max_stall(self) -> float:
        """Seconds that the hub may stand still."""

    def status(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""

    def missing(self) -> list[str]:
        """Return what keeps it from being ready."""

    def stalled_for(self) -> float:
        """Return the seconds since the hub last turned."""
