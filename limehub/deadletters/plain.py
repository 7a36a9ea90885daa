"""Whatever a message holds, as something that JSON and a terminal can take. Pure functions."""

from __future__ import annotations

import base64
import codecs
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from limehub.decoding import UndecodableBody, decode_body

__all__ = [
    "HEAD_BYTES",
    "PREVIEW_CHARS",
    "BodyEncoding",
    "body_of",
    "head_of",
    "later",
    "moment_of",
    "plain",
    "preview_of",
    "rfc3339",
    "text_of",
]

BodyEncoding = Literal["json", "text", "base64"]

PREVIEW_CHARS = 200
HEAD_BYTES = 65_536
"""So much of a body is looked at: in lists, and by the filter `text`."""
_LAYOUT = frozenset("\t\r\n")


def text_of(value: Any) -> str:
    """Return *value* as text; bytes that are no UTF-8 are escaped, None is empty."""
    if value is None:
        return ""
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace")


def plain(value: Any) -> Any:
    """Return a header's *value* as JSON can carry it; bytes as text, times as RFC 3339."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)  # the client library's 64-bit numbers are a class of their own
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, Mapping):
        return {text_of(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, (float, Decimal)) else text_of(value)


def rfc3339(moment: datetime | None) -> str | None:
    """Return *moment* in UTC to the millisecond, `2030-01-31T12:00:00.000Z`."""
    if moment is None:
        return None
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_of(value: Any) -> datetime | None:
    """Return the time that a header holds, in UTC; None if it holds none."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:  # the year 1, or 9999, in another time zone
        return None


def later(moment: datetime, seconds: float) -> datetime:
    """Return *moment*, in UTC, plus *seconds*; at most the end of the calendar."""
    try:
        return moment + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def preview_of(body: bytes) -> str:
    """Return the beginning of *body* on one line, inert: what does not print is escaped."""
    head = body[: 4 * PREVIEW_CHARS]
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    text = decoder.decode(head, final=len(head) == len(body))[:PREVIEW_CHARS]
    return text if text.isprintable() else "".join(map(_inert, text))[:PREVIEW_CHARS]


def _inert(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode()


def body_of(
    body: bytes, content_type: str | None, content_encoding: str | None
) -> tuple[Any, BodyEncoding]:
    """Return *body* as a person wants to read it, and how it was read.

    `json`: the value; `text`: str; `base64`: everything else, byte for byte.
    """
    try:
        value = decode_body(body, content_type, content_encoding)
    except UndecodableBody:
        return _raw(body)
    if not _survives_json(value):
        return _raw(body)
    return value, "text" if _is_text(content_type) else "json"


def head_of(body: bytes) -> tuple[str, BodyEncoding]:
    """Return the beginning of a large body, cut anywhere, as text if it is text, else base64."""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(body)
    return _raw(body) if "\ufffd" in text else _raw(text.encode())


def _raw(body: bytes) -> tuple[str, BodyEncoding]:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), "base64"
    if all(letter.isprintable() or letter in _LAYOUT for letter in text):
        return text, "text"
    return base64.b64encode(body).decode(), "base64"


def _survives_json(value: Any) -> bool:
    """Whether *value* can be written again: 1e999, lone surrogates and deep nesting cannot."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def _is_text(content_type: str | None) -> bool:
    media = (content_type or "").partition(";")[0].strip().lower()
    return media.startswith("text/") and media != "text/json"
