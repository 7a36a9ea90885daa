"""One broker per file: a lock that the kernel gives back when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from limehub.broker.storage.errors import StorageError

__all__ = ["FileLock"]


class FileLock:
    """The lock of data file *path*, in a file beside it that also says who holds it.

    It is not on the data file itself: closing any descriptor of that would end SQLite's own locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}-lock")
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises StorageError when another process has it, or for no permission."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            data = str(self._path).removesuffix("-lock")
            raise StorageError(f"{data}: in use by process {holder}") from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it back. The lock file stays: removing it would race with the next holder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
