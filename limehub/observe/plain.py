"""Any object as plain values that can be logged: nothing secret, nothing endless, no failure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from itertools import islice
from typing import Any

from limehub.config.mask import HIDDEN, is_secret, mask_text

__all__ = ["MAX_TEXT", "escaped", "plain", "shortened", "text_of", "words"]

MAX_TEXT = 16_384
"""Characters of one field; what is longer is cut, and says by how much."""
MAX_DEPTH = 5
MAX_ITEMS = 1_000

# C0, DEL, C1; line and paragraph separators; what turns the direction of text round.
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F)]
_CONTROLS += [*range(0x2066, 0x206A), *range(0xD800, 0xE000)]
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS}
_ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}


def escaped(text: str) -> str:
    """Return *text* on one line: control characters as they are written in Python."""
    return text if text.isascii() and text.isprintable() else text.translate(_ESCAPES)


def shortened(text: str, limit: int = MAX_TEXT) -> str:
    """Return at most about *limit* characters of *text*."""
    cut = len(text) - limit
    return text if cut <= 0 else f"{text[:limit]} ... ({cut} more characters)"


def text_of(value: object) -> str:
    """Return what *value* calls itself, shortened and without credentials. Raises nothing."""
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 - foreign code may do anything
        text = f"<{type(value).__name__} whose text failed: {type(error).__name__}>"
    return mask_text(shortened(text))


def plain(value: Any, *, name: str = "", depth: int = 0) -> Any:
    """Return *value* as None, bool, int, float, str, list or dict, whatever it is.

    *name*: what it is called; the value of a secret is hidden.
    """
    if _is_secret(name) and value is not None and not isinstance(value, bool):
        return HIDDEN
    if isinstance(value, str):
        return mask_text(shortened(str.__str__(value)))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # Python refuses to write more than 4300 digits.
        return int(value) if value.bit_length() < 1024 else f"<{value.bit_length()} bit number>"
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    return _container(value, depth) if depth < MAX_DEPTH else text_of(value)


def words(text: str) -> str:
    """Return *text* as a name: without spaces, quotes and equals signs."""
    return "".join("_" if char.isspace() or char in "\"'=" else char for char in escaped(text))


def _container(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        pairs = islice(value.items(), MAX_ITEMS)
        return {
            name: plain(inner, name=name, depth=depth + 1)
            for key, inner in pairs
            for name in (text_of(key),)
        }
    if isinstance(value, list | tuple | Set):
        items: Iterable[Any] = islice(value, MAX_ITEMS)
        return [plain(item, depth=depth + 1) for item in items]
    return text_of(value)


def _is_secret(name: str) -> bool:
    # A `key` in a log is one of routing or of the configuration; a lone word is no secret.
    return is_secret(name) and name not in ("key", "keys")
