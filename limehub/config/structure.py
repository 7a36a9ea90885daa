"""A parsed TOML tree becomes a Config, strictly, and every problem is found in one go.

cattrs coerces by default ("15" and true are whole numbers to it); each hook here takes exactly its
own type. attrs validators run per key, so that one bad value does not hide the next.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast, get_args, get_origin

import attrs
from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, override

from limehub.config import checks
from limehub.config.layers import Problem
from limehub.config.mask import mask_text, path_is_secret
from limehub.config.model import Config
from limehub.config.names import name_problem, suggestion
from limehub.config.paths import Path
from limehub.config.schema import FREE, bare, key_types, keys_of, value_type

__all__ = ["WrongType", "structure"]

Hook = Callable[[Any, Any], Any]


class WrongType(ValueError):
    """A value of another type than *wanted*, in words with an article; *hint*: what to write."""

    def __init__(self, wanted: str, value: Any, hint: str = "") -> None:
        super().__init__(wanted)
        self.wanted = wanted
        self.value = value
        self.hint = hint

    def text(self, path: Path) -> str:
        """Say what is wrong, without showing what is secret at *path*."""
        shown = "a string" if _hides(path, self.value) else _described(self.value)
        return f"must be {self.wanted}, is {shown}{self.hint}"


def structure(tree: Mapping[str, Any]) -> tuple[Config, list[Problem]]:
    """Return the Config and all problems; what has a problem keeps its default in it."""
    converter = _converter()
    sound, problems = dict(tree), list[Problem]()
    while True:
        try:
            return converter.structure(sound, Config), problems
        except BaseValidationError as errors:
            found = _problems((), errors)
        # Again without what is broken: it may have hidden more. Each round takes keys away.
        problems += found
        sound = _without(sound, {_key_of(problem.path) for problem in found})


def _converter() -> Converter:
    converter = Converter(detailed_validation=True, forbid_extra_keys=True)
    converter.register_structure_hook(bool, _bool)
    converter.register_structure_hook(int, _int)
    converter.register_structure_hook(float, _float)
    converter.register_structure_hook(str, _str)
    converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], _strings)
    converter.register_structure_hook_func(_is_literal, _one_of)
    converter.register_structure_hook_factory(
        lambda kind: value_type(kind) is not None, lambda kind: _mapping_hook(kind, converter)
    )
    converter.register_structure_hook_factory(
        attrs.has, lambda kind: _section_hook(kind, converter)
    )
    return converter


def _is_literal(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is Literal


def _bool(value: Any, _kind: Any) -> bool:
    if type(value) is not bool:
        raise WrongType("true or false", value, _unquote_hint(value, ("true", "false")))
    return value


def _int(value: Any, _kind: Any) -> int:
    if type(value) is not int:
        raise WrongType("a whole number", value, _number_hint(value))
    return value


def _float(value: Any, _kind: Any) -> float:
    if type(value) not in (int, float):
        raise WrongType("a number", value, _number_hint(value))
    try:
        return float(value)
    except OverflowError:
        raise ValueError("is too large a number") from None


def _str(value: Any, _kind: Any) -> str:
    if type(value) is not str:
        raise WrongType("a string", value)
    return value


def _strings(value: Any, _kind: Any) -> tuple[str, ...]:
    if type(value) is not list:
        hint = f'; write ["{value}"]' if isinstance(value, str) and not name_problem(value) else ""
        raise WrongType("an array of strings", value, hint)
    errors = []
    for index, item in enumerate(value):
        if type(item) is not str:
            error = WrongType("a string", item)
            error.add_note(IterableValidationNote("", index, str))
            errors.append(error)
    if errors:
        raise IterableValidationError("", errors, _kind)
    return tuple(value)


def _one_of(value: Any, kind: Any) -> str:
    allowed = get_args(kind)
    if type(value) is not str or value not in allowed:
        wanted = ", ".join(f'"{choice}"' for choice in allowed)
        hint = suggestion(value, allowed) if isinstance(value, str) else ""
        raise WrongType(f"one of {wanted}", value, hint)
    return value


def _any_table(value: Any, _kind: Any) -> Mapping[str, Any]:
    if type(value) is not dict:
        raise WrongType("a table", value)
    return value


def _mapping_hook(kind: Any, converter: Converter) -> Hook:
    inner = value_type(kind)
    if inner is Any:
        return _any_table

    def hook(value: Any, _kind: Any) -> Mapping[str, Any]:
        _any_table(value, None)
        done, errors = {}, []
        for key, item in value.items():
            try:
                checks.name(None, None, key)
                done[key] = converter.structure(item, inner)
            except (ValueError, BaseValidationError) as error:
                error.add_note(IterableValidationNote("", key, inner))
                errors.append(error)
        if errors:
            raise IterableValidationError("", errors, kind)
        return done

    return hook


def _section_hook(kind: Any, converter: Converter) -> Hook:
    types = keys_of(kind)
    overrides = {
        attribute.name: override(struct_hook=_checked(attribute, types[attribute.name], converter))
        for attribute in attrs.fields(kind)
    }
    # Passed on as keywords by name of the key; the signature's own switches are none of them.
    build: Hook = make_dict_structure_fn(kind, converter, **cast("dict[str, Any]", overrides))

    def hook(value: Any, kind: Any) -> Any:
        return build(_any_table(value, None), kind)

    return hook


def _checked(attribute: attrs.Attribute[Any], kind: Any, converter: Converter) -> Hook:
    """Structure one key, then run its validator: attrs itself would stop at the first bad key."""

    def hook(value: Any, _kind: Any) -> Any:
        result = converter.structure(value, bare(kind))
        if attribute.validator is not None:
            attribute.validator(None, attribute, result)
        return result

    return hook


def _problems(path: Path, error: BaseException) -> list[Problem]:
    if isinstance(error, ForbiddenExtraKeysError):
        known = keys_of(error.cl)
        extra = sorted(error.extra_fields)
        return [Problem((*path, key), _unknown(path, key, known), True) for key in extra]
    if isinstance(error, BaseValidationError):
        return [
            problem
            for inner in error.exceptions
            for problem in _problems((*path, *_keys_noted(inner)), inner)
        ]
    if isinstance(error, WrongType):
        return [Problem(path, error.text(path))]
    return [Problem(path, str(error))]


def _keys_noted(error: BaseException) -> list[str | int]:
    """Return the key or index that was noted on *error*, if one was."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return [note.name]
        if isinstance(note, IterableValidationNote):
            return [note.index]
    return []


