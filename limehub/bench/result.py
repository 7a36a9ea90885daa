"""What a benchmark found out."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import quantiles
from typing import Any

from attrs import frozen

from limehub.bench.counting import Phase

__all__ = ["Result"]


@frozen(kw_only=True)
class Result:
    """*latencies*: seconds, one an event, at least two."""

    broker: str
    prefetch: int
    published: Phase
    handled: Phase
    latencies: Sequence[float]

    def latency_ms(self, percent: int) -> float:
        """Return a percentile of the latencies in milliseconds, 1 to 99."""
        return quantiles(self.latencies, n=100, method="inclusive")[percent - 1] * 1000

    def as_json(self) -> dict[str, Any]:
        """Return all of it for `--json`; rates a second, CPU in microseconds a message."""
        return {
            "broker": self.broker,
            "prefetch": self.prefetch,
            "publish": _phase(self.published),
            "handle": _phase(self.handled),
            "latency": {
                "count": len(self.latencies),
                "p50_ms": round(self.latency_ms(50), 3),
                "p99_ms": round(self.latency_ms(99), 3),
                "max_ms": round(max(self.latencies) * 1000, 3),
            },
        }


def _phase(phase: Phase) -> dict[str, Any]:
    return {
        "count": phase.count,
        "seconds": round(phase.seconds, 3),
        "rate": round(phase.rate),
        "cpu_us": round(phase.cpu_us, 1),
    }
