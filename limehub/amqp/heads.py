"""Bodies cut while they stream in: whoever looks through a queue of large messages wants the
beginning of each, and the memory of none.

A body that comes in one frame is whole in memory anyway; one of several frames is cut here.
"""

from __future__ import annotations

from typing import Any

import pika.exceptions
from pika.channel import ContentFrameAssembler

from limehub.amqp.channel import Channel
from limehub.amqp.delivery import Delivery

__all__ = ["Heads"]


class Heads:
    """Keeps only the first *limit* bytes of each body that *channel*, not in use yet, brings."""

    def __init__(self, channel: Channel, limit: int) -> None:
        self._limit = limit
        self._assembler = _HeadAssembler(limit)
        state: Any = channel
        state._pika._content_assembler = self._assembler

    def cut(self, delivery: Delivery) -> int:
        """Cut the body of *delivery*, which has just arrived; returns how long it really is."""
        size, self._assembler.size = self._assembler.size, None
        size = len(delivery.body) if size is None else size
        if len(delivery.body) > self._limit:
            delivery.body = delivery.body[: self._limit]
        return size


class _HeadAssembler(ContentFrameAssembler):
    """pika's own collects all frames of a body. *size*: of the last body that was cut."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.size: int | None = None
        self._limit = limit
        self._kept = 0

    def _handle_body_frame(self, body_frame: Any) -> Any:
        state: Any = self  # the stubs leave pika's own attributes out
        state._seen_so_far += len(body_frame.fragment)
        if self._kept < self._limit:
            state._body_fragments.append(body_frame.fragment[: self._limit - self._kept])
            self._kept += len(state._body_fragments[-1])
        whole = int(state._header_frame.body_size)
        if state._seen_so_far > whole:
            raise pika.exceptions.BodyTooLongError(state._seen_so_far, whole)
        if state._seen_so_far < whole:
            return None
        self._kept = 0
        self.size = whole
        return state._finish()
