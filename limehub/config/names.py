"""Names that may reach the broker: `[A-Za-z0-9._-]{1,200}`, and how two names are compared.

CR or LF in a name hangs the client for ever: the broker strips them and answers with another name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from limehub.errors import InvalidName

__all__ = ["alike", "find_alike", "name_problem", "require_name", "suggestion"]

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")


def name_problem(text: str) -> str | None:
    """Say why *text* cannot be a name, or None when it can."""
    if not text:
        return "is empty"
    if len(text) > 200:
        return f"is {len(text)} characters long, at most 200 are allowed"
    if not _NAME.fullmatch(text):
        return f"{text!a} may only hold letters, digits, dot, underscore and dash"
    if not text.strip("."):
        return f"{text!r} is only dots"
    return None


def require_name(what: str, text: str) -> str:
    """Return *text*. Raises InvalidName, beginning with *what*, if it is no name."""
    problem = name_problem(text)
    if problem:
        raise InvalidName(f"{what}: {problem}")
    return text


def alike(name: str) -> str:
    """Return the form in which names are compared: dash and underscore are one."""
    return name.replace("-", "_")


def find_alike(name: str, names: Iterable[str]) -> str | None:
    """Return *name* itself if it is among *names*, else the first that is alike, else None."""
    known = list(names)
    if name in known:
        return name
    return next((other for other in known if alike(other) == alike(name)), None)


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the nearest of *known*, or nothing."""
    by_form = {alike(name).lower(): name for name in known}
    near = difflib.get_close_matches(alike(wrong).lower(), by_form, n=1, cutoff=0.7)
    return f"; did you mean {by_form[near[0]]}?" if near else ""
