"""Topic keys: whether a binding matches a routing key, and what looks wrong with a binding."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["MAX_BYTES", "lint", "matches", "unusable"]

MAX_BYTES = 255
"""AMQP 0-9-1 carries routing keys as short strings."""

_VERBS = ("new", "update", "delete", "restore")
_WORD = re.compile(r"[A-Za-z0-9_-]*\Z|[*#]\Z")
_VERSION = re.compile(r"v[0-9]+\Z|[*#]\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def matches(pattern: str, routing_key: str) -> bool:
    """Whether a topic exchange sends *routing_key* to a queue bound with *pattern*.

    `*` is one word, `#` any number of words; as in RabbitMQ an empty key has no word at all.
    """
    words = _words(routing_key)
    reached = {0}  # how many words the pattern so far can have used up
    for part in _words(pattern):
        if part == "#":
            reached = set(range(min(reached), len(words) + 1))
        else:
            reached = {n + 1 for n in reached if n < len(words) and part in ("*", words[n])}
        if not reached:
            return False
    return len(words) in reached


def unusable(key: object) -> str | None:
    """Return why *key* cannot be sent to a broker at all, or None."""
    if not isinstance(key, str):
        return f"a key is a string, not {type(key).__name__}"
    if not key:
        return "the key is empty"
    if _CONTROL.search(key):
        return f"the key {key!r} holds control characters"
    size = len(key.encode(errors="replace"))
    return f"the key is {size} bytes long, {MAX_BYTES} are allowed" if size > MAX_BYTES else None


def lint(key: str) -> list[str]:
    """Return what looks wrong with the binding key *key*, [] if nothing does."""
    problem = unusable(key)
    return [problem] if problem else [*_lint_words(key), *_lint_lime(key.split("."))]


def _words(key: str) -> list[str]:
    return key.split(".") if key else []


def _lint_words(key: str) -> Iterator[str]:
    words = key.split(".")
    if "" in words:
        yield f"{key!r} has an empty word: two dots in a row, or a dot at an end"
    for word in words:
        if len(word) > 1 and ("*" in word or "#" in word):
            yield f"{key!r}: a wildcard is a whole word; {word!r} is matched letter by letter"
        elif not _WORD.match(word):
            yield f"{key!r}: {word!r} has characters other than letters, digits, '_' and '-'"


def _lint_lime(words: list[str]) -> Iterator[str]:
    key = ".".join(words)
    if words[:2] == ["core", "lime"]:
        right = ".".join(["core", "limeobject", *words[2:]])
        yield f"{key!r} matches nothing that Lime publishes; did you mean {right!r}?"
    if words[:2] != ["core", "limeobject"] or "#" in words:
        return
    if len(words) < 5:
        yield f"{key!r} has no version: keys are core.limeobject.<limetype>.<verb>.v1"
    elif len(words) > 5:
        yield f"{key!r} has more than the five words of core.limeobject.<limetype>.<verb>.v1"
    elif not _VERSION.match(words[4]):
        yield f"{key!r}: {words[4]!r} is no version; Lime publishes v1"
    if len(words) > 3 and words[3] not in (*_VERBS, "*"):
        yield f"{key!r}: {words[3]!r} is none of {', '.join(_VERBS)}"
