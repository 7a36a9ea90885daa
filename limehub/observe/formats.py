"""How a log record is written: a line of text for people, or a line of JSON for machines."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any

from limehub.config.mask import mask_text
from limehub.observe.plain import escaped, plain, shortened, text_of, words

__all__ = ["JsonFormat", "TextFormat"]

MAX_STACK = 65_536
"""Characters of a traceback."""
CONTINUED = "  | "
"""What the lines of a traceback begin with, so that none can pass for a line of the log."""

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_FIELDS = {
    "application": "limehub.application",
    "exchange": "rabbitmq.exchange",
    "handler": "limehub.handler",
    "message_id": "event.id",
    "queue": "rabbitmq.queue",
    "routing_key": "rabbitmq.routing_key",
}
_READY_FIELDS = ("web", "groups", "queues")
_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


class JsonFormat(logging.Formatter):
    """One JSON object a line; docs/logging.md lists its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, ASCII only, so that no character in it can break it."""
        fields = {
            "@timestamp": _timestamp(record.created),
            "log.level": record.levelname.lower(),
            "log.logger": record.name,
            "message": _message(record),
            "process.pid": record.process,
            **_error(record),
        }
        return json.dumps(fields | _extras(record))


class TextFormat(logging.Formatter):
    """`HH:MM:SS LEVEL logger message  key=value ...`, local time; tracebacks follow indented."""

    def __init__(self, *, colours: bool = False) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and below it the traceback if there is one."""
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        level = self._coloured(f"{record.levelname:<7}", _COLOURS.get(record.levelname, "0"))
        logger = self._coloured(escaped(record.name.removeprefix("limehub.")), "2")
        line = f"{time} {level} {logger} {escaped(_message(record))}"
        return "\n".join([line + self._pairs(record), *_continuation(record)])

    def _pairs(self, record: logging.LogRecord) -> str:
        pairs = [
            f"{self._coloured(words(name) + '=', '2')}{_value(plain(value, name=name))}"
            for name, value in _given(record).items()
            if value is not None and not (name == "event" and value == record.msg)
        ]
        return "  " + " ".join(pairs) if pairs else ""

    def _coloured(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text


def _message(record: logging.LogRecord) -> str:
    try:
        return mask_text(shortened(record.getMessage()))
    except Exception:  # noqa: BLE001 - arguments that do not fit must not cost the line
        return f"{text_of(record.msg)} {text_of(record.args)}"


def _given(record: logging.LogRecord) -> dict[str, Any]:
    """What was passed as extra."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    given = _given(record)
    kept = ("event", *_READY_FIELDS) if given.get("event") == "ready" else ("event",)
    return {
        name if name in kept else _FIELDS.get(name, f"limehub.{name}"): plain(value, name=name)
        for name, value in given.items()
        if value is not None or name in kept
    }


def _error(record: logging.LogRecord) -> dict[str, Any]:
    stack = _stack(record)
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return {"error.stack_trace": stack} if stack else {}
    return {
        "error.type": f"{type(error).__module__}.{type(error).__qualname__}",
        "error.message": text_of(error),
        "error.stack_trace": stack,
    }


def _stack(record: logging.LogRecord) -> str:
    """Return traceback and stack of *record*; both together at most MAX_STACK characters."""
    text = record.stack_info or ""
    if record.exc_info and record.exc_info[1] is not None:
        try:
            text = "".join(traceback.format_exception(*record.exc_info)) + text
        except Exception as error:  # noqa: BLE001 - an exception's own code may fail
            text = f"<no traceback: {type(error).__name__}>\n{text}"
    # The end says most: what was raised.
    cut = len(text) - MAX_STACK
    text = text if cut <= 0 else f"... ({cut} characters before)\n{text[cut:]}"
    return mask_text(text.rstrip("\n"))


def _continuation(record: logging.LogRecord) -> list[str]:
    stack = _stack(record)
    return [CONTINUED + escaped(line) for line in stack.split("\n")] if stack else []


def _timestamp(seconds: float) -> str:
    time = datetime.fromtimestamp(seconds, UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: Any) -> str:
    """Return a plain value as text without spaces, or quoted as in JSON."""
    if isinstance(value, list) and value and all(isinstance(item, str | int) for item in value):
        return ",".join(_value(item) for item in value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    bare = text and escaped(text) == text and not any(char in text for char in " \"'\\")
    return text if bare else escaped(json.dumps(value, ensure_ascii=False))
