"""Where each key of a TOML text stands. No TOML library keeps that, and a person needs it.

The text is taken to be valid: the parser has accepted it before. Should the scan still lose its
way, it ends, and what comes later has no position of its own; it never raises.
"""

from __future__ import annotations

import bisect
import contextlib
import re
from collections.abc import Mapping

import tomli

from limehub.config.paths import KEY_TOKEN, Path

__all__ = ["Position", "positions"]

Position = tuple[int, int]
"""Line and column, both from 1; columns count characters."""

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_PLAIN = re.compile(r"[^,\]}#\r\n]+")


def positions(text: str) -> Mapping[Path, Position]:
    """Return the position of every table, key and array element of a valid TOML *text*."""
    scan = _Scan(text)
    with contextlib.suppress(_LostError):
        scan.document()
    return scan.found


class _LostError(Exception):
    """The text does not read on as TOML should."""


class _Scan:
    def __init__(self, text: str) -> None:
        self.found: dict[Path, Position] = {}
        self._text = text
        self._at = 0
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._array_lengths: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        while self._skip(_BLANK) < len(self._text):
            if self._take("[["):
                table = self._header((), is_array=True)
            elif self._take("["):
                table = self._header((), is_array=False)
            else:
                self._pair(table)
            self._skip(_SPACE)

    def _header(self, path: Path, *, is_array: bool) -> Path:
        keys = self._keys()
        for number, (key, start) in enumerate(keys, 1):
            path = (*path, key)
            self._note(path, start)
            if is_array and number == len(keys):
                self._array_lengths[path] = self._array_lengths.get(path, 0) + 1
            if path in self._array_lengths:
                path = (*path, self._array_lengths[path] - 1)
                self._note(path, start)
        self._expect("]]" if is_array else "]")
        return path

    def _pair(self, path: Path) -> None:
        for key, start in self._keys():
            path = (*path, key)
            self._note(path, start)
        self._expect("=")
        self._value(path)

    def _value(self, path: Path) -> None:
        self._skip(_SPACE)
        if self._take("["):
            self._array(path)
        elif self._take("{"):
            self._inline_table(path)
        elif self._match(_STRING) is None and self._match(_PLAIN) is None:
            raise _LostError

    def _array(self, path: Path) -> None:
        index = 0
        self._skip(_BLANK)
        while not self._take("]"):
            self._note((*path, index), self._at)
            self._value((*path, index))
            index += 1
            self._skip_comma("]")

    def _inline_table(self, path: Path) -> None:
        self._skip(_BLANK)
        while not self._take("}"):
            self._pair(path)
            self._skip_comma("}")

    def _skip_comma(self, end: str) -> None:
        self._skip(_BLANK)
        if not self._take(",") and not self._text.startswith(end, self._at):
            raise _LostError
        self._skip(_BLANK)

    def _keys(self) -> list[tuple[str, int]]:
        keys = [self._key()]
        while self._take("."):
            keys.append(self._key())
        return keys

    def _key(self) -> tuple[str, int]:
        start = self._skip(_SPACE)
        token = self._match(KEY_TOKEN)
        if token is None:
            raise _LostError
        self._skip(_SPACE)
        return _unquoted(token), start

    def _note(self, path: Path, offset: int) -> None:
        if path not in self.found:
            line = bisect.bisect_right(self._line_starts, offset)
            self.found[path] = (line, offset - self._line_starts[line - 1] + 1)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        self._match(pattern)
        return self._at

    def _match(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self._text, self._at)
        if match is None:
            return None
        self._at = match.end()
        return match.group()

    def _take(self, text: str) -> bool:
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise _LostError


def _unquoted(token: str) -> str:
    if token[0] == "'":
        return token[1:-1]
    if token[0] != '"':
        return token
    try:
        return next(iter(tomli.loads(f"{token} = 0")))
    except tomli.TOMLDecodeError:
        raise _LostError from None
