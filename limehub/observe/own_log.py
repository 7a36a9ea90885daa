"""Keeping limehub's log in a process whose packages may change its logging."""

from __future__ import annotations

import logging

from attrs import frozen

__all__ = ["OwnLog"]


@frozen
class OwnLog:
    """*handler*: what writes limehub's log, the packages' lines included."""

    handler: logging.Handler

    def reclaim(self, level: str | int) -> bool:
        """Undo what silences it or changes its *level*. Returns whether that was necessary.

        `logging.config` removes all handlers and disables all loggers unless told otherwise. What
        handlers a package adds stay.
        """
        number = level if isinstance(level, int) else _number(level)
        if self._is_heard(number):
            return False
        logging.disable(logging.NOTSET)
        for each in _loggers():
            each.disabled = False
        if self.handler not in logging.root.handlers:
            logging.root.addHandler(self.handler)
        logging.root.setLevel(number)
        return True

    def _is_heard(self, level: int) -> bool:
        root = logging.root
        return (
            self.handler in root.handlers
            and root.level == level
            and not root.manager.disable
            and not any(each.disabled for each in _loggers() if each.name.startswith("limehub"))
        )


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def _loggers() -> list[logging.Logger]:
    known = list(logging.root.manager.loggerDict.values())
    return [each for each in known if isinstance(each, logging.Logger)]
