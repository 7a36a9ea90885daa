"""Bodies as attrs classes: cattrs, exact about scalars; fields that the class lacks are ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cattrs
from cattrs.preconf.json import make_converter
from cattrs.v import format_exception

from limehub.errors import PluginError

__all__ = ["builder"]


def builder(event_type: type) -> tuple[Callable[[Any], object], Callable[[Exception], str]]:
    """Return a function body -> *event_type*, and one that puts its errors into words.

    Raises PluginError when the class has a field that cannot be built from JSON.
    """
    converter = make_converter()
    for scalar in (bool, int, str):
        converter.register_structure_hook(scalar, _exact)
    converter.register_structure_hook(float, _exact_float)
    try:
        structure = converter.get_structure_hook(event_type)
    except Exception as error:
        raise PluginError(f"event_type {event_type.__name__} cannot be built: {error}") from error
    return (lambda body: structure(body, event_type)), _in_words


def _exact(value: Any, wanted: type) -> Any:
    if type(value) is not wanted:
        raise TypeError(f"{_short(value)} is not {wanted.__name__}")
    return value


def _exact_float(value: Any, _wanted: type) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{_short(value)} is not float")
    return float(value)


def _in_words(error: Exception) -> str:
    return "; ".join(cattrs.transform_error(error, "body", _one_in_words))


def _one_in_words(error: BaseException, wanted: type | None) -> str:
    if isinstance(error, TypeError | ValueError) and error.args:
        return str(error)
    return format_exception(error, wanted)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
