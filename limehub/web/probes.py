"""What the probes answer. Pure, so that both listeners say the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["Answer", "health_answer", "ready_answer"]

Answer = tuple[int, dict[str, Any]]
"""HTTP status, JSON body."""


def health_answer(
    stalled_for: float, max_stall: float, *, culprit: str | None = None, detail: bool = True
) -> Answer:
    """Return 200 until the hub has stood still for longer than *max_stall* seconds, then 503."""
    stalled = stalled_for > max_stall
    body: dict[str, Any] = {"status": "stalled" if stalled else "ok"}
    if detail:
        body |= {"stalled_for": round(stalled_for, 3), "culprit": culprit}
    return 503 if stalled else 200, body


def ready_answer(missing: Iterable[str], *, detail: bool = True) -> Answer:
    """Return 200 if nothing is *missing*, else 503 and what is."""
    causes = list(missing)
    if not causes:
        return 200, {"ready": True}
    return 503, {"ready": False, "missing": causes} if detail else {"ready": False}
