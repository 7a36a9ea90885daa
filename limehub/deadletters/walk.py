"""A walk over a dead letter queue: every message once, none lost, all back in their order.

Messages are consumed but not acked, so while one client looks others see an empty queue
(measured): therefore one walker per queue at a time, across processes, by an exclusive lock queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
from attrs import define
from gevent.queue import Empty, Queue

from limehub.amqp.channel import Channel
from limehub.amqp.connection import BrokerConnection
from limehub.amqp.delivery import Delivery
from limehub.amqp.heads import Heads
from limehub.errors import LimehubError, QueueBusy, QueueMissing

__all__ = ["DeskBusy", "Walk", "count", "is_busy", "lock_of", "walking"]

LOCK_PATIENCE = 5.0
"""Seconds to wait for another walker."""

FIRST_WINDOW = 32
SMALLEST_WINDOW, LARGEST_WINDOW, LARGEST_WHOLE = 4, 4096, 512
WINDOW_BYTES = 16 * 1024 * 1024
"""About how much of bodies may be on the way to us; the broker would send the whole queue."""
WAITING_BYTES = 8 * 1024 * 1024
"""When more of them wait for us, we read no more: what comes next may be larger than what came."""
RECENT = 16
"""So many messages tell how large the next ones may be."""
MOST_WINDOWS = 1000
"""Each has a channel of its own, and a connection has 2047 of them."""

IDLE = 0.2
SILENCE_LIMIT = 5.0
SETTLE_LIMIT = 5.0
RESOURCE_LOCKED = 405


class DeskBusy(LimehubError):
    """Somebody else is looking at this dead letter queue, or moving its messages."""

    exit_code = 1


def lock_of(queue: str) -> str:
    """Return the name of the exclusive queue that its walker holds."""
    return f"{queue}.lock"


@contextmanager
def walking(
    connect: Callable[[], BrokerConnection],
    queue: str,
    *,
    patience: float = LOCK_PATIENCE,
    heads: int | None = None,
) -> Iterator[Walk]:
    """Walk *queue* on a connection of its own. *patience*: seconds to wait for another walker;
    *heads*: keep so many bytes of each body, None = all.

    Raises QueueMissing, DeskBusy, BrokerError.
    """
    connection = connect()
    try:
        count(connection, queue)
        _lock(connection, queue, patience)
        walk = Walk(connection, queue, heads=heads)
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


@define(eq=False, kw_only=True)
class _Window:
    """A channel with one consumer that holds up to its prefetch. *held*: taken and not acked.

    The prefetch of a live consumer cannot be raised. And a quorum queue puts in order what comes
    back with a closed channel, but neither what comes back of several channels at once nor more
    than 32 rejected messages (measured on 3.10): each window has a channel of its own.
    """

    channel: Channel
    prefetch: int
    consumer: str | None = None
    held: int = 0

    @property
    def is_full(self) -> bool:
        """Whether the broker will send no more to it."""
        return self.consumer is None or self.held >= self.prefetch

    def end(self) -> None:
        """Take no more. What came now would be rejected, out of its place: be full, or dry."""
        if self.consumer is not None:
            self.channel.cancel(self.consumer)
            self.consumer = None

    def close(self) -> int:
        """Give back what it holds; returns how many messages that are."""
        self.channel.on_closed = None
        self.channel.close()
        return self.held


class Walk:
    """Iterate over it once: at most *total* deliveries, those that were there at the start.

    What is not acked through `ack` is given back by `close`, in the order of the queue.
    *most_returns*: how often the broker says that one of them was given back before.
    """

    def __init__(
        self, connection: BrokerConnection, queue: str, *, heads: int | None = None
    ) -> None:
        self.queue = queue
        self.seen = 0
        self.most_returns = 0
        self.connection = connection
        self._heads = heads
        self._sizes: dict[Delivery, int] = {}
        self._watch = connection.open_channel()
        self._arrived: Queue[Delivery | None] = Queue()
        self._windows: dict[Channel, _Window] = {}
        self._usual = 1.0
        self._stopped_amid_returned = False
        self._is_gone = False
        self._waiting = 0
        self._is_asking = False
        self._is_closing = False
        self.total = self._ready()

    def __iter__(self) -> Iterator[Delivery]:
        while self.seen < self.total:
            try:
                delivery = self._next()
            except QueueMissing:
                return  # deleted meanwhile, with all that was in it
            if delivery is None:
                return
            self._check(delivery.channel)  # it may have come before its channel went
            self.seen += 1
            self._note(delivery)
            yield delivery
            self._sizes.pop(delivery, None)

    @property
    def is_complete(self) -> bool:
        """Whether it has seen all that was there, or found the rest gone."""
        return self.seen >= self.total or self._ready() == 0

    def size(self, delivery: Delivery) -> int:
        """Return the bytes of the body of *delivery*, the one that came last, also if it is cut."""
        return self._sizes.get(delivery, len(delivery.body))

    def ack(self, delivery: Delivery) -> bool:
        """Take *delivery* out of the queue for good. Returns False if that came too late."""
        self._windows[delivery.channel].held -= 1
        return delivery.ack()

    def close(self) -> int:
        """Give back what is held; returns how many messages are ready then.

        Returns only when they are back, so that whoever walks next sees them all. Harmless twice.
        Raises ConnectionLost.
        """
        self._take_all_returned()
        self._is_closing = True
        self.connection.stream.resume()
        for window in self._windows.values():
            self._fill(window)
            window.end()
        ready = self._ready()
        while self._windows:
            window = self._windows.pop(next(iter(self._windows)))
            ready = self._await_ready(ready + window.close())
        return ready

    def _next(self) -> Delivery | None:
        if self._arrived.empty() and all(window.is_full for window in self._windows.values()):
            self._move_on()
        silent_since = time.monotonic()
        while True:
            try:
                delivery = self._arrived.get(timeout=IDLE)
            except Empty:
                if self._is_over(time.monotonic() - silent_since):
                    return None
                continue
            if delivery is None:
                self._check_channels()
            else:
                self._came(delivery)
            return delivery

    def _came(self, delivery: Delivery) -> None:
        self._waiting -= len(delivery.body)
        if self._waiting <= WAITING_BYTES // 2:
            self.connection.stream.resume()

    def _wait(self, delivery: Delivery, heads: Heads | None) -> None:
        """Have *delivery* wait for us, perhaps without its tail; runs in the hub."""
        size = len(delivery.body) if heads is None else heads.cut(delivery)
        if self._is_closing:  # it goes back, unseen: nobody needs its body
            return
        if size > len(delivery.body):
            self._sizes[delivery] = size
        self._arrived.put(delivery)
        self._waiting += len(delivery.body)
        if self._waiting > WAITING_BYTES and not self._is_asking:
            self.connection.stream.pause()

    def _check_channels(self) -> None:
        """Raise if a channel is gone. A consumer that the broker ended has no queue any more."""
        for channel in self._windows:
            self._check(channel)

    def _check(self, channel: Channel) -> None:
        if channel.closed is not None:
            raise channel.closed

    def _move_on(self) -> None:
        """Begin the next window when this one is used up."""
        for window in list(self._windows.values()):
            window.end()
            if not window.held:
                del self._windows[window.channel]
                window.close()
        self._begin(min(self.total - self.seen, self._size()))

    def _begin(self, prefetch: int) -> None:
        window = _Window(channel=self.connection.open_channel(), prefetch=prefetch)
        self._windows[window.channel] = window

        heads = None if self._heads is None else Heads(window.channel, self._heads)

        def take(deliveries: list[Delivery]) -> None:
            window.held += len(deliveries)
            for delivery in deliveries:
                self._wait(delivery, heads)

        window.channel.on_closed = lambda _error: self._arrived.put(None)
        window.consumer = window.channel.consume(
            self.queue,
            prefetch=prefetch,
            on_deliveries=take,
            on_cancelled=lambda: self._arrived.put(None),
        )

    def _size(self) -> int:
        """What is known of the queue decides: nothing is asked for that does not fit in memory."""
        if not self.seen:
            return FIRST_WINDOW
        most = LARGEST_WHOLE if self._heads is None else LARGEST_WINDOW
        fitting = min(most, int(WINDOW_BYTES / self._usual), 4 * self.seen)
        return max(SMALLEST_WINDOW, fitting, self.total // MOST_WINDOWS)

    def _note(self, delivery: Delivery) -> None:
        self._usual += (self.size(delivery) - self._usual) / RECENT
        returns = delivery.headers.get("x-delivery-count", 0)
        if isinstance(returns, int):
            self.most_returns = max(self.most_returns, returns)
        self._stopped_amid_returned = _came_back(delivery)

    def _is_over(self, silence: float) -> bool:
        if self._ready() and silence < SILENCE_LIMIT:
            return False
        asking = gevent.spawn(self._ask)
        while self._arrived.empty() and not asking.ready():
            gevent.sleep(0.005)
        asking.kill()
        if isinstance(asking.value, Exception):
            raise asking.value
        return self._arrived.empty()

    def _ask(self) -> Exception | None:
        """What the broker sent before its answers has arrived then.

        If that is much we read no more until it is taken: whoever takes must not wait for this.
        """
        try:
            for channel in list(self._windows):
                channel.sync()
        except Exception as error:  # noqa: BLE001 - whoever waits raises it
            return error
        return None

    def _take_all_returned(self) -> None:
        """A quorum queue keeps what came back before the rest, in the order in which it came: if
        we took a part of it only, that part would come back behind the other (measured)."""
        rest = iter(self)
        while self._windows and self._stopped_amid_returned and next(rest, None) is not None:
            continue

    def _fill(self, window: _Window) -> None:
        """Wait until *window* is full or the queue is dry."""
        deadline = time.monotonic() + SETTLE_LIMIT
        while not window.is_full:
            is_late = time.monotonic() > deadline  # before the look: perhaps we stood still
            if self._ready() == 0 or is_late:
                window.channel.sync()
                return
            gevent.sleep(0.005)

    def _await_ready(self, expected: int) -> int:
        """Wait until *expected* are ready: a quorum queue takes them back in its own time."""
        deadline = time.monotonic() + SETTLE_LIMIT
        while True:
            is_late = time.monotonic() > deadline
            ready = self._ready()
            if ready >= expected or self._is_gone or is_late:
                return ready
            gevent.sleep(0.005)

    def _ready(self) -> int:
        self._is_asking = True  # the answer stands behind all that is on its way
        self.connection.stream.resume()
        try:
            return self._watch.check_queue(self.queue)[0]
        except QueueMissing:
            self._is_gone = True
            return 0
        finally:
            self._is_asking = False


def _came_back(delivery: Delivery) -> bool:
    """Whether a quorum queue has had it back before; a classic one does not count that."""
    counted = "x-delivery-count" in delivery.headers or "x-acquired-count" in delivery.headers
    return delivery.redelivered and counted
