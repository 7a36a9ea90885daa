"""One service over the dead letter queues: list, show, requeue, delete; for command, API and page.

Delivery -> item (pure) -> filters (pure) -> service          walk: who reads a queue, one at a time
"""

from __future__ import annotations

from limehub.deadletters.filters import Filter
from limehub.deadletters.item import DeadLetter, WholeDeadLetter
from limehub.deadletters.service import DeadLetterDesk, UnknownApp, UnknownDeadLetter
from limehub.deadletters.walk import DeskBusy

__all__ = [
    "DeadLetter",
    "DeadLetterDesk",
    "DeskBusy",
    "Filter",
    "UnknownApp",
    "UnknownDeadLetter",
    "WholeDeadLetter",
]
