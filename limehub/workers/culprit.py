"""Who keeps the hub busy, told from the frames of its thread."""

from __future__ import annotations

import os
from pathlib import Path
from types import FrameType

import gevent

from limehub.amqp.sentinel import Sentinel
from limehub.amqp.stalls import Culprit
from limehub.workers.handling import BoundHandler
from limehub.workers.lanes.stacks import stack_of
from limehub.workers.runner import Runner

__all__ = ["culprit_of"]

_RUNS_HANDLERS = Runner._handle.__code__
_AFTER_ITS_RETURN = Sentinel.let_look.__code__
_OURS = str(Path(__file__).parents[1]) + os.sep
_GEVENT = str(Path(gevent.__file__).parent) + os.sep
_STDLIB = str(Path(os.__file__).parent) + os.sep
_PACKAGES = (f"{_STDLIB}site-packages{os.sep}", f"{_STDLIB}dist-packages{os.sep}")


def culprit_of(frame: FrameType) -> Culprit:
    """Return the handler that runs in *frame*, the innermost one; else the file at work."""
    frames = _outwards(frame)
    theirs = [each for each in frames if _is_a_plugins(each)]
    handler = _handler(frames)
    if handler and frame.f_code is _AFTER_ITS_RETURN:
        return Culprit(name=handler.name, where=getattr(handler.handler, "origin", None))
    shown = theirs or [frame]
    return Culprit(
        name=handler.name if handler else _function(shown[-1]),
        where=f"{shown[0].f_code.co_filename}:{shown[0].f_lineno}",
        stack=stack_of(frame),
        of_a_plugin=bool(theirs),
    )


def _outwards(frame: FrameType | None) -> list[FrameType]:
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _handler(frames: list[FrameType]) -> BoundHandler | None:
    """The handler whose run is on the stack."""
    for each in frames:
        if each.f_code is _RUNS_HANDLERS:
            # A run that has not come so far yet, or has gone on meanwhile, has none.
            return each.f_locals.get("handler")
    return None


def _is_a_plugins(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if file.startswith((_OURS, _GEVENT, "<")):
        return False
    return file.startswith(_PACKAGES) or not file.startswith(_STDLIB)


def _function(frame: FrameType) -> str:
    """The module and function of *frame*, for a greenlet that a plugin started by itself."""
    module = frame.f_globals.get("__name__", "?")
    return f"{module}:{frame.f_code.co_qualname}"
