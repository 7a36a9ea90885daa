"""A frame as text: the stack of a handler as its author wants to read it."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from types import FrameType

__all__ = ["stack_of"]

_OURS = str(Path(__file__).parents[2]) + os.sep


def stack_of(frame: FrameType | None) -> str:
    """Return the stack that led to *frame*, outermost first, from the handler on."""
    found = list(traceback.extract_stack(frame)) if frame is not None else []
    outer = next((n for n, each in enumerate(found) if each.filename.startswith(_OURS)), 0)
    inner = next(
        (n for n in range(outer, len(found)) if not found[n].filename.startswith(_OURS)), outer
    )
    return "".join(traceback.format_list(found[inner:]))
