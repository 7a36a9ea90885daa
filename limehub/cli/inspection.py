"""Looking at the broker without changing it: which queues and exchanges are there, and how.

A passive declaration asks whether a thing exists. Only what exists is then declared as limehub
wants it, which creates nothing and makes the broker name what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from attrs import frozen

from limehub.amqp.connection import BrokerConnection
from limehub.amqp.topology import Mismatch, QueueSpec, declare_queue, dlq_spec, handler_queue_spec
from limehub.cli.findings import Finding, Level
from limehub.cli.placement import Placement
from limehub.config import Config
from limehub.errors import BrokerError, ChannelClosed, ExchangeMissing, QueueMissing

__all__ = [
    "ExchangeState",
    "QueueState",
    "Topology",
    "WantedQueue",
    "exchange_findings",
    "inspect",
    "queue_findings",
    "wanted_topology",
]

GREENLETS = 16
State = Literal["as wanted", "missing", "differs", "unknown"]


@frozen(kw_only=True)
class WantedQueue:
    """A queue that `serve` would declare. *is_dlq*: of dead letters, else of a handler."""

    spec: QueueSpec
    is_dlq: bool = False


@frozen(kw_only=True)
class QueueState:
    """What the broker says of a queue. *messages*: ready ones; *trouble*: why it is unknown."""

    wanted: WantedQueue
    state: State
    messages: int = 0
    consumers: int = 0
    mismatches: tuple[Mismatch, ...] = ()
    trouble: str = ""


@frozen(kw_only=True)
class ExchangeState:
    """What the broker says of an exchange. *trouble*: its words when it differs or is unknown."""

    name: str
    state: State
    trouble: str = ""


@frozen(kw_only=True)
class Topology:
    """What `serve` would make sure of. *bindings*: (queue, exchange, key)."""

    exchanges: tuple[str, ...]
    queues: tuple[WantedQueue, ...]
    bindings: frozenset[tuple[str, str, str]]


def wanted_topology(config: Config, found: Iterable[Placement]) -> Topology:
    """Return what must be on the broker for the handlers in *found*. Pure."""
    settings = config.event_handler
    queues, bindings = [], []
    dlqs: dict[str, None] = {}
    for placement in found:
        dlqs[placement.handler.dlq] = None
        for queue, applications in placement.queues.items():
            spec = handler_queue_spec(
                queue,
                queue_type=settings.queue_type,
                single_active_consumer=settings.single_active_consumer,
            )
            queues.append(WantedQueue(spec=spec))
            bindings += _bindings(config, placement, queue, applications)
    for name in dlqs:
        spec = dlq_spec(name, queue_type=settings.queue_type)
        queues.append(WantedQueue(spec=spec, is_dlq=True))
    return Topology(
        exchanges=tuple(dict.fromkeys(map(config.exchange_of, config.applications))),
        queues=tuple(queues),
        bindings=frozenset(bindings),
    )


def inspect(
    connection: BrokerConnection, topology: Topology
) -> tuple[list[QueueState], list[ExchangeState]]:
    """Ask the broker for everything in *topology*. Raises ConnectionLost."""
    from gevent.pool import Pool

    pool = Pool(GREENLETS)
    queues = pool.map(lambda wanted: _queue_state(connection, wanted), topology.queues)
    exchanges = pool.map(lambda name: _exchange_state(connection, name), topology.exchanges)
    return queues, exchanges


def queue_findings(states: Iterable[QueueState], *, accept_foreign: bool) -> Iterator[Finding]:
    """Say how each queue is. Pure.

    An argument that loses events keeps a handler's queue from being consumed: an error. Any other
    difference is a warning: the queue is used as it is.
    """
    for state in states:
        if state.state == "differs":
            yield from (_difference(state, each, accept_foreign) for each in state.mismatches)
        else:
            yield _queue_finding(state)


def exchange_findings(states: Iterable[ExchangeState]) -> Iterator[Finding]:
    """Say how each exchange is. Pure."""
    for state in states:
        level, text = _EXCHANGE_WORDS[state.state]
        yield Finding(
            kind="topology",
            level=level,
            subject=f"exchange {state.name}",
            text=text.format(trouble=state.trouble),
        )


_EXCHANGE_WORDS: dict[State, tuple[Level, str]] = {
    "as wanted": (Level.OK, "is there, a durable topic exchange"),
    "missing": (Level.INFO, "is not there yet; the server creates it at start"),
    "differs": (Level.WARNING, "is no durable topic exchange as limehub expects: {trouble}"),
    "unknown": (Level.ERROR, "cannot be looked at: {trouble}"),
}


def _bindings(
    config: Config, placement: Placement, queue: str, applications: Iterable[str]
) -> list[tuple[str, str, str]]:
    return [
        (queue, exchange, config.routing_key(exchange, key))
        for exchange in map(config.exchange_of, applications)
        for key in placement.handler.keys
    ]


def _queue_finding(state: QueueState) -> Finding:
    level, text = {
        "as wanted": (Level.OK, f"is as wanted: {_counts(state)}"),
        "missing": (Level.INFO, "is not there yet; the server creates it at start"),
    }.get(state.state, (Level.ERROR, f"cannot be looked at: {state.trouble}"))
    return Finding(kind="topology", level=level, subject=_subject(state), text=text)


def _difference(state: QueueState, mismatch: Mismatch, accept_foreign: bool) -> Finding:
    losing = mismatch.loses_messages and not state.wanted.is_dlq
    if losing and not accept_foreign:
        level = Level.ERROR
        what = (
            "it can lose events, so the server does not consume it; recreate the queue without "
            "it, or set events.accept_foreign_queues = true"
        )
    elif mismatch.loses_messages:
        level, what = Level.WARNING, "it is used as it is, and can lose events"
    else:
        level, what = Level.WARNING, "it is used as it is"
    actual, wanted = (_shown(value) for value in (mismatch.actual, mismatch.wanted))
    text = f"has {mismatch.argument} {actual}, limehub wants {wanted}; {what} ({_counts(state)})"
    return Finding(kind="topology", level=level, subject=_subject(state), text=text)


def _subject(state: QueueState) -> str:
    return f"queue {state.wanted.spec.name}"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _counts(state: QueueState) -> str:
    return f"{state.messages} messages, {state.consumers} consumers"


def _queue_state(connection: BrokerConnection, wanted: WantedQueue) -> QueueState:
    name = wanted.spec.name
    try:
        messages, consumers = _on_channel(connection, lambda channel: channel.check_queue(name))
        mismatches = declare_queue(connection, wanted.spec)
    except QueueMissing:
        return QueueState(wanted=wanted, state="missing")
    except BrokerError as error:
        _raise_if_lost(connection, error)
        return QueueState(wanted=wanted, state="unknown", trouble=str(error))
    return QueueState(
        wanted=wanted,
        state="differs" if mismatches else "as wanted",
        messages=messages,
        consumers=consumers,
        mismatches=mismatches,
    )


def _exchange_state(connection: BrokerConnection, name: str) -> ExchangeState:
    try:
        _on_channel(connection, lambda channel: channel.check_exchange(name))
        _on_channel(connection, lambda channel: channel.declare_exchange(name))
    except ExchangeMissing:
        return ExchangeState(name=name, state="missing")
    except ChannelClosed as error:
        state: State = "differs" if error.code == 406 else "unknown"
        return ExchangeState(name=name, state=state, trouble=error.text)
    return ExchangeState(name=name, state="as wanted")


def _on_channel(connection: BrokerConnection, ask: Callable[[Any], Any]) -> Any:
    """Ask on a channel of its own: the broker closes it when the answer is no."""
    channel = connection.open_channel()
    try:
        return ask(channel)
    finally:
        channel.close()


def _raise_if_lost(connection: BrokerConnection, error: BrokerError) -> None:
    if not connection.is_open:
        raise error
