"""How a child interpreter is started."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["interpreter"]


def interpreter() -> list[str]:
    """Return the command of a Python that finds the same modules as this one.

    `-m` alone would look into the working directory first, and any `secrets.py` there would be it.
    """
    return [sys.executable] if _imports_from_here() else [sys.executable, "-P"]


def _imports_from_here() -> bool:
    try:
        return str(Path.cwd()) in sys.path
    except FileNotFoundError:  # the folder was removed
        return False
