"""What the state asks of a storage; the one here keeps nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from limehub.broker.state.exchanges import Binding, Exchange
    from limehub.broker.state.message import Message
    from limehub.broker.state.queue import Queue

__all__ = ["NoStore", "Store"]


class Store(Protocol):
    """Keeps durable entities and persistent messages. Nothing here blocks but `load`."""

    durable: bool
    """Whether anything outlives the broker."""

    def add(self, queue: Queue, message: Message) -> None:
        """Keep a new message of *queue*."""

    def remove(self, messages: Sequence[Message]) -> None:
        """Forget messages."""

    def load(self, messages: Iterable[Message]) -> None:
        """Read the content of messages that have left memory."""

    def count_delivery(self, message: Message) -> None:
        """Keep how often a message of a quorum queue has come back."""

    def add_exchange(self, vhost: str, exchange: Exchange) -> None:
        """Keep an exchange."""

    def remove_exchange(self, vhost: str, exchange: Exchange) -> None:
        """Forget an exchange."""

    def add_queue(self, vhost: str, queue: Queue) -> None:
        """Keep a queue."""

    def remove_queue(self, vhost: str, queue: Queue) -> None:
        """Forget a queue with its messages."""

    def add_binding(self, vhost: str, binding: Binding) -> None:
        """Keep a binding."""

    def remove_binding(self, vhost: str, binding: Binding) -> None:
        """Forget a binding."""

    def when_kept(self, call: Callable[[], None]) -> bool:
        """Run *call* once all that was asked so far is kept; False, without a call, if it is."""


class NoStore:
    """Everything ends with the process."""

    durable = False

    def add(self, queue: Queue, message: Message) -> None:
        """Keep nothing."""

    def remove(self, messages: Sequence[Message]) -> None:
        """Forget nothing."""

    def load(self, messages: Iterable[Message]) -> None:
        """Find all in memory."""

    def count_delivery(self, message: Message) -> None:
        """Count nothing."""

    def add_exchange(self, vhost: str, exchange: Exchange) -> None:
        """Keep nothing."""

    def remove_exchange(self, vhost: str, exchange: Exchange) -> None:
        """Forget nothing."""

    def add_queue(self, vhost: str, queue: Queue) -> None:
        """Keep nothing."""

    def remove_queue(self, vhost: str, queue: Queue) -> None:
        """Forget nothing."""

    def add_binding(self, vhost: str, binding: Binding) -> None:
        """Keep nothing."""

    def remove_binding(self, vhost: str, binding: Binding) -> None:
        """Forget nothing."""

    def when_kept(self, call: Callable[[], None]) -> bool:  # noqa: ARG002 - never called
        """All that can be kept is kept."""
        return False
