"""Which plugins are installed: entry points of the groups `limehub` and Lime's `lime_plugins`."""

from __future__ import annotations

import traceback as tracebacks
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import FrameType

from attrs import frozen

from limehub.config.names import alike, name_problem
from limehub.errors import PluginError

__all__ = ["GROUPS", "BrokenPlugin", "Candidate", "PluginFault", "find_candidates"]

GROUPS = ("limehub", "lime_plugins")


class PluginFault(PluginError):
    """A fault that limehub found in a plugin, with the place in the plugin's own files."""

    def __init__(self, text: str, file: str = "", line: int = 0) -> None:
        super().__init__(text)
        self.file = file
        self.line = line


@frozen(kw_only=True)
class BrokenPlugin:
    """A plugin that cannot be used. *line*: 0 = not known; *traceback*: "" = none worth showing."""

    name: str
    distribution: str
    version: str
    entry_point: str
    file: str
    line: int
    error_text: str
    traceback: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        known = self.distribution != "?"
        origin = f"distribution {self.distribution} {self.version}, " if known else ""
        return (
            f"plugin {self.name} ({origin}entry point {self.entry_point}) "
            f"{place}: {self.error_text}"
        )


@frozen(kw_only=True)
class Candidate:
    """One installed plugin, not imported yet. *groups*: where it was found."""

    entry_point: EntryPoint
    groups: tuple[str, ...]

    @property
    def name(self) -> str:
        """The entry point's name: the app."""
        return self.entry_point.name

    @property
    def module(self) -> str:
        """The module that the entry point names."""
        # EntryPoint.module raises AttributeError for a value that is no object reference.
        return self.entry_point.value.partition(":")[0].strip()

    @property
    def distribution(self) -> str:
        """The distribution's name, "?" if it is not known."""
        return self.entry_point.dist.name if self.entry_point.dist else "?"

    @property
    def version(self) -> str:
        """The distribution's version, "?" if it is not known."""
        return self.entry_point.dist.version if self.entry_point.dist else "?"

    def broken(self, error: BaseException) -> BrokenPlugin:
        """Describe *error*, raised by or about this plugin, with the plugin's file and line."""
        file, line = self._place(error)
        shown = not isinstance(error, PluginFault)
        return BrokenPlugin(
            name=self.name,
            distribution=self.distribution,
            version=self.version,
            entry_point=f"{' + '.join(self.groups)}: {self.name} = {self.entry_point.value}",
            file=file,
            line=line,
            error_text=_in_words(error),
            traceback="".join(tracebacks.format_exception(error)) if shown else "",
        )

    def _place(self, error: BaseException) -> tuple[str, int]:
        if isinstance(error, PluginFault) and error.file:
            return error.file, error.line
        if isinstance(error, SyntaxError) and error.filename:
            return error.filename, error.lineno or 0
        return self._frame(error) or self._metadata_line()

    def _frame(self, error: BaseException) -> tuple[str, int] | None:
        """The innermost line in the plugin's own files, else the innermost foreign one."""
        walked = tracebacks.walk_tb(error.__traceback__)
        frames = [(frame, line) for frame, line in walked if not _is_ours(frame)]
        top = self.module.partition(".")[0]
        own = [
            place for place in frames if place[0].f_globals.get("__name__", "").split(".")[0] == top
        ]
        for frame, line in reversed(own or frames):
            return frame.f_code.co_filename, line
        return None

    def _metadata_line(self) -> tuple[str, int]:
        """The line of entry_points.txt; what is wrong with an entry point has no other place."""
        dist = self.entry_point.dist
        if dist is None:
            return "entry_points.txt", 0
        lines = (dist.read_text("entry_points.txt") or "").splitlines()
        name = self.name
        found = (n for n, text in enumerate(lines, 1) if text.partition("=")[0].strip() == name)
        folder = str(getattr(dist, "_path", dist.name))
        return str(Path(folder, "entry_points.txt")), next(found, 0)


def find_candidates(
    points: Iterable[EntryPoint] | None = None,
) -> tuple[list[Candidate], list[BrokenPlugin]]:
    """Return installed plugins by name, and those whose names clash or cannot be used.

    The same name and value in both groups is one plugin. *points*: None = all that are installed.
    """
    found = _installed() if points is None else points
    by_name: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in _merged(found):
        by_name[alike(candidate.name)].append(candidate)
    good, broken = [], []
    for _, candidates in sorted(by_name.items()):
        problem = _problem(candidates)
        if problem:
            broken += [candidate.broken(PluginFault(problem)) for candidate in candidates]
        else:
            good += candidates
    return good, broken


def _installed() -> Iterator[EntryPoint]:
    for group in GROUPS:
        yield from entry_points(group=group)


def _merged(points: Iterable[EntryPoint]) -> Iterator[Candidate]:
    same: dict[tuple[str, str], list[EntryPoint]] = defaultdict(list)
    for point in points:
        same[point.name, point.value.replace(" ", "")].append(point)
    for group in same.values():
        names = tuple(dict.fromkeys(point.group for point in group))
        yield Candidate(entry_point=group[0], groups=names)


def _problem(candidates: list[Candidate]) -> str | None:
    first = candidates[0]
    if len(candidates) == 1:
        problem = name_problem(first.name)
        return f"the entry point's name {problem}" if problem else None
    places = " and ".join(
        f"{one.name} = {one.entry_point.value} ({one.distribution} {one.version})"
        for one in candidates
    )
    return f"one app, several plugins: {places}; uninstall or rename all but one"


def _is_ours(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__", "")
    return name.split(".")[0] in ("limehub", "importlib", "pluggy") or "<frozen" in (
        frame.f_code.co_filename
    )


def _in_words(error: BaseException) -> str:
    if isinstance(error, PluginError):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
