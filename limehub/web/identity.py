"""Who makes the current request."""

from __future__ import annotations

from flask import g

from limehub.web.tokens import Identity

__all__ = ["actor", "identity", "remember"]

NOBODY = "local"
"""On loopback without tokens: whoever can log in to the machine."""


def remember(found: Identity | None) -> None:
    """Note who it is; None: nobody in particular."""
    g.limehub_identity = found


def identity() -> Identity | None:
    """Return who asks, if the server knows."""
    found: Identity | None = g.get("limehub_identity")
    return found


def actor() -> str:
    """Return the name for the audit."""
    found = identity()
    return NOBODY if found is None else found.name
