"""Who may ask: the tokens of `web.token_file`, one `name role token` a line."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from attrs import field, frozen

from limehub.errors import ConfigError

__all__ = ["Identity", "Role", "Tokens", "read_tokens"]

Role = Literal["read", "operate"]

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,1024}")


@frozen(kw_only=True)
class Identity:
    """Who asks. *role*: `read` looks, `operate` also changes; *digest*: of the token."""

    name: str
    role: Role
    digest: bytes = field(repr=False)


class Tokens:
    """The tokens in force. Raises ConfigError for a file that cannot be used."""

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._identities = () if path is None else read_tokens(path)

    @property
    def required(self) -> bool:
        """Whether a request needs a token at all."""
        return self._path is not None

    def has(self, identity: Identity) -> bool:
        """Whether *identity* is in force, with the same role and token."""
        return identity in self._identities

    def reload(self, path: str | None) -> None:
        """Read the file anew, or another one. Raises ConfigError; the old tokens stay then."""
        identities = () if path is None else read_tokens(path)
        self._path, self._identities = path, identities

    def identify(self, authorization: str | None) -> Identity | None:
        """Return whose token an `Authorization: Bearer ...` carries; None: nobody's."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = _digest(token.strip(" "))
        # All are compared, in constant time: how long it takes tells nothing.
        found = [each for each in self._identities if hmac.compare_digest(each.digest, digest)]
        return found[0] if found else None


def read_tokens(path: str) -> tuple[Identity, ...]:
    """Read a token file. Raises ConfigError that names each bad line, never a token."""
    try:
        lines = Path(path).read_bytes().decode("utf-8-sig", "replace").splitlines()
    except OSError as error:
        raise ConfigError(f"web.token_file: cannot read {path}: {error.strerror}") from None
    parsed = list(_parsed(lines))
    problems = [f"{path}:{number}: {each}" for number, each in parsed if isinstance(each, str)]
    identities = tuple(each for _, each in parsed if isinstance(each, Identity))
    if not parsed:
        problems = [f"web.token_file: {path} holds no token; write `name role token` lines"]
    if problems:
        raise ConfigError(*problems)
    return identities


def _parsed(lines: list[str]) -> Iterator[tuple[int, Identity | str]]:
    """Yield line number, and the identity or what is wrong with it."""
    names: dict[str, int] = {}
    digests: dict[bytes, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        identity = _identity(line.split())
        if isinstance(identity, Identity):
            first = names.setdefault(identity.name, number)
            same = digests.setdefault(identity.digest, number)
            if first != number:
                identity = f"the name {identity.name} is taken by line {first}"
            elif same != number:
                identity = f"the token is that of line {same} again"
        yield number, identity


def _identity(words: list[str]) -> Identity | str:
    if len(words) != 3:
        return f"has {len(words)} words, not three: `name role token`"
    name, role, token = words
    if not _NAME.fullmatch(name):
        return "the name may have letters, digits and . _ @ - only, at most 64"
    if role not in get_args(Role):
        return "the second word is the role, `read` or `operate`"
    if not _TOKEN.fullmatch(token):
        return "the token may have printable ASCII characters only, at most 1024"
    return Identity(
        name=name, role="operate" if role == "operate" else "read", digest=_digest(token)
    )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
