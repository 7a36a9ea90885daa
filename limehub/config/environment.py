"""LIMEHUB_* variables, one for every key, and RABBIT_URL, RABBIT_EXCHANGE_NAME below them.

LIMEHUB_EVENTS__CONSUMER_HEARTBEAT=30                       events.consumer_heartbeat = 30
LIMEHUB_EVENT_HANDLER__WORKERS__WEBHOOKS__PREFETCH_COUNT=5  for the group webhooks
LIMEHUB_EVENTS__CONNECTION_STRING_FILE=/run/secrets/url     the value is in a file
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_origin

import attrs
import tomli

from limehub.config.layers import Origin, Setting
from limehub.config.model import Config
from limehub.config.schema import FREE, bare, key_types, keys_of, value_type

__all__ = ["NOT_SETTINGS", "from_environment"]

NOT_SETTINGS = frozenset(
    ["LIMEHUB_CONFIG", "LIMEHUB_RABBITMQ4_ROOT", "LIMEHUB_SOAK", "LIMEHUB_TEST_ON"]
)
"""Variables that are no keys: the path of limehub.toml, and two switches of the test suite."""

_PREFIX = "LIMEHUB_"
_RABBIT = {
    "RABBIT_URL": ("events", "connection_string"),
    "RABBIT_EXCHANGE_NAME": ("events", "exchange"),
}
_KUBERNETES = re.compile(
    r"LIMEHUB_(?:[A-Z0-9]+_)*(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
    r"|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes sets in every pod beside a Service whose name begins with limehub."""

_MAX_SECRET_BYTES = 65_536


@attrs.frozen
class _Target:
    """A key that a variable names; *is_text* if the key takes a string."""

    path: tuple[str, ...]
    is_text: bool
    is_file: bool = False


def from_environment(
    environ: Mapping[str, str], tree: Mapping[str, Any]
) -> tuple[list[Setting], list[str]]:
    """Return the settings, the strongest last, and problems. *tree*: the file, for its names."""
    settings = list(_rabbit(environ))
    problems: list[str] = []
    owners: dict[tuple[str, ...], str] = {}
    for variable in _variables(environ):
        target = _target(variable.upper().removeprefix(_PREFIX), tree)
        try:
            if target is None:
                raise ValueError(f"no such key{_hint(variable)}")
            if owners.setdefault(target.path, variable) != variable:
                raise ValueError(f"sets what {owners[target.path]} sets already")
            value = _value(environ[variable], target)
        except ValueError as error:
            problems.append(f"{variable}: {error}")
        else:
            settings.append(_setting(variable, target.path, value))
    return settings, problems


def _variables(environ: Mapping[str, str]) -> list[str]:
    """Return our variables that are set to something, those of whole tables first."""
    ours = sorted(name for name in environ if _is_ours(name) and environ[name])
    return sorted(ours, key=lambda name: name.count("__"))


def _is_ours(variable: str) -> bool:
    name = variable.upper()
    return (
        name.startswith(_PREFIX)
        and name not in NOT_SETTINGS
        and ("__" in name or not _KUBERNETES.fullmatch(name))
    )


def _rabbit(environ: Mapping[str, str]) -> Iterator[Setting]:
    for variable, path in _RABBIT.items():
        if environ.get(variable):
            yield _setting(variable, path, environ[variable])


def _setting(variable: str, path: tuple[str, ...], value: Any) -> Setting:
    return Setting(path=path, value=value, origin=Origin(place=variable, label=f"env {variable}"))


def _target(name: str, tree: Mapping[str, Any]) -> _Target | None:
    """Find the key; a real key that ends in _file comes before a file with the value."""
    parts = name.lower().split("__")
    target = _find(parts, tree)
    if not name.endswith("_FILE") or (target and not _is_invented(target.path, tree)):
        return target
    secret = _find([*parts[:-1], parts[-1].removesuffix("_file")], tree)
    if secret is None or not (secret.is_text or secret.path[0] == "plugins"):
        return target
    return attrs.evolve(secret, is_file=True)


def _find(parts: list[str], tree: Mapping[str, Any]) -> _Target | None:
    kind: Any = Config
    path: tuple[str, ...] = ()
    for part in parts:
        kind, key = _step(kind, part, tree)
        if not key:
            return None
        path = (*path, key)
        inner = tree.get(key)
        tree = inner if isinstance(inner, Mapping) else {}
    return _Target(path, is_text=bare(kind) is str or get_origin(bare(kind)) is Literal)


def _step(kind: Any, part: str, tree: Mapping[str, Any]) -> tuple[Any, str]:
    """Go down one table. Returns the type of what is there, and its key; "" if there is none."""
    if attrs.has(kind):
        keys = keys_of(kind)
        return (keys[part], part) if part in keys else (None, "")
    if kind is Any:
        return Any, _existing(part, tree)
    inner = value_type(kind)
    return (inner, _existing(part, tree)) if inner is not None else (None, "")


def _existing(part: str, names: Mapping[str, Any]) -> str:
    """Return how the file spells a free-form name: case, dash and underscore are alike here."""
    form = part.replace("-", "_")
    return next((name for name in names if name.lower().replace("-", "_") == form), part)


def _is_invented(path: tuple[str, ...], tree: Mapping[str, Any]) -> bool:
    """Whether *path* is a plugin's key that the file does not have."""
    if path[0] != "plugins":
        return False
    here: Any = tree
    for key in path:
        if not isinstance(here, Mapping) or key not in here:
            return True
        here = here[key]
    return False


def _value(text: str, target: _Target) -> Any:
    if target.is_file:
        return _secret(Path(text))
    value = _toml_value(text)
    return text if target.is_text and not isinstance(value, str) else value


def _toml_value(text: str) -> Any:
    try:
        document = tomli.loads(f"value = {text}")
    except (tomli.TOMLDecodeError, RecursionError):
        return text
    # A line break in the text could have begun another key.
    return document["value"] if document.keys() == {"value"} else text


def _secret(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_SECRET_BYTES + 1)
        if len(raw) > _MAX_SECRET_BYTES:
            raise ValueError(f"{path} is larger than {_MAX_SECRET_BYTES} bytes")
        text = raw.decode()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")


def _hint(variable: str) -> str:
    parts = variable.upper().removeprefix(_PREFIX).split("__")
    known = [_PREFIX + "__".join(_named(key, parts)).upper() for key in key_types()]
    near = difflib.get_close_matches(variable.upper(), known, n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else "; see `limehub config show` for the keys"


def _named(key: tuple[str, ...], parts: list[str]) -> Iterator[str]:
    for index, part in enumerate(key):
        yield parts[index] if part == FREE and index < len(parts) else part
