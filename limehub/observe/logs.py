"""Where the log lines of the process go and how they look: the only place that sets up logging."""

from __future__ import annotations

import logging
import os
import sys
from typing import Literal, TextIO

from limehub.observe.formats import JsonFormat, TextFormat
from limehub.observe.own_log import OwnLog
from limehub.observe.sink import open_sink

__all__ = ["LineHandler", "configure", "set_level"]

# pika reports each failed attempt at ERROR, with traceback; limehub says it once, in its own words.
_QUIET = {"pika": logging.CRITICAL, "werkzeug": logging.ERROR}
_PATIENCE = 1.0
"""Seconds that the end of the process waits for lines that nobody has read yet."""


class LineHandler(logging.Handler):
    """Writes records as lines. Raises nothing into the code that logs, and never waits."""

    def __init__(self, stream: TextIO, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._sink = open_sink(stream, self._dropped_line)

    def createLock(self) -> None:  # noqa: N802 - the name is logging's
        """Have none: the sink has a better one, for greenlets and native threads."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Format and write *record*."""
        self._sink.write(self._line(record))

    def flush(self) -> None:
        """Wait a moment for what could not be written yet."""
        self._sink.flush(_PATIENCE)

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Exception as error:  # noqa: BLE001 - an object in it failed; its line must not
            place = f"{record.pathname}:{record.lineno}"
            return self.format(_record("cannot format a log record", place, error))

    def _dropped_line(self, count: int) -> str:
        record = _record("log lines were dropped: nobody read them, or the disk was full")
        record.__dict__["dropped"] = count
        return self.format(record)


def configure(
    level: str,
    format: Literal["text", "json"] | None,  # noqa: A002 - the configuration's word
    stream: TextIO | None = None,
) -> OwnLog:
    """Send the whole process's log to *stream* (None = stderr); a second call replaces the first.

    *format*: None = text on a terminal, else json. *level*: `debug` ... `critical`.
    """
    stream = sys.stderr if stream is None else stream
    terminal = _is_terminal(stream)
    use_json = format == "json" or (format is None and not terminal)
    colours = terminal and not os.environ.get("NO_COLOR")
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, LineHandler)]:
        root.removeHandler(handler)
        handler.close()
    handler = LineHandler(stream, JsonFormat() if use_json else TextFormat(colours=colours))
    root.addHandler(handler)
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(quiet)
    set_level(level)
    return OwnLog(handler)


def set_level(level: str) -> None:
    """Change the level of the log of a running server."""
    logging.getLogger().setLevel(level.upper())


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def _record(message: str, place: str = "", error: BaseException | None = None) -> logging.LogRecord:
    record = logging.LogRecord(__name__, logging.WARNING, "", 0, message, (), None)
    if error is not None:
        record.__dict__.update(place=place, cause=type(error).__name__)
    return record
