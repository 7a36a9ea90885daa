"""A walk over a dead letter queue: every message once, none lost, all back in their order.

Messages are consumed but not acked, so while one client looks others see an empty queue
(measured): therefore one walker per queue at a time, across processes, by an exclusive lock queue.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
from gevent.queue import Empty, Queue

from limehub.amqp.channel import Channel
from limehub.amqp.connection import BrokerConnection
from limehub.amqp.delivery import Delivery
from limehub.errors import ChannelClosed, LimehubError, QueueBusy, QueueMissing

__all__ = ["DeskBusy", "Walk", "count", "is_busy", "lock_of", "walking"]

log = logging.getLogger(__name__)

LOCK_PATIENCE = 5.0
"""Seconds to wait for another walker."""

FIRST_WINDOW = 16
MAX_WINDOW = 4096
WINDOW_BYTES = 16 * 1024 * 1024
"""About how much of bodies may be on the way to us; the broker would send the whole queue."""

IDLE = 0.2
SILENCE_LIMIT = 5.0
SETTLE_LIMIT = 2.0
RESOURCE_LOCKED = 405


class DeskBusy(LimehubError):
    """Somebody else is looking at this dead letter queue, or moving its messages."""

    exit_code = 1


def lock_of(queue: str) -> str:
    """Return the name of the exclusive queue that its walker holds."""
    return f"{queue}.lock"


@contextmanager
def walking(
    connect: Callable[[], BrokerConnection], queue: str, *, patience: float = LOCK_PATIENCE
) -> Iterator[Walk]:
    """Walk *queue* on a connection of its own. *patience*: seconds to wait for another walker.

    Raises QueueMissing, DeskBusy, BrokerError.
    """
    connection = connect()
    try:
        count(connection, queue)
        _lock(connection, queue, patience)
        walk = Walk(connection, queue)
        try:
            yield walk
        finally:
            if connection.is_open:
                walk.close()
    finally:
        connection.close()


def is_busy(connection: BrokerConnection, queue: str) -> bool:
    """Whether somebody walks *queue* now."""
    try:
        count(connection, lock_of(queue))
    except QueueMissing:
        return False
    except QueueBusy as error:
        return error.code == RESOURCE_LOCKED
    return True


def count(connection: BrokerConnection, queue: str) -> int:
    """Return the ready messages of *queue*. Raises QueueMissing."""
    channel = connection.open_channel()
    try:
        return channel.check_queue(queue)[0]
    finally:
        channel.close()


def _lock(connection: BrokerConnection, queue: str, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not _locked(connection, queue):
        if time.monotonic() >= deadline:
            raise DeskBusy(
                f"{queue} is in use: another command or operator walks it since more than "
                f"{patience:g} s; try again later"
            )
        gevent.sleep(0.1)


def _locked(connection: BrokerConnection, queue: str) -> bool:
    channel = connection.open_channel()
    try:
        channel.declare_lock(lock_of(queue))
    except QueueBusy as error:
        if error.code != RESOURCE_LOCKED:
            raise
        return False
    return True


class Walk:
    """Iterate over it once: at most *total* deliveries, those that were there at the start.

    What is not acked through `ack` is given back by `close`, in the order of the queue.
    """

    def __init__(self, connection: BrokerConnection, queue: str) -> None:
        self.queue = queue
        self.seen = 0
        self._watch = connection.open_channel()
        self._channel: Channel = connection.open_channel()
        self._channel.on_closed = lambda _error: self._arrived.put(None)
        self._arrived: Queue[Delivery | None] = Queue()
        self._consumer: str | None = None
        self._left = 0
        self._bytes = 0
        self._last_tag = 0
        self._window_ends: deque[int] = deque()
        self._held: dict[int, None] = {}
        self.total = self._ready()

    def __iter__(self) -> Iterator[Delivery]:
        while self.seen < self.total:
            delivery = self._next()
            if delivery is None:
                return
            self.seen += 1
            self._bytes += len(delivery.body)
            self._held[delivery.tag] = None
            yield delivery

    @property
    def is_complete(self) -> bool:
        """Whether it has seen all that was there, or found the rest gone."""
        return self.seen >= self.total or self._ready() == 0

    def ack(self, delivery: Delivery) -> bool:
        """Take *delivery* out of the queue for good. Returns False if that came too late."""
        self._held.pop(delivery.tag, None)
        return delivery.ack()

    def close(self) -> int:
        """Give back what is held; returns how many messages are ready then.

        Returns only when they are back, so that whoever walks next sees them all. Harmless twice.
        Raises ConnectionLost.
        """
        if not self._channel.is_open:
            return self._ready()
        self._end_window()
        ready, windows = self._ready(), self._held_by_window()
        for tags in windows[:-1]:
            for tag in tags:
                self._channel.reject(tag, requeue=True)
            ready = self._await_ready(ready + len(tags))
        self._channel.close()
        return self._await_ready(ready + sum(len(tags) for tags in windows[-1:]))

    # -- taking -----------------------------------------------------------------------------------

    def _next(self) -> Delivery | None:
        if self._left <= 0 and self._arrived.empty():
            self._begin_window()
        silent_since = time.monotonic()
        while True:
            try:
                delivery = self._arrived.get(timeout=IDLE)
            except Empty:
                if self._is_over(time.monotonic() - silent_since):
                    return None
                continue
            self._left -= 1
            if delivery is None and self._channel.closed is not None:
                raise self._channel.closed
            return delivery

    def _begin_window(self) -> None:
        """One consumer holds one window: the prefetch of a live consumer cannot be raised."""
        self._end_window()
        if not self._arrived.empty():
            return  # acks had made room for more before the cancel
        self._left = min(self.total - self.seen, self._window())
        self._consumer = self._channel.consume(
            self.queue,
            prefetch=self._left,
            on_delivery=self._take,
            on_cancelled=lambda: self._arrived.put(None),
        )

    def _window(self) -> int:
        if not self.seen:
            return FIRST_WINDOW
        mean = self._bytes // self.seen + 1
        return max(1, min(MAX_WINDOW, WINDOW_BYTES // mean, 4 * self.seen))

    def _take(self, delivery: Delivery) -> None:
        self._last_tag = delivery.tag
        self._arrived.put(delivery)

    def _end_window(self) -> None:
        if self._consumer is None:
            return
        self._channel.cancel(self._consumer)
        self._consumer = None
        self._window_ends.append(self._last_tag)

    def _is_over(self, silence: float) -> bool:
        if self._ready() and silence < SILENCE_LIMIT:
            return False
        self._channel.sync()  # what the broker sent before its answer has arrived now
        return self._arrived.empty()

    # -- giving back ------------------------------------------------------------------------------

    def _held_by_window(self) -> list[list[int]]:
        """Delivery tags, one list a window.

        A quorum queue keeps what comes back of one consumer in order, but not of several, so each
        window goes back before the next (measured). A classic queue knows every message's place.
        """
        while not self._arrived.empty():
            delivery = self._arrived.get_nowait()
            if delivery is not None:
                self._held[delivery.tag] = None
        tags = deque(sorted(self._held))
        windows = []
        for end in self._window_ends:
            window = []
            while tags and tags[0] <= end:
                window.append(tags.popleft())
            windows.append(window)
        return [window for window in windows if window]

    def _await_ready(self, expected: int) -> int:
        """Wait until *expected* are ready: a quorum queue takes them back in its own time."""
        deadline = time.monotonic() + SETTLE_LIMIT
        ready = self._ready()
        while ready < expected and time.monotonic() < deadline:
            gevent.sleep(0.005)
            ready = self._ready()
        return ready

    def _ready(self) -> int:
        try:
            return self._watch.check_queue(self.queue)[0]
        except QueueMissing:
            return 0  # deleted meanwhile, with all that was in it
        except ChannelClosed as error:
            log.warning("cannot count messages", extra={"queue": self.queue, "cause": str(error)})
            return 0
