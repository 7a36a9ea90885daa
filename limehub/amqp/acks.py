"""Which ack frames to send for the deliveries of one channel that are done. Pure but for its list.

Delivery tags of a channel count up from 1. What is done without a gap goes out as one ack with
`multiple`; what is done out of order goes out by itself, so that one slow handler holds back
nothing. The tag of a `multiple` must itself be unsettled, else the broker closes the channel.
"""

from __future__ import annotations

from collections.abc import Callable

from limehub.amqp.frames import ack_frame

__all__ = ["AckWindow"]


class AckWindow:
    """The acks of one *channel* (its number) that wait for the next write.

    `done` may be called while another thread collects: only `collect` and `gone` change what is
    known of the window, and those two are called under the outlet's lock.
    """

    __slots__ = ("_above", "_channel", "_low", "_on_waiting", "_tags", "_waiting")

    def __init__(self, channel: int, on_waiting: Callable[[AckWindow], None]) -> None:
        self._channel = channel
        self._on_waiting = on_waiting
        self._tags: list[int] = []
        self._waiting = False
        self._low = 0  # every tag up to here is settled
        self._above: set[int] = set()  # settled ones above it

    def done(self, tag: int) -> None:
        """Ack *tag* with the next write."""
        self._tags.append(tag)
        if not self._waiting:
            self._waiting = True
            self._on_waiting(self)

    def gone(self, tag: int) -> None:
        """Note that *tag* was settled otherwise; its frame is already on its way."""
        self._above.add(tag)

    def collect(self) -> list[bytes]:
        """Return the frames for everything done so far."""
        self._waiting = False  # first: whoever is done from here on asks for another write
        count = len(self._tags)
        tags = self._tags[:count]
        del self._tags[:count]
        if not tags:
            return []
        low = self._low
        if not self._above and min(tags) > low and max(tags) == low + count:
            self._low = low + count
            return [ack_frame(self._channel, self._low, count > 1)]
        return self._collect_with_gaps(tags)

    def _collect_with_gaps(self, tags: list[int]) -> list[bytes]:
        above = self._above
        above.update(tags)
        while self._low + 1 in above:
            self._low += 1
            above.discard(self._low)
        prefix = [tag for tag in tags if tag <= self._low]
        frames = [ack_frame(self._channel, tag, False) for tag in tags if tag > self._low]
        if prefix:
            frames.insert(0, ack_frame(self._channel, max(prefix), len(prefix) > 1))
        return frames
