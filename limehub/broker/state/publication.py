"""What a client publishes, and what may not be in it."""

from __future__ import annotations

from typing import NamedTuple

from limehub.broker.properties import Properties, headers_of, read_properties, with_headers
from limehub.broker.refusals import ChannelRefusal
from limehub.broker.state.arguments import MAX_TTL
from limehub.broker.state.deaths import carbon_copies
from limehub.broker.tables import Table

__all__ = ["Publication", "checked_properties", "copies", "without_blind_copies"]


class Publication(NamedTuple):
    """What a client publishes. *address*: exchange and key as on the wire; *raw*: properties."""

    exchange: str
    key: str
    address: bytes
    raw: bytes
    body: bytes
    mandatory: bool = False


def checked_properties(raw: bytes, user: str) -> Properties:
    """Read the properties of what *user* publishes. Raises ChannelRefusal (406)."""
    known = read_properties(raw)
    if known.mode not in (1, 2):
        raise ChannelRefusal(406, f"invalid message: {{delivery_mode_unknown,{known.mode}}}")
    if known.user_id is not None and known.user_id.decode(errors="replace") != user:
        given = known.user_id.decode(errors="replace")
        text = f"user_id property set to '{given}' but authenticated user was '{user}'"
        raise ChannelRefusal(406, text)
    if known.expiration is not None:
        _check_expiration(known.expiration)
    if known.reply_to == b"amq.rabbitmq.reply-to":
        raise ChannelRefusal(406, "fast reply consumer does not exist")
    return known


def _check_expiration(given: bytes) -> None:
    """Check the text of a message's expiration, milliseconds. Raises ChannelRefusal (406)."""
    text = given.decode(errors="replace")
    digits = text[1:] if text[:1] in ("-", "+") else text
    number = digits[: len(digits) - len(digits.lstrip("0123456789"))]
    if not number:
        complaint = "no_integer"
    elif len(number) < len(digits):
        complaint = f'{{leftover_string,"{digits[len(number) :]}"}}'
    elif (value := int(text)) < 0:
        complaint = f"{{value_negative,{value}}}"
    elif value > MAX_TTL:
        complaint = f"{{value_too_large,{value}}}"
    else:
        return
    raise ChannelRefusal(406, f"invalid expiration '{text}': {complaint}")


def without_blind_copies(raw: bytes) -> bytes:
    """Return the properties without BCC, which consumers must not see."""
    headers = headers_of(raw)
    headers.pop("BCC", None)
    return with_headers(raw, headers)


def copies(headers: Table) -> list[str]:
    """Return the keys in CC and BCC. Raises ChannelRefusal (406) if one is no list."""
    for name in ("CC", "BCC"):
        field = headers.get(name)
        if field is not None and field.kind != b"A":
            complaint = f'{{unacceptable_type_in_header,"{name}",{field.type_name}}}'
            raise ChannelRefusal(406, f"invalid message: {complaint}")
    return [key.decode(errors="surrogateescape") for key in carbon_copies(headers)]
