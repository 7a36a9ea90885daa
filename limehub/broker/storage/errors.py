"""What is wrong with a data file."""

from __future__ import annotations

from limehub.errors import BrokerError

__all__ = ["StorageError"]


class StorageError(BrokerError):
    """The data file cannot be used; the text names it and says why."""
