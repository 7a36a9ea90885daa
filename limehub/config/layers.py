"""Settings from several sources laid over each other, each remembering where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import field, frozen

from limehub.config.paths import Path, dotted

__all__ = ["Layers", "Origin", "Problem", "Setting", "leaves"]


@frozen(kw_only=True)
class Origin:
    """Where a setting stands. *place* begins a message, *label* is what `--origin` shows.

    *position*: line and column in the file, for the order of messages.
    """

    place: str
    label: str
    position: tuple[int, int] = (0, 0)


@frozen(kw_only=True)
class Setting:
    """One value for one key."""

    path: tuple[str, ...]
    value: Any
    origin: Origin


@frozen
class Problem:
    """What is wrong at a path; *is_unknown*: there is no such key."""

    path: Path
    text: str
    is_unknown: bool = False


def leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (path, value) of everything below *path* that is no table, empty tables included."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves((*path, key), inner)
    else:
        yield path, value


@frozen
class Layers:
    """A tree of settings; what is laid on later wins.

    *places* holds the origins of tables and elements in the file, for messages about them.
    """

    file: Origin
    places: dict[Path, Origin] = field(factory=dict)
    tree: dict[str, Any] = field(factory=dict)
    origins: dict[Path, Origin] = field(factory=dict)

    def lay(self, settings: Iterable[Setting]) -> None:
        """Put *settings* on top, key by key."""
        for setting in settings:
            for path, value in leaves(setting.path, setting.value):
                self._put(path, value, setting.origin)

    def _put(self, path: tuple[str, ...], value: Any, origin: Origin) -> None:
        table = self.tree
        for key in path[:-1]:
            if not isinstance(table.get(key), dict):
                table[key] = {}
            table = table[key]
        if value == {} and isinstance(table.get(path[-1]), dict):
            return
        table[path[-1]] = value
        self._forget(path)
        self.origins[path] = origin

    def _forget(self, path: tuple[str, ...]) -> None:
        under = [old for old in self.origins if old[: len(path)] == path]
        above = [path[:length] for length in range(1, len(path))]
        for old in (*under, *above):
            self.origins.pop(old, None)
        # What the file said inside a replaced array is no longer what a message is about.
        for old in [old for old in self.places if old[: len(path)] == path]:
            del self.places[old]

    def origin_of(self, path: Path) -> Origin:
        """Return the origin of *path*, else of what is below, else of what is above it."""
        for length in range(len(path), 0, -1):
            origin = self._origin_at(path[:length])
            if origin:
                return origin
        return self.file

    def _origin_at(self, path: Path) -> Origin | None:
        below = (self.origins[key] for key in self.origins if key[: len(path)] == path)
        return self.origins.get(path) or self.places.get(path) or next(below, None)

    def messages(self, problems: Iterable[Problem]) -> list[str]:
        """Return `limehub.toml:3:5: path: what is wrong` for each, in the order of the file."""
        in_order = sorted(problems, key=lambda problem: self.origin_of(problem.path).position)
        return [self._message(problem) for problem in in_order]

    def _message(self, problem: Problem) -> str:
        path = f"{dotted(problem.path)}: " if problem.path else ""
        return f"{self.origin_of(problem.path).place}: {path}{problem.text}"
