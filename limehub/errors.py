"""One tree of exceptions; each class knows the exit code that a command ends with."""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AlreadySettled",
    "BrokerError",
    "BrokerRefused",
    "BrokerUnreachable",
    "ChannelClosed",
    "ConfigError",
    "ConfirmTimeout",
    "ConnectionLost",
    "ExchangeMissing",
    "HandlerCrash",
    "InvalidName",
    "LimehubError",
    "MessageRefused",
    "NothingMatched",
    "PluginError",
    "QueueBusy",
    "QueueMissing",
    "TopologyMismatch",
    "Unroutable",
]


class LimehubError(Exception):
    """Anything that limehub reports as one clear message instead of a traceback."""

    exit_code: ClassVar[int] = 70
    advice: ClassVar[str | None] = None
    """What a person can do about it, where the text does not say so itself."""


class ConfigError(LimehubError):
    """The configuration cannot be used; each line of *problems* names file, line, path and hint."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class InvalidName(ConfigError):
    """A name outside `[A-Za-z0-9._-]{1,200}`; CR or LF in a name would hang the client for ever."""


class PluginError(LimehubError):
    """A plugin cannot be loaded or registers something impossible."""

    exit_code = 3


class BrokerError(LimehubError):
    """The broker cannot be used now."""

    exit_code = 4


class BrokerUnreachable(BrokerError):
    """Nobody answers at the broker's address (DNS, TCP, TLS, handshake): worth a quick retry."""


class BrokerRefused(BrokerError):
    """The broker answered and said no (403 credentials, 530 vhost): only a slow retry is polite."""


class ConnectionLost(BrokerError):
    """An open connection ended; its unacked deliveries go back to their queues."""


class ChannelClosed(BrokerError):
    """The broker closed one channel. *code*: AMQP reply code, *text*: the broker's words."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


class QueueMissing(ChannelClosed):
    """404 on a queue."""


class ExchangeMissing(ChannelClosed):
    """404 on an exchange."""


class QueueBusy(ChannelClosed):
    """403 or 405: another connection holds the queue exclusively."""


class Unroutable(BrokerError):
    """A mandatory message reached no queue."""

    exit_code = 1


class ConfirmTimeout(BrokerError):
    """No confirm in time: the message may or may not be stored; publish again with the same id."""


class MessageRefused(BrokerError):
    """The broker refused to store the message (queue full, or a nack)."""


class TopologyMismatch(LimehubError):
    """A queue exists with other arguments than limehub wants (with --strict-topology)."""

    exit_code = 5


class HandlerCrash(LimehubError):
    """A handler failed under the policy `crash`; names handler, queue, message."""

    exit_code = 6
    advice = (
        "the event stays in its queue and comes again; event_handler.catch_handler_exceptions = "
        "true, or on_error of the handler, sends failures to the dead letter queue instead"
    )


class NothingMatched(LimehubError):
    """The command worked, but nothing was there to work on."""

    exit_code = 1


class AlreadySettled(LimehubError):
    """A delivery was settled a second time."""
