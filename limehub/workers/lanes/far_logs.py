"""Log lines of a child process: they travel to the parent, which writes them as its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from limehub.observe.plain import plain, text_of
from limehub.workers.lanes.carried import pack, unpack

__all__ = ["FarLogs", "log_here"]

_STANDARD = frozenset(vars(logging.makeLogRecord({})))
_REPLACED = frozenset({"msg", "args", "exc_info", "exc_text"})


class FarLogs(logging.Handler):
    """Sends each record by *tell*("log", fields)."""

    def __init__(self, tell: Callable[..., None]) -> None:
        super().__init__()
        self._tell = tell

    def install(self) -> None:
        """Become the only handler of this process."""
        logging.getLogger().handlers[:] = [self]
        logging.captureWarnings(True)
        threading.excepthook = _thread_failed

    def emit(self, record: logging.LogRecord) -> None:
        """Send *record*. Raises nothing into the code that logs."""
        try:
            self._tell("log", _portable(record))
        except Exception as error:  # noqa: BLE001 - an object in it failed; its line must not
            text = f"cannot carry a log record: {type(error).__name__}"
            self._tell("log", {"name": __name__, "msg": text, "levelno": logging.WARNING})


def log_here(fields: dict[str, Any]) -> None:
    """Write a record that a child sent, if its logger is not quiet here."""
    level = fields["levelno"]
    fields = {"levelname": logging.getLevelName(level), **fields}
    error = fields.pop("error", None)
    logger = logging.getLogger(fields["name"])
    if logger.isEnabledFor(level):
        record = logging.makeLogRecord(fields)
        if error is not None:
            raised = unpack(error)
            record.exc_info = (type(raised), raised, raised.__traceback__)
        logger.handle(record)


def _portable(record: logging.LogRecord) -> dict[str, Any]:
    fields = {
        name: value if name in _STANDARD else plain(value, name=name)
        for name, value in vars(record).items()
        if name not in _REPLACED
    }
    error = record.exc_info[1] if record.exc_info else None
    return fields | {"msg": _message(record), "error": pack(error) if error else None}


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that do not fit must not cost the line
        return f"{text_of(record.msg)} {text_of(record.args)}"


def _thread_failed(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
        thread = getattr(arguments.thread, "name", None)
        logging.getLogger(__name__).error(
            "thread failed", extra={"thread_name": thread}, exc_info=arguments.exc_value
        )
