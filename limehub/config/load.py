"""limehub.toml, environment and command line become one Config, or one list of all problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import tomli
from attrs import frozen

from limehub.config.environment import from_environment
from limehub.config.layers import Layers, Origin, Problem, Setting, leaves
from limehub.config.model import Config
from limehub.config.paths import dotted, split
from limehub.config.positions import positions
from limehub.config.rules import rule_problems, rule_warnings
from limehub.errors import ConfigError

__all__ = ["DEFAULT_FILE", "Loaded", "load"]

DEFAULT_FILE = "limehub.toml"

_MAX_BYTES = 1024 * 1024
_MAX_DEPTH = 32


@frozen(kw_only=True)
class Loaded:
    """A configuration and its history. *origins*: dotted path of each key that was set -> label.

    A label is `limehub.toml:12`, `env NAME` or `command line`; what is missing is a default.
    *path*: the file's, absolute. *embedded*: whether the broker is limehub's own, and
    `events.connection_string` leads to it.
    """

    config: Config
    origins: Mapping[str, str]
    warnings: tuple[str, ...]
    path: Path
    embedded: bool = False

    def located(self, problem: str) -> str:
        """Return *problem*, `path: what is wrong`, with the place where that key was set."""
        label = self.origins.get(problem.partition(": ")[0])
        return f"{label.removeprefix('env ')}: {problem}" if label else problem


def load(
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """Read the file at *path*, else at LIMEHUB_CONFIG, else ./limehub.toml.

    *overrides*: dotted path -> value from the command line; None as a value is left out.
    Raises ConfigError with every problem, each `limehub.toml:LINE:COL: path: what is wrong`.
    """
    file = path or Path(environ.get("LIMEHUB_CONFIG") or DEFAULT_FILE)
    layers, problems = _layers(file, environ, overrides or {})
    config, found = _structure(layers)
    problems += layers.messages(found)
    if problems:
        raise ConfigError(*problems)
    return Loaded(
        config=config.anchored(str(file.absolute().parent)),
        origins={dotted(key): origin.label for key, origin in layers.origins.items()},
        warnings=tuple(layers.messages(rule_warnings(config))),
        path=file.absolute(),
    )


def _layers(
    file: Path, environ: Mapping[str, str], overrides: Mapping[str, Any]
) -> tuple[Layers, list[str]]:
    text = _text(file)
    tree = _parsed(file, text)
    layers = _file_layer(file, text, tree)
    settings, problems = from_environment(environ, tree)
    layers.lay(settings)
    layers.lay(_command_line(overrides))
    return layers, problems


def _structure(layers: Layers) -> tuple[Config, list[Problem]]:
    # cattrs takes 0.2 s to import; commands that need no configuration do not pay for it.
    from limehub.config.structure import structure

    config, problems = structure(layers.tree)
    rules = [rule for rule in rule_problems(config) if not _repeats(rule, problems, layers)]
    return config, problems + rules


def _repeats(rule: Problem, problems: list[Problem], layers: Layers) -> bool:
    """Whether one of *problems* is the cause: the rule's own key is broken, or misspelt."""
    is_missing = rule.path not in layers.origins
    return any(
        rule.path[: len(problem.path)] == problem.path
        or (is_missing and problem.is_unknown and rule.path[:-1] == problem.path[:-1])
        for problem in problems
    )


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        folder = file.absolute().parent
        raise ConfigError(
            f"no {file.name} in {folder}; run `limehub init`, or point -c at one"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{file}: cannot be read: {reason}") from None
    return _decoded(file, raw)


def _decoded(file: Path, raw: bytes) -> str:
    if len(raw) > _MAX_BYTES:
        raise ConfigError(f"{file}: is larger than {_MAX_BYTES} bytes; is it a limehub.toml?")
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{file}:1:1: begins with a byte order mark; save it as plain UTF-8")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        start = raw.rfind(b"\n", 0, error.start) + 1
        column = len(raw[start : error.start].decode(errors="replace")) + 1
        raise ConfigError(f"{file}:{line}:{column}: is not UTF-8; save it as UTF-8") from None


def _parsed(file: Path, text: str) -> dict[str, Any]:
    try:
        tree = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise ConfigError(f"{file}:{error.lineno}:{error.colno}: {error.msg}") from None
    except (RecursionError, ValueError):
        raise ConfigError(f"{file}:1:1: is nested too deeply or holds too long a number") from None
    if _depth_exceeds(tree, _MAX_DEPTH):
        raise ConfigError(f"{file}:1:1: is nested deeper than {_MAX_DEPTH} levels")
    return tree


def _depth_exceeds(tree: Any, limit: int) -> bool:
    """Walk level by level: a recursive walk is what deep nesting would break."""
    level = [tree]
    for _ in range(limit):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _file_layer(file: Path, text: str, tree: dict[str, Any]) -> Layers:
    places = {
        path: Origin(
            place=f"{file}:{line}:{column}", label=f"{file}:{line}", position=(line, column)
        )
        for path, (line, column) in positions(text).items()
    }
    layers = Layers(Origin(place=f"{file}:1:1", label=str(file)), places, deepcopy(tree))
    for path, _ in leaves((), tree):
        if path:
            layers.origins[path] = places.get(path, layers.file)
    return layers


def _command_line(overrides: Mapping[str, Any]) -> Iterator[Setting]:
    origin = Origin(place="command line", label="command line")
    for path, value in overrides.items():
        if value is not None:
            plain = list(value) if isinstance(value, tuple) else value
            yield Setting(path=split(path), value=plain, origin=origin)