def _unknown(path: Path, key: str, known: Mapping[str, Any]) -> str:
    hint = suggestion(key, known) or _elsewhere(path, key)
    return f"unknown key{hint or '; known here: ' + ', '.join(known)}"


def _elsewhere(path: Path, key: str) -> str:
    """Name the same key in another table; indentation or a header is often what went wrong."""
    homes = [full for full in key_types() if full[-1] == key and full[:-1] != path]
    if not homes:
        return ""
    # A dotted() path would quote the star.
    return f"; did you mean {'.'.join('<name>' if part == FREE else part for part in homes[0])}?"


def _without(tree: dict[str, Any], broken: set[Path], path: Path = ()) -> dict[str, Any]:
    return {
        key: _without(inner, broken, (*path, key)) if isinstance(inner, dict) else inner
        for key, inner in tree.items()
        if (*path, key) not in broken
    }


def _key_of(path: Path) -> Path:
    """Return the path of the key whose array an element is in."""
    return tuple(itertools.takewhile(lambda part: isinstance(part, str), path))


def _hides(path: Path, value: Any) -> bool:
    return isinstance(value, str) and path_is_secret(path)


def _described(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return _cut(str(value)) if abs(value) < 1e30 else "a huge number"
    if isinstance(value, str):
        return _cut(json.dumps(mask_text(value)))
    if isinstance(value, list):
        return "an array"
    return "a table" if isinstance(value, dict) else f"a {type(value).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unquote_hint(value: Any, words: tuple[str, ...]) -> str:
    return f"; write {value} without quotes" if value in words else ""


def _number_hint(value: Any) -> str:
    is_number = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20
    return f"; write {int(value)} without quotes" if is_number else ""
