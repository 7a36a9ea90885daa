"""What a dead letter carries: RabbitMQ's `x-death` and `x-first-death-*` headers."""

from __future__ import annotations

from limehub.broker.properties import (
    headers_of,
    read_properties,
    with_headers,
    without_expiration,
)
from limehub.broker.tables import Field, Table, longstr

__all__ = ["carbon_copies", "dead_properties", "died_in_a_circle", "with_delivery_count"]


def dead_properties(
    raw: bytes, *, reason: str, queue: str, exchange: str, key: str, now: float, rerouted: bool
) -> bytes:
    """Return the properties of a message that leaves *queue* for *reason*.

    *exchange*, *key*: as it was published; *rerouted*: the queue has a dead-letter routing key, so
    CC must not act again. The expiration becomes a field of the death.
    """
    headers = headers_of(raw)
    death = {
        "reason": longstr(reason),
        "queue": longstr(queue),
        "time": Field(b"T", int(now)),
        "exchange": longstr(exchange),
        "routing-keys": Field(
            b"A",
            [
                longstr(one)
                for one in (key.encode(errors="surrogateescape"), *carbon_copies(headers))
            ],
        ),
    }
    expiration = read_properties(raw).expiration
    if expiration is not None:
        death["original-expiration"] = longstr(expiration)
        raw = without_expiration(raw)
    if rerouted:
        headers.pop("CC", None)
    return with_headers(raw, _with_death(headers, death))


def with_delivery_count(raw: bytes, count: int) -> bytes:
    """Return the properties with how often a quorum queue has had the message back."""
    return with_headers(raw, {**headers_of(raw), "x-delivery-count": Field(b"l", count)})


def carbon_copies(headers: Table) -> list[bytes]:
    """Return the routing keys in the `CC` and `BCC` headers."""
    keys = []
    for name in ("CC", "BCC"):
        field = headers.get(name)
        if field is not None and field.kind == b"A":
            keys += [item.value for item in field.value if item.kind == b"S"]
    return keys


def died_in_a_circle(headers: Table, queue: str) -> bool:
    """Whether the message has come round to *queue* without anybody having rejected it."""
    deaths = _deaths(headers)
    name = queue.encode(errors="surrogateescape")
    for index, death in enumerate(deaths):
        if _value(death, "queue") == name:
            return all(_value(one, "reason") != b"rejected" for one in deaths[: index + 1])
    return False


def _with_death(headers: Table, death: Table) -> Table:
    deaths = _deaths(headers)
    if "x-death" not in headers:
        for name in ("reason", "queue", "exchange"):
            headers[f"x-first-death-{name}"] = death[name]
    again = next((one for one in deaths if _is_same(one, death)), None)
    others = [one for one in deaths if not _is_same(one, death)]
    if again is None:
        latest = {"count": Field(b"l", 1), **death}
    else:
        count = again.get("count", Field(b"l", 0)).value
        latest = {**again, "count": Field(b"l", count + 1)}
    headers["x-death"] = Field(b"A", [Field(b"F", one) for one in (latest, *others)])
    return headers


def _deaths(headers: Table) -> list[Table]:
    field = headers.get("x-death")
    if field is None or field.kind != b"A":
        return []
    return [item.value for item in field.value if item.kind == b"F"]


def _is_same(one: Table, other: Table) -> bool:
    return all(_value(one, name) == _value(other, name) for name in ("queue", "reason"))


def _value(table: Table, name: str) -> object:
    field = table.get(name)
    return None if field is None else field.value
