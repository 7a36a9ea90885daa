"""Exceptions across the border of a process: the same class where it can be, else its name.

Their tracebacks are rebuilt, so that logs and dead letters name the plugin's lines as ever.
"""

from __future__ import annotations

import pickle
import sys
import traceback
from types import TracebackType
from typing import Any

from attrs import frozen

__all__ = ["CarriedError", "pack", "unpack"]

MAX_FRAMES = 100
MAX_CHAIN = 8

Place = tuple[str, int, str]


@frozen(kw_only=True)
class CarriedError:
    """*pickled*: the exception, or what makes it; None = only its names and *text* can cross.

    *places*: file, line and function of each frame, outermost first.
    """

    module: str
    qualname: str
    text: str
    pickled: bytes | None
    places: tuple[Place, ...]
    cause: CarriedError | None = None
    context: CarriedError | None = None
    suppressed: bool = False


def pack(error: BaseException, depth: int = 0) -> CarriedError:
    """Return *error* as it can be sent. Raises nothing, whatever the exception is like."""
    deeper = depth < MAX_CHAIN
    return CarriedError(
        module=type(error).__module__,
        qualname=type(error).__qualname__,
        text=_text(error),
        pickled=_pickled(error),
        places=_places(error),
        cause=pack(error.__cause__, depth + 1) if error.__cause__ and deeper else None,
        context=pack(error.__context__, depth + 1) if error.__context__ and deeper else None,
        suppressed=error.__suppress_context__,
    )


def unpack(carried: CarriedError) -> BaseException:
    """Return the exception that was sent, ready to be raised."""
    error = _loaded(carried.pickled) or _named(carried)
    error.__cause__ = unpack(carried.cause) if carried.cause else None
    error.__context__ = unpack(carried.context) if carried.context else None
    error.__suppress_context__ = carried.suppressed
    return error.with_traceback(_traceback(carried.places))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failed:  # noqa: BLE001 - a plugin's __str__ may do anything
        return f"<text failed: {type(failed).__name__}>"


def _pickled(error: BaseException) -> bytes | None:
    """Return the first form that comes back as the same class with the same text."""
    state = {name: value for name, value in vars(error).items() if name != "__notes__"}
    for form in (error, (type(error), error.args, state)):
        try:
            data = pickle.dumps(form)
            back = _loaded(data)
        except Exception:  # noqa: BLE001, S112 - what a plugin's exception holds may do anything
            continue
        if type(back) is type(error) and _text(back) == _text(error):
            return data
    return None


def _loaded(data: bytes | None) -> BaseException | None:
    """Return the exception in *data*; None if this side cannot make it."""
    try:
        form = None if data is None else pickle.loads(data)  # noqa: S301 - from our own process
    except Exception:  # noqa: BLE001 - its class may be missing here, or refuse
        return None
    if not isinstance(form, tuple):
        return form
    # Not through __init__, which need not take what `args` holds: Retry's does not.
    kind, arguments, state = form
    error: BaseException = kind.__new__(kind, *arguments)
    error.args = arguments
    vars(error).update(state)
    return error


def _named(carried: CarriedError) -> BaseException:
    names = {"__module__": carried.module, "__qualname__": carried.qualname}
    kind: Any = type(carried.qualname.rpartition(".")[2], (Exception,), names)
    return kind(carried.text)  # type: ignore[no-any-return]


def _places(error: BaseException) -> tuple[Place, ...]:
    found = [
        (frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    half = MAX_FRAMES // 2
    return tuple(found if len(found) <= MAX_FRAMES else found[:half] + found[-half:])


def _traceback(places: tuple[Place, ...]) -> TracebackType | None:
    """Build a traceback as if it had happened here."""
    built: TracebackType | None = None
    for file, line, name in reversed(places):
        code = compile("raise ZeroDivisionError", file, "exec").replace(co_name=name)
        try:
            exec(code, {"__file__": file})  # noqa: S102 - our own one-line code, for its frame
        except ZeroDivisionError:
            made = sys.exc_info()[2]
            inner = made.tb_next if made else None
            if inner is not None:  # instruction -1: no column marks below the line
                built = TracebackType(built, inner.tb_frame, -1, line)
    return built
