"""Names of exchanges and queues: what is reserved, and what is made up."""

from __future__ import annotations

import base64
import uuid

from limehub.broker.refusals import ChannelRefusal

__all__ = ["generated_name", "not_default", "not_reserved"]


def generated_name() -> str:
    """Return a name for a queue without one."""
    unique = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    return f"amq.gen-{unique}"


def not_default(name: str) -> None:
    """Refuse what is not done with the default exchange. Raises ChannelRefusal (403)."""
    if not name:
        raise ChannelRefusal(403, "operation not permitted on the default exchange")


def not_reserved(kind: str, name: str) -> None:
    """Refuse a name of the broker's own for a new *kind*. Raises ChannelRefusal (403)."""
    if name.startswith("amq."):
        raise ChannelRefusal(403, f"{kind} name '{name}' contains reserved prefix 'amq.*'")
