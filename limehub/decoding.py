"""Bodies: which bytes are an event. One strict table, pure functions, nothing repaired silently.

| content type | becomes |
|---|---|
| none, `application/json`, `text/json`, `application/*+json`, `application/octet-stream` | JSON |
| any other `text/*` | str |
| anything else | `UndecodableBody` |

JSON is strict: no NaN or Infinity, no duplicate keys, no bare `null`, nothing nested deeper than
Python's recursion limit. Encodings: a Python charset (utf-8 when none is named), `gzip`, `deflate`.
"""

from __future__ import annotations

import codecs
import json
import zlib
from collections import Counter
from typing import Any, NoReturn

__all__ = ["MAX_INFLATED_BYTES", "UndecodableBody", "decode_body"]

MAX_INFLATED_BYTES = 64 * 1024 * 1024
"""Compressed bodies may grow to this many bytes, no further."""

_JSON_TYPES = frozenset(["", "application/json", "text/json", "application/octet-stream"])
_WBITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class UndecodableBody(Exception):
    """The body is not an event; it is dead-lettered at once, its bytes untouched."""


def decode_body(body: bytes, content_type: str | None, content_encoding: str | None) -> Any:
    """Return the Python value of *body*. Raises UndecodableBody with the reason in words."""
    media = (content_type or "").partition(";")[0].strip().lower()
    encoding = (content_encoding or "utf-8").strip().lower()
    if encoding in _WBITS:
        body, encoding = _inflate(body, _WBITS[encoding]), "utf-8"
    is_json = media in _JSON_TYPES or (media.startswith("application/") and media.endswith("+json"))
    if not is_json and not media.startswith("text/"):
        raise UndecodableBody(f"content type {content_type!r} is neither JSON nor text")
    text = _text(body, "utf-8" if encoding == "binary" else encoding)
    return _json(text) if is_json else text


def _text(body: bytes, charset: str) -> str:
    try:
        if not codecs.lookup(charset)._is_text_encoding:
            raise UndecodableBody(f"content encoding {charset!r} is not a charset")
        return body.decode(charset)
    except LookupError:
        raise UndecodableBody(f"content encoding {charset!r} is unknown") from None
    except (UnicodeError, ValueError) as error:
        raise UndecodableBody(f"body is not {charset}: {error}") from None


def _json(text: str) -> Any:
    if not text.strip():
        raise UndecodableBody("the body is empty")
    try:
        value = _decoder.decode(text)
    except RecursionError:
        raise UndecodableBody("JSON is nested too deeply") from None
    except ValueError as error:
        raise UndecodableBody(f"body is not JSON: {error}") from None
    if value is None:
        raise UndecodableBody("the body is null")
    return value


def _inflate(body: bytes, wbits: int) -> bytes:
    inflater = zlib.decompressobj(wbits)
    try:
        plain = inflater.decompress(body, MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise UndecodableBody(f"compressed body is damaged: {error}") from None
    if inflater.unconsumed_tail:
        raise UndecodableBody(f"compressed body inflates to more than {MAX_INFLATED_BYTES} bytes")
    if not inflater.eof:
        raise UndecodableBody("compressed body is cut short")
    if inflater.unused_data:
        raise UndecodableBody("compressed body has bytes after its end")
    return plain


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"duplicate key {twice!r}")
    return table


_decoder = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
