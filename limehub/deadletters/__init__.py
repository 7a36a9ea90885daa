"""One service over the dead letter queues: list, show, requeue, delete; for command, API and page.

Delivery -> item -> filters, groups -> service -> results     walk: who reads a queue, one at a time
targets, trash, preparing: what is sent (pure) -> movers      operations: long work, with progress
"""

from __future__ import annotations

from limehub.deadletters.filters import Filter
from limehub.deadletters.item import DeadLetter, WholeDeadLetter
from limehub.deadletters.operations import Operation, Operations, TooManyOperations
from limehub.deadletters.results import Progress
from limehub.deadletters.service import (
    DeadLetterDesk,
    UnknownApp,
    UnknownDeadLetter,
    UnknownDeletion,
)
from limehub.deadletters.walk import DeskBusy

__all__ = [
    "DeadLetter",
    "DeadLetterDesk",
    "DeskBusy",
    "Filter",
    "Operation",
    "Operations",
    "Progress",
    "TooManyOperations",
    "UnknownApp",
    "UnknownDeadLetter",
    "UnknownDeletion",
    "WholeDeadLetter",
]
